"""A recurrent network."""

from __future__ import annotations

import torch
from torch import Tensor


class RowLSTM(torch.nn.Module):
    """torch's LSTM, which reads an image row by row, and a linear read-out of its last state.

    Input (N, C, H, W), output (N, classes).

    Args:
        classes: number of classes. shape: (C, H, W) of an image. width: of the state.
    """

    def __init__(self, classes: int, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        C, _, columns = shape
        self.lstm = torch.nn.LSTM(C * columns, width, batch_first=True)
        self.readout = torch.nn.Linear(width, classes)
        with torch.no_grad():
            self.lstm.get_parameter("bias_ih_l0")[width : 2 * width] = (
                1.0  # remember at first: Jozefowicz et al., ICML 2015
            )

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(x.transpose(1, 2).flatten(2))
        readout: Tensor = self.readout(y[:, -1])
        return readout


def row_lstm(classes: int = 10, shape: tuple[int, int, int] = (1, 28, 28), width: int = 128) -> torch.nn.Module:
    """An LSTM that reads an image row by row; see :class:`RowLSTM`.

    Args:
        classes: number of classes.
        shape: (C, H, W) of an image.
        width: of its state.
    """
    return RowLSTM(classes, shape, width)
