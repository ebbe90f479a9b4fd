"""Fully connected networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch

from backroads.errors import ConfigError, nearest

ACTIVATIONS: dict[str, type[torch.nn.Module]] = {
    "relu": torch.nn.ReLU,
    "leaky_relu": torch.nn.LeakyReLU,
    "tanh": torch.nn.Tanh,
    "gelu": torch.nn.GELU,
    "sigmoid": torch.nn.Sigmoid,
}


def activation_layer(name: str) -> type[torch.nn.Module]:
    """The class of an activation, by name; raises ConfigError."""
    if name not in ACTIVATIONS:
        raise ConfigError(f"unknown activation {name!r}.{nearest(name, ACTIVATIONS)} Known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def mlp(
    classes: int = 10,
    shape: tuple[int, int, int] = (1, 28, 28),
    hidden: Sequence[int] | int = (1024, 1024, 1024),
    activation: str = "relu",
) -> torch.nn.Module:
    """Flatten, then linear layers with an activation between them. Input (N, C, H, W), output (N, classes).

    Args:
        classes: number of classes.
        shape: (C, H, W) of an image.
        hidden: widths of the hidden layers; a number is the width of one.
        activation: "relu", "leaky_relu" (slope 0.01), "tanh", "gelu" or "sigmoid"; ConfigError otherwise.
    """
    make = activation_layer(activation)
    widths = [math.prod(shape), *([hidden] if isinstance(hidden, int) else hidden)]
    layers: list[torch.nn.Module] = [torch.nn.Flatten()]
    for inputs, outputs in itertools.pairwise(widths):
        layers += [torch.nn.Linear(inputs, outputs), make()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], classes))
