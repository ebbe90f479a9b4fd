"""The deep network of SoftHebb, and its activation."""

from __future__ import annotations

import collections

import torch
from torch import Tensor, nn

from backroads.errors import ConfigError


class Triangle(nn.Module):
    """relu(u - mean of u over the channels) ^ power.

    Input and output (N, C) or (N, C, ...).

    Args:
        power: above 0.
    """

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, u: Tensor) -> Tensor:
        z = u - u.mean(1, keepdim=True)
        # The slope of z^power at 0 may be infinite; where nothing comes out, nothing goes back.
        return torch.where(z > 0, z.clamp_min(torch.finfo(z.dtype).tiny) ** self.power, torch.zeros_like(z))

    def extra_repr(self) -> str:
        return f"power={self.power}"


# Channels, side of the kernel, power of the activation, pooling.
_LAYERS = (
    (96, 5, 0.7, nn.MaxPool2d(4, stride=2, padding=1)),
    (384, 3, 1.4, nn.MaxPool2d(4, stride=2, padding=1)),
    (1536, 3, 1.0, nn.AvgPool2d(2)),
)


def softhebb(
    classes: int = 10, shape: tuple[int, int, int] = (3, 32, 32), width: float = 1.0, dropout: float = 0.5
) -> nn.Module:
    """Three convolutions without bias, each behind a batch norm without weights and before a triangle and a pooling;
    then dropout and a linear read-out. (N, C, H, W) -> (N, classes).

    Args:
        classes: number of classes.
        shape: (C, H, W) of an image, 8 pixels or more.
        width: factor on the 96, 384 and 1536 channels.
        dropout: probability, before the read-out.

    Raises:
        ConfigError: images that are too small, or a width or dropout out of range.

    Source: A. Journé, H. Garcia Rodriguez, Q. Guo, T. Moraitis, "Hebbian Deep Learning Without Feedback", ICLR 2023;
    its network for CIFAR-10.
    """
    inputs, height, columns = shape
    if min(height, columns) < 8:
        raise ConfigError(f"softhebb: expected images of at least 8x8 pixels, got {height}x{columns}")
    if not width > 0:
        raise ConfigError(f"softhebb: width: expected a factor above 0, got {width}")
    if not 0 <= dropout < 1:
        raise ConfigError(f"softhebb: dropout: expected a probability below 1, got {dropout}")
    layers: list[tuple[str, nn.Module]] = []
    for number, (channels, kernel, power, pool) in enumerate(_LAYERS, 1):
        outputs = max(2, round(channels * width))
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, padding_mode="reflect", bias=False)
        norm = nn.BatchNorm2d(inputs, affine=False)
        parts = {"norm": norm, "conv": conv, "triangle": Triangle(power), "pool": pool}
        layers += [(f"{name}{number}", part) for name, part in parts.items()]
        inputs = outputs
    features = inputs * (height // 8) * (columns // 8)
    layers += [("flatten", nn.Flatten()), ("dropout", nn.Dropout(dropout)), ("readout", nn.Linear(features, classes))]
    return nn.Sequential(collections.OrderedDict(layers))
