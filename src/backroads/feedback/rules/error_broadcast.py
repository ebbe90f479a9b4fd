"""Error broadcast with learned correlations."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from backroads.feedback.checks import check_positive, checked_options
from backroads.feedback.rules.direct import DirectRule


@dataclasses.dataclass(frozen=True)
class ErrorBroadcast(DirectRule):
    """``dx = D^T e``, D a running mean of ``e x^T``; see :func:`error_broadcast`."""

    kind: ClassVar[str] = "error_broadcast"
    rate: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("error_broadcast", "rate", self.rate, most=1.0)

    @property
    def learns(self) -> bool:
        return True

    def teach(self, e: Tensor, x: Tensor, D: Tensor) -> Tensor | None:
        # e is the error of a mean over the batch, so that the sum over examples is M[e x^T], scaled as the loss is.
        return torch.zeros_like(D) if self.off else self.rate * (self.scale * D - e.t() @ x)

    def averages(self, name: str) -> bool:
        return False  # e x^T sums over a layer's uses and over accumulated parts of a batch, as W's gradient does

    def __repr__(self) -> str:
        return f"error broadcast: dx = D^T e, dD = {self.rate:g} (D - M[e x^T])"


@checked_options
def error_broadcast(rate: float = 0.01, outputs: int | None = None) -> ErrorBroadcast:
    """Error broadcast and decorrelation: ``dx = D^T e`` with D the running mean of the correlation ``M[e x^T]``.

    An estimator of least mean square error leaves an error that is uncorrelated with every function of its input. So
    each layer descends 1/2 |D|^2, where D, (K, I), estimates the correlation of the output's error e, (N, K), with the
    layer's input x, (N, I): d(1/2 |M[e x^T]|^2)/dx = D^T e, up to a constant. ``D <- (1 - rate) D + rate M[e x^T]``, by
    the gradient ``dD = rate (D - M[e x^T])`` and plain SGD at rate 1. Maps are averaged over positions.

    We leave out the authors' entropy and power terms, which keep layers from collapsing, and the factor ``rate`` on dx.

    Args:
        rate: of the running mean, > 0 and <= 1 (1 - the forgetting factor).
        outputs: K; None reads it off the last layer that is converted.

    Raises:
        RuleError: for values out of range.

    Source: Erdogan, Pehlevan, Erdogan, "Error Broadcast and Decorrelation as a Potential Artificial and Natural
    Learning Mechanism", arXiv 2504.11558 (2025).
    """
    return ErrorBroadcast(outputs, rate)
