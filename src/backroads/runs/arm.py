"""What the loop asks of one training: an arm of a run."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

from torch import Tensor

from backroads.runs.schema import Speed


class Arm(abc.ABC):
    """What the loop asks of one training.

    Every method is called in all processes. Those that meet numbers that are not finite raise :class:`DivergedError`;
    the arm takes no further step then, and the others go on.

    Attributes:
        score: of the last evaluation, higher is better; None for none. The best checkpoint is found by it.
        record: writes an event into the run's folder; the loop sets it.
    """

    score: float | None = None
    record: Callable[[Any], None] = staticmethod(lambda event: None)

    @abc.abstractmethod
    def step(self, step: int) -> None:
        """Take step number ``step``, from 0, and before it whatever comes between two steps, such as a phase."""

    @abc.abstractmethod
    def log(self, step: int) -> None:
        """Record means over the steps since the last call. ``step`` steps are done, here and below."""

    def read(self, step: int) -> None:  # noqa: B027  # nothing by default
        """Record readings of the model."""

    @abc.abstractmethod
    def evaluate(self, step: int) -> None:
        """Evaluate, record it, and set :attr:`score`."""

    def check(self, step: int) -> None:  # noqa: B027  # nothing by default
        """Raise :class:`DivergedError` for weights that must not be saved."""

    @abc.abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """The state dict of what is trained."""

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """Optimisers and counters: tensors, numbers, texts, lists and dicts."""

    @abc.abstractmethod
    def load(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Put back what :meth:`weights` and :meth:`state` returned."""

    def recall(self, state: dict[str, Any]) -> None:  # noqa: B027  # nothing by default
        """Put back what the results say of an arm that ended early: of what :meth:`state` returned, without weights."""

    def speed(self, step: int, steps: int, seconds: float) -> Speed:
        """What the last ``steps`` steps of the run took."""
        return Speed(step, step_ms=1000 * seconds / steps)
