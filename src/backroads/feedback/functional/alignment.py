"""The five primitives: the alignment's value, and its gradients in closed form.

Letters: x input, W forward weight, B backward weight (layout of W), y = W x, z = B x, r = B^T y; M[.] is the mean
over the batch. Equations: Kunin et al., ICML 2020 (arXiv 2003.01513), in the convention with 1/2.

:func:`alignment_value` is the definition. :func:`backward_gradient` and :func:`forward_gradient` are its derivatives
when no operation stands in the way, with terms that share a convolution fused; the tests hold them to automatic
differentiation of the value. Everything is written over an :class:`~backroads.feedback.functional.operators.Operator`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backroads.feedback.functional.noise import impulses_met, per_tap
from backroads.feedback.functional.operators import Operator
from backroads.feedback.rules.alignment import ACTIVATIONS, Alignment, Operations

# One number: a float, or a 0-dimensional tensor where it is measured (power); under "taps" one for each tap.
Scale = float | Tensor


def alignment_value(x: Tensor, W: Tensor, B: Tensor, bias: Tensor | None, rule: Alignment, op: Operator) -> Tensor:
    """The alignment loss R of one layer; a 0-dimensional tensor.

    Args:
        x: the layer's input, (N, ...); one example without N counts as a batch of one.
        W, B: weights in the same layout.
        bias: the layer's bias, read only with ``use_bias_forward`` or ``use_bias_backward``.
        rule: coefficients, reduction and operations. ``input_noise``, ``estimate`` and ``every`` are the caller's.
        op: the layer's map.

    With ``update_forward`` decay adds 1/2|W|^2 and sparse 1/2 M|Wx|^2, which only W's gradient can tell.
    """
    ops = rule.operations
    if op.unbatched(x):
        x = x.unsqueeze(0)
    x, x_B = _operate_on_input(x, ops)

    y = op.project(x, W, bias if ops.use_bias_forward else None)
    z = op.project(x_B, B, bias if ops.use_bias_backward else None)
    activation = ACTIVATIONS[ops.activation] if ops.activation else _identity
    if ops.activation_forward:
        y = activation(y)
    if ops.activation_backward:
        z = activation(z)
    # W^T z is the reference's "backward reconstruction", B^T y its "forward" one.
    source = z if ops.reconstruction_reversal else y
    reads_reconstruction = rule.null or (rule.amp and ops.reconstruction_amp)
    r = op.pullback(source, W if ops.reconstruction_reversal else B, x) if reads_reconstruction else x

    per_example = _per_example(rule, x, W, op)
    x_scale, null_scale = _scale(rule, x_B, per_example), _scale(rule, source, per_example)
    y, z = _forward_output(y, ops), _backward_output(z, ops)
    r = (_backward_output if ops.reconstruction_reversal else _forward_output)(r, ops)

    if rule.reduction == "nearest":
        v = _combine(rule.sparse, z, -rule.amp, y).detach()
        rows = _step_to_nearest(op.weight_gradient(x_B.detach(), v, W) * x_scale, B, W, rule).flatten()
        x_scale = op.add_bias(torch.zeros_like(y), rows * x_scale)  # one factor for each row of W, at every place
    R = 0.5 * rule.decay * B.square().sum() - rule.self_ * (W * B).sum()
    if rule.reduction == "taps":  # no sum over activities: each tap's outer products are weighted by themselves
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


def backward_gradient(
    x: Tensor, y: Tensor | None, W: Tensor, B: Tensor, rule: Alignment, op: Operator, task_dW: Tensor | None = None
) -> Tensor:
    """dR/dB in closed form, in the layout of W: decay B - amp M[y x^T] + null M[y r^T] + sparse M[z x^T] - self W.

    Fused: amp and sparse share the projection of sparse B - amp W and one outer product; without sparse, amp and
    null share the outer product of y with null r - amp x. Where the layer is one matrix, sparse and amp may also be
    taken as (sparse B - amp W) M[x x^T] and null as M[y y^T] B, if that is cheaper: :func:`by_second_moments`.
    Operations on the input only change x: it is the one of the B projection here, and as a batch-centred x has mean 0,
    M[(W x) x_B^T] = M[(W x_B) x_B^T].

    Args:
        x: (N, ...) input; W, B: weights. y: ``W x`` without bias if the caller has it, else None.
        rule: with ``closed_form``. W is read only if :attr:`Alignment.reads_forward_weight`.
        task_dW: the task's gradient of W, which is added under ``tie_grad``.
    """
    if rule.reduction == "nearest":
        return _add_elementwise(_sum(_nearest_gradient(x, W, B, rule, op), task_dW), rule, B, W)
    if rule.on_impulses:
        return gradient_on_impulses(impulses_met(x, W, op) > 0, W, B, rule, task_dW)
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
            xx = op.second_moment(x, output=False).to(W.dtype)
            gap, factor = _gap(B, W, rule)
            terms.append((gap.flatten(1) @ xx).view_as(W).mul_(factor * x_scale))
        elif rule.sparse:
            gap, factor = _gap(B_x, W_x, rule)
            terms.append(op.weight_gradient(x, op.project(x, gap), W).mul_(factor * x_scale))
        elif rule.amp:
            assert y is not None
            terms.append(op.weight_gradient(x, y, W).mul_(-rule.amp * x_scale))
        if by_y:
            assert y is not None
            yy = op.second_moment(y, output=True).to(W.dtype)
            terms.append((yy @ B.flatten(1)).view_as(W).mul_(rule.null * null_scale))
        elif rule.null:
            assert y is not None
            terms.append(op.weight_gradient(op.pullback(y, B_x, x), y, W).mul_(rule.null * null_scale))
    dB: Tensor | None = None
    for term in terms:
        dB = _sum(dB, term.to(B.dtype))
    return _add_elementwise(_sum(dB, task_dW), rule, B, W)


def _nearest_gradient(x: Tensor, W: Tensor, B: Tensor, rule: Alignment, op: Operator) -> Tensor | None:
    """The data terms under "nearest", as :func:`_step_to_nearest` has them, in fewer passes over the weights.

    With v = (sparse B - amp W) x and g = v x^T, a row's factor is sum(v^2) / |g|^2: sum(v^2) is <sparse B - amp W, g>
    over T numbers a row in place of I, and what M divides by falls out, since the row's length is chosen anew.
    """
    if not rule.sparse:
        return None
    by_x, _ = by_second_moments(rule, x, W, op, y_at_hand=False)
    _, x, _, _, _ = _activities(x, None, W, rule, op, reads_y=False)
    if by_x:
        gap, factor = _gap(B.flatten(1), W.flatten(1), rule)
        rows = gap @ op.second_moment(x, output=False).to(W.dtype)
        along, g = torch.linalg.vecdot(gap.detach(), rows.detach()), rows.view_as(W)
    else:
        gap, factor = _gap(B.to(x.dtype), W.to(x.dtype), rule)
        v = op.project(x, gap)
        along, g = op.row_squares(v.detach()), op.weight_gradient(x, v, W)
    return g.to(B.dtype).mul_(_row_factor(along, g) * factor)


def gradient_on_impulses(met: Tensor, W: Tensor, B: Tensor, rule: Alignment, task_dW: Tensor | None = None) -> Tensor:
    """dR/dB on impulses, without a product of matrices.

    A receptive field holds one impulse at most, so that xi xi^T is std^2 in one place of its diagonal and 0 elsewhere:
    the mean of (sparse B - amp W) xi xi^T over those that a weight meets is std^2 (sparse B - amp W), for that weight.

    Args:
        met: whether a weight meets an impulse; bool, shaped to multiply a weight. Others as in
            :func:`backward_gradient`.
    """
    data: Tensor | None = None
    if rule.sparse or rule.amp:
        assert rule.input_noise is not None
        gap, factor = _gap(B, W, rule)
        data = gap * met.to(W.dtype).mul_(factor * rule.input_noise.std**2)
    return _add_elementwise(_sum(data, task_dW), rule, B, W)


def heard(met: Tensor, W: Tensor | None, B: Tensor, rule: Alignment) -> Tensor:
    """B with what the rule draws it to, (amp / sparse) W, in place of the entries that meet an impulse.

    B itself without sparse: what is heard is then no weight, but a part of a sum. ``met`` as in
    :func:`gradient_on_impulses`.
    """
    if not rule.sparse or W is None:
        return B
    ratio = rule.amp / rule.sparse
    told = W if ratio == 1 and not torch.compiler.is_compiling() else W * ratio
    return torch.where(met, told.to(B.dtype), B)


def by_second_moments(rule: Alignment, x: Tensor, W: Tensor, op: Operator, *, y_at_hand: bool) -> tuple[bool, bool]:
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


def forward_gradient(x: Tensor, y: Tensor | None, W: Tensor, B: Tensor, rule: Alignment, op: Operator) -> Tensor:
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
    return _add_elementwise(dW, rule, W, B)


def gradients_by_differentiation(
    x: Tensor, W: Tensor, B: Tensor, bias: Tensor | None, rule: Alignment, op: Operator
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
    x: Tensor, y: Tensor | None, W: Tensor, rule: Alignment, op: Operator, reads_y: bool
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
    x_W, x_B = _operate_on_input(x.unsqueeze(0) if alone else x, ops)
    if alone:
        x_W, x_B = x_W[0], x_B[0]
    if y is None and reads_y:
        y = op.project(x_W, W.to(x.dtype))
    per_example = _per_example(rule, x, W, op)
    null_scale = _scale(rule, y, per_example) if rule.null and y is not None else 1.0
    return x_W, x_B, y, _scale(rule, x_B, per_example), null_scale


def _operate_on_input(x: Tensor, ops: Operations) -> tuple[Tensor, Tensor]:
    """The inputs of the W and of the B projection. x: (N, ...)."""
    if ops.center_input:
        x = _center(x)
    if ops.normalize_input:
        x = _normalize(x)
    return x, _batch_center(x) if ops.batch_center_backward_input else x


def _add_elementwise(data: Tensor | None, rule: Alignment, own: Tensor, other: Tensor) -> Tensor:
    """``data + decay own - self other``, in the dtype of ``own``: one pass over memory a term. A tensor of its own."""
    g = None if data is None else data.to(own.dtype)
    if g is not None and rule.tie_grad and not (rule.decay or rule.self_):
        return g.clone()  # the task's gradient is W's
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


def _gap(B: Tensor, W: Tensor, rule: Alignment) -> tuple[Tensor, float]:
    """(G, s) with s G = sparse B - amp W, in one pass over the weights or none."""
    if not rule.sparse:
        return W, -rule.amp
    if not rule.amp:
        return B, rule.sparse
    ratio = rule.amp / rule.sparse
    return (B - W * ratio if torch.compiler.is_compiling() else torch.sub(B, W, alpha=ratio)), rule.sparse


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _step_to_nearest(g: Tensor, B: Tensor, W: Tensor, rule: Alignment) -> Tensor:
    """The factor on each row of g = M[(sparse B - amp W) x x^T] that makes a step of rate 1 / sparse end nearest to the
    row's fixed point W* = (amp / sparse) W, shaped to multiply g.

    The point of the line B - t g that is nearest to W* has t = <B - W*, g> / |g|^2, and <B - W*, g>, which is
    sparse M|(B - W*) x|^2, is the mismatch of the activities, >= 0. No step is longer than the distance. With one
    example and position it is Kaczmarz's projection (Bull. Acad. Polonaise 1937), the normalised LMS filter (Nagumo,
    Noda, IEEE Trans. Automatic Control 12, 1967); else twice Polyak's step (1969), the least mismatch being 0.
    """
    g = g.detach()
    gap = _combine(rule.sparse, B.detach().to(g.dtype), -rule.amp, W.detach().to(g.dtype))
    return _row_factor(torch.linalg.vecdot(gap.flatten(1), g.flatten(1)), g)


def _row_factor(along: Tensor, g: Tensor) -> Tensor:
    """along / |g|^2 for each row of g, shaped to multiply g; 0 for a row of zeros. Constants of R."""
    square: Tensor = torch.linalg.vector_norm(g.detach().flatten(1), dim=1).square()
    silent = square <= torch.finfo(square.dtype).tiny
    factor: Tensor = (along.detach() / square.masked_fill(silent, 1.0)).masked_fill(silent, 0.0)
    return factor.view(-1, *(1,) * (g.dim() - 1))


def _per_example(rule: Alignment, x: Tensor, W: Tensor, op: Operator) -> Scale:
    """1/N, times what the reduction makes of the sum over positions. An empty batch has no terms to divide."""
    rows = 1 if op.unbatched(x) else x.shape[0]
    if rule.reduction == "taps":
        if rule.on_impulses:
            assert rule.input_noise is not None
            return (impulses_met(x, W, op) / rule.input_noise.std).round_().clamp_min(1.0).reciprocal()
        return per_tap(op.taps(x, W), x) / max(rows, 1)
    if rule.reduction == "overlap":
        rows *= op.overlap(W)
    elif rule.reduction in ("mean", "power"):
        rows *= op.positions(x, W)
    return 1.0 / max(rows, 1)


def _scale(rule: Alignment, activity: Tensor, per_example: Scale) -> Scale:
    """``per_example``, divided by the mean square of the activity under "power" (a constant of R)."""
    if rule.reduction != "power" or activity.numel() == 0:
        return per_example
    mean_square = activity.detach().square().mean()
    # A silent activity has no power to divide by, and nothing to teach.
    silent = mean_square <= torch.finfo(mean_square.dtype).tiny
    return (per_example / mean_square).masked_fill(silent, 0.0)


def _forward_output(v: Tensor, ops: Operations) -> Tensor:
    if ops.center_forward_output:
        v = _center(v)
    if ops.normalize_forward_output:
        v = _normalize(v)
    return _batch_center(v) if ops.batch_center_forward_output else v


def _backward_output(v: Tensor, ops: Operations) -> Tensor:
    if ops.center_backward_output:
        v = _center(v)
    return _normalize(v) if ops.normalize_backward_output else v


def _identity(v: Tensor) -> Tensor:
    return v


def _center(v: Tensor) -> Tensor:
    """Subtract each example's mean over features and positions. v: (N, ...)."""
    return v - v.mean(dim=tuple(range(1, v.dim())), keepdim=True)


def _normalize(v: Tensor) -> Tensor:
    """Center, then bring each example to norm 1; the floor 1e-12 on the sum of squares is the reference's."""
    v = _center(v)
    return v * v.square().sum(dim=tuple(range(1, v.dim())), keepdim=True).clamp_min(1e-12).rsqrt()


def _batch_center(v: Tensor) -> Tensor:
    """Subtract the mean over the batch axis. v: (N, ...)."""
    return v - v.mean(dim=0, keepdim=True) if v.shape[0] else v
