"""The noise that drives a layer in place of its activity, and how much of it a layer gets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backroads.feedback.functional.operators import Operator
from backroads.feedback.rules.noise import Noise


def amount(noise: Noise, x: Tensor, W: Tensor, op: Operator) -> tuple[int, float]:
    """How many images of noise the layer gets, and what its alignment is slowed by where there should be more.

    ``rows_per_input`` asks for noise in proportion to the layer's width, which in a wide layer of a small batch would
    cost far more than the task: no more than ``most`` images come for each example. With a share f of the noise wanted,
    a step f times as long leaves B with the same noise at rest, and is as stable. Impulses have no such bound: a row
    of them has one entry, and all together drive each weight a few times, as one or a few examples do.

    Args:
        noise: its own images. x: the layer's input, (N, ...) or one example; shape is read. W: its weight, likewise.
    """
    wanted = noise.count(W.shape[1], op.taps(x, W))
    if noise.rows_per_input is None or noise.distribution == "impulses":
        return wanted, 1.0
    most = math.ceil(noise.most * (1 if op.unbatched(x) else max(1, x.shape[0])))
    if wanted <= most:
        return wanted, 1.0
    return most, most / wanted


def driving_noise(
    noise: Noise, x: Tensor, W: Tensor, images: int, op: Operator, generator: torch.Generator | None = None
) -> Tensor:
    """Noise in place of the layer's input, (images, ...).

    Args:
        noise: its distribution. x: the layer's input, (N, ...) or one example; shape, dtype and device are read.
        W: its weight; shape is read. generator: on the device of ``x``; None is torch's global one.
    """
    x = x.unsqueeze(0) if op.unbatched(x) else x
    if noise.distribution != "impulses":
        return noise.draw(x, images, generator)
    C, reach = W.shape[1], op.reach(W)
    if not reach:  # rows of a linear layer are apart
        ones = _impulses((images * math.prod(x.shape[1:-1]), C), reach, x, generator).view(images, *x.shape[1:])
    else:
        ones = _impulses((images, C, *x.shape[2:]), reach, x, generator)
        ones = ones.repeat(1, x.shape[1] // C, *(1,) * len(reach))  # groups see nothing of each other
    return ones * noise.std


def _impulses(shape: Sequence[int], reach: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Ones and zeros, (n, C, *space): no window of the size ``reach`` holds more than one 1, whatever its channel.

    An image has its ones on a lattice as wide as the reach. Images take turns in the lattice's offset, and the points
    of all lattices, in random order, in the channel, whose order is random too.

    Args:
        shape: (n, C, *space). reach: of a window, along each axis of space. like: has the dtype and the device.
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


def met_by_impulses(
    noise: Noise, x: Tensor, W: Tensor, images: int, op: Operator, generator: torch.Generator | None = None
) -> Tensor:
    """Whether a weight meets one of so many images of impulses: bool, shaped to multiply a weight.

    All there is to know of them, as what a weight answers does not depend on the others. Arguments as in
    :func:`driving_noise`.
    """
    if op.reach(W):
        return impulses_met(driving_noise(noise, x, W, images, op, generator), W, op) > 0
    # Where the layer is one matrix a row is the turn of one input, and no rows need be made.
    I = W.shape[1]  # noqa: E741
    turns = images * (1 if op.unbatched(x) else math.prod(x.shape[1:-1]))
    rank = torch.rand(1, I, device=W.device, generator=generator).argsort(-1)
    return rank < turns


def impulses_met(x: Tensor, W: Tensor, op: Operator) -> Tensor:
    """The sum of the impulses that each weight meets, shaped to multiply a weight.

    Args:
        x: impulses, (n, ...). W: shape is read.
    """
    C = W.shape[1]
    groups = x.shape[1] // C if op.reach(W) else 1
    # One output for each group meets what all of it meet. Half precision does not add up far.
    one_each = torch.ones(groups, *W.shape[1:], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    impulses = x.sum(0, keepdim=True, dtype=one_each.dtype)  # of all images, in one
    met = op.weight_gradient(impulses, torch.ones_like(op.project(impulses, one_each)), one_each)
    return met if groups == 1 else met.repeat_interleave(W.shape[0] // groups, 0)


def per_tap(taps: Sequence[Sequence[int]], like: Tensor) -> float | Tensor:
    """1 / (number of places at which a tap meets the input), shaped to multiply a weight; one number if all are alike.

    Args:
        taps: as :meth:`Operator.taps` has them. like: has the device and dtype.
    """
    # A tap that never meets the input has nothing to divide.
    axes = [[1 / max(n, 1) for n in axis] for axis in taps]
    if all(min(axis) == max(axis) for axis in axes):
        return math.prod([axis[0] for axis in axes])
    wide = torch.promote_types(like.dtype, torch.float32)
    d = len(axes)
    factor = torch.ones((), dtype=wide, device=like.device)
    for i, axis in enumerate(axes):
        factor = factor * torch.tensor(axis, dtype=wide, device=like.device).view(-1, *(1,) * (d - 1 - i))
    return factor
