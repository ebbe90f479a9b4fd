"""Layers as functions of (x, W, B): forward, backward and the alignment's gradients."""

from backroads.feedback.functional.alignment import alignment_value, backward_gradient, forward_gradient
from backroads.feedback.functional.layer import aligned, direct
from backroads.feedback.functional.operators import ConvolutionMap, LinearMap, Operator

__all__ = [
    "ConvolutionMap",
    "LinearMap",
    "Operator",
    "aligned",
    "alignment_value",
    "backward_gradient",
    "direct",
    "forward_gradient",
]
