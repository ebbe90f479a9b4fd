"""The angle between a layer's forward and backward weights."""

from __future__ import annotations

import torch

from backroads.metrics.angles import angle
from backroads.metrics.base import register_metric
from backroads.metrics.probe import Probe
from backroads.runs.quantity import Quantity


@register_metric(
    "weight_angle",
    Quantity(
        "weight angle", "degrees", ideal=0, about="Angle between a layer's forward weight W and its backward weight B."
    ),
    needs_batch=False,
    logged=True,
)
def weight_angle(probe: Probe) -> dict[str, float]:
    """By layer; layers under direct feedback, which have no B in the layout of W, are left out."""
    return {name: angle(B, W) for name, (W, B) in probe.weights.items()}


def weight_angles(model: torch.nn.Module) -> dict[str, float]:
    """The angle between W and B of each layer, in degrees; layers under direct feedback have none."""
    return weight_angle.compute(Probe(model))
