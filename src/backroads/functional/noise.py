"""The noise that drives a layer in place of its activity, and how much of it a layer gets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backroads.functional.operators import Operator
from backroads.rules.noise import Noise


def driving_noise(noise: Noise, x: Tensor, W: Tensor, op: Operator) -> Tensor:
    """Noise in place of the layer's input, (N, ...), drawn from torch's global generator.

    Args:
        noise: its distribution, and how many images of it, which are its own. op: the layer's map.
        x: the layer's input, (N, ...) or one example; shape, dtype and device are read. W: its weight; shape is read.
    """
    one = x.unsqueeze(0) if op.unbatched(x) else x
    return noise.draw(one, noise.count(W.shape[1], op.taps(x, W)))


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
