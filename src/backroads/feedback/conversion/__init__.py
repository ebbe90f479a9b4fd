"""Any model in, the same model with its own way back out; and back."""

from backroads.feedback.conversion.groups import param_groups
from backroads.feedback.conversion.optimiser import optimiser
from backroads.feedback.conversion.plan import Plan, Row, plan
from backroads.feedback.conversion.scale import alignment_scale, set_coefficients
from backroads.feedback.conversion.swap import aligned_layers, backward_parameters, convert, forward_parameters, revert

__all__ = [
    "Plan",
    "Row",
    "aligned_layers",
    "alignment_scale",
    "backward_parameters",
    "convert",
    "forward_parameters",
    "optimiser",
    "param_groups",
    "plan",
    "revert",
    "set_coefficients",
]
