"""The definition: the weighted sum as one number, and the factors that turn sums over a batch into means.

Letters: x input, W forward weight, B backward weight (layout of W), y = W x, z = B x, r = B^T y; M[.] is the mean
over the batch. Equations: Kunin et al., ICML 2020 (arXiv 2003.01513), in the convention with 1/2. The gradients in
closed form are in :mod:`backroads.feedback.primitives.gradients`; the tests hold them to automatic differentiation of
this value.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backroads.feedback.operators import Operator
from backroads.feedback.primitives.weighted_sum import WeightedSum

# One number: a float, or a 0-dimensional tensor where it is measured ("unit_power"); one for each tap of a kernel under
# "per_tap_mean".
Scale = float | Tensor


def alignment_value(x: Tensor, W: Tensor, B: Tensor, bias: Tensor | None, rule: WeightedSum, op: Operator) -> Tensor:
    """The alignment loss R of one layer; a 0-dimensional tensor.

    Args:
        x: the layer's input, (N, ...); one example without N counts as a batch of one.
        W, B: weights in the same layout.
        bias: the layer's bias, read only with ``use_bias_forward`` or ``use_bias_backward``.
        rule: coefficients, reduction and operations.
        op: the layer's map.

    With ``update_forward`` decay adds 1/2|W|^2 and sparse 1/2 M|Wx|^2, which only W's gradient can tell.
    """
    ops = rule.operations
    if op.unbatched(x):
        x = x.unsqueeze(0)
    x, x_B = ops.on_input(x)
    y, z = ops.activated(
        op.project(x, W, bias if ops.use_bias_forward else None),
        op.project(x_B, B, bias if ops.use_bias_backward else None),
    )
    # W^T z is the reference's "backward reconstruction", B^T y its "forward" one.
    source = z if ops.reconstruction_reversal else y
    reads_reconstruction = rule.null or (rule.amp and ops.reconstruction_amp)
    r = op.pullback(source, W if ops.reconstruction_reversal else B, x) if reads_reconstruction else x

    factor = mean_factor(rule, x, W, op)
    x_scale, null_scale = unit_power(rule, x_B, factor), unit_power(rule, source, factor)
    y, z = ops.on_forward_output(y), ops.on_backward_output(z)
    r = ops.on_backward_output(r) if ops.reconstruction_reversal else ops.on_forward_output(r)

    if rule.reduction == "projected_step":
        v = (rule.sparse * z - rule.amp * y).detach()
        rows = projected_step(op.weight_gradient(x_B.detach(), v, W) * x_scale, B, W, rule).flatten()
        x_scale = op.add_bias(torch.zeros_like(y), rows * x_scale)  # one factor for each row of W, at every position
    R = 0.5 * rule.decay * B.square().sum() - rule.self_ * (W * B).sum()
    if rule.reduction == "per_tap_mean":  # no sum over activities: each tap's outer products have a factor of their own
        of_z, of_y = (op.weight_gradient(x_B.detach(), v.detach(), W) * x_scale for v in (z, y))
        return R + rule.sparse * ((B - 0.5 * B.detach()) * of_z).sum() - rule.amp * (B * of_y).sum()
    if rule.amp:
        R = R - rule.amp * (x_scale * (x * r if ops.reconstruction_amp else y * z)).sum()
    if rule.null:
        R = R + 0.5 * rule.null * null_scale * r.square().sum()
    if rule.sparse:
        R = R + 0.5 * rule.sparse * (x_scale * z.square()).sum()
    if rule.update_forward:
        R = R + 0.5 * rule.decay * W.square().sum()
        if rule.sparse:
            R = R + 0.5 * rule.sparse * (x_scale * y.square()).sum()
    return R


def mean_factor(rule: WeightedSum, x: Tensor, W: Tensor, op: Operator) -> Scale:
    """1/N, times what the reduction makes of the sum over positions. An empty batch has no terms to divide.

    Args:
        x: the layer's input, (N, ...) or one example.
        W: its weight. Only shapes are read. Others as in :func:`alignment_value`.
    """
    rows = 1 if op.unbatched(x) else x.shape[0]
    if rule.reduction == "per_tap_mean":
        return per_tap(op.taps(x, W), x) / max(rows, 1)
    if rule.reduction == "overlap":
        rows *= op.overlap(W)
    elif rule.reduction in ("mean", "unit_power"):
        rows *= op.positions(x, W)
    return 1.0 / max(rows, 1)


def unit_power(rule: WeightedSum, activity: Tensor, factor: Scale) -> Scale:
    """``factor``, divided by the mean square of the activity under "unit_power" (a constant of R)."""
    if rule.reduction != "unit_power" or activity.numel() == 0:
        return factor
    mean_square = activity.detach().square().mean()
    # A silent activity has no power to divide by, and nothing to teach.
    silent = mean_square <= torch.finfo(mean_square.dtype).tiny
    return (factor / mean_square).masked_fill(silent, 0.0)


def projected_step(g: Tensor, B: Tensor, W: Tensor, rule: WeightedSum) -> Tensor:
    """The factor on each row of g = M[(sparse B - amp W) x x^T] that makes a step of rate 1 / sparse end nearest to the
    row's fixed point W* = (amp / sparse) W, shaped to multiply g.

    The point of the line B - t g that is nearest to W* has t = <B - W*, g> / |g|^2, and <B - W*, g>, which is
    sparse M|(B - W*) x|^2, is the mismatch of the activities, >= 0. No step is longer than the distance. With one
    example and position it is Kaczmarz's projection (Bull. Acad. Polonaise 1937), the normalised LMS filter (Nagumo,
    Noda, IEEE Trans. Automatic Control 12, 1967); else twice Polyak's step (1969), the least mismatch being 0.
    """
    g = g.detach()
    gap = rule.sparse * B.detach().to(g.dtype) - rule.amp * W.detach().to(g.dtype)
    return row_factor(torch.linalg.vecdot(gap.flatten(1), g.flatten(1)), g)


def row_factor(along: Tensor, g: Tensor) -> Tensor:
    """along / |g|^2 for each row of g, shaped to multiply g; 0 for a row of zeros. Constants of R."""
    square: Tensor = torch.linalg.vector_norm(g.detach().flatten(1), dim=1).square()
    silent = square <= torch.finfo(square.dtype).tiny
    factor: Tensor = (along.detach() / square.masked_fill(silent, 1.0)).masked_fill(silent, 0.0)
    return factor.view(-1, *(1,) * (g.dim() - 1))


def per_tap(taps: Sequence[Sequence[int]], like: Tensor) -> float | Tensor:
    """1 / (number of places at which a tap meets the input), shaped to multiply a weight; one number if all are alike.

    Args:
        taps: as :meth:`Operator.taps` has them.
        like: has the device and dtype.
    """
    # A tap that never meets the input has nothing to divide.
    axes = [[1 / max(n, 1) for n in axis] for axis in taps]
    if all(min(axis) == max(axis) for axis in axes):
        return math.prod([axis[0] for axis in axes])
    wide = torch.promote_types(like.dtype, torch.float32)
    # Kept, as a GPU would wait for each copy from the CPU; but not what stands for a tensor in a trace or a transform.
    transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    make = _product if transformed or type(like) is not Tensor or like.is_inference() else _kept
    return make(tuple(map(tuple, axes)), wide, like.device)


def _product(axes: tuple[tuple[float, ...], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The outer product of some vectors, one axis for each."""
    factor = torch.ones((), dtype=dtype, device=device)
    for i, axis in enumerate(axes):
        factor = factor * torch.tensor(axis, dtype=dtype, device=device).view(-1, *(1,) * (len(axes) - 1 - i))
    return factor


_kept = functools.lru_cache(maxsize=256)(_product)
