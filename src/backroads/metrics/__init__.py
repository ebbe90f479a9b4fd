"""How well errors are sent back: one file a metric. See docs/metrics.md."""

import importlib
import pkgutil

from backroads.metrics.angles import angle, norm_ratio
from backroads.metrics.base import Metric, get_metric, list_metrics, quantities, readings, register_metric
from backroads.metrics.probe import Probe, backprop_mode
from backroads.metrics.weight_angle import weight_angles
from backroads.metrics.weight_norm_ratio import check_norms, norm_ratios
from backroads.runs.quantity import Quantity

__all__ = [
    "Metric",
    "Probe",
    "Quantity",
    "angle",
    "backprop_mode",
    "check_norms",
    "get_metric",
    "list_metrics",
    "norm_ratio",
    "norm_ratios",
    "quantities",
    "readings",
    "register_metric",
    "weight_angles",
]

for _file in pkgutil.iter_modules(__path__):  # a metric registers itself when its file is imported
    importlib.import_module(f"{__name__}.{_file.name}")
