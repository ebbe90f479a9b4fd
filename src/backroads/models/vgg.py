"""Plain convolutional networks, without shortcuts: a small one without norms, and VGG8B and VGG11B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from backroads.errors import ConfigError
from backroads.models.mlp import activation_layer

_GAIN: dict[str, Literal["relu", "tanh", "sigmoid"]] = {
    "relu": "relu",
    "leaky_relu": "relu",
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
        activation: one of those of ``mlp``; initial weights have its gain over the root of the fan-in.

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


_VGG_B: dict[int, Sequence[int | str]] = {  # channels of the convolutions; M: max pooling
    8: (128, 256, "M", 256, 512, "M", 512, "M", 512, "M"),
    11: (128, 128, 128, 256, "M", 256, 512, "M", 512, 512, "M", 512, "M"),
}


def vgg_b(
    depth: int,
    classes: int = 10,
    shape: tuple[int, int, int] = (3, 32, 32),
    width: float = 1.0,
    activation: str = "leaky_relu",
    dropout: float = 0.2,
) -> torch.nn.Module:
    """VGG8B or VGG11B: 3x3 convolutions, each with batch norm, activation and dropout of whole channels, four poolings,
    one hidden linear layer of 1024 and the output. (N, C, H, W) -> (N, classes).

    Args:
        depth: 8 or 11 layers with weights.
        classes: number of classes.
        shape: (C, H, W) of an image.
        width: factor on the channels, such as 2 or 3; the hidden linear layer keeps its 1024.
        activation: "leaky_relu", "relu", "tanh", "gelu" or "sigmoid".
        dropout: probability, after every activation.

    Raises:
        ConfigError: another depth, an unknown activation, images too small for four poolings, or a width or dropout out
            of range.

    Source: A. Nøkland, L. H. Eidnes, "Training Neural Networks with Local Error Signals", ICML 2019, arXiv 1901.06656.
    """
    if depth not in _VGG_B:
        raise ConfigError(f"vgg_b: depth: expected 8 or 11, got {depth}")
    make = activation_layer(activation)
    inputs, height, columns = shape
    if min(height, columns) < 16:
        raise ConfigError(f"vgg{depth}b: expected images of at least 16x16 pixels, got {height}x{columns}")
    if not 0 <= dropout < 1:
        raise ConfigError(f"vgg{depth}b: dropout: expected a probability below 1, got {dropout}")
    if not width > 0:
        raise ConfigError(f"vgg{depth}b: width: expected a factor above 0, got {width}")
    layers: list[nn.Module] = []
    for part in _VGG_B[depth]:
        if isinstance(part, str):
            layers.append(nn.MaxPool2d(2))
            continue
        outputs = max(1, round(part * width))
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), make(), nn.Dropout2d(dropout)]
        inputs = outputs
    features = inputs * (height // 16) * (columns // 16)
    layers += [nn.Flatten(), nn.Linear(features, 1024), nn.BatchNorm1d(1024), make(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(1024, classes))
