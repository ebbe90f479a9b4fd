"""Which lifetimes :mod:`backroads.plasticity.fused` can do, and what does not change from step to step in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from backroads.plasticity.rule import LocalRule

Tensors = Mapping[str, Tensor]
STACKED = 1 << 17  # numbers in the weights of the layers that are taken as one: six such arrays fit into a core's cache


@dataclasses.dataclass(frozen=True)
class Plan:
    """What does not change from step to step.

    Attributes:
        shifts: of each plastic layer, from the first: "feedback", "signal" or "none".
        mu: factor on the change of each.
        oja, signal, linear_feedback, absolute: of the rule. power: whether D is divided by power_of.
        given: whether what feedback brings is given with each step (signal "target").
    """

    shifts: tuple[str, ...]
    mu: tuple[float, ...]
    oja: bool
    power: bool
    signal: str
    linear_feedback: bool
    absolute: bool
    given: bool

    def groups(self, shapes: list[torch.Size], lifetimes: int) -> list[range]:
        """Layers to be taken as one: neighbours of one square shape, shift and factor; few enough to be small."""
        found: list[range] = []
        for layer, shape in enumerate(shapes):
            last = found[-1] if found else range(0)
            alike = (
                len(last) > 0
                and shape == shapes[last.start]
                and shape[0] == shape[1]
                and (self.shifts[layer], self.mu[layer]) == (self.shifts[last.start], self.mu[last.start])
                and (len(last) + 1) * lifetimes * shape.numel() <= STACKED
            )
            found = [*found[:-1], range(last.start, layer + 1)] if alike else [*found, range(layer, layer + 1)]
        return found


def plan_of(rule: LocalRule, meta: Mapping[str, Tensor], layers: range, samples: int) -> Plan | None:
    """The plan of the plastic layers, or None where only the definition can do it.

    Args:
        rule: how weights change.
        meta: the meta-parameters by name.
        layers: the plastic layers; all that follow the first one.
        samples: in a step.
    """
    if rule.is_gradient or rule.rule == "polynomial" or rule.gate != "none" or not layers:
        return None
    if any(f"B{layer}_1" in meta for layer in layers) or any(meta[f"b{layer}"].dim() > 1 for layer in layers):
        return None
    n = layers.stop
    share = 1 / samples if rule.reduction == "mean" else 1.0
    return Plan(
        shifts=tuple(rule.shift(layer, n) for layer in layers),
        mu=tuple(share * (rule.hidden_multiplier if layer < n - 1 else 1.0) for layer in layers),
        oja=rule.rule == "oja",
        power=rule.reduction == "power",
        signal=rule.signal,
        linear_feedback=rule.linear_feedback,
        absolute=rule.absolute_signal,
        given=rule.signal == "target",
    )
