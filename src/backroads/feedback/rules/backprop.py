"""Backpropagation."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from backroads.feedback.checks import checked_options
from backroads.feedback.rules.base import FeedbackRule, State


@dataclasses.dataclass(frozen=True)
class Backprop(FeedbackRule):
    """Backpropagation: B is W itself. ``dx = W^T dy``; there is nothing to learn on the way back.

    The comparator, and the rule for layers to leave as they are.

    Source: Rumelhart, Hinton, Williams, Nature 323 (1986).
    """

    kind: ClassVar[str] = "backprop"
    is_backprop: ClassVar[bool] = True

    @property
    def gradient_is_local(self) -> bool:
        return True

    def feedback(self, W: Tensor, state: State) -> Tensor | None:
        return W

    def __repr__(self) -> str:
        return "backprop: B = W"


@checked_options
def backprop() -> Backprop:
    """Backpropagation: ``dx = W^T dy``; see :class:`Backprop`."""
    return Backprop()
