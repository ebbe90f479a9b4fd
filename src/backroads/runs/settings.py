"""Settings of any run as data: from TOML and flags, checked, with errors that name the field. Imports no torch."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from backroads.errors import ConfigError, nearest
from backroads.runs.folder import RESTART
from backroads.runs.groups import flags, groups
from backroads.runs.manifest import newest_settings
from backroads.runs.schema import printable

Schema = TypeVar("Schema", bound=BaseModel)


def parse(value: Any) -> Any:
    """A flag's text as the number or truth value it spells, within tables and lists too; other values as they are.

    A text that spells null, alone or in a list or table, stays a text: no setting is null, and TOML has none.
    """
    if isinstance(value, dict):
        return {key: parse(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [parse(inner) for inner in value]
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):  # no JSON, or more digits or brackets than Python reads
        return value
    return value if _has_null(found) else found


def _has_null(found: Any) -> bool:
    inner = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    return found is None or any(map(_has_null, inner))


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file; raises ConfigError if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config: cannot read {path}: {error.strerror}; give the path of a TOML file") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"config: {path} is not TOML: {error}") from None


def read_run(folder: Path, kind: str = "run") -> dict[str, Any]:
    """The settings in the folder of a run (or study, for kind "study"); raises ConfigError if it has none."""
    if not (folder / "config.toml").is_file():
        raise ConfigError(
            f"expected the folder of a {kind}, and {folder} has no config.toml; give the folder that --out named"
        )
    return read_toml(folder / "config.toml")


def read_settings(source: str, kind: str = "") -> dict[str, Any]:
    """Settings from a TOML file, or from a recipe that ships with the package, by its name; raises ConfigError.

    Args:
        source: the file or the name. kind: "" for a training, "search" for a search, "meta" for a meta-training.
    """
    if Path(source).exists() or source.endswith(".toml"):
        return read_toml(Path(source))
    if source in recipes(kind):
        with resources.as_file(_folder(kind) / f"{source}.toml") as path:
            return read_toml(path)
    raise ConfigError(
        f"config: {source!r} is neither a file nor a recipe.{nearest(source, recipes(kind))} "
        f"Recipes: {', '.join(recipes(kind))}"
    )


def recipes(kind: str = "") -> list[str]:
    """Names of the recipes of one kind that ship with the package."""
    return sorted(entry.name.removesuffix(".toml") for entry in _folder(kind).iterdir() if entry.name.endswith(".toml"))


def _folder(kind: str) -> Traversable:
    folder = resources.files("backroads") / "recipes"
    return folder / kind if kind else folder


def checked(schema: type[Schema], data: dict[str, Any]) -> Schema:
    """Settings of any schema from plain data; raises ConfigError naming every wrong field."""
    unfit = [name for name, value in _texts(data) if not value.isascii() and printable(value) != value]
    if unfit:
        why = "expected text in UTF-8, for the settings file; give the file or folder another name, or a link to it"
        raise ConfigError("\n".join(f"{name}: {why}" for name in unfit))
    try:
        return schema(**data)
    except ValidationError as error:
        raise ConfigError(explain(error, schema)) from None


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """All texts within plain data, with the name of their setting."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else ((name, one) for one in value):
            yield from _texts(inner, str(key))


def explain(error: ValidationError, schema: type[BaseModel]) -> str:
    """A pydantic error in one line a field: what was expected, what came, the nearest name and its table."""
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting {name!r}.{_nearest(problem['loc'], schema)}")
            continue
        message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        message = "a table of settings" if problem["type"] == "model_type" else message
        expected = message if ": expected " in message else f"{name}: expected {message}, got {problem['input']!r}"
        lines.append(expected)
    return "\n".join(lines)


def _nearest(place: tuple[int | str, ...], schema: type[BaseModel]) -> str:
    """The nearest setting to one that is unknown, in words, or nothing."""
    table, name = ("", *map(str, place))[-2:]
    places = flags(schema)
    if name in places and places[name][0]:
        return f" It belongs in [{places[name][0]}]."
    if table in groups(schema):  # most likely one of the same table
        own = nearest(name, groups(schema)[table].model_fields)
        if own:
            return own
    places = {field: (group, field) for group, field in places.values()} | places
    found = difflib.get_close_matches(name, places, n=1, cutoff=0.5)
    if not found:
        return ""
    group, field = places[found[0]]
    return f" Did you mean {field!r} in [{group}]?" if group else f" Did you mean {field!r}?"


def check_resume(
    old: dict[str, Any], new: dict[str, Any], *, harmless: frozenset[str], growing: frozenset[str]
) -> None:
    """Refuse to take a run up again with settings that would make it another run.

    Args:
        old: settings of the run, as plain data (tables within tables). new: those that were asked for.
        harmless: names of settings, without their tables, that may differ. growing: names of those that may grow.

    Raises:
        ConfigError: with one line for each difference.
    """
    if found := _refused(old, new, harmless, growing):
        raise ConfigError(
            "resume: the settings differ from those of the run:\n  "
            + "\n  ".join(found)
            + "\nleave them out to go on, or start a new run with another --out"
        )


def check_resume_in(
    folder: Path, new: dict[str, Any], schema: type[BaseModel], *, harmless: frozenset[str], growing: frozenset[str]
) -> None:
    """Refuse to go on in a folder with other settings than its newest checkpoint has, or with an altered config.toml.

    Args:
        folder: of the run; without a checkpoint, nothing is refused.
        schema: of the settings. A run from before a setting there was has that setting's default.
        new, harmless, growing: see :func:`check_resume`.

    Raises:
        ConfigError: with one line for each difference.
    """
    saved = newest_settings(folder / "checkpoints")
    if saved is None:
        return
    config = folder / "config.toml"
    if config.exists() and (found := _refused(saved, read_toml(config), harmless, growing)):
        raise ConfigError(
            f"resume: {config} was changed; the settings in the checkpoint are others:\n  "
            + "\n  ".join(found)
            + f"\nput it back, or remove it (it is written again from the checkpoint), or {RESTART}"
        )
    for table, group in groups(schema).items():
        for name, field in group.model_fields.items():
            if new.get(table, {}).get(name) == field.default:
                saved.setdefault(table, {}).setdefault(name, field.default)
    check_resume(saved, new, harmless=harmless, growing=growing)


def settings_in(folder: Path) -> dict[str, Any] | None:
    """The settings of the run in a folder: its config.toml, or if that is missing, those in its newest checkpoint; None
    if there is neither. Raises ConfigError for a file that cannot be read."""
    config = folder / "config.toml"
    if not config.exists():
        return newest_settings(folder / "checkpoints")
    try:
        return read_toml(config)
    except ConfigError as error:
        raise ConfigError(
            f"{error}; move it away: without it the settings are those of the newest checkpoint"
        ) from None


def _refused(old: dict[str, Any], new: dict[str, Any], harmless: frozenset[str], growing: frozenset[str]) -> list[str]:
    """The differences that make another run, in words."""
    found = []
    for name, was, now in differences(old, new):
        field = name.rpartition(".")[2]
        numbers = isinstance(was, int | float) and isinstance(now, int | float)
        grown = field in growing and (now is None or (numbers and now > was))
        if field not in harmless and not grown:
            found.append(f"{name}: the run has {was!r}, now {now!r}")
    return found


def differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """What differs between settings as plain data: dotted name, old value, new value; None for what is not set."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield name, old, new
