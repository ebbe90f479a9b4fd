"""Direct Kolen-Pollack: direct feedback weights that learn."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from backroads.feedback.checks import checked_options
from backroads.feedback.rules.base import BackwardOptimiser
from backroads.feedback.rules.direct import DirectRule


@dataclasses.dataclass(frozen=True)
class DirectKolenPollack(DirectRule):
    """``dx = D^T e`` and ``dD = e x^T``; see :func:`direct_kolen_pollack`."""

    kind: ClassVar[str] = "direct_kolen_pollack"

    @property
    def learns(self) -> bool:
        return True

    def teach(self, e: Tensor, x: Tensor, D: Tensor) -> Tensor | None:
        return e.t() @ x

    def optimiser(self, name: str, momentum: float) -> BackwardOptimiser:
        return BackwardOptimiser(follows=True, decays=True)

    def clip(self, name: str, value: Tensor, gradient: Tensor, factor: float | Tensor, scale: float) -> None:
        gradient.mul_(factor)

    def __repr__(self) -> str:
        return "direct Kolen-Pollack: dx = D^T e, dD = e x^T"


@checked_options
def direct_kolen_pollack(outputs: int | None = None) -> DirectKolenPollack:
    """Direct Kolen-Pollack: ``dx = D^T e`` with ``dD = sum e x^T``, summed over the batch, and W's weight decay on D.

    e is the error of the network's output, (N, K), x the layer's input (N, I), D is (K, I). In the last layer dD is the
    gradient of W itself, so that under a shared decay D comes to W as in Kolen and Pollack's rule; in the others D is
    the weight of an imagined read-out of x that learns beside the network, and comes to estimate the path from x to the
    output. Maps are averaged over positions. D needs W's optimiser and decay, which :func:`backroads.param_groups`
    gives it.

    Args:
        outputs: K; None reads it off the last layer that is converted.

    Raises:
        RuleError: ``outputs`` is no whole number >= 1.

    Source: Webster, Choi, Ahn, "Learning the Connections in Direct Feedback Alignment" (2020).
    """
    return DirectKolenPollack(outputs)
