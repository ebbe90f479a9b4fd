"""Layers as functions: forward, backward and what a feedback rule teaches."""

from backroads.feedback.functional.layer import propagate
from backroads.feedback.operators import ConvolutionMap, LinearMap, Operator
from backroads.feedback.primitives import alignment_value, backward_gradient, forward_gradient

__all__ = [
    "ConvolutionMap",
    "LinearMap",
    "Operator",
    "alignment_value",
    "backward_gradient",
    "forward_gradient",
    "propagate",
]
