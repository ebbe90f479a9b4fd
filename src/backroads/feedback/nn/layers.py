"""The layers: torch's own, with their arguments, and ``rule=``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from backroads.errors import ShapeError
from backroads.feedback.nn.layer import AlignedLayer
from backroads.feedback.operators import ConvolutionMap, Operator


class Linear(AlignedLayer, torch.nn.Linear):
    """``torch.nn.Linear`` with backward weights of its own.

    Input (N, ..., I) or (I,), output (N, ..., O) or (O,); weight and backward_weight (O, I). The first dimension is
    the batch, further leading ones are positions.

    Args:
        rule: what carries the error back, and is taught: a rule or its name. The others are torch's.

    Raises:
        RuleError: for a rule that does not fit.
        ShapeError: from the forward pass, for an input that does not fit.

    Example::

        layer = br.nn.Linear(20, 10, rule=br.rules.feedback_alignment())
    """

    torch_class = torch.nn.Linear

    def _check_shape(self, x: Tensor) -> None:
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ShapeError(
                f"Linear: expected input of shape (..., {self.in_features}), got {tuple(x.shape)}; "
                f"the last dimension must be in_features"
            )


class _Convolution(AlignedLayer, _ConvNd):
    """What the convolutions share."""

    @property
    def operator(self) -> Operator:
        d = len(self.kernel_size)
        if self.padding == "valid" or self.padding_mode != "zeros":
            return ConvolutionMap(self.stride, (0,) * d, self.dilation, self.groups)
        if not isinstance(self.padding, str):
            return ConvolutionMap(self.stride, self.padding, self.dilation, self.groups)
        # "same": what is left over of an uneven total goes to the end, as in torch.
        total = [step * (k - 1) for step, k in zip(self.dilation, self.kernel_size, strict=True)]
        border = tuple(width for t in reversed(total) for width in (0, t % 2))
        return ConvolutionMap(
            self.stride,
            tuple(t // 2 for t in total),
            self.dilation,
            self.groups,
            border if any(border) else (),
        )

    def operand(self, x: Tensor) -> Tensor:
        if self.padding_mode == "zeros":
            return x
        return F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)

    def _check_shape(self, x: Tensor) -> None:
        d = len(self.kernel_size)
        if x.dim() not in (d + 1, d + 2) or x.shape[-d - 1] != self.in_channels:
            places = ", ".join("LHW"[:1] if d == 1 else "DHW"[-d:])
            raise ShapeError(
                f"{type(self).__name__}: expected input of shape (N, {self.in_channels}, {places}) or "
                f"({self.in_channels}, {places}), got {tuple(x.shape)}"
            )

    def _features(self) -> int:
        return self.in_channels


class Conv1d(_Convolution, torch.nn.Conv1d):
    """``torch.nn.Conv1d`` with backward weights of its own.

    Input (N, I, L) or (I, L); weight and backward_weight (O, I/groups, k). Every stride, padding
    (numbers, "same", "valid"), padding mode, dilation and groups. With a padding mode other than "zeros" the padded
    input is the layer's activity. ``rule`` as in :class:`Linear`.
    """

    torch_class = torch.nn.Conv1d


class Conv2d(_Convolution, torch.nn.Conv2d):
    """``torch.nn.Conv2d`` with backward weights of its own.

    Input (N, I, H, W) or (I, H, W); weight and backward_weight (O, I/groups, kH, kW). Every stride, padding
    (numbers, "same", "valid"), padding mode, dilation and groups. With a padding mode other than "zeros" the padded
    input is the layer's activity. ``rule`` as in :class:`Linear`.
    """

    torch_class = torch.nn.Conv2d


class Conv3d(_Convolution, torch.nn.Conv3d):
    """``torch.nn.Conv3d`` with backward weights of its own.

    Input (N, I, D, H, W) or (I, D, H, W); weight and backward_weight (O, I/groups, kD, kH, kW). Every stride, padding
    (numbers, "same", "valid"), padding mode, dilation and groups. With a padding mode other than "zeros" the padded
    input is the layer's activity. ``rule`` as in :class:`Linear`.
    """

    torch_class = torch.nn.Conv3d
