"""What happens in one step of a lifetime, as frozen data. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from backroads.errors import RuleError, nearest

RuleName = Literal["oja", "hebb", "gradient"]
SignalName = Literal["target", "error", "error_detached"]


@dataclasses.dataclass(frozen=True)
class LocalRule:
    """How plastic weights change within a lifetime.

    Attributes:
        rule: "oja", "hebb", or "gradient": the comparator, gradient descent with hand-written backpropagation.
        signal: what feedback carries: "target" (y, or its one-hot), "error" (y - yhat; with labels
            (one-hot - softmax) / m), or "error_detached": the same, a constant for the meta-gradient.
        frozen: so many linear layers from the front keep their weights.
        plastic: "all" other layers change, or the "output" layer only, or "none".
        hidden: what shifts hidden activity: "feedback", or "none": q = a.
        output: what shifts the output's: "feedback" like the hidden layers, the "signal" itself, or "none".
        linear_feedback: no rectifier after the feedback layers.
        absolute: |u| instead of u on everything that goes through feedback.
        gate: feedback times "none"; times the rectifier's derivative in hidden layers ("relu"); or times sign(a) in
            every layer ("sign", the reference's, which takes sign(yhat) at the linear output).
        multiplier: factor on the change of every layer but the last.
        reduction: over the m samples of a step, "sum" as in the reference, or "mean": rates then compare across m.
        inner_lr: step size of "gradient" where the meta-parameters hold no rates.
        second_order: whether the meta-gradient goes through the inner gradient of "gradient".
        inner_clip: largest entry of an inner gradient.

    Source: Lindsey and Litwin-Kumar, "Learning to Learn with Feedback and Local Plasticity", NeurIPS 2020;
    "gradient" is the inner loop of Javed and White, "Meta-Learning Representations for Continual Learning", 2019.
    """

    rule: RuleName = "oja"
    signal: SignalName = "error"
    frozen: int = 0
    plastic: Literal["all", "output", "none"] = "all"
    hidden: Literal["feedback", "none"] = "feedback"
    output: Literal["feedback", "signal", "none"] = "feedback"
    linear_feedback: bool = False
    absolute: bool = False
    gate: Literal["none", "relu", "sign"] = "none"
    multiplier: float = 1.0
    reduction: Literal["sum", "mean"] = "sum"
    inner_lr: float = 0.01
    second_order: bool = True
    inner_clip: float | None = None

    def __post_init__(self) -> None:
        known = {
            "rule": ("oja", "hebb", "gradient"),
            "signal": ("target", "error", "error_detached"),
            "plastic": ("all", "output", "none"),
            "hidden": ("feedback", "none"),
            "output": ("feedback", "signal", "none"),
            "gate": ("none", "relu", "sign"),
            "reduction": ("sum", "mean"),
        }
        for field, choices in known.items():
            value = getattr(self, field)
            if value not in choices:
                raise RuleError(
                    f"{field}: expected {', '.join(map(repr, choices))}, got {value!r}.{nearest(str(value), choices)}"
                )
        if self.frozen < 0:
            raise RuleError(f"frozen: expected the number of layers that keep their weights, got {self.frozen}")
        for field in ("multiplier", "inner_lr"):
            if not math.isfinite(getattr(self, field)):
                raise RuleError(f"{field}: expected a finite number, got {getattr(self, field)}")
        if self.inner_clip is not None and not self.inner_clip > 0:
            raise RuleError(f"inner_clip: expected a number above 0 or None, got {self.inner_clip}")

    @property
    def is_gradient(self) -> bool:
        """Whether the rule is the comparator, which is not local."""
        return self.rule == "gradient"

    def changes(self, layer: int, layers: int) -> bool:
        """Whether the weights of a linear layer change in a lifetime."""
        if layer < self.frozen or self.plastic == "none":
            return False
        return self.plastic == "all" or layer == layers - 1

    def shift(self, layer: int, layers: int) -> str:
        """What shifts the activity after a layer: "feedback", "signal" or "none"."""
        return self.output if layer == layers - 1 else self.hidden
