"""Numbers and lists as a reader wants them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

DASH = "\N{EN DASH}"
"""Stands for a number that is missing."""

MINUS = "\N{MINUS SIGN}"
NBSP = "\N{NO-BREAK SPACE}"


def percent(fraction: float | None) -> str:
    """``0.981`` as ``98.1``."""
    return DASH if fraction is None else _fixed(100 * fraction, 1)


def points(fraction: float | None) -> str:
    """``-0.006`` as ``−0.6`` and ``0.006`` as ``+0.6``: percentage points with their sign."""
    if fraction is None:
        return DASH
    text = _fixed(100 * fraction, 1)
    return text if text.startswith(MINUS) or text == "0.0" else f"+{text}"


def degrees(angle: float | None) -> str:
    """``12.34`` as ``12.3``."""
    return DASH if angle is None else _fixed(angle, 1)


def ratio(value: float | None) -> str:
    """``1.234`` as ``1.23``."""
    return DASH if value is None else _fixed(value, 2)


def loss(value: float | None) -> str:
    """A loss with three digits."""
    return DASH if value is None else f"{value:.3g}".replace("-", MINUS)


def whole(value: float) -> str:
    """``12345.6`` as ``12,346``."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def memory(mebibytes: float) -> str:
    """Memory in the unit that gives it a short number."""
    return f"{mebibytes:.0f} MiB" if mebibytes < 1024 else f"{mebibytes / 1024:.1f} GiB"


def plain(value: float) -> str:
    """``3`` as ``3`` and ``2.456`` as ``2.46``."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def duration(seconds: float) -> str:
    """A time in the unit that gives it a short number."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def counted(number: int, noun: str) -> str:
    """``1 seed`` or ``3 seeds``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listing(words: Sequence[str]) -> str:
    """``a, b and c``."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def some(words: Sequence[str], most: int) -> str:
    """Like :func:`listing`, but names no more than ``most`` and counts the others."""
    return listing(words) if len(words) <= most else listing([*words[:most], f"{len(words) - most} more"])


def ranges(numbers: Sequence[int]) -> str:
    """Sorted whole numbers with runs joined: ``3, 6–15``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}{DASH}{run[-1]}" for run in runs)


def setting(value: object) -> str:
    """The value of a setting."""
    if value is None:
        return DASH
    if isinstance(value, list) and not any(isinstance(part, list | dict) for part in value):
        return ", ".join(setting(part) for part in value) or DASH
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def settings(config: Mapping[str, object], without: Collection[str] = ()) -> list[tuple[str, list[tuple[str, str]]]]:
    """The settings, those of the top first, then each table but those in ``without``; empty ones are left out."""
    flat = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in config.items() if isinstance(value, Mapping) and key not in without}
    groups = {"": flat, **tables}
    return [(name, [(key, setting(value)) for key, value in group.items()]) for name, group in groups.items() if group]


def _fixed(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)
