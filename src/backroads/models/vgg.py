"""A plain convolutional network: no normalisation, no shortcuts."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from backroads.errors import ConfigError
from backroads.models.mlp import activation_layer

_GAIN: dict[str, Literal["relu", "tanh", "sigmoid"]] = {
    "relu": "relu",
    "tanh": "tanh",
    "gelu": "relu",
    "sigmoid": "sigmoid",
}


def vgg(
    classes: int = 10,
    shape: tuple[int, int, int] = (3, 32, 32),
    width: int = 32,
    activation: str = "relu",
) -> torch.nn.Module:
    """Six 3x3 convolutions in three stages with max pooling, then two linear layers. (N, C, H, W) -> (N, classes).

    Without batch norm nothing rescales errors and activities, so that a B of the wrong size has an effect.

    Args:
        classes: number of classes.
        shape: (C, H, W) of an image.
        width: channels of the first stage; the others have twice and four times as many.
        activation: "relu", "tanh", "gelu" or "sigmoid"; initial weights have its gain over the root of the fan-in.

    Raises:
        ConfigError: an unknown activation, or images too small for three poolings.

    Source, made small for 32x32 pixels: Simonyan, Zisserman, ICLR 2015; initial weights: He et al., ICCV 2015.
    """
    make = activation_layer(activation)
    inputs, height, w = shape
    if min(height, w) < 8:
        raise ConfigError(f"vgg: expected images of at least 8x8 pixels, got {height}x{w}")
    layers: list[nn.Module] = []
    for stage in range(3):
        for _ in range(2):
            layers += [nn.Conv2d(inputs, width * 2**stage, 3, padding=1), make()]
            inputs = width * 2**stage
        layers.append(nn.MaxPool2d(2))
    features = inputs * (height // 8) * (w // 8)
    layers += [nn.Flatten(), nn.Linear(features, 8 * width), make(), nn.Linear(8 * width, classes)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity=_GAIN[activation])
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
