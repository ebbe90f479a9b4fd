"""Reads a run folder into typed values, or says what is wrong with it."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, TypeAdapter, ValidationError

from backroads.errors import ConfigError

T = TypeVar("T")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


Measured = Annotated[float | None, AfterValidator(_finite)]
"""A number that may be missing; NaN and infinities count as missing."""


@dataclass(frozen=True)
class Epoch:
    """What was measured for one rule and one seed after one epoch; epoch 0 is before training."""

    rule: str
    seed: int
    epoch: int
    train_loss: Measured = None
    train_accuracy: Measured = None
    eval_loss: Measured = None
    eval_accuracy: Measured = None
    weight_angle: dict[str, Measured] | None = None


@dataclass(frozen=True)
class Row:
    """The final numbers of one rule, over all seeds. Accuracies and gaps are fractions, angles degrees."""

    rule: str
    label: str
    repr: str = ""
    accuracy_mean: Measured = None
    accuracy_std: Measured = None
    accuracies: tuple[Measured, ...] = ()
    gap_mean: Measured = None
    gap_std: Measured = None
    weight_angle_mean: Measured = None
    step_ms: Measured = None
    step_ratio: Measured = None
    step_ratio_spread: tuple[Measured, Measured] | None = None
    diverged: int = 0


@dataclass(frozen=True)
class Comparison:
    """``results.json`` of ``backroads compare``."""

    kind: Literal["compare"]
    split: str
    n_seeds: int
    rows: tuple[Row, ...]
    seconds: Measured = None


@dataclass(frozen=True)
class Run:
    """A run folder: its settings, where it ran, every epoch, and the results."""

    config: Mapping[str, object]
    environment: Mapping[str, object]
    epochs: tuple[Epoch, ...]
    cut_off: bool
    """Whether the last line of ``events.jsonl`` was cut off and is left out."""
    results: Comparison


_EPOCH = TypeAdapter(Epoch)
_COMPARISON = TypeAdapter(Comparison)


def read_run(folder: Path) -> Run:
    """Reads the run in ``folder``.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    if not folder.is_dir():
        raise ConfigError(f"Expected a run folder, but {folder} is not a folder: give the folder of a run.")
    epochs, cut_off = _read_epochs(folder / "events.jsonl")
    return Run(
        config=_read_toml(folder / "config.toml"),
        environment=_read_object(folder / "environment.json"),
        epochs=epochs,
        cut_off=cut_off,
        results=_read_results(folder / "results.json"),
    )


def setting_of(config: Mapping[str, object], key: str) -> object:
    """A setting, at the top or in one of the tables."""
    tables = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    return next((table[key] for table in tables if key in table), None)


def _read_results(path: Path) -> Comparison:
    content = _read_bytes(path)
    _parsed(content, str(path))
    results = _validated(_COMPARISON, content, str(path))
    names = [row.rule for row in results.rows]
    if not names or len(set(names)) < len(names):
        raise _damaged(str(path), "at least one row and every rule once", f"the rules {names}")
    return results


def _read_epochs(path: Path) -> tuple[tuple[Epoch, ...], bool]:
    *lines, rest = _read_bytes(path).split(b"\n")
    epochs = [_read_event(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    cut_off = False
    if rest.strip():
        try:
            epochs.append(_read_event(rest, f"{path}, last line"))
        except ConfigError:
            cut_off = True  # A run killed in the middle of a write leaves such a line.
    # A run that was taken up again may have measured an epoch twice: the last one counts.
    latest = {(event.rule, event.seed, event.epoch): event for event in epochs if event is not None}
    if not latest:
        raise _damaged(str(path), 'at least one line with "event": "epoch"', "none")
    return tuple(latest.values()), cut_off


def _read_event(line: bytes, where: str) -> Epoch | None:
    """The epoch in ``line``, or None for another event."""
    event = _parsed(line, where)
    if not isinstance(event.get("event"), str):
        raise _damaged(where, 'an object with a text "event"', repr(event))
    return _validated(_EPOCH, line, where) if event["event"] == "epoch" else None


def _read_object(path: Path) -> dict[str, object]:
    return _parsed(_read_bytes(path), str(path))


def _read_toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(_read_bytes(path).decode())
    except ValueError as error:
        raise _damaged(str(path), "TOML", str(error)) from error


def _parsed(content: bytes, where: str) -> dict[str, object]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise _damaged(where, "a JSON object", str(error)) from error
    if not isinstance(value, dict):
        raise _damaged(where, "a JSON object", repr(value))
    return value


def _validated(adapter: TypeAdapter[T], content: bytes, where: str) -> T:
    try:
        # Strict: a number written as a string is a damaged file, not a number.
        return adapter.validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        expected = first["msg"].removeprefix("Input should be ")
        if first["type"] == "missing":
            raise _damaged(where, f"the field {field}", "none") from error
        raise _damaged(f"{where}, field {field}", expected, repr(first["input"])) from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"Expected the file {path}, but it cannot be read ({error.strerror}): "
            "the run may have stopped before its end; run its command again."
        ) from error


def _damaged(where: str, expected: str, came: str) -> ConfigError:
    came = came if len(came) <= 200 else f"{came[:200]}…"
    return ConfigError(
        f"{where}: expected {expected}, but found {came}. The run folder is damaged: run its command again."
    )
