"""The gradients of the weighted sum in closed form, with terms that share a convolution fused.

Letters: x input, W forward weight, B backward weight (layout of W), y = W x, z = B x, r = B^T y; M[.] is the mean
over the batch. Equations: Kunin et al., ICML 2020 (arXiv 2003.01513), in the convention with 1/2. Everything is written
over an :class:`~backroads.feedback.operators.Operator`, and held to :mod:`backroads.feedback.primitives.value`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backroads.feedback.operators import Operator
from backroads.feedback.primitives.value import Scale, alignment_value, mean_factor, row_factor, unit_power
from backroads.feedback.primitives.weighted_sum import WeightedSum


def backward_gradient(
    x: Tensor, y: Tensor | None, W: Tensor, B: Tensor, rule: WeightedSum, op: Operator, tied: Tensor | None = None
) -> Tensor:
    """dR/dB in closed form, in the layout of W: decay B - amp M[y x^T] + null M[y r^T] + sparse M[z x^T] - self W.

    Fused: amp and sparse share the projection of sparse B - amp W and one outer product; without sparse, amp and
    null share the outer product of y with null r - amp x. Where the layer is one matrix, sparse and amp may also be
    taken as (sparse B - amp W) M[x x^T] and null as M[y y^T] B, if that is cheaper: :func:`by_second_moments`.
    Operations on the input only change x: it is the one of the B projection here, and as a batch-centred x has mean 0,
    M[(W x) x_B^T] = M[(W x_B) x_B^T].

    Args:
        x: (N, ...) input.
        W, B: weights.
        y: ``W x`` without bias if the caller has it, else None.
        rule: with ``closed_form``. W is read only if :attr:`WeightedSum.reads_weight`.
        op: the layer's map.
        tied: a tensor to be added along the way: the task's gradient of W, for Kolen-Pollack.
    """
    if rule.reduction == "projected_step":
        return with_elementwise(_projected_gradient(x, W, B, rule, op), rule, B, W, tied)
    by_x, by_y = by_second_moments(rule, x, W, op, y_at_hand=y is not None)
    # Coefficients are asked in conditions only: kept as a truth value, a compiler would take them for constants.
    reads_y = False
    if rule.null or (rule.amp and not rule.sparse and not by_x):
        reads_y = True
    _, x, y, x_scale, null_scale = _activities(x, y, W, rule, op, reads_y)
    W_x, B_x = W.to(x.dtype), B.to(x.dtype)
    terms: list[Tensor] = []
    if rule.amp and rule.null and not (rule.sparse or by_x or by_y):
        assert y is not None
        r = op.pullback(y, B_x, x)
        terms.append(op.weight_gradient(_combine(rule.null * null_scale, r, -rule.amp * x_scale, x), y, W))
    else:
        if by_x:
            xx = _wide(op.second_moment(x, output=False), W)
            gap, factor = weighted_gap(B, W, rule)
            terms.append((gap.flatten(1).to(xx.dtype) @ xx).view_as(W).mul_(factor * x_scale))
        elif rule.sparse:
            gap, factor = weighted_gap(B_x, W_x, rule)
            terms.append(op.weight_gradient(x, op.project(x, gap), W).mul_(factor * x_scale))
        elif rule.amp:
            assert y is not None
            terms.append(op.weight_gradient(x, y, W).mul_(-rule.amp * x_scale))
        if by_y:
            assert y is not None
            yy = _wide(op.second_moment(y, output=True), W)
            terms.append((yy @ B.flatten(1).to(yy.dtype)).view_as(W).mul_(rule.null * null_scale))
        elif rule.null:
            assert y is not None
            terms.append(op.weight_gradient(op.pullback(y, B_x, x), y, W).mul_(rule.null * null_scale))
    dB: Tensor | None = None
    for term in terms:
        dB = _sum(dB, term.to(B.dtype))
    return with_elementwise(dB, rule, B, W, tied)


def _projected_gradient(x: Tensor, W: Tensor, B: Tensor, rule: WeightedSum, op: Operator) -> Tensor | None:
    """The data terms under "projected_step", as the definition has them, in fewer passes over the weights.

    With v = (sparse B - amp W) x and g = v x^T, a row's factor is sum(v^2) / |g|^2: sum(v^2) is <sparse B - amp W, g>
    over T numbers a row in place of I, and what M divides by falls out, since the row's length is chosen anew.
    """
    if not (rule.sparse or rule.amp):
        return None
    by_x, _ = by_second_moments(rule, x, W, op, y_at_hand=False)
    _, x, _, _, _ = _activities(x, None, W, rule, op, reads_y=False)
    if by_x:
        gap, factor = weighted_gap(B.flatten(1), W.flatten(1), rule)
        xx = _wide(op.second_moment(x, output=False), W)
        rows = gap.to(xx.dtype) @ xx
        along, g = torch.linalg.vecdot(gap.detach().to(xx.dtype), rows.detach()), rows.view_as(W)
    else:
        gap, factor = weighted_gap(B.to(x.dtype), W.to(x.dtype), rule)
        v = op.project(x, gap)
        along, g = op.row_squares(v.detach()), op.weight_gradient(x, v, W)
    return g.to(B.dtype).mul_(row_factor(along, g) * factor)


def by_second_moments(rule: WeightedSum, x: Tensor, W: Tensor, op: Operator, *, y_at_hand: bool) -> tuple[bool, bool]:
    """Whether (amp and sparse, null) cost less by the second moments of (x, y): only shapes are read.

    In multiplications, with T rows, I inputs and O outputs: sparse (with amp) 2 T I O directly; amp alone T I O, and as
    much for y if it is not at hand; either T I^2 + O I^2 by the moment of x. Null 2 T I O, or T O^2 + O^2 I by the
    moment of y. Amp and null fused, without sparse: 2 T I O for both.
    """
    if not (rule.amp or rule.sparse or rule.null) or not op.pointwise(W):
        return False, False
    O, I = W.shape[:2]  # noqa: E741
    T = (1 if op.unbatched(x) else x.shape[0]) * op.positions(x, W)
    if rule.operations.center_input or rule.operations.normalize_input:
        y_at_hand = False
    of_x, of_y, direct = T * I * I + O * I * I, T * O * O + O * O * I, T * I * O
    x_terms = y_terms = 0
    if rule.sparse:
        x_terms = 2 * direct
    elif rule.amp:
        x_terms = direct if y_at_hand or rule.null else 2 * direct
    if rule.null:
        y_terms = 2 * direct
    if rule.amp and rule.null and not rule.sparse and min(of_x, x_terms) + min(of_y, y_terms) >= 2 * direct:
        return False, False
    return of_x < x_terms, of_y < y_terms


def forward_gradient(x: Tensor, y: Tensor | None, W: Tensor, B: Tensor, rule: WeightedSum, op: Operator) -> Tensor:
    """dR/dW in closed form (``update_forward``): decay W - amp M[z x^T] + null M[(B r) x^T] + sparse M[y x^T] - self B.

    All data terms share one outer product with x, and amp and null the projection of null r - amp x.
    Arguments as in :func:`backward_gradient`.
    """
    reads_y = False
    if rule.null or rule.sparse:
        reads_y = True
    x_W, x, y, x_scale, null_scale = _activities(x, y, W, rule, op, reads_y)
    B_x = B.to(x.dtype)
    v: Tensor | None = None
    if rule.null:
        assert y is not None
        r = op.pullback(y, B_x, x)
        v = op.project(_combine(rule.null * null_scale, r, -rule.amp * x_scale, x), B_x)
    elif rule.amp:
        v = op.project(x, B_x) * (-rule.amp * x_scale)
    if rule.sparse:
        assert y is not None
        v = y * (rule.sparse * x_scale) if v is None else v + y * (rule.sparse * x_scale)
    dW = None if v is None else op.weight_gradient(x_W, v, W)
    return with_elementwise(dW, rule, W, B)


def gradients_by_differentiation(
    x: Tensor, W: Tensor, B: Tensor, bias: Tensor | None, rule: WeightedSum, op: Operator
) -> tuple[Tensor, Tensor | None]:
    """(dR/dB, dR/dW or None without ``update_forward``) by differentiating :func:`alignment_value`: any operations."""
    # In float32 at least, under autocast too: operations on the outputs lose too much in half precision.
    wide = torch.promote_types(W.dtype, torch.float32)
    x, bias = x.to(wide), None if bias is None else bias.to(wide)

    def value(B: Tensor, W: Tensor) -> Tensor:
        return alignment_value(x, W.to(wide), B.to(wide), bias, rule, op)

    if rule.update_forward:
        dB, dW = torch.func.grad(value, argnums=(0, 1))(B, W)
        return dB, dW
    return torch.func.grad(value)(B, W), None


def _activities(
    x: Tensor, y: Tensor | None, W: Tensor, rule: WeightedSum, op: Operator, reads_y: bool
) -> tuple[Tensor, Tensor, Tensor | None, Scale, Scale]:
    """Inputs of the W and B projections, y if it is read, and the factors that turn sums into M for terms
    quadratic in x and in y."""
    if not (rule.amp or rule.null or rule.sparse):
        return x, x, y, 1.0, 1.0
    if x.dtype == torch.float16:  # sums over a batch leave its range before they are divided by N
        x, y = x.float(), None if y is None else y.float()
    ops = rule.operations
    if ops.center_input or ops.normalize_input:
        y = None  # the layer's own y is of another x
    alone = op.unbatched(x)
    x_W, x_B = ops.on_input(x.unsqueeze(0) if alone else x)
    if alone:
        x_W, x_B = x_W[0], x_B[0]
    if y is None and reads_y:
        y = op.project(x_W, W.to(x.dtype))
    factor = mean_factor(rule, x, W, op)
    null_scale = unit_power(rule, y, factor) if rule.null and y is not None else 1.0
    return x_W, x_B, y, unit_power(rule, x_B, factor), null_scale


def with_elementwise(
    data: Tensor | None, rule: WeightedSum, own: Tensor, other: Tensor, tied: Tensor | None = None
) -> Tensor:
    """``data + tied + decay own - self other``, in the dtype of ``own``: one pass over memory a term.

    A tensor of its own: ``tied`` may be another parameter's gradient.
    """
    if data is None and tied is not None and not (rule.decay or rule.self_):
        return tied.clone() if tied.dtype == own.dtype else tied.to(own.dtype)
    data = _sum(data, tied)
    g = None if data is None else data.to(own.dtype)
    if torch.compiler.is_compiling():
        # The compiler fuses these; a float given as alpha= or compared would be a constant to it, and a schedule
        # would have it compile anew in every step.
        terms = [t for t, c in ((own * rule.decay, rule.decay), (other * -rule.self_, rule.self_)) if c]
        return sum(terms, start=torch.zeros_like(own) if g is None else g)
    if rule.decay:
        if g is None and rule.decay == rule.self_:
            return (own - other) if rule.decay == 1 else (own - other).mul_(rule.decay)
        g = own * rule.decay if g is None else torch.add(g, own, alpha=rule.decay)
    if rule.self_:
        g = other * -rule.self_ if g is None else torch.sub(g, other, alpha=rule.self_)
    return torch.zeros_like(own) if g is None else g


def _combine(a: Scale, u: Tensor, b: Scale, v: Tensor) -> Tensor:
    """``a u + b v``; b may be 0."""
    if isinstance(b, float) and not torch.compiler.is_compiling():
        return torch.add(u * a, v, alpha=b) if b else u * a
    return u * a + v * b


def weighted_gap(B: Tensor, W: Tensor, rule: WeightedSum) -> tuple[Tensor, float]:
    """(G, s) with s G = sparse B - amp W, in one pass over the weights or none."""
    if not rule.sparse:
        return W, -rule.amp
    if not rule.amp:
        return B, rule.sparse
    ratio = rule.amp / rule.sparse
    return (B - W * ratio if torch.compiler.is_compiling() else torch.sub(B, W, alpha=ratio)), rule.sparse


def _wide(moment: Tensor, W: Tensor) -> Tensor:
    """A sum over a batch in the dtype of W, or in its own, if that is wider: it may be beyond the range of W's."""
    return moment.to(torch.promote_types(moment.dtype, W.dtype))


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
