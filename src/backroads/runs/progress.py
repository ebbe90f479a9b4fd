"""How far some work is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far some work is.

    Attributes:
        done, total: steps, of all arms of a run together. line: something to say, such as the result of an evaluation.
    """

    done: int
    total: int
    line: str | None = None


Report = Callable[[Progress], None]
"""Called with the progress of a run after every step."""
