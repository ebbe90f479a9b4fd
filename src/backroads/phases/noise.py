"""The mirror phase: noise drives each layer apart from all others, and only its B learns."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from backroads.errors import ConversionError, RuleError
from backroads.feedback.checks import check_count, check_positive
from backroads.feedback.conversion.swap import aligned_layers
from backroads.feedback.drive import WhiteNoise
from backroads.feedback.nn import AlignedLayer
from backroads.feedback.primitives import backward_gradient
from backroads.feedback.rules import Alignment, FeedbackRule, as_rule
from backroads.feedback.rules.mirrored_kolen_pollack import DIFFERENCE, START
from backroads.phases.base import Phase, Taught

MOST_NUMBERS = 2**22  # of noise at a time
ROWS = 131.0  # rows of noise for each input of a neuron, after which B is 5 degrees from W


@dataclasses.dataclass(frozen=True)
class NoisePhase(Phase):
    """:func:`mirror` as a phase, with nothing remembered between epochs.

    Attributes:
        rows: of noise for each input of a neuron, without a rule.
        rule: what teaches B, as a rule, its name or its data, and then steps: of each layer, and rate: of B. None: the
            mean over the noise.
    """

    rows: float = ROWS
    rule: Alignment | str | dict[str, Any] | None = None
    steps: int = 1
    rate: float = 1.0

    def __post_init__(self) -> None:
        _check_numbers(self.rows, self.steps, self.rate)

    def check(self, model: torch.nn.Module) -> list[str]:
        return [name for name, _ in _taught(model, None if self.rule is None else as_rule(self.rule))]

    def run(self, model: torch.nn.Module, seed: int, state: dict[str, Any] | None = None) -> Taught:
        rule = None if self.rule is None else as_rule(self.rule)
        return Taught(mirror(model, self.rows, rule, steps=self.steps, rate=self.rate, seed=seed))


@torch.no_grad()
def mirror(
    model: torch.nn.Module,
    rows: float = ROWS,
    rule: FeedbackRule | None = None,
    *,
    steps: int = 1,
    rate: float = 1.0,
    seed: int | None = None,
) -> list[str]:
    """Teach the backward weights of a model by noise alone, before training or between epochs.

    White noise xi drives each layer apart from all others, and B becomes the best estimate of W that its answers
    y = W xi allow: M[y xi^T], weighed against what B was before. Its angle to W is about 1/sqrt(rows): 5 degrees for
    131 rows, in any layer. Nothing else changes: no W, no gradient, no mode, no statistics, no optimiser. No data and
    no error are needed, so it also serves rules that leave B fixed or give it W's increments: one phase before
    training, and :func:`backroads.rules.kolen_pollack` from then on, keep B with W throughout.

    A convolution is driven by single patches of the size of its kernel, without a border, whose rows are independent.

    Args:
        model: converted.
        rows: of noise for each input of a neuron, > 0.
        rule: in place of that: an :class:`Alignment` on white noise or impulses, whose loss R on noise B descends;
            ``images`` of its drive counts patches here. Feedback alignment with such a phase before each epoch, under
            :func:`backroads.rules.weight_mirror`'s coefficients, is the weight mirror of its authors.
        steps, rate: with ``rule``: steps of each layer (0 changes nothing), and the rate of B, as of an optimiser.
        seed: of the noise, for each kind of device; None draws from torch's global generator.

    Returns:
        Names of the layers that learned: those in which a B of its own carries the error back.

    Raises:
        RuleError: for numbers out of range.
        RuleError: for a rule without noise of its own size, or one that reads what a patch does not have.
        ConversionError: if no layer has a B that can learn.

    Example::

        br.convert(model, br.rules.kolen_pollack())
        br.mirror(model, seed=0)
        max(br.metrics.weight_angles(model).values())  # about 5 degrees

    Sources: Akrout, Wilson, Humphreys, Lillicrap, Tweed, NeurIPS 2019 (the phase); Kalman, J. Basic Eng. 82 (1960).
    """
    _check_numbers(rows, steps, rate)
    layers = _taught(model, rule)
    generators: dict[torch.device, torch.Generator | None] = {}
    for _, layer in layers:
        device = layer.W.device
        if device not in generators:
            generators[device] = None if seed is None else torch.Generator(device).manual_seed(seed)
        layer.rule.settle(layer.state)
        if rule is None:
            _estimate(layer, rows, generators[device])
            continue
        W, B = layer.W, layer.backward_weight
        assert isinstance(rule, Alignment)
        assert B is not None
        for _ in range(steps):
            drawn, op = rule.drive.on_patches(W, layer.operator, generators[device])
            B.add_(rule.gradient(drawn, W, B, op), alpha=-rate)
    return [name for name, _ in layers]


def _taught(model: torch.nn.Module, rule: FeedbackRule | None) -> list[tuple[str, AlignedLayer]]:
    """The layers that a phase teaches; raises what :func:`mirror` does."""
    # The phase runs the loss R of a sum of primitives; a rule of another kind has none to run on noise.
    if rule is not None and not (isinstance(rule, Alignment) and rule.drive.of_own_size):
        raise RuleError(
            "mirror: expected an Alignment on a drive of its own size, such as br.rules.white_noise_mirror() or one "
            f"with drive=br.WhiteNoise(images=512), got {rule!r}"
        )
    if rule is not None and (not rule.closed_form or rule.update_forward or rule.tie_grad):
        raise RuleError(
            f"mirror: expected a rule without update_forward, tie_grad and operations on outputs, got {rule!r}"
        )
    layers = [(name, layer) for name, layer in aligned_layers(model) if layer.rule.owns_feedback]
    if not layers:
        raise ConversionError(
            "mirror: no layer of this model has backward weights that could learn; convert it with a rule whose B is "
            "a weight of its own, such as feedback_alignment or kolen_pollack"
        )
    return layers


def _estimate(layer: AlignedLayer, rows: float, generator: torch.Generator | None) -> None:
    """Move B to the best estimate of W from ``rows`` rows of noise per input: the Kalman filter of a constant."""
    W, B, I = layer.W, layer.backward_weight, layer.W[0].numel()  # noqa: E741
    assert B is not None
    left, most = math.ceil(rows * I - 1e-9), max(1, MOST_NUMBERS // I)
    P = START * _power(W, B)  # E|B - W|^2 of a B drawn like W
    if "variance" in (state := layer.state):  # of a rule that knows better
        P = state["variance"] + state["drift"]
    while left:
        images = min(left, most)
        drawn, op = WhiteNoise(images=images).on_patches(W, layer.operator, generator)
        R = (_power(W, B) * I / images).clamp(min=torch.finfo(B.dtype).tiny)  # E|V - W|^2, V = M[y xi^T]
        g = P / (P + R)
        B.sub_(g * backward_gradient(drawn.x, None, W, B, DIFFERENCE, op))
        P = (1 - g) * P
        left -= images
    if "variance" in state:
        state["variance"].copy_(P)


def _power(W: Tensor, B: Tensor) -> Tensor:
    """|W|^2, which is taken to be |B|^2; where B is zero, it itself."""
    power = B.square().sum()
    return torch.where(power > 0, power, W.square().sum())


def _check_numbers(rows: object, steps: object, rate: object) -> None:
    check_count("mirror", "steps", steps, 0)
    check_positive("mirror", "rows", rows)
    check_positive("mirror", "rate", rate)
