"""Any model in, the same model with its own way back out; and back."""

from backroads.conversion.mirror import mirror
from backroads.conversion.plan import Plan, Row, plan
from backroads.conversion.scale import alignment_scale, set_coefficients
from backroads.conversion.swap import aligned_layers, backward_parameters, convert, forward_parameters, revert

__all__ = [
    "Plan",
    "Row",
    "aligned_layers",
    "alignment_scale",
    "backward_parameters",
    "convert",
    "forward_parameters",
    "mirror",
    "plan",
    "revert",
    "set_coefficients",
]
