"""What the rules share that send the error of the network's output straight to each layer."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Self

import torch
from torch import Tensor

from backroads.errors import RuleError
from backroads.feedback.checks import check_count
from backroads.feedback.rules.base import FeedbackRule, Gradients, LayerStep, State


@dataclasses.dataclass(frozen=True)
class DirectRule(FeedbackRule):
    """``dx = D^T s(e)``: e is the error of the network's output, D is (K, features of x), for K outputs.

    Over the positions of a feature map the signal is divided evenly: D is shared between positions as a convolution's
    weights are.

    Args:
        outputs: K; None reads it off the last layer that is converted.

    Raises:
        RuleError: ``outputs`` is no whole number >= 1, or, from a layer on its own, not given.
    """

    broadcasts: ClassVar[bool] = True
    outputs: int | None = None
    scale: float = dataclasses.field(default=1.0, repr=False, kw_only=True)  # of one pass; see in_effect
    off: bool = dataclasses.field(default=False, repr=False, kw_only=True)  # in one pass nothing is taught

    def __post_init__(self) -> None:
        if self.outputs is not None:
            check_count(self.kind, "outputs", self.outputs)

    def for_network(self, outputs: int | None) -> Self:
        return self if self.outputs is not None else dataclasses.replace(self, outputs=outputs)

    def state(self, W: Tensor, features: int, generator: torch.Generator | None) -> State:
        """D: (K, I), U(-1/sqrt(I), 1/sqrt(I)), as the weight of a readout of the layer's input."""
        if self.outputs is None:
            raise RuleError(
                f"{self.kind} on a single layer needs outputs=K, the network's number of outputs; "
                f"br.convert(model, rule) reads K off the last layer"
            )
        D = (torch.rand(self.outputs, features, generator=generator, dtype=torch.float64) * 2 - 1) / math.sqrt(features)
        return {"backward_weight": torch.nn.Parameter(D.to(device=W.device, dtype=W.dtype), self.learns)}

    def reads(self, state_learns: bool, weight_learns: bool) -> frozenset[str]:
        return frozenset({"weight"})  # its shape

    @property
    def gradient_is_local(self) -> bool:
        return not self.learns

    def in_effect(self, scale: float, active: bool) -> Self:
        return self if scale == self.scale else dataclasses.replace(self, scale=scale, off=scale == 0)

    def without_own(self) -> Self:
        return dataclasses.replace(self, scale=0.0)

    def feedback(self, W: Tensor, state: State) -> Tensor | None:
        return None

    def signal(self, e: Tensor) -> Tensor:
        """s(e), (N, K): what is broadcast. e: error of the output, (N, K), of the mean over the batch."""
        return e

    def teach(self, e: Tensor, x: Tensor, D: Tensor) -> Tensor | None:
        """The gradient of D. e: (N, K). x: the layer's input, (N, I), mean over positions. None: D is fixed."""
        return None

    def backward(self, step: LayerStep) -> Gradients:
        assert step.W is not None
        assert step.e is not None
        e, D = step.e.to(step.x.dtype), step.state["backward_weight"].to(step.x.dtype)
        dx = step.op.spread(self.signal(e) @ D, step.x) if step.needs_input else None
        _, dW, db = step.task(step.W, input=False)
        state: State = {}
        if step.needs_state["backward_weight"]:
            dD = self.teach(e, step.op.pooled(step.x), D)
            state = {} if dD is None else {"backward_weight": dD.to(step.state["backward_weight"].dtype)}
        return Gradients(dx, dW, db, state)
