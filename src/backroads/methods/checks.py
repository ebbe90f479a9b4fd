"""Checks of a method's options, which say what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Collection

from backroads.errors import ConfigError, nearest
from backroads.methods.base import Method


def check_choice(method: Method, key: str, known: Collection[str]) -> None:
    """Raise :class:`ConfigError`, with the nearest name, unless the option ``key`` is one of ``known``."""
    value = getattr(method, key)
    if value not in known:
        raise ConfigError(
            f"{method.name}: {key}: expected one of {', '.join(known)}, got {value!r}.{nearest(str(value), known)}"
        )


def check_flags(method: Method, *keys: str) -> None:
    """Raise :class:`ConfigError` unless the options ``keys`` are True or False."""
    for key in keys:
        if not isinstance(value := getattr(method, key), bool):
            raise ConfigError(f"{method.name}: {key}: expected true or false, got {value!r}")


def check_number(
    method: Method,
    key: str,
    expected: str = "a number above 0",
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    whole: bool = False,
) -> None:
    """Raise :class:`ConfigError` unless the option ``key`` is a finite number > ``above``, >= ``least``, <= ``most``.

    Args:
        expected: that in words.
        whole: whether it has to be a whole number.
    """
    value = getattr(method, key)
    if not _is_number(value, whole) or not (above < value < math.inf and least <= value <= most):
        raise ConfigError(f"{method.name}: {key}: expected {expected}, got {value!r}")


def check_by_block(method: Method, key: str) -> None:
    """Raise :class:`ConfigError` unless the option ``key`` is a finite number above 0, or a tuple of such numbers."""
    value = getattr(method, key)
    for number in value if isinstance(value, tuple) and value else (value,):
        if not _is_number(number) or not 0 < number < math.inf:
            raise ConfigError(f"{method.name}: {key}: expected a number above 0, or one for each block, got {value!r}")


def _is_number(value: object, whole: bool = False) -> bool:
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool)
