"""Impulses in place of the layer's activity: inputs take turns, one at a time in each receptive field."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from backroads.errors import RuleError
from backroads.feedback.checks import check_positive
from backroads.feedback.drive.base import Activities, Drive, check_amount, images_needed
from backroads.feedback.operators import LinearMap, Operator
from backroads.feedback.primitives import Operations, WeightedSum
from backroads.feedback.primitives.gradients import weighted_gap, with_elementwise


@dataclasses.dataclass(frozen=True, repr=False)
class Impulses(Drive):
    """Inputs take turns in random order, one at a time in each receptive field: what a neuron answers is one weight's
    doing, y / height = W_ij, without an error of estimation.

    They come before the error does: where a weight met one, the error of the same step already returns through what
    was measured, (amp / sparse) W_ij, in place of B. Where every weight meets one in every step, B plays no part.

    Args:
        height: of an impulse, in units of the activity; > 0.
        images: how many images of them there are in a step.
        rows_per_input: choose ``images`` in each layer such that each weight meets about so many.

    Raises:
        RuleError: for numbers that are not finite and > 0, or both or none of ``images`` and ``rows_per_input``.
    """

    kind: ClassVar[str] = "impulses"
    height: float = 1.0
    images: int | None = None
    rows_per_input: float | None = None

    def __post_init__(self) -> None:
        check_positive("Impulses", "height", self.height)
        check_amount("Impulses", self.images, self.rows_per_input)
        if self.images is None and self.rows_per_input is None:
            raise RuleError("Impulses: impulses are counted; give rows_per_input, such as 1, or images")

    @property
    def of_own_size(self) -> bool:
        return True

    def check(self, rule: WeightedSum) -> None:
        if rule.reduction != "per_tap_mean" or rule.operations != Operations():
            raise RuleError(
                f'Alignment: impulses are for reduction "per_tap_mean", which counts those that a weight meets, and no '
                f'operations; got "{rule.reduction}" and {rule.operations!r}; give reduction="per_tap_mean" and leave '
                f"operations out, or give another drive"
            )

    def draw(self, x: Tensor, y: Tensor | None, W: Tensor, op: Operator, fraction: float, least: int) -> Activities:
        # Impulses are as far apart as a window reaches, which under dilation is further than its taps are many.
        reaches = op.reach(W)
        axes = zip(reaches, x.shape[x.dim() - len(reaches) :], W.shape[2:], strict=True)
        # A list, for torch.compile does not take a generator here.
        sparser = math.prod([max(1.0, min(reach, size) / taps) for reach, size, taps in axes])
        images = self.images or images_needed(sparser * (self.rows_per_input or 1.0), W.shape[1], op.taps(x, W))
        return Activities(x, met=self.weights_met(x, W, images, op))

    def feedback(self, drawn: Activities, W: Tensor | None, B: Tensor, rule: WeightedSum) -> Tensor:
        """B with what the rule draws it to, (amp / sparse) W, in place of the entries that met an impulse.

        B itself without sparse: a step then goes to a sum, of which the measured weight is a part.
        """
        if not rule.sparse or W is None:
            return B
        assert drawn.met is not None
        ratio = rule.amp / rule.sparse
        measured = W if ratio == 1 and not torch.compiler.is_compiling() else W * ratio
        return torch.where(drawn.met, measured.to(B.dtype), B)

    def gradient(
        self, drawn: Activities, W: Tensor, B: Tensor, rule: WeightedSum, op: Operator, tied: Tensor | None
    ) -> Tensor:
        """dR/dB without a product of matrices.

        A receptive field holds one impulse at most, so that xi xi^T is height^2 in one place of its diagonal and 0
        elsewhere: the mean of (sparse B - amp W) xi xi^T over the impulses that a weight meets is
        height^2 (sparse B - amp W), for that weight.
        """
        data: Tensor | None = None
        if rule.sparse or rule.amp:
            assert drawn.met is not None
            gap, factor = weighted_gap(B, W, rule)
            data = gap * drawn.met.to(W.dtype).mul_(factor * self.height**2)
        return with_elementwise(data, rule, B, W, tied)

    def on_patches(self, W: Tensor, op: Operator, generator: torch.Generator | None) -> tuple[Activities, Operator]:
        inputs = W[0].numel()
        rows = self.images or images_needed(self.rows_per_input or 1.0, inputs, [[1]])
        row = W.new_empty(1, inputs)
        met = self.weights_met(row, W.flatten(1), rows, LinearMap(), generator)  # each entry of the patch has its turn
        return Activities(row, met=met.view(1, *W.shape[1:])), op

    def sample(
        self, x: Tensor, W: Tensor, images: int, op: Operator, generator: torch.Generator | None = None
    ) -> Tensor:
        """Impulses in place of the layer's input, (images, ...).

        Args:
            x: the layer's input, (N, ...) or one example; shape, dtype and device are read.
            W: its weight; shape is read.
            op: the layer's map.
            generator: on the device of ``x``; None is torch's global one.
        """
        x = x.unsqueeze(0) if op.unbatched(x) else x
        C, reach = W.shape[1], op.reach(W)
        if not reach:  # rows of a linear layer are apart
            ones = _impulses((images * op.positions(x, W), C), reach, x, generator).view(images, *x.shape[1:])
        else:
            ones = _impulses((images, C, *x.shape[2:]), reach, x, generator)
            ones = ones.repeat(1, x.shape[1] // C, *(1,) * len(reach))  # groups see nothing of each other
        return ones * self.height

    def weights_met(
        self, x: Tensor, W: Tensor, images: int, op: Operator, generator: torch.Generator | None = None
    ) -> Tensor:
        """Whether a weight meets one of so many images of impulses: bool, shaped to multiply a weight.

        That is all there is to know of them, as what a weight answers does not depend on the others. Arguments as in
        :meth:`sample`.
        """
        if op.reach(W):
            return impulses_met(self.sample(x, W, images, op, generator), W, op) > 0
        # Where the layer is one matrix a row is the turn of one input, and no rows need be made.
        I = W.shape[1]  # noqa: E741
        turns = images * op.positions(x, W)
        rank = torch.rand(1, I, device=W.device, generator=generator).argsort(-1)
        return rank < turns


def impulses_met(x: Tensor, W: Tensor, op: Operator) -> Tensor:
    """The sum of the impulses that each weight meets, shaped to multiply a weight.

    Args:
        x: impulses, (n, ...).
        W: shape is read.
    """
    C = W.shape[1]
    groups = x.shape[1] // C if op.reach(W) else 1
    # One output for each group meets what all of it meet. Half precision does not add up far.
    one_each = torch.ones(groups, *W.shape[1:], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    impulses = x.sum(0, keepdim=True, dtype=one_each.dtype)  # of all images, in one
    met = op.weight_gradient(impulses, torch.ones_like(op.project(impulses, one_each)), one_each)
    return met if groups == 1 else met.repeat_interleave(W.shape[0] // groups, 0)


def _impulses(shape: Sequence[int], reach: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Ones and zeros, (n, C, *space): no window of the size ``reach`` holds more than one 1, whatever its channel.

    An image has its ones on a lattice as wide as the reach. Images take turns in the lattice's offset, and the points
    of all lattices, in random order, in the channel, whose order is random too.

    Args:
        shape: (n, C, *space).
        reach: of a window, along each axis of space.
        like: has the dtype and the device.
    """
    n, C, *space = shape
    d, device = len(space), like.device
    period = [min(r, size) for r, size in zip(reach, space, strict=True)]

    def random_order(length: int) -> Tensor:
        return torch.rand(length, device=device, generator=generator).argsort()

    offsets = math.prod(period)
    offset = random_order(offsets)[torch.arange(n, device=device) % offsets]  # one number for all axes
    on = torch.ones(n, *(1,) * d, dtype=torch.bool, device=device)
    for axis, (p, size) in enumerate(zip(period, space, strict=True)):
        distance = torch.arange(size, device=device) - (offset % p).view(n, 1)
        on = on & (distance % p == 0).view(n, *(1,) * axis, size, *(1,) * (d - 1 - axis))
        offset = offset // p
    # The points of the lattices come first, in random order; the other places, after them, have no one.
    places = torch.rand(n, *space, device=device, generator=generator) + ~on
    order = places.flatten().argsort()
    turn = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=device))
    channel = random_order(C)[turn % C].view(n, *space)
    return like.new_zeros(n, C, *space).scatter(1, channel.unsqueeze(1), on.unsqueeze(1).to(like.dtype))
