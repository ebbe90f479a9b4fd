"""Images that are kept on the device as uint8 or float32, and normalised and varied there batch by batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from backroads.data.augment import Augment
from backroads.data.parts import Arrays
from backroads.data.source import Batches, Source

CHUNK = 1024  # images that are converted to floating point at once


class Normalise:
    """(x - mean) / std by channel, for images on ``device``; mean and std are (C,), in units of the stored pixels."""

    def __init__(self, mean: Tensor, std: Tensor, device: torch.device) -> None:
        self.mean, self.std = (t.to(device, torch.float32)[:, None, None] for t in (mean, std))

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W), uint8 or float32 -> a new tensor of that shape, float32."""
        return x.to(torch.float32, copy=True).sub_(self.mean).div_(self.std)


class MemorySource(Source):
    """Images in the device's memory.

    Args:
        part: images and labels; moved to ``device``.
        normalise: made for that device.
        augment: how training images are varied.
        device: where images are kept and batches made.
        corrupt: path -> reason of the images that could not be read.
    """

    def __init__(
        self, part: Arrays, normalise: Normalise, augment: Augment, device: torch.device, corrupt: dict[str, str]
    ) -> None:
        self.x, self.y = part.x.to(device), part.y.to(device)
        self.normalise, self.augment, self.device = normalise, augment, device
        self.corrupt = corrupt

    def __len__(self) -> int:
        return len(self.y)

    def _varied(self, picks: Tensor, positions: Tensor, seed: int, epoch: int) -> Batches:
        # Copied to the device once an epoch: on a GPU, many small copies would cost more than the batches.
        size = (self.x.shape[2], self.x.shape[3])
        draws = self.augment.draw(seed, epoch, positions.flatten(), size, picks.flatten()).to(self.device)
        share = picks.shape[1]
        for step, batch in enumerate(picks.to(self.device)):
            x = self.normalise(self.x.index_select(0, batch))
            yield draws[step * share : (step + 1) * share].apply(x), self.y[batch]

    def _plain(self, picks: Sequence[Tensor]) -> Batches:
        for batch in picks:
            indices = batch.to(self.device)
            yield self.normalise(self.x.index_select(0, indices)), self.y[indices]


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation by channel of (N, C, H, W), in units of the pixels: (C,) float64 each.

    A standard deviation of 0 is given as 1.
    """
    count = x.numel() // x.shape[1]
    chunks = x.split(CHUNK)
    if x.dtype == torch.uint8:  # from how often each value occurs: one pass, over bytes
        value = torch.arange(256, dtype=torch.float64, device=x.device)
        occurs = torch.zeros(x.shape[1], 256, dtype=torch.float64, device=x.device)
        for chunk in chunks:
            for channel, pixels in enumerate(chunk.unbind(1)):
                occurs[channel] += pixels.flatten().bincount(minlength=256)
        share = occurs / count
        mean = share @ value
        variance = (share * (value - mean[:, None]).square()).sum(1)
    else:
        mean = torch.stack([chunk.double().sum((0, 2, 3)) for chunk in chunks]).sum(0) / count
        squares = [(chunk.double() - mean[:, None, None]).square().sum((0, 2, 3)) for chunk in chunks]
        variance = torch.stack(squares).sum(0) / count
    std = variance.sqrt()
    return mean, torch.where(std > 0, std, torch.ones_like(std))


def fit(x: Tensor, image_size: int) -> Tensor:
    """Resize the shorter side of (N, C, H, W) to ``image_size`` and cut out the middle square; same dtype."""
    h, w = x.shape[2:]
    if (h, w) == (image_size, image_size):
        return x
    shorter = min(h, w)
    size = (image_size * h // shorter, image_size * w // shorter)
    top, left = (size[0] - image_size) // 2, (size[1] - image_size) // 2
    parts = []
    for chunk in x.split(CHUNK):
        new = F.interpolate(chunk.float(), size=size, mode="bilinear", antialias=True)
        new = new[:, :, top : top + image_size, left : left + image_size]
        parts.append(new if x.is_floating_point() else new.round().clamp(0, 255).to(x.dtype))
    return torch.cat(parts)
