"""The noise that drives a layer in place of its activity, and how much of it a layer gets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backroads.functional.operators import Operator
from backroads.rules.noise import Noise


def amount(noise: Noise, x: Tensor, W: Tensor, op: Operator) -> tuple[int, float]:
    """How many images of noise the layer gets, and what its alignment is slowed by where there should be more.

    ``rows_per_input`` asks for noise in proportion to the layer's width, which in a wide layer of a small batch would
    cost far more than the task: no more than ``most`` images come for each example. With a share f of the noise wanted,
    a step f times as long leaves B with the same noise at rest, and is as stable.

    Args:
        noise: its own images. x: the layer's input, (N, ...) or one example; shape is read. W: its weight, likewise.
    """
    wanted = noise.count(W.shape[1], op.taps(x, W))
    if noise.rows_per_input is None:
        return wanted, 1.0
    most = math.ceil(noise.most * (1 if op.unbatched(x) else max(1, x.shape[0])))
    return (wanted, 1.0) if wanted <= most else (most, most / wanted)


def driving_noise(noise: Noise, x: Tensor, images: int, op: Operator) -> Tensor:
    """Noise in place of the layer's input, (images, ...), drawn from torch's global generator.

    Args:
        noise: its distribution. x: the layer's input, (N, ...) or one example; shape, dtype and device are read.
    """
    return noise.draw(x.unsqueeze(0) if op.unbatched(x) else x, images)


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
