"""Mirror phases: noise drives each layer apart from all others, and only its B learns."""

from __future__ import annotations

import torch
from torch import Tensor

from backroads.errors import ConversionError, RuleError, UsageError
from backroads.feedback.conversion.swap import aligned_layers
from backroads.feedback.functional import ConvolutionMap, LinearMap, Operator, backward_gradient
from backroads.feedback.functional.alignment import gradient_on_impulses
from backroads.feedback.functional.estimate import estimate_gradient
from backroads.feedback.functional.noise import driving_noise, met_by_impulses
from backroads.feedback.nn.layers import AlignedLayer
from backroads.feedback.rules import Alignment, normalised_mirror


@torch.no_grad()
def mirror(
    model: torch.nn.Module, steps: int, rule: Alignment | None = None, *, rate: float = 1.0, seed: int | None = None
) -> list[str]:
    """Teach the backward weights of a model by noise alone, between epochs or before training.

    In each step each layer's B moves by ``-rate dR/dB``, R computed on noise of the layer's own. Nothing else changes:
    no W, no gradient, no mode, no statistics, no optimiser. No data and no error are needed, so it also serves rules
    that leave B fixed: feedback alignment with a phase before each epoch is the weight mirror of its authors.

    A convolution is driven by single patches, which is what it does at one place: no border, and rows that are
    independent. ``images`` of the rule's noise are rows here.

    Args:
        model: converted. steps: of each layer. rule: an :class:`Alignment` with ``input_noise``; None is
            :func:`backroads.feedback.rules.normalised_mirror`. rate: of B, as of an optimiser.
        seed: of the noise, for each kind of device; None draws from torch's global generator.

    Returns:
        Names of the layers that learned: those whose rule is an Alignment, so that B is a weight of its own.

    Raises:
        UsageError: steps is no whole number >= 0, or rate no number > 0. RuleError: a rule without noise of its own
            size, or one that reads what a patch does not have. ConversionError: no layer has a B that can learn.

    Source: Akrout, Wilson, Humphreys, Lillicrap, Tweed, NeurIPS 2019.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise UsageError(f"mirror: steps must be a whole number >= 0, got {steps!r}")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < float("inf"):
        raise UsageError(f"mirror: rate must be a finite number > 0, got {rate!r}")
    rule = normalised_mirror() if rule is None else rule
    if not isinstance(rule, Alignment) or rule.input_noise is None or rule.input_noise.follows_batch:
        raise RuleError(
            "mirror: expected a rule on noise of its own size, such as br.rules.normalised_mirror() or one with "
            f"input_noise=br.Noise(images=512), got {rule!r}"
        )
    if not rule.closed_form or rule.update_forward or rule.tie_grad:
        raise RuleError(
            f"mirror: expected a rule without update_forward, tie_grad and operations on outputs, got {rule!r}"
        )
    layers = [(name, layer) for name, layer in aligned_layers(model) if isinstance(layer.rule, Alignment)]
    if not layers:
        raise ConversionError(
            "mirror: no layer of this model has backward weights that could learn; convert it with a rule that is an "
            "Alignment, such as feedback_alignment or symmetric_alignment"
        )
    generators: dict[torch.device, torch.Generator | None] = {}
    for _, layer in layers:
        device = layer.weight.device
        if device not in generators:
            generators[device] = None if seed is None else torch.Generator(device).manual_seed(seed)
        for _ in range(steps):
            _step(layer, rule, rate, generators[device])
    return [name for name, _ in layers]


def _step(layer: AlignedLayer, rule: Alignment, rate: float, generator: torch.Generator | None) -> None:
    W, B, op = layer.weight, layer.backward_weight, at_one_place(layer.operator)
    assert B is not None
    assert rule.input_noise is not None
    inputs = W[0].numel()
    rows = rule.input_noise.count(inputs, [[1]])
    if rule.on_impulses:  # each entry of the patch has its turn
        row = W.new_empty(1, inputs)
        met = met_by_impulses(rule.input_noise, row, W.flatten(1), rows, LinearMap(), generator)
        dB = gradient_on_impulses(met.view(1, *W.shape[1:]), W, B, rule.without_estimate)
    else:
        x = driving_noise(rule.input_noise, _patch(layer.operator, W), W, rows, op, generator)
        dB = backward_gradient(x, None, W, B, rule.without_estimate, op)
    if rule.estimate is not None:
        dB = dB + estimate_gradient(W, B, rule)
    B.add_(dB, alpha=-rate)


def at_one_place(op: Operator) -> Operator:
    """The map of a layer on a patch as large as its kernel: one place, no border."""
    if not isinstance(op, ConvolutionMap):
        return op
    d = len(op.stride)
    return ConvolutionMap((1,) * d, (0,) * d, (1,) * d, op.groups)


def _patch(op: Operator, W: Tensor) -> Tensor:
    """A tensor of which only the shape, (1, I, *kernel), the dtype and the device are meant."""
    groups = op.groups if isinstance(op, ConvolutionMap) else 1
    return W.new_empty(1, W.shape[1] * groups, *W.shape[2:])
