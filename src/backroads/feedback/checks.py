"""What the parts of a rule share: a short text, and checks of numbers that say what was expected and what came."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Collection
from typing import Any, ParamSpec, Self, TypeVar

from backroads.errors import OptionError, RuleError, nearest

P = ParamSpec("P")
R = TypeVar("R")


def chosen(part: Any, besides: Collection[str] = ()) -> str:
    """What of a dataclass differs from its defaults, as in "every=4, fraction=0.5", besides some fields."""
    fields = [f for f in dataclasses.fields(part) if f.name not in besides and getattr(part, f.name) != f.default]
    return ", ".join(f"{f.name}={getattr(part, f.name)!r}" for f in fields)


@functools.cache
def options_taken(make: Callable[..., Any]) -> tuple[str, ...] | None:
    """The names of what a callable takes by keyword; None if it takes any."""
    parameters = list(inspect.signature(make).parameters.values())
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))


def _check_options(make: Callable[..., Any], name: str, options: Collection[str]) -> None:
    known = options_taken(make)
    if known is not None:
        for option in options:
            if option not in known:
                took = ", ".join(known) or "none"
                raise OptionError(f"{name} takes no option {option!r}.{nearest(option, known)} It takes: {took}")


def checked_options(make: Callable[P, R]) -> Callable[P, R]:
    """Decorator of a function that makes a rule: a keyword that it does not take is answered with the nearest one.

    Raises:
        OptionError: by the function, for such a keyword; nothing is called then.
    """

    @functools.wraps(make)
    def checked(*args: P.args, **options: P.kwargs) -> R:
        _check_options(make, make.__name__, options)
        return make(*args, **options)

    return checked


class Options:
    """Base of dataclasses for which the same holds: a keyword that is no field is answered with the nearest one."""

    def __new__(cls, /, *args: Any, **options: Any) -> Self:
        _check_options(cls, cls.__name__, options)
        return super().__new__(cls)


class Part(Options):
    """A frozen dataclass whose text shows only what differs from its defaults (declare it with ``repr=False``)."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({chosen(self)})"


def check_number(owner: str, name: str, value: object, *, negative: bool = False) -> None:
    """Raise :class:`RuleError` unless ``value`` is a finite number, and not negative unless allowed."""
    expected = "a finite number" if negative else "a finite number >= 0"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RuleError(f"{owner}: {name} must be {expected}, got {value!r} of type {type(value).__name__}")
    try:
        finite = math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        finite = False
    if not finite or (value < 0 and not negative):
        raise RuleError(f"{owner}: {name} must be {expected}, got {value!r}; leave it out to switch it off")


def check_positive(owner: str, name: str, value: object, most: float = math.inf) -> None:
    """Raise :class:`RuleError` unless ``0 < value <= most``."""
    if value != 0:
        check_number(owner, name, value)
    assert isinstance(value, int | float)
    if not 0 < value <= most:
        limit = f" and <= {most:g}" if math.isfinite(most) else ""
        raise RuleError(f"{owner}: {name} must be > 0{limit}, got {value!r}")


def check_count(owner: str, name: str, value: object, least: int = 1) -> None:
    """Raise :class:`RuleError` unless ``value`` is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise RuleError(f"{owner}: {name} must be a whole number >= {least}, got {value!r}")


def check_flag(owner: str, name: str, value: object) -> None:
    """Raise :class:`RuleError` unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise RuleError(f"{owner}: {name} must be True or False, got {value!r}")


def check_choice(owner: str, name: str, value: object, known: tuple[str, ...]) -> None:
    """Raise :class:`RuleError` unless ``value`` is one of ``known``."""
    if not isinstance(value, str) or value not in known:
        raise RuleError(f"{owner}: unknown {name} {value!r}.{nearest(str(value), known)} Known: {', '.join(known)}")
