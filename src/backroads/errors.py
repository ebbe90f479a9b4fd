"""What can go wrong, sorted by what the user can do about it.

Every message says what was expected, what came, and what to do. Each class also derives from the builtin exception
that fits, so ``except ValueError`` keeps working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BackroadsError(Exception):
    """Base of all errors raised on purpose by this package."""


class RuleError(BackroadsError, ValueError):
    """A rule's name, coefficients or options make no sense: change the rule."""


class OptionError(RuleError, TypeError):
    """A rule, or a part of one, takes no such keyword: write it as the message says."""


class ConversionError(BackroadsError, ValueError):
    """The model or a pattern cannot be converted as asked: change the model, the patterns, or ``strict``."""


class StateError(BackroadsError, RuntimeError):
    """A state dict does not fit the model: load another one, or convert the model the way it was saved."""


class ShapeError(BackroadsError, ValueError):
    """Tensors of the wrong shape or dtype: change the input."""


class UsageError(BackroadsError, RuntimeError):
    """A layer or function is used where it cannot work: call it as the message says."""


class ConfigError(BackroadsError, ValueError):
    """A configuration or command line is wrong: change the named field."""


class DataError(BackroadsError, RuntimeError):
    """Data turned out to be damaged while it was read: mend the named files, or allow more of them."""


class RunError(BackroadsError, RuntimeError):
    """A run cannot go on (disk full, a process lost): mend the cause and resume."""


class DivergedError(BackroadsError, ArithmeticError):
    """Numbers of an arm are no longer finite.

    Args:
        reason: in words. layer: where they were met first.
    """

    def __init__(self, reason: str, layer: str | None = None) -> None:
        super().__init__(reason)
        self.layer = layer


class MissingDependencyError(BackroadsError, ImportError):
    """An optional package is needed: install the named extra."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short: Python's own, numpy's, or torch's for a CPU or a GPU."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error)
        for words in ("allocate memory", "out of memory", "not enough memory", "Storage size calculation overflowed")
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the known name nearest to ``name``, or an empty string.

    Starts with a space so that it can be appended to a sentence.
    """
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""
