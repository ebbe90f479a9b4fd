"""What drives a layer while its B is taught: its own activity, white noise, or impulses. One file each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from backroads.errors import RuleError
from backroads.feedback.checks import Part, check_count, check_positive
from backroads.feedback.operators import Operator
from backroads.feedback.primitives import WeightedSum, backward_gradient


@dataclasses.dataclass(slots=True, eq=False)  # made in every pass: a frozen one takes three times as long
class Activities:
    """What the alignment of one layer is computed on, in one backward pass.

    Attributes:
        x: input of the layer, (N, ...), or what stands in for it.
        y: W x without the bias, where it is at hand.
        met: under impulses: which weights met one; bool, shaped to multiply a weight. x is then not read.
    """

    x: Tensor
    y: Tensor | None = None
    met: Tensor | None = None


@dataclasses.dataclass(frozen=True, repr=False)
class Drive(Part):
    """Where the activities of the alignment come from.

    A subclass says how they are drawn, and may replace what is made from them.

    Attributes:
        kind: under which it is written to TOML and JSON.
    """

    kind: ClassVar[str]

    @property
    def of_own_size(self) -> bool:
        """Whether there is more or less of it than there are examples in the batch."""
        return False

    @property
    def counts_uses(self) -> bool:
        """Whether :meth:`share` depends on how often a layer is used in a step."""
        return False

    def check(self, rule: WeightedSum) -> None:
        """Raise :class:`RuleError` where the drive and the sum do not go together."""

    def share(self, x: Tensor, W: Tensor, op: Operator, uses: int) -> float:
        """What the alignment is slowed by, <= 1, where there should be more activities in a step.

        Args:
            x: the layer's input, (N, ...) or one example. W: its weight. Only shapes are read.
            op: the layer's map.
            uses: how often the layer is used in a step of this process, each time on as much as x.
        """
        return 1.0

    def draw(self, x: Tensor, y: Tensor | None, W: Tensor, op: Operator, fraction: float, least: int) -> Activities:
        """The activities of one backward pass.

        Args:
            x: the layer's input, (N, ...) or one example.
            y: W x without the bias, where it is at hand.
            W: the layer's weight; only its shape is read.
            op: the layer's map.
            fraction: how much of the batch is used.
            least: examples that are needed, if the batch has them.
        """
        raise NotImplementedError

    def on_patches(self, W: Tensor, op: Operator, generator: torch.Generator | None) -> tuple[Activities, Operator]:
        """Activities in a phase without data, and the map that they pass through: a convolution's on single patches.

        A patch is as large as the kernel, so that there is one position, no border, and rows are independent. Called
        of drives :attr:`of_own_size` alone.

        Args:
            W: the layer's weight; shape, dtype and device are read.
            op: the layer's map.
            generator: on the device of W; None is torch's global one.
        """
        raise NotImplementedError

    def feedback(self, drawn: Activities, W: Tensor | None, B: Tensor, rule: WeightedSum) -> Tensor:
        """What carries the error back in this pass."""
        return B

    def gradient(
        self, drawn: Activities, W: Tensor, B: Tensor, rule: WeightedSum, op: Operator, tied: Tensor | None
    ) -> Tensor:
        """dR/dB in closed form, plus ``tied``."""
        return backward_gradient(drawn.x, drawn.y, W, B, rule, op, tied)


def rows_of_part(x: Tensor, op: Operator, fraction: float, least: int) -> tuple[int, int]:
    """(examples in the batch, examples that are used of it): at least ``least``, if there are so many."""
    n = 1 if op.unbatched(x) else x.shape[0]
    return n, max(min(least, n), round(fraction * n))


def check_amount(owner: str, images: object, rows_per_input: object) -> None:
    """Raise :class:`RuleError` unless the number of images, or of rows for each input, makes sense."""
    if images is not None:
        check_count(owner, "images", images)
    if rows_per_input is not None:
        check_positive(owner, "rows_per_input", rows_per_input)
        if images is not None:
            raise RuleError(
                f"{owner}: expected images or rows_per_input, got both ({images} and {rows_per_input}); "
                f"rows_per_input chooses the images in each layer"
            )


def images_needed(rows_per_input: float, fan_in: int, taps: Sequence[Sequence[int]]) -> int:
    """How many images of noise drive every input of a neuron at ``rows_per_input`` places for each input it has.

    The estimate of a row of W from n images, M[y xi^T] / std^2, has a variance of |row|^2 sum_j 1 / (n seen_j) (normal
    noise; j over the inputs that are seen): rows_per_input is its reciprocal, in units of |row|^2. At least one image.

    Args:
        fan_in: channels or features that a neuron reads, I / groups.
        taps: at how many places of an image each tap of the kernel meets the input, one list for each axis of the
            kernel: the product over axes counts for a tap (a, b). Taps that never meet it are left out.
    """
    sum_of_reciprocals = fan_in * math.prod([sum([1 / n for n in axis if n]) for axis in taps])
    return max(1, math.ceil(rows_per_input * sum_of_reciprocals - 1e-9))
