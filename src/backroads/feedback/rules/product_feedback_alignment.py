"""Product feedback alignment: the way back is a product of two weights, of which one learns."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from backroads.feedback.checks import check_positive, checked_options
from backroads.feedback.rules.base import BackwardOptimiser, FeedbackRule, Gradients, LayerStep, State, draw_like


@dataclasses.dataclass(frozen=True)
class ProductFeedbackAlignment(FeedbackRule):
    """``dx = R^T Q^T dy``, Q fixed, ``dR = Q^T dW``; see :func:`product_feedback_alignment`."""

    kind: ClassVar[str] = "product_feedback_alignment"
    expansion: float = 1.0

    def __post_init__(self) -> None:
        check_positive("product_feedback_alignment", "expansion", self.expansion)

    def state(self, W: Tensor, features: int, generator: torch.Generator | None) -> State:
        O, groups = W.shape[0], max(1, features // W.shape[1])  # noqa: E741
        middle = max(1, round(self.expansion * O / groups))  # units of the middle, in each group
        Q = torch.randn(groups, O // groups, middle, generator=generator, dtype=torch.float64) / middle**0.5
        R = draw_like(W, generator, (groups * middle, *W.shape[1:]))
        return {"fixed_weight": Q.to(device=W.device, dtype=W.dtype), "learned_weight": torch.nn.Parameter(R)}

    @property
    def learns(self) -> bool:
        return True

    def feedback(self, W: Tensor, state: State) -> Tensor | None:
        Q, R = state["fixed_weight"], state["learned_weight"]
        return (Q @ R.reshape(len(Q), Q.shape[2], -1)).view_as(W)

    def backward(self, step: LayerStep) -> Gradients:
        assert step.feedback is not None
        needs_R = step.needs_state["learned_weight"] and step.weight_learns
        dx, dW, db = step.task(step.feedback, weight=step.needs_weight or needs_R)
        state: State = {}
        if needs_R and dW is not None:
            Q, R = step.state["fixed_weight"], step.state["learned_weight"]
            state["learned_weight"] = (Q.mT @ dW.reshape(len(Q), Q.shape[1], -1)).view_as(R)
        return Gradients(dx, dW if step.needs_weight else None, db, state)

    def optimiser(self, name: str, momentum: float) -> BackwardOptimiser:
        return BackwardOptimiser(follows=True, decays=True)

    def clip(self, name: str, value: Tensor, gradient: Tensor, factor: float | Tensor, scale: float) -> None:
        gradient.mul_(factor)

    @property
    def aligns(self) -> bool:
        return True

    def __repr__(self) -> str:
        return "product feedback alignment: dx = R^T Q^T dy, Q fixed, dR = Q^T dW"


@checked_options
def product_feedback_alignment(expansion: float = 1.0) -> ProductFeedbackAlignment:
    """Product feedback alignment: ``dx = R^T (Q^T dy)``: the error passes a population of units between two layers.

    Q, (O, M), is fixed and random; R, (M, I) in the layout of W, learns ``dR = Q^T dW`` with W's own optimiser and
    decay, as in Kolen-Pollack. R comes to Q^T W, and the way back Q R to Q Q^T W: W, up to what the random products of
    Q's columns add (E[Q Q^T] = 1). No synapse copies another. Of a convolution, the middle's units are channels.

    Args:
        expansion: M / O, > 0. The angle of Q Q^T W to W is about arctan(1 / sqrt(expansion)) for many outputs.

    Raises:
        RuleError: ``expansion`` is no finite number > 0.

    Source: Li, Benna, "Deep Learning without Weight Symmetry", arXiv 2405.20594 (2024); Q and R are B and R there.
    """
    return ProductFeedbackAlignment(expansion)
