"""The angle between the gradients that training uses and those of true backpropagation."""

from __future__ import annotations

from backroads.metrics.angles import angle
from backroads.metrics.base import register_metric
from backroads.metrics.probe import Probe
from backroads.runs.quantity import Quantity


@register_metric(
    "update_angle",
    Quantity(
        "update angle",
        "degrees",
        ideal=0,
        about="Angle between the gradients that training uses and those of true backpropagation of the task's loss on "
        "the same batch. Below 90 degrees, a small enough step lowers the loss.",
    ),
    logged=True,
)
def update_angle(probe: Probe) -> dict[str, float]:
    """Of the weight matrix of each layer, and, under "", of all parameters that the task's loss reaches together."""
    own, true = probe.updates
    if not true:
        return {}
    layers = {name: angle(*pair) for name, pair in probe.layer_updates.items()}
    return {**layers, "": angle([own[name] for name in true], list(true.values()))}
