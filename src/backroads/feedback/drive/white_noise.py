"""White noise in place of the layer's activity."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from backroads.feedback.checks import check_choice, check_positive
from backroads.feedback.drive.base import Activities, Drive, check_amount, images_needed, rows_of_part
from backroads.feedback.operators import ConvolutionMap, Operator


@dataclasses.dataclass(frozen=True, repr=False)
class WhiteNoise(Drive):
    """White noise of mean 0 drives the layer in place of its activity ("mirror mode"), drawn in the backward pass.

    It is drawn from torch's global generator: under data parallelism let each process have a seed of its own.

    Args:
        distribution: "normal" or "uniform".
        std: standard deviation, in units of the activity; > 0.
        images: how many images (examples) of it there are in a step; None, with ``rows_per_input`` None too: as many as
            the batch has.
        rows_per_input: choose ``images`` in each layer such that every input of a neuron is driven at this many places
            for each input that the neuron has. What the other inputs add to the estimate of a weight then has
            1 / rows_per_input of the power of the neuron's weights, at any width, kernel and size of the map.
        most: with ``rows_per_input``: no more images than so many for each example of the batch. A layer that gets
            less than it should is slowed in proportion, which keeps its error and its stability. What counts is what it
            gets in a whole step, in all its uses, all accumulated parts of the batch and all processes of
            torch.distributed. (The uses and parts are those of the step before; in the first step, and under a
            compiler, they count as one.)

    Raises:
        RuleError: for another distribution, for numbers that are not finite and > 0, for both ``images`` and
            ``rows_per_input``.
    """

    kind: ClassVar[str] = "white_noise"
    distribution: str = "normal"
    std: float = 1.0
    images: int | None = None
    rows_per_input: float | None = None
    most: float = 8.0

    def __post_init__(self) -> None:
        check_choice("WhiteNoise", "distribution", self.distribution, ("normal", "uniform"))
        check_positive("WhiteNoise", "std", self.std)
        check_positive("WhiteNoise", "most", self.most)
        check_amount("WhiteNoise", self.images, self.rows_per_input)

    @property
    def of_own_size(self) -> bool:
        return self.images is not None or self.rows_per_input is not None

    def draw(self, x: Tensor, y: Tensor | None, W: Tensor, op: Operator, fraction: float, least: int) -> Activities:
        if not self.of_own_size:
            n, rows = rows_of_part(x, op, fraction, least)
            return Activities(self.sample(x if rows == n else x[:rows]))
        images, _ = self.amount(x, W, op)
        return Activities(self.sample(x.unsqueeze(0) if op.unbatched(x) else x, images))

    @property
    def counts_uses(self) -> bool:
        return self.rows_per_input is not None

    def share(self, x: Tensor, W: Tensor, op: Operator, uses: int) -> float:
        if self.rows_per_input is None:
            return 1.0
        images, wanted = self.amount(x, W, op)
        # The gradients of uses, parts and processes are averaged, and so is their noise.
        processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        return min(1.0, images * uses * processes / wanted)

    def amount(self, x: Tensor, W: Tensor, op: Operator) -> tuple[int, int]:
        """How many images of noise a layer gets in one use, and how many it should get in a step.

        ``rows_per_input`` asks for noise in proportion to the layer's width, which in a wide layer of a small batch
        would cost far more than the task: no more than ``most`` images come for each example. With a share f of the
        noise wanted, a step f times as long leaves B with the same noise at rest, and is as stable.

        Args:
            x: the layer's input, (N, ...) or one example.
            W: its weight. Only shapes are read.
        """
        if self.rows_per_input is None:
            assert self.images is not None
            return self.images, self.images
        wanted = images_needed(self.rows_per_input, W.shape[1], op.taps(x, W))
        most = math.ceil(self.most * (1 if op.unbatched(x) else max(1, x.shape[0])))
        return min(wanted, most), wanted

    def sample(self, x: Tensor, images: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """A fresh draw with the dtype, device and shape of ``x``.

        Args:
            x: (N, ...), or any shape without ``images``.
            images: N, in place of that of ``x``.
            generator: on the device of ``x``; None is torch's global one.
        """
        shape = x.shape if images is None else (images, *x.shape[1:])
        if self.distribution == "normal":
            return torch.randn(shape, dtype=x.dtype, device=x.device, generator=generator) * self.std
        half_width = self.std * math.sqrt(3)  # the variance of U(-a, a) is a^2 / 3
        return (torch.rand(shape, dtype=x.dtype, device=x.device, generator=generator) * 2 - 1) * half_width

    def on_patches(self, W: Tensor, op: Operator, generator: torch.Generator | None) -> tuple[Activities, Operator]:
        images = self.images or images_needed(self.rows_per_input or 1.0, W[0].numel(), [[1]])
        groups = 1
        if isinstance(op, ConvolutionMap):  # on a patch as large as the kernel: one position, no border
            d, groups = len(op.stride), op.groups
            op = dataclasses.replace(op, stride=(1,) * d, padding=(0,) * d, dilation=(1,) * d, border=())
        patch = W.new_empty(1, W.shape[1] * groups, *W.shape[2:])
        return Activities(self.sample(patch, images, generator)), op
