"""What the callbacks of other trainers share: measure B, and set its gradient's factor where that has to be."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import torch

from backroads.errors import ConversionError, UsageError
from backroads.feedback.conversion import aligned_layers, alignment_scale
from backroads.feedback.conversion.groups import warn_if_nothing_learns
from backroads.metrics import readings
from backroads.metrics.weight_norm_ratio import NORMAL


@dataclasses.dataclass
class Watch:
    """Looks after the backward weights of a model that another library trains.

    Args:
        every: optimiser steps between two measurements, >= 1.
        largest: a layer has left the sane range whose norm of B over that of W is above this, below its inverse, or not
            finite; > 1.

    Raises:
        UsageError: for other numbers.
    """

    every: int = 50
    largest: float = 1e3
    warned: set[str] = dataclasses.field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise UsageError(f"every: expected a whole number of steps >= 1, got {self.every!r}")
        if not self.largest > 1:
            raise UsageError(f"largest: expected a number > 1, got {self.largest!r}")

    def start(self, model: torch.nn.Module) -> None:
        """Before the first step. Warns of a model in which no B learns although the rules would teach it.

        Raises:
            ConversionError: for a model without converted layers.
        """
        if not any(True for _ in aligned_layers(model)):
            raise ConversionError("the model has no converted layers; call br.convert(model, rule) before training")
        warn_if_nothing_learns(model)

    def measure(self, model: torch.nn.Module) -> tuple[dict[str, float], list[str]]:
        """({"metric/layer": number}, the layers that have left the sane range, with what was measured).

        Warns once of a layer whose norms are more than a factor of ten apart, long before training is stopped for it.
        """
        found = readings(model)
        ratios = found.get("norm_ratio", {})

        def outside(low: float, high: float) -> dict[str, str]:
            ends = {name: x for name, x in ratios.items() if not low <= x <= high}  # NaN is outside
            return {name: f"{name}: |B| / |W| = {x:.3g}" for name, x in ends.items()}

        wrong = list(outside(1 / self.largest, self.largest).values())
        early = {name: told for name, told in outside(*NORMAL).items() if name not in self.warned}
        self.warned.update(early)
        if early and not wrong:
            warnings.warn(
                f"backward weights left the range of 0.1 to 10 times W: {'; '.join(early.values())}; lower the rule's "
                f"rate or coefficients (training goes on, and stops at 1/{self.largest:g} and {self.largest:g})",
                stacklevel=3,
            )
        return {f"{metric}/{name}": x for metric, layers in found.items() for name, x in layers.items()}, wrong

    def scale(self, model: torch.nn.Module, passes: int, scaler: Any = None, *, compiled: bool = False) -> None:
        """Before each step: the factor of B's gradient, where the library cannot know it.

        Args:
            passes: backward passes in a step.
            scaler: a ``torch.amp.GradScaler``, which divides all gradients by its factor, or None.
            compiled: whether the trainer has compiled the model, which then does not show it.
        """
        scales = scaler is not None and scaler.is_enabled()
        if scales or (passes > 1 and (compiled or not counts_passes(model))):
            alignment_scale(model, (float(scaler.get_scale()) if scales else 1.0) / passes)

    def warn(self, wrong: list[str]) -> None:
        """Say which layers have left the range, and that training stops."""
        warnings.warn(
            f"training stops, backward weights left the range of 1/{self.largest:g} to {self.largest:g} times W: "
            f"{'; '.join(wrong)}; lower the rule's rate or coefficients",
            stacklevel=3,
        )


def counts_passes(model: torch.nn.Module) -> bool:
    """Whether the layers count accumulated passes themselves; compiled and under FSDP they do not."""
    for module in model.modules():
        names = {cls.__name__ for cls in type(module).__mro__}
        # By Module.compile; and by Lightning, which takes a compiled module apart again.
        compiled = (getattr(module, name, None) is not None for name in ("_compiled_call_impl", "_compiler_ctx"))
        if any(compiled) or names & {"OptimizedModule", "FullyShardedDataParallel", "FSDPModule"}:
            return False
    return True
