"""Feedback rules as a method: the task's loss, whose backward pass goes through weights B of their own."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from backroads.feedback.conversion import aligned_layers, backward_parameters, convert, forward_parameters, revert
from backroads.feedback.conversion.plan import Plan, Rules, plan
from backroads.methods.base import Method


@dataclasses.dataclass(frozen=True)
class Feedback(Method):
    """Train on the task's loss; a feedback rule carries the errors back, as :func:`backroads.convert` sets it up.

    Attributes:
        rules: a rule or its name for every layer, or a mapping from patterns of layer names to rules. The default
            leaves every layer on backpropagation.
        strict: refuse a model with a module that transports weights and cannot be converted, instead of warning.
    """

    name: ClassVar[str] = "feedback"
    rules: Rules = "backprop"
    strict: bool = False

    def plan(self, model: torch.nn.Module, sample: Tensor) -> Plan:
        """Which layer gets which rule, and why; see :func:`backroads.plan`. The sample is not needed."""
        return plan(model, self.rules)

    def prepare(
        self, model: torch.nn.Module, sample: Tensor, generator: torch.Generator | int | None
    ) -> torch.nn.Module:
        """Convert the model in place; see :func:`backroads.convert`, also for what is raised."""
        return convert(model, self.rules, strict=self.strict, generator=generator)

    def revert(self, model: torch.nn.Module) -> torch.nn.Module:
        """Plain torch layers again, in place, with the learned W."""
        return revert(model)

    def parameter_groups(self, model: torch.nn.Module) -> dict[str, list[torch.nn.Parameter]]:
        """ "forward": W, biases and norms. "backward": those B that learn; they need a rate of their own."""
        return {"forward": forward_parameters(model), "backward": backward_parameters(model)}

    def formulas(self, model: torch.nn.Module) -> dict[str, str]:
        """The rule of each converted layer, as it prints."""
        return {name: repr(layer.rule) for name, layer in aligned_layers(model)}
