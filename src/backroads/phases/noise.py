"""The mirror phase: noise drives each layer apart from all others, and only its B learns."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from backroads.errors import ConversionError, RuleError, UsageError
from backroads.feedback.conversion.swap import aligned_layers
from backroads.feedback.rules import Alignment, FeedbackRule, as_rule, normalised_mirror
from backroads.phases.base import Phase, Taught


@dataclasses.dataclass(frozen=True)
class NoisePhase(Phase):
    """:func:`mirror` as a phase: steps on noise alone, with nothing remembered between epochs.

    Attributes:
        steps: of each layer.
        rule: what teaches B, as a rule, its name or its data; None: the normalised mirror.
        rate: of B, as of an optimiser.
    """

    steps: int
    rule: Alignment | str | dict[str, Any] | None = None
    rate: float = 1.0

    def __post_init__(self) -> None:
        _check_numbers(self.steps, self.rate)

    def check(self, model: torch.nn.Module) -> list[str]:
        return self._mirror(model, 0)

    def run(self, model: torch.nn.Module, seed: int, state: dict[str, Any] | None = None) -> Taught:
        return Taught(self._mirror(model, self.steps, seed))

    def _mirror(self, model: torch.nn.Module, steps: int, seed: int | None = None) -> list[str]:
        return mirror(model, steps, None if self.rule is None else as_rule(self.rule), rate=self.rate, seed=seed)


@torch.no_grad()
def mirror(
    model: torch.nn.Module, steps: int, rule: FeedbackRule | None = None, *, rate: float = 1.0, seed: int | None = None
) -> list[str]:
    """Teach the backward weights of a model by noise alone, between epochs or before training.

    In each step each layer's B moves by ``-rate dR/dB``, where R is the rule's loss on noise that the layer alone
    receives. Nothing else changes: no W, no gradient, no mode, no statistics, no optimiser. No data and no error are
    needed, so it also serves rules that leave B fixed: feedback alignment with a phase before each epoch is the weight
    mirror of its authors.

    A convolution is driven by single patches of the size of its kernel, without a border, whose rows are independent:
    ``images`` of the rule's noise counts patches here.

    Args:
        model: converted.
        steps: number of steps of each layer; 0 checks model and rule and changes nothing.
        rule: an :class:`Alignment` on white noise or impulses; None: :func:`backroads.rules.normalised_mirror`.
        rate: of B, as of an optimiser.
        seed: of the noise, for each kind of device; None draws from torch's global generator.

    Returns:
        Names of the layers that learned: those whose rule is an Alignment, so that B is a weight of its own.

    Raises:
        UsageError: if steps is no whole number >= 0, or rate no number > 0.
        RuleError: for a rule without noise of its own size, or one that reads what a patch does not have.
        ConversionError: if no layer has a B that can learn.

    Source: Akrout, Wilson, Humphreys, Lillicrap, Tweed, NeurIPS 2019.
    """
    _check_numbers(steps, rate)
    rule = normalised_mirror() if rule is None else rule
    # The phase runs the loss R of a sum of primitives; a rule of another kind has none to run on noise.
    if not isinstance(rule, Alignment) or not rule.drive.of_own_size:
        raise RuleError(
            "mirror: expected an Alignment on a drive of its own size, such as br.rules.normalised_mirror() or one "
            f"with drive=br.WhiteNoise(images=512), got {rule!r}"
        )
    if not rule.closed_form or rule.update_forward or rule.tie_grad:
        raise RuleError(
            f"mirror: expected a rule without update_forward, tie_grad and operations on outputs, got {rule!r}"
        )
    layers = [(name, layer) for name, layer in aligned_layers(model) if layer.rule.owns_feedback]
    if not layers:
        raise ConversionError(
            "mirror: no layer of this model has backward weights that could learn; convert it with a rule that is an "
            "Alignment, such as feedback_alignment or symmetric_alignment"
        )
    generators: dict[torch.device, torch.Generator | None] = {}
    for _, layer in layers:
        W, B, device = layer.weight, layer.backward_weight, layer.weight.device
        assert B is not None
        if device not in generators:
            generators[device] = None if seed is None else torch.Generator(device).manual_seed(seed)
        for _ in range(steps):
            drawn, op = rule.drive.on_patches(W, layer.operator, generators[device])
            B.add_(rule.gradient(drawn, W, B, op), alpha=-rate)
    return [name for name, _ in layers]


def _check_numbers(steps: int, rate: float) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise UsageError(f"mirror: steps must be a whole number >= 0, got {steps!r}")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < float("inf"):
        raise UsageError(f"mirror: rate must be a finite number > 0, got {rate!r}")
