"""Weights of the units of a layer as small images."""

from __future__ import annotations

import base64
import math

import torch
from torch import Tensor

from backroads.runs.schema import Fields

UNITS, NUMBERS = 64, 2**15  # at most, so that a page stays small


def fields(W: Tensor, layer: str = "") -> Fields:
    """The images of the first units, as many as fit on a page.

    Args:
        W: (units, channels, height, width), finite, with 1 or 3 channels; one image has at most 2**15 numbers.
        layer: its name.

    Raises:
        ValueError: for another shape.
    """
    if W.dim() != 4 or W.shape[1] not in (1, 3) or not 0 < W[0].numel() <= NUMBERS:
        raise ValueError(f"W: expected (units, 1 or 3, height, width), {NUMBERS} a unit at most, got {tuple(W.shape)}")
    shown = W.detach()[: min(UNITS, NUMBERS // W[0].numel())].double().cpu().movedim(1, -1)
    largest = shown.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    values = (128 + 127 * shown / largest).round().to(torch.uint8)
    n, height, width, channels = values.shape
    return Fields(
        layer,
        len(W),
        (n, height, width, 3 if channels == 3 else 1),
        base64.b64encode(values.numpy().tobytes()).decode(),
    )


def first_layer(model: torch.nn.Module, shape: tuple[int, int, int]) -> Fields | None:
    """The images of the layer that sees the images: the first one with weights.

    Args:
        model: any.
        shape: (C, H, W) of an image.

    Returns:
        None unless images have 1 or 3 channels and the layer is a convolution of them, wider than a pixel, or a linear
        layer of all their pixels.
    """
    named = ((name, m, getattr(m, "weight", None)) for name, m in model.named_modules())
    for name, layer, W in named:
        if not isinstance(W, Tensor) or W.dim() < 2:
            continue
        if isinstance(layer, torch.nn.Linear) and W[0].numel() == math.prod(shape):
            W = W.unflatten(1, shape)
        elif not isinstance(layer, torch.nn.Conv2d):
            return None
        seen = W.shape[1] == shape[0] and shape[0] in (1, 3) and W[0, 0].numel() > 1 and W[0].numel() <= NUMBERS
        return fields(W, name) if seen else None
    return None
