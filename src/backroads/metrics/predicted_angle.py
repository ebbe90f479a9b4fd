"""The weight angle that a rule itself expects."""

from __future__ import annotations

from backroads.metrics.base import register_metric
from backroads.metrics.probe import Probe
from backroads.runs.quantity import Quantity


@register_metric(
    "predicted_angle",
    Quantity(
        "predicted weight angle",
        "degrees",
        ideal=0,
        about="The weight angle that the rule expects from the noise it has seen: where the measured one is larger, "
        "something other than W's increments moves B.",
    ),
    needs_batch=False,
    logged=True,
)
def predicted_angle(probe: Probe) -> dict[str, float]:
    """By layer, of rules that predict it: the mirrored Kolen-Pollack rule from its filter."""
    forecasts = {name: layer.rule.predicted_angle(layer.state) for name, layer in probe.layers.items()}
    return {name: degrees for name, degrees in forecasts.items() if degrees is not None}
