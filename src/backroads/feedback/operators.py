"""The two linear maps a layer can be, each with its two adjoints.

A layer's map ``y = W x`` is bilinear in (W, x). Everything a rule needs is that map and its adjoints::

    project(x, W)              y = W x
    pullback(dy, B, x)         B^T dy         the adjoint in x: takes an error (or activity) back
    weight_gradient(x, dy, W)  sum dy x^T     the adjoint in W: an outer product summed over batch and positions

so that ``<dy, project(x, W)> = <pullback(dy, W), x> = <weight_gradient(x, dy), W>``. The formulas of
:mod:`backroads.feedback.primitives` are written once, over these three, for linear layers and all
convolutions.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Operator(Protocol):
    """A bilinear layer map. Shapes are documented on the two implementations."""

    def project(self, x: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
        """``W x (+ bias)``."""

    def pullback(self, dy: Tensor, B: Tensor, x: Tensor) -> Tensor:
        """``B^T dy``, with the shape of ``x`` (whose values are not read)."""

    def weight_gradient(self, x: Tensor, dy: Tensor, W: Tensor) -> Tensor:
        """``sum dy x^T`` over batch and positions, with the shape of ``W`` (whose values are not read)."""

    def backward(
        self, dy: Tensor, x: Tensor, B: Tensor, needs: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """``(B^T dy, sum dy x^T, sum dy)``: errors of input, weight and bias in one call, where needed."""

    def unbatched(self, x: Tensor) -> bool:
        """Whether ``x`` is one example without a batch dimension."""

    def positions(self, x: Tensor, W: Tensor) -> int:
        """Number of places per example at which the map is applied; only the shapes are read."""

    def pointwise(self, W: Tensor) -> bool:
        """Whether the map is one matrix, applied alike to the features at every place; see :meth:`second_moment`."""

    def second_moment(self, v: Tensor, *, output: bool) -> Tensor:
        """``sum v v^T`` over batch and positions, (F, F), for v an output or an input; pointwise maps only."""

    def row_squares(self, v: Tensor) -> Tensor:
        """``sum v^2`` over batch and positions, (O,), for v an output; in float32 at least."""

    def overlap(self, W: Tensor) -> int:
        """The most positions at which one entry of ``x`` is met; only the shape of W is read."""

    def taps(self, x: Tensor, W: Tensor) -> list[list[int]]:
        """For each axis of the kernel, at how many positions of an example each tap meets ``x`` and not its padding.

        The product over axes counts for a tap of the kernel. Only shapes are read.
        """

    def reach(self, W: Tensor) -> tuple[int, ...]:
        """Along each axis of space, how many entries of ``x`` a receptive field spans; only the shape of W is read."""

    def add_bias(self, y: Tensor, bias: Tensor, sign: int = 1) -> Tensor:
        """``y + sign * bias``, the bias broadcast over batch and positions."""

    def pooled(self, x: Tensor) -> Tensor:
        """The mean of ``x`` over its positions, (N, I); the adjoint of :meth:`spread`."""

    def spread(self, v: Tensor, x: Tensor) -> Tensor:
        """A feature vector per example, (N, I), divided evenly over the positions of ``x`` and shaped like it."""


@dataclasses.dataclass(frozen=True)
class LinearMap:
    """``y = W x``. x: (N, ..., I) or (I,); W, B: (O, I); y: (N, ..., O) or (O,).

    The first dimension is the batch; further leading dimensions are positions (tokens), like a convolution's.
    """

    def project(self, x: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, W, bias)

    def pullback(self, dy: Tensor, B: Tensor, x: Tensor) -> Tensor:
        return dy @ B

    def weight_gradient(self, x: Tensor, dy: Tensor, W: Tensor) -> Tensor:
        return dy.reshape(-1, dy.shape[-1]).t() @ x.reshape(-1, x.shape[-1])

    def backward(
        self, dy: Tensor, x: Tensor, B: Tensor, needs: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        dx = self.pullback(dy, B, x) if needs[0] else None
        dW = self.weight_gradient(x, dy, B) if needs[1] else None
        db = dy.reshape(-1, dy.shape[-1]).sum(0) if needs[2] else None
        return dx, dW, db

    def unbatched(self, x: Tensor) -> bool:
        return x.dim() == 1

    def positions(self, x: Tensor, W: Tensor) -> int:
        return math.prod(x.shape[1:-1])

    def pointwise(self, W: Tensor) -> bool:
        return True

    def second_moment(self, v: Tensor, *, output: bool) -> Tensor:
        return self.weight_gradient(v, v, v)

    def row_squares(self, v: Tensor) -> Tensor:
        return _squares(v, v.dim() - 1)

    def overlap(self, W: Tensor) -> int:
        return 1

    def taps(self, x: Tensor, W: Tensor) -> list[list[int]]:
        return [[self.positions(x, W)]]

    def reach(self, W: Tensor) -> tuple[int, ...]:
        return ()

    def add_bias(self, y: Tensor, bias: Tensor, sign: int = 1) -> Tensor:
        return torch.add(y, bias, alpha=sign)

    def pooled(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(0) if self.unbatched(x) else x
        return x.mean(tuple(range(1, x.dim() - 1))) if x.dim() > 2 else x

    def spread(self, v: Tensor, x: Tensor) -> Tensor:
        if self.unbatched(x):
            return v[0]
        positions = math.prod(x.shape[1:-1])
        return (v / positions).reshape(*x.shape[:1], *(1,) * (x.dim() - 2), x.shape[-1]).expand_as(x)


@dataclasses.dataclass(frozen=True)
class ConvolutionMap:
    """Convolution in d = 1, 2 or 3 dimensions, as ``torch.nn.ConvNd`` with numeric zero padding.

    x: (N, I, *spatial) or (I, *spatial); W, B: (O, I/groups, *kernel); y: (N, O, *positions) or without N.

    ``pullback`` is the exact adjoint for every stride, padding, dilation and number of groups: it has the shape of
    x whatever the stride leaves over at the border.

    Attributes:
        border: more zeros on single sides, in the order of ``torch.nn.functional.pad``: what "same" needs for kernels
            of even size. Like ``padding`` it belongs to the map, so x and B^T y stay without it.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    border: tuple[int, ...] = ()

    def project(self, x: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
        conv = (F.conv1d, F.conv2d, F.conv3d)[len(self.stride) - 1]
        return conv(self._bordered(x), W, bias, self.stride, self.padding, self.dilation, self.groups)

    def _bordered(self, x: Tensor) -> Tensor:
        return F.pad(x, self.border) if self.border else x

    def _unbordered(self, x: Tensor) -> Tensor:
        return F.pad(x, [-width for width in self.border]) if self.border else x

    def pullback(self, dy: Tensor, B: Tensor, x: Tensor) -> Tensor:
        dx, _, _ = self.backward(dy, x, B, (True, False, False))
        assert dx is not None
        return dx

    def weight_gradient(self, x: Tensor, dy: Tensor, W: Tensor) -> Tensor:
        # Of W the shape alone is read, but a GPU refuses one of another dtype.
        shape_only = W if W.dtype == x.dtype else torch.empty_like(W, dtype=x.dtype)
        _, dW, _ = self.backward(dy, x, shape_only, (False, True, False))
        assert dW is not None
        return dW

    def backward(
        self, dy: Tensor, x: Tensor, B: Tensor, needs: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        alone = self.unbatched(x)
        if alone:
            dy, x = dy.unsqueeze(0), x.unsqueeze(0)
        # The kernel torch itself uses: the weight is read for dx alone, so B in its place is the whole change.
        dx, dW, db = torch.ops.aten.convolution_backward.default(
            dy,
            self._bordered(x),
            B,
            [B.shape[0]] if needs[2] else None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            (0,) * len(self.stride),
            self.groups,
            needs,
        )
        if needs[0]:
            dx = self._unbordered(dx)
        return (dx[0] if alone and needs[0] else dx), dW, db

    def unbatched(self, x: Tensor) -> bool:
        return x.dim() == len(self.stride) + 1

    def positions(self, x: Tensor, W: Tensor) -> int:
        return math.prod(self._places(x, W))

    def _places(self, x: Tensor, W: Tensor) -> list[int]:
        """Number of positions along each axis."""
        d = len(self.stride)
        places = []
        for i in range(d):
            padded = x.shape[i - d] + sum(self._padded(i))
            places.append((padded - self.reach(W)[i]) // self.stride[i] + 1)
        return places

    def _padded(self, axis: int) -> tuple[int, int]:
        """Zeros before and after the input along an axis; ``border`` has the last axis first."""
        before = after = self.padding[axis]
        if self.border:
            place = 2 * (len(self.stride) - 1 - axis)
            before, after = before + self.border[place], after + self.border[place + 1]
        return before, after

    def pointwise(self, W: Tensor) -> bool:
        one_by_one = all(k == 1 for k in W.shape[2:])
        return one_by_one and self.groups == 1 and not any(self.padding) and not self.border

    def second_moment(self, v: Tensor, *, output: bool) -> Tensor:
        d = len(self.stride)
        stride = (1,) * d if output else self.stride
        for i in range(d):
            if stride[i] > 1:
                v = v.index_select(i - d, torch.arange(0, v.shape[i - d], stride[i], device=v.device))
        features = v.shape[-d - 1]
        shape_only = v.new_empty(features, features, *(1,) * d)
        return ConvolutionMap((1,) * d, (0,) * d, (1,) * d, 1).weight_gradient(v, v, shape_only).flatten(1)

    def row_squares(self, v: Tensor) -> Tensor:
        return _squares(v, v.dim() - 1 - len(self.stride))

    def overlap(self, W: Tensor) -> int:
        # Taps are dilation apart and kernels stride apart: every (stride / gcd)-th tap meets a given pixel.
        count = 1
        for k, s, d in zip(W.shape[-len(self.stride) :], self.stride, self.dilation, strict=True):
            count *= -(-k * math.gcd(s, d) // s)
        return count

    def taps(self, x: Tensor, W: Tensor) -> list[list[int]]:
        d = len(self.stride)
        found = []
        for i, places in enumerate(self._places(x, W)):
            size, step, before = x.shape[i - d], self.stride[i], self._padded(i)[0]
            # Place p meets entry step p + offset of x, which is there from 0 to size - 1.
            offsets = [self.dilation[i] * k - before for k in range(W.shape[i - d])]
            first = [max(0, -(offset // step)) for offset in offsets]
            last = [min(places - 1, (size - 1 - offset) // step) for offset in offsets]
            found.append([max(0, to - start + 1) for start, to in zip(first, last, strict=True)])
        return found

    def reach(self, W: Tensor) -> tuple[int, ...]:
        d = len(self.stride)
        return tuple(self.dilation[i] * (W.shape[i - d] - 1) + 1 for i in range(d))

    def add_bias(self, y: Tensor, bias: Tensor, sign: int = 1) -> Tensor:
        return torch.add(y, bias.view(-1, *(1,) * len(self.stride)), alpha=sign)

    def pooled(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(0) if self.unbatched(x) else x
        return x.mean(tuple(range(2, x.dim())))

    def spread(self, v: Tensor, x: Tensor) -> Tensor:
        d = len(self.stride)
        v = v / math.prod(x.shape[-d:])
        return (v[0] if self.unbatched(x) else v).reshape(*x.shape[:-d], *(1,) * d).expand_as(x)


def _squares(v: Tensor, kept: int) -> Tensor:
    others = [dim for dim in range(v.dim()) if dim != kept]
    wide = torch.promote_types(v.dtype, torch.float32)
    return torch.linalg.vector_norm(v, dim=others, dtype=wide).square() if others else v.to(wide).square()
