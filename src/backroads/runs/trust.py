"""What settings out of a folder or a database may say without consent: nothing that runs code or loads weights.

Settings that the user gives (flags, a file named with ``--config``, Python) are the user's own and are not checked.
Those of a run's folder or a search's storage may be anybody's: they may name what ships with the package, and
torchvision's and timm's networks, but no import path, and no option of a network that loads weights. They may name any
folder of data, and have torchvision's data sets downloaded into it. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from backroads.errors import ConfigError

# Fields in which a text with ":" may be something else than an import path, and what it then looks like.
_HARMLESS = {
    "data.name": r"(folder|npz):.*",
    "task.task": r"(folder|npz):.*",
    "model.name": r"(torchvision|timm):[\w.-]+",
    "data.root": r".*",
    "task.root": r".*",
    "run.device": r".*",
    "study.storage": r".*",  # see backroads.search.run.study_in
}
# Options of torchvision's and timm's networks that download or read a file. `init_weights` only draws numbers.
_LOADING = re.compile(r"pretrained|checkpoint|hub|cache|(?<!init_)weights", re.IGNORECASE)


def needs_consent(settings: Mapping[str, Any]) -> list[str]:
    """What in some settings would import code or load a file of weights, a line each.

    Args:
        settings: plain data in tables, as of ``model_dump()``.
    """
    options = settings.get("model", {}).get("options", {})
    paths = [(place, text) for place, text in _texts(settings, "") if _is_path(place, text)]
    loads = [name for name, value in options.items() if _LOADING.search(name) and value not in (False, None)]
    return [
        *(f"{place} = {text!r}, which is imported and called" for place, text in paths),
        *(f"model.options.{name}, which downloads or reads a file" for name in loads),
    ]


def check_trusted(
    settings: Mapping[str, Any], source: object, *, trust: bool, own: Mapping[str, Any] | None = None
) -> None:
    """Refuse settings that need consent and have none.

    Args:
        settings: what is going to be used, as plain data in tables.
        source: the folder or storage that it came from, for the message.
        trust: whether the user said that the source is trusted.
        own: the part that the user gave, likewise; what it names has consent.

    Raises:
        ConfigError: with a line for each import path and each option that loads a file.
    """
    said = needs_consent(own or {})
    found = [line for line in needs_consent(settings) if line not in said]
    if found and not trust:
        raise ConfigError(
            f"{source}: expected settings that name nothing outside of the package, got\n  "
            + "\n  ".join(found)
            + "\nif you know who wrote them and trust that code, give --trust (in Python trust=True)"
        )


def _is_path(place: str, text: str) -> bool:
    return ":" in text and not re.fullmatch(_HARMLESS.get(place, r"[^:]*"), text, re.DOTALL)


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text in some plain data, however deep, with its dotted place."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, place)
