"""Noise that drives a layer in place of its activity."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backroads.errors import RuleError, nearest
from backroads.feedback.rules.base import check_number

DISTRIBUTIONS = ("normal", "uniform")  # of white noise
DRIVES = (*DISTRIBUTIONS, "impulses")


@dataclasses.dataclass(frozen=True)
class Noise:
    """Noise that drives a layer in place of its activity ("mirror mode").

    Attributes:
        distribution: "normal" or "uniform", white and with mean 0; or "impulses": inputs take turns in random order,
            one at a time in each receptive field, so that what a neuron answers is one weight's doing.
        std: its standard deviation, in units of the activity; the height of an impulse.
        images: how many images (examples) of it there are in a step; None with ``rows_per_input`` None too: as many as
            the batch has.
        rows_per_input: choose ``images`` in each layer such that every input of a neuron is driven at this many places
            for each input that the neuron has. What the other inputs add to the estimate of a weight then has
            1 / rows_per_input of the power of the neuron's weights, at any width, kernel and size of the map; of
            impulses each input gets about so many. At least one image.
        most: with ``rows_per_input``: no more images of white noise than so many for each example of the batch. A
            layer that gets less than it should is slowed in proportion, which keeps its error and its stability.

    Raises:
        RuleError: for another distribution, for numbers that are not finite and > 0, for both ``images`` and
            ``rows_per_input``, for impulses with neither.
    """

    distribution: str = "normal"
    std: float = 1.0
    images: int | None = None
    rows_per_input: float | None = None
    most: float = 8.0

    def __post_init__(self) -> None:
        check_distribution("Noise", self.distribution, DRIVES)
        check_number("Noise", "std", self.std)
        if self.std == 0:
            raise RuleError("Noise: std must be > 0, got 0; leave input_noise out to switch the noise off")
        images = self.images
        if images is not None and (isinstance(images, bool) or not isinstance(images, int) or images < 1):
            raise RuleError(f"Noise: images must be a whole number >= 1, or None, got {images!r}")
        check_number("Noise", "most", self.most)
        if self.most == 0:
            raise RuleError("Noise: most must be > 0, got 0; leave input_noise out to switch the noise off")
        if self.rows_per_input is not None:
            check_number("Noise", "rows_per_input", self.rows_per_input)
            if self.rows_per_input == 0:
                raise RuleError("Noise: rows_per_input must be > 0, or None, got 0")
            if images is not None:
                raise RuleError(
                    f"Noise: expected images or rows_per_input, got both ({images} and {self.rows_per_input}); "
                    f"rows_per_input chooses the images in each layer"
                )
        if self.distribution == "impulses" and self.follows_batch:
            raise RuleError("Noise: impulses are counted; give rows_per_input, such as 1, or images")

    @property
    def follows_batch(self) -> bool:
        """Whether there is as much noise as there are examples."""
        return self.images is None and self.rows_per_input is None

    def count(self, fan_in: int, taps: Sequence[Sequence[int]]) -> int:
        """How many images of noise a layer gets.

        Args:
            fan_in: channels or features that a neuron reads, I / groups.
            taps: at how many places of an image each tap of the kernel meets the input, an axis after the other: the
                product over axes counts for a tap (a, b). Taps that never meet it are left out.

        The estimate of a row of W from n images, M[y xi^T] / std^2, has a variance of |row|^2 sum_j 1 / (n seen_j)
        (normal noise; j over the inputs that are seen): rows_per_input is its reciprocal, in units of |row|^2.
        """
        if self.rows_per_input is None:
            assert self.images is not None
            return self.images
        sum_of_reciprocals = fan_in * math.prod([sum([1 / n for n in axis if n]) for axis in taps])
        return max(1, math.ceil(self.rows_per_input * sum_of_reciprocals - 1e-9))

    def draw(self, x: Tensor, images: int | None = None, generator: torch.Generator | None = None) -> Tensor:
        """A fresh draw of white noise with the dtype, device and shape of ``x``.

        Args:
            x: (N, ...), or any shape without ``images``. images: N, in place of that of ``x``. generator: on the device
                of ``x``; None is torch's global one.
        """
        shape = x.shape if images is None else (images, *x.shape[1:])
        if self.distribution == "normal":
            return torch.randn(shape, dtype=x.dtype, device=x.device, generator=generator) * self.std
        half_width = self.std * math.sqrt(3)  # the variance of U(-a, a) is a^2 / 3
        return (torch.rand(shape, dtype=x.dtype, device=x.device, generator=generator) * 2 - 1) * half_width

    def like(self, x: Tensor) -> Tensor:
        """A fresh draw with the shape, dtype and device of ``x``, from torch's global generator."""
        return self.draw(x)


def check_distribution(owner: str, name: object, known: Sequence[str] = DISTRIBUTIONS) -> None:
    """Raise :class:`RuleError` unless ``name`` is a known distribution."""
    if not isinstance(name, str) or name not in known:
        raise RuleError(f"{owner}: unknown distribution {name!r}.{nearest(str(name), known)} Known: {', '.join(known)}")


def as_noise(value: object) -> Noise | None:
    """Read the short forms of ``input_noise``; raises RuleError."""
    if value is None or isinstance(value, Noise):
        return value
    if isinstance(value, str):
        return Noise(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Noise(std=float(value))
    if isinstance(value, tuple | list) and len(value) == 2:
        return Noise(*value)
    raise RuleError(
        f"Alignment: input_noise must be None, a std, 'normal', 'uniform', a pair (distribution, std) or Noise(...), "
        f"got {value!r}"
    )
