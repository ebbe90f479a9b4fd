"""The five primitives: a weighted sum of them as data, its value, and its gradients in closed form."""

from backroads.feedback.primitives.gradients import backward_gradient, forward_gradient
from backroads.feedback.primitives.operations import Operations
from backroads.feedback.primitives.value import alignment_value
from backroads.feedback.primitives.weighted_sum import PRIMITIVES, REDUCTIONS, WeightedSum

__all__ = [
    "PRIMITIVES",
    "REDUCTIONS",
    "Operations",
    "WeightedSum",
    "alignment_value",
    "backward_gradient",
    "forward_gradient",
]
