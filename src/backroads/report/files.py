"""Reads the files of a run folder into typed values, or says what is wrong with them."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, TypeAdapter, ValidationError

from backroads.errors import ConfigError

T = TypeVar("T")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


Measured = Annotated[float | None, AfterValidator(_finite)]
"""A number that may be missing; NaN and infinities count as missing."""


def check_folder(folder: Path) -> None:
    """Raises ConfigError where ``folder`` is no folder."""
    if not folder.is_dir():
        raise ConfigError(f"Expected a run folder, but {folder} is not a folder: give the folder of a run.")


def is_kind(folder: Path, kind: str) -> bool:
    """Whether ``results.json`` in ``folder`` calls itself ``kind``; False where there is none that can be read."""
    try:
        return bool(json.loads((folder / "results.json").read_bytes())["kind"] == kind)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_results(folder: Path, adapter: TypeAdapter[T]) -> T:
    """``results.json`` in ``folder``; raises ConfigError where it, or the folder, is missing or damaged."""
    check_folder(folder)
    path = folder / "results.json"
    content = read_bytes(path)
    parsed(content, str(path))
    return validated(adapter, content, str(path))


def read_lines(path: Path, read: Callable[[bytes, str], T | None]) -> tuple[list[T], bool]:
    """What ``read(line, where)`` finds in the lines of a file, and whether its last line was cut off and is left out.

    Lines in which it finds nothing are left out as well.
    """
    *lines, rest = read_bytes(path).split(b"\n")
    found = [read(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    cut_off = False
    if rest.strip():
        try:
            found.append(read(rest, f"{path}, last line"))
        except ConfigError:
            cut_off = True  # A run killed in the middle of a write leaves such a line.
    return [value for value in found if value is not None], cut_off


def event_kind(line: bytes, where: str) -> str:
    """The kind of event that a line holds."""
    event = parsed(line, where)
    kind = event.get("event")
    if not isinstance(kind, str):
        raise damaged(where, 'an object with a text "event"', repr(event))
    return kind


def read_object(path: Path) -> dict[str, object]:
    """The JSON object in a file."""
    return parsed(read_bytes(path), str(path))


def read_toml(path: Path) -> dict[str, object]:
    """The tables of a TOML file."""
    try:
        return tomllib.loads(read_bytes(path).decode())
    except ValueError as error:
        raise damaged(str(path), "TOML", str(error)) from error


def parsed(content: bytes, where: str) -> dict[str, object]:
    """The JSON object in ``content``; ``where`` says in a message where that is."""
    try:
        value = json.loads(content)
    except ValueError as error:
        raise damaged(where, "a JSON object", str(error)) from error
    if not isinstance(value, dict):
        raise damaged(where, "a JSON object", repr(value))
    return value


def validated(adapter: TypeAdapter[T], content: bytes, where: str) -> T:
    """The JSON in ``content`` as a value of the adapter's type."""
    try:
        # Strict: a number written as a string is a damaged file, not a number.
        return adapter.validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        expected = first["msg"].removeprefix("Input should be ")
        if first["type"] == "missing":
            raise damaged(where, f"the field {field}", "none") from error
        raise damaged(f"{where}, field {field}", expected, repr(first["input"])) from error


def read_bytes(path: Path) -> bytes:
    """The content of a file that a run folder has to have."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"Expected the file {path}, but it cannot be read ({error.strerror}): "
            "the run may have stopped before its end; run its command again."
        ) from error


def damaged(where: str, expected: str, came: str) -> ConfigError:
    """The error that says so; for the caller to raise."""
    came = came if len(came) <= 200 else f"{came[:200]}…"
    return ConfigError(
        f"{where}: expected {expected}, but found {came}. The run folder is damaged: run its command again."
    )
