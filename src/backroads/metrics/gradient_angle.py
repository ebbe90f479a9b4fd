"""The angle between the error that a layer sends back and the one that W would send back."""

from __future__ import annotations

from backroads.metrics.angles import angle
from backroads.metrics.base import register_metric
from backroads.metrics.probe import Probe
from backroads.runs.quantity import Quantity


@register_metric(
    "gradient_angle",
    Quantity(
        "local gradient angle",
        "degrees",
        ideal=0,
        about="Angle between the error that the layer sends back and W^T dy over a batch, for the error dy that "
        "arrived at its output.",
    ),
    logged=True,
)
def gradient_angle(probe: Probe) -> dict[str, float]:
    """By layer. Local: both sides start from the same dy, so errors of later layers are shared (Kunin et al. 2020)."""
    return {name: angle(sent, by_W) for name, (sent, by_W) in probe.errors_back.items()}
