"""The angle between what a layer's two weights make of its activities."""

from __future__ import annotations

from backroads.metrics.angles import angle
from backroads.metrics.base import register_metric
from backroads.metrics.probe import Probe
from backroads.runs.quantity import Quantity


@register_metric(
    "projection_angle",
    Quantity(
        "projection angle", "degrees", ideal=0, about="Angle between B x and W x over a batch, for the layer's input x."
    ),
)
def projection_angle(probe: Probe) -> dict[str, float]:
    """By layer: whether W and B agree on the inputs that occur (Kunin et al. 2020)."""
    found = {}
    for name, signals in probe.signals.items():
        (W, B), op = probe.weights[name], probe.layers[name].operator
        found[name] = angle([op.project(x, B) for x, _ in signals], [op.project(x, W) for x, _ in signals])
    return found
