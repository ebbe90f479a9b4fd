"""Small sets: all images on the device, cropped, flipped and normalised there, a batch at a time."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from backroads.data.source import Batches, Source

CROP_PADDING = 4


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training images vary.

    Attributes:
        crop: shift by up to this many pixels each way, over a border of the mean (zeros after normalisation).
        flip: mirror half of the images, left to right.
    """

    crop: int = 0
    flip: bool = False


class MemorySource(Source):
    """Images that are held on a device.

    Args:
        images: (N, C, H, W), uint8 or float32. labels: (N,) int64. mean, std: (C,), in units of the images divided by
            ``scale``. augmentation: of the training batches.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        mean: Tensor,
        std: Tensor,
        scale: float,
        augmentation: Augmentation = Augmentation(),
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        self.images, self.labels = images.to(device), labels.to(device)
        shape = (1, -1, 1, 1)
        # One multiplication and one subtraction a pixel.
        self._factor = (1 / (std * scale)).reshape(shape).to(device, torch.float32)
        self._offset = (mean / std).reshape(shape).to(device, torch.float32)
        self._augmentation = augmentation

    def __len__(self) -> int:
        return len(self.images)

    def batches_of(self, picks: list[Tensor], first: list[int], seed: int | None, epoch: int) -> Batches:
        vary = self._augmentation
        shifts = flips = None
        if seed is not None and vary.crop:
            shifts = draw(len(self), 2, 2 * vary.crop + 1, seed, epoch, "crop")
        if seed is not None and vary.flip:
            flips = draw(len(self), 1, 2, seed, epoch, "flip")[:, 0]
        for picked, start in zip(picks, first, strict=True):
            places = picked.to(self.images.device)
            x = self.images[places].float() * self._factor - self._offset
            here = slice(start, start + len(picked))
            if shifts is not None:
                x = crop(x, shifts[here].to(x.device), vary.crop)
            if flips is not None:
                x = torch.where(flips[here].to(x.device).bool()[:, None, None, None], x.flip(-1), x)
            yield x, self.labels[places]


def draw(n: int, columns: int, high: int, seed: int, epoch: int, purpose: str) -> Tensor:
    """Whole numbers below ``high``, (n, columns), on the CPU: a function of (seed, epoch, purpose), row by position."""
    salt = sum(ord(letter) << (8 * i) for i, letter in enumerate(purpose))
    generator = torch.Generator().manual_seed(((seed * 1_000_003 + epoch) * 7_919 + salt) % 2**63)
    return torch.randint(high, (n, columns), generator=generator)


def crop(x: Tensor, shifts: Tensor, padding: int) -> Tensor:
    """Windows of the size of the image out of the image with a border of zeros.

    Args:
        x: (N, C, H, W). shifts: (N, 2), row and column of each window's corner, 0 to 2 padding.
    """
    n, channels, height, width = x.shape
    padded = torch.nn.functional.pad(x, (padding,) * 4)
    rows = shifts[:, 0, None] + torch.arange(height, device=x.device)
    columns = shifts[:, 1, None] + torch.arange(width, device=x.device)
    i = torch.arange(n, device=x.device)[:, None, None, None]
    c = torch.arange(channels, device=x.device)[None, :, None, None]
    return padded[i, c, rows[:, None, :, None], columns[:, None, None, :]]
