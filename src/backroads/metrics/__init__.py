"""How well the way back is aligned."""

from backroads.metrics.angles import angle, norm_ratio, norm_ratios, weight_angles
from backroads.metrics.measure import LayerMeasurement, Measurement, backprop_mode, measure

__all__ = [
    "LayerMeasurement",
    "Measurement",
    "angle",
    "backprop_mode",
    "measure",
    "norm_ratio",
    "norm_ratios",
    "weight_angles",
]
