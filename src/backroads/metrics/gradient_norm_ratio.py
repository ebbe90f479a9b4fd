"""The size of the error that a layer sends back beside that of the one that W would send back."""

from __future__ import annotations

from backroads.metrics.angles import norm_ratio
from backroads.metrics.base import register_metric
from backroads.metrics.probe import Probe
from backroads.runs.quantity import Quantity


@register_metric(
    "gradient_norm_ratio",
    Quantity(
        "|dx| / |W^T dy|",
        ideal=1,
        log=True,
        about="Norm of the error dx that the layer sends back over that of W^T dy over a batch, for the error dy that "
        "arrived at its output.",
    ),
)
def gradient_norm_ratio(probe: Probe) -> dict[str, float]:
    """By layer: what an error is multiplied by on its way through the layer, beside backpropagation."""
    return {name: norm_ratio(sent, by_W) for name, (sent, by_W) in probe.errors_back.items()}
