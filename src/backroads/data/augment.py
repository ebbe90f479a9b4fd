"""Random crops, flips and zooms of whole batches, from random numbers that depend on (seed, epoch, position) alone.

Random number c of the image at position p of an epoch is a hash of (seed, epoch, p, c). So each image is varied in the
same way whatever part of the epoch is asked for, on any device and in any process.

Sources: G. Steele, D. Lea, C. Flood, Fast splittable pseudorandom number generators, OOPSLA 2014 (the hash, and its
constants); K. He et al., Deep residual learning, CVPR 2016 (pad 4, crop, flip); C. Szegedy et al., Going deeper with
convolutions, CVPR 2015 (the random resized crop, here with torchvision's ten attempts).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PAD = 4  # pixels on each side
SCALE = (0.08, 1.0)  # of the image's area
RATIO = (3 / 4, 4 / 3)  # width by height
ATTEMPTS = 10
# Columns of the random numbers of an image: flip, shift down, shift right, then areas and ratios of the attempts.
FLIP, DOWN, RIGHT, AREAS, RATIOS = 0, 1, 2, 3, 3 + ATTEMPTS
COLUMNS = 3 + 2 * ATTEMPTS


def uniforms(seed: int, epoch: int, positions: Tensor) -> Tensor:
    """Random numbers of [0, 1) for the ``positions``, (N,) int64, of an epoch: (N, COLUMNS) float64."""
    digest = hashlib.blake2b(f"augment {seed} {epoch}".encode(), digest_size=8).digest()
    counter = positions.numpy().astype(np.uint64)[:, None] * np.uint64(COLUMNS) + np.arange(COLUMNS, dtype=np.uint64)
    key, step = np.uint64(int.from_bytes(digest, "little")), np.uint64(0x9E3779B97F4A7C15)
    z = np.add((counter + np.uint64(1)) * step, key, dtype=np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) * 2.0**-53)


@dataclasses.dataclass(frozen=True)
class Augment:
    """How training images are varied.

    Attributes:
        crop: whether a border of 4 pixels of zeros (the mean colour, after normalisation) is put around the image, and
            a random part of the old size is cut out.
        flip: whether half of the images are mirrored, left to right.
        translate: pixels by which the image is moved at most, up or down and left or right; its border is reflected.
        alternate: whether images are mirrored in every second epoch, half of them in the odd ones, so that two epochs
            show each both ways.
        resized: whether a random part of the image, of 8 % to 100 % of its area, is resized to the old size.
    """

    crop: bool = False
    flip: bool = False
    resized: bool = False
    translate: int = 0
    alternate: bool = False

    def draw(
        self, seed: int, epoch: int, positions: Tensor, size: tuple[int, int], images: Tensor | None = None
    ) -> Draws:
        """What is done to the images of ``size`` (H, W) at ``positions`` (N,) of an epoch; tensors on the CPU.

        ``images`` are their numbers in the data set, (N,), which ``alternate`` needs.
        """
        u = uniforms(seed, epoch, positions)
        flips = u[:, FLIP] < 0.5 if self.flip else None
        if self.flip and self.alternate:
            assert images is not None
            flips = (uniforms(seed, 0, images)[:, FLIP] < 0.5) ^ (epoch % 2 == 1)
        if self.translate:
            return Draws(
                offsets=(u[:, [DOWN, RIGHT]] * (2 * self.translate + 1)).long(), flips=flips, border=self.translate
            )
        return Draws(
            offsets=(u[:, [DOWN, RIGHT]] * (2 * PAD + 1)).long() if self.crop else None,
            flips=flips,
            boxes=boxes(u, *size) if self.resized else None,
        )


AUGMENTS = {
    "none": Augment(),
    "flip": Augment(flip=True),
    "crop_flip": Augment(crop=True, flip=True),
    "random_resized": Augment(resized=True, flip=True),
    "translate_alternate": Augment(translate=2, flip=True, alternate=True),
}
CHOICES = ("default", "none", "crop_flip", "random_resized", "translate_alternate")


@dataclasses.dataclass(frozen=True)
class Draws:
    """What is done to N images; None for what is not done.

    Attributes:
        offsets: (N, 2) int64, rows and columns that the crop leaves out at the top and left of the padded image.
        flips: (N,) bool, whether the image is mirrored.
        border: pixels around the image that are reflected before it is cut; 0: PAD pixels of zeros.
        boxes: (N, 4) int64, the part that is resized; see :func:`boxes`.
    """

    offsets: Tensor | None = None
    flips: Tensor | None = None
    boxes: Tensor | None = None
    border: int = 0

    def to(self, device: torch.device) -> Draws:
        """The same on ``device``."""
        return self._each(lambda t: t.to(device))

    def __getitem__(self, images: slice) -> Draws:
        """What is done to some of the images."""
        return self._each(lambda t: t[images])

    def _each(self, act: Callable[[Tensor], Tensor]) -> Draws:
        found: dict[str, Any] = {name: act(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return dataclasses.replace(self, **found)

    def apply(self, x: Tensor) -> Tensor:
        """Vary normalised images, (N, C, H, W) float32; a new tensor of that shape, or ``x`` itself."""
        if self.boxes is not None:
            x = zoom(x, self.boxes)
        if self.offsets is not None:
            x = shift(x, self.offsets, self.border)
        if self.flips is not None:
            x = torch.where(self.flips[:, None, None, None], x.flip(3), x)
        return x


def shift(x: Tensor, offsets: Tensor, border: int = 0) -> Tensor:
    """Pad (N, C, H, W) with PAD zeros, or ``border`` pixels reflected, and cut to size at ``offsets``, (N, 2) int64."""
    padded = F.pad(x, (border,) * 4, mode="reflect") if border else F.pad(x, (PAD, PAD, PAD, PAD))
    windows = padded.unfold(2, x.shape[2], 1).unfold(3, x.shape[3], 1)
    return windows[torch.arange(len(x), device=x.device), :, offsets[:, 0], offsets[:, 1]]


def zoom(x: Tensor, boxes: Tensor) -> Tensor:
    """Cut boxes, (N, 4) int64, out of (N, C, H, W) and resize them bilinearly to (H, W)."""
    y_grid, x_grid = (
        _centres(boxes[:, axis], boxes[:, axis + 2], x.shape[axis + 2]) * 2 / x.shape[axis + 2] - 1 for axis in (0, 1)
    )
    n, h, w = len(x), x.shape[2], x.shape[3]
    grid = torch.stack([x_grid[:, None, :].expand(n, h, w), y_grid[:, :, None].expand(n, h, w)], dim=3)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _centres(start: Tensor, length: Tensor, pixels: int) -> Tensor:
    """Centres of ``pixels`` pixels that divide each box evenly, clamped to the centres of its own: (N, pixels)."""
    steps = (torch.arange(pixels, device=start.device) + 0.5) / pixels
    centres = start[:, None] + steps * length[:, None]
    return torch.minimum(torch.maximum(centres, start[:, None] + 0.5), (start + length)[:, None] - 0.5)


def boxes(u: Tensor, height: int, width: int) -> Tensor:
    """Random parts of an image of ``height`` x ``width`` pixels: (N, 4) int64, top, left, height, width in pixels.

    The area and the logarithm of the ratio are uniform. The first of ten attempts that fits into the image is taken;
    if none does, the middle of the image, as large as the ratios allow. ``u`` are (N, COLUMNS) numbers of [0, 1).
    """
    areas = height * width * (SCALE[0] + (SCALE[1] - SCALE[0]) * u[:, AREAS : AREAS + ATTEMPTS])
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    ratios = torch.exp(low + (high - low) * u[:, RATIOS : RATIOS + ATTEMPTS])
    hs, ws = (areas / ratios).sqrt().round().long(), (areas * ratios).sqrt().round().long()
    fits = (hs >= 1) & (hs <= height) & (ws >= 1) & (ws <= width)
    first = fits.byte().argmax(dim=1, keepdim=True)  # of equal ones, argmax takes the first
    h, w = hs.gather(1, first)[:, 0], ws.gather(1, first)[:, 0]
    top = (u[:, DOWN] * (height - h + 1)).long()
    left = (u[:, RIGHT] * (width - w + 1)).long()
    found = torch.stack([top, left, h, w], dim=1)
    return torch.where(fits.any(1, keepdim=True), found, torch.tensor(_middle(height, width)))


def _middle(height: int, width: int) -> list[int]:
    h = min(height, round(width / RATIO[0]))
    w = min(width, round(height * RATIO[1]))
    return [(height - h) // 2, (width - w) // 2, h, w]
