"""Layers that hold W and B: torch's own, with ``rule=``."""

from backroads.feedback.nn.attention import MultiheadAttention
from backroads.feedback.nn.broadcast import broadcast_error
from backroads.feedback.nn.layer import AlignedLayer
from backroads.feedback.nn.layers import Conv1d, Conv2d, Conv3d, Linear

__all__ = ["AlignedLayer", "Conv1d", "Conv2d", "Conv3d", "Linear", "MultiheadAttention", "broadcast_error"]
