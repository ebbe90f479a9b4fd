"""A recurrent network of linear layers."""

from __future__ import annotations

import torch
from torch import Tensor


class RowLSTM(torch.nn.Module):
    """An LSTM that reads an image row by row; its two weights are linear layers, used once for each row.

    ``(i, f, g, o) = W x_t + U h + b``; ``c <- s(f) c + s(i) tanh(g)``, ``h <- s(o) tanh(c)``, s the logistic function:
    Hochreiter, Schmidhuber, Neural Computation 9 (1997), with the forget gate of Gers et al. (2000).
    Input (N, C, H, W), output (N, classes).

    Args:
        classes: number of classes. shape: (C, H, W) of an image. width: of h and c.
    """

    def __init__(self, classes: int, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        C, _, columns = shape
        self.input = torch.nn.Linear(C * columns, 4 * width)
        self.hidden = torch.nn.Linear(width, 4 * width, bias=False)
        self.readout = torch.nn.Linear(width, classes)
        with torch.no_grad():
            self.input.bias[width : 2 * width] = 1.0  # remember at first: Jozefowicz et al., ICML 2015

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), self.hidden.in_features)
        for row in x.unbind(2):
            i, f, g, o = (self.input(row.flatten(1)) + self.hidden(h)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        readout: Tensor = self.readout(h)
        return readout


def row_lstm(classes: int = 10, shape: tuple[int, int, int] = (1, 28, 28), width: int = 128) -> torch.nn.Module:
    """An LSTM that reads an image row by row; see :class:`RowLSTM`.

    Args:
        classes: number of classes.
        shape: (C, H, W) of an image.
        width: of its state.
    """
    return RowLSTM(classes, shape, width)
