"""How well errors are sent back: one file a metric. See docs/metrics.md."""

from backroads.metrics import gradient_angle, gradient_norm_ratio, projection_angle, update_angle  # noqa: F401  to register
from backroads.metrics.angles import angle, norm_ratio
from backroads.metrics.base import DEFAULT, Metric, get_metric, list_metrics, quantities, readings, register_metric
from backroads.metrics.probe import Probe, backprop_mode
from backroads.metrics.weight_angle import weight_angles
from backroads.metrics.weight_norm_ratio import norm_ratios
from backroads.runs.quantity import Quantity

__all__ = [
    "DEFAULT",
    "Metric",
    "Probe",
    "Quantity",
    "angle",
    "backprop_mode",
    "get_metric",
    "list_metrics",
    "norm_ratio",
    "norm_ratios",
    "quantities",
    "readings",
    "register_metric",
    "weight_angles",
]
