"""Any model in, the same model with its own way back out; and back."""

from backroads.convert.plan import Plan, Row, plan
from backroads.convert.scale import alignment_scale
from backroads.convert.swap import aligned_layers, backward_parameters, convert, forward_parameters, revert

__all__ = [
    "Plan",
    "Row",
    "aligned_layers",
    "alignment_scale",
    "backward_parameters",
    "convert",
    "forward_parameters",
    "plan",
    "revert",
]
