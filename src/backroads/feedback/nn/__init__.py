"""Layers that hold W and B: torch's own, with ``rule=``."""

from backroads.feedback.nn.attention import MultiheadAttention
from backroads.feedback.nn.broadcast import broadcast_error
from backroads.feedback.nn.layer import AlignedLayer
from backroads.feedback.nn.layers import Conv1d, Conv2d, Conv3d, Linear
from backroads.feedback.nn.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from backroads.feedback.nn.transposed import TransposedLinear

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AlignedLayer",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "GRUCell",
    "LSTMCell",
    "Linear",
    "MultiheadAttention",
    "RNNCell",
    "TransposedLinear",
    "broadcast_error",
]
