"""One layer's forward and backward pass: the autograd Functions that send the error back through B.

The alignment gradient of B is returned by the Function in the one ordinary backward pass, so that
``loss.backward(); optimizer.step()`` is all there is, and data parallelism, gradient accumulation, autocast and
compilation see an ordinary parameter with an ordinary gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backroads.feedback.functional.alignment import (
    backward_gradient,
    forward_gradient,
    gradient_on_impulses,
    gradients_by_differentiation,
    heard,
)
from backroads.feedback.functional.estimate import estimate_gradient
from backroads.feedback.functional.noise import amount, driving_noise, met_by_impulses
from backroads.feedback.functional.operators import Operator
from backroads.feedback.rules.alignment import Alignment


def aligned(
    x: Tensor, W: Tensor, B: Tensor, bias: Tensor | None, op: Operator, rule: Alignment, late_W: Tensor | None = None
) -> Tensor:
    """``y = W x + bias``, whose backward pass goes through B and teaches B.

    Gradients, with dy the error of y and R the rule's alignment loss:

    - ``dx = B^T dy``; on impulses B is first what they tell of W, where a weight met one
    - ``dW = dy x^T`` (``+ dR/dW`` with ``update_forward``)
    - ``dB = dR/dB`` (``+ dy x^T`` with ``tie_grad``), independent of dy otherwise
    - ``dbias = sum dy``

    dR/dB does not scale with the task's loss; see :func:`backroads.alignment_scale` for gradient accumulation.

    Args:
        x: input, in the dtype to compute in. W, B: weights in one layout; they may be of a wider dtype, and their
            gradients come in it (mixed precision). bias: (O,) or None. op: the layer's map. rule: what teaches B.
        late_W: the earlier W that the rule's ``estimate`` sees; None: W itself.
    """
    if not _traced():
        return _Aligned.apply(x, W, B, bias, op, rule, late_W)  # type: ignore[no-untyped-call,no-any-return]
    # In-place operations under compilation would change the output that the Function saves, and vmap makes a
    # Function's output a view, which refuses them: give out a copy. (A compiler fuses it away.)
    return _AlignedTraced.apply(x, W, B, bias, op, rule, late_W).clone()  # type: ignore[no-untyped-call,no-any-return]


def direct(x: Tensor, W: Tensor, D: Tensor, bias: Tensor | None, op: Operator) -> tuple[Tensor, Tensor]:
    """``(W x + bias, carrier)``: a layer whose input error comes straight from the output of the network.

    The carrier is a (N, K) tensor of zeros. Added to the network's output (N, K), it brings the output's error e
    here by ordinary differentiation, and the layer answers ``dx = D^T e / positions`` in place of ``W^T dy``.

    Args:
        x: (N, ..., I) or (N, I, *spatial). D: (K, I), fixed. Others as in :func:`aligned`.
    """
    y, carrier = _Direct.apply(x, W, D, bias, op)  # type: ignore[no-untyped-call]
    return (y.clone() if _traced() else y), carrier


def autocast_enabled(device: str) -> bool:
    """Whether autocast is on for a device type; torch raises for those that have none, such as meta."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def recomputing() -> bool:
    """Whether this forward pass runs inside a backward pass: activation checkpointing repeats it."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _traced() -> bool:
    """Whether a compiler or a function transform (vmap, grad) is at work."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


@dataclasses.dataclass(frozen=True)
class _KeptOutput:
    """The layer's output, kept aside with its version.

    Were it saved the ordinary way, autograd would refuse an in-place activation right after the layer
    (``ReLU(inplace=True)``), which plain torch layers allow. This way a changed output is noticed, and ``W x``
    computed again.
    """

    y: Tensor
    version: int

    @property
    def unchanged(self) -> bool:
        return self.y._version == self.version


class _Aligned(torch.autograd.Function):
    """The Function of plain eager mode. Saving in ``forward`` costs tens of microseconds less a layer."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W: Tensor,
        B: Tensor,
        bias: Tensor | None,
        op: Operator,
        rule: Alignment,
        late_W: Tensor | None,
    ) -> Tensor:
        y = _forward(x, W, bias, op)
        _save(ctx, x, W, B, bias, op, rule, late_W, None)
        if _learns(ctx) and rule.reads_output:
            ctx.kept = _KeptOutput(y.detach(), y._version)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        return _without_autocast(_backward, ctx, dy)


class _AlignedTraced(torch.autograd.Function):
    """The same for compilers and function transforms, which need ``setup_context`` and everything saved."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, W: Tensor, B: Tensor, bias: Tensor | None, op: Operator, rule: Alignment, late_W: Tensor | None
    ) -> Tensor:
        return _forward(x, W, bias, op)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, W, B, bias, op, rule, late_W = inputs
        # Not for function transforms: they would differentiate the saved output through B.
        kept = output if rule.reads_output and torch.compiler.is_compiling() else None
        _save(ctx, x, W, B, bias, op, rule, late_W, kept)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        return _without_autocast(_backward, ctx, dy)


def _forward(x: Tensor, W: Tensor, bias: Tensor | None, op: Operator) -> Tensor:
    return op.project(x, W.to(x.dtype), None if bias is None else bias.to(x.dtype))


def _save(
    ctx: Any,
    x: Tensor,
    W: Tensor,
    B: Tensor,
    bias: Tensor | None,
    op: Operator,
    rule: Alignment,
    late_W: Tensor | None,
    y: Tensor | None,
) -> None:
    ctx.op, ctx.rule, ctx.weight_dtype, ctx.kept = op, rule, W.dtype, None
    reads_W = _learns(ctx) and rule.reads_forward_weight
    ctx.save_for_backward(x, W if reads_W else None, B, bias, y if _learns(ctx) else None, late_W)


def _learns(ctx: Any) -> bool:
    """Whether the alignment is differentiated at all."""
    needs_W, needs_B = ctx.needs_input_grad[1:3]
    return bool(needs_B or (needs_W and ctx.rule.update_forward))


def _without_autocast(backward: Callable[[Any, Tensor], tuple[Any, ...]], ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    """Call ``backward`` in the dtypes it states, also where the caller is inside an autocast context."""
    device = dy.device.type
    if not autocast_enabled(device):
        return backward(ctx, dy)
    with torch.autocast(device, enabled=False):
        return backward(ctx, dy)


def _backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    x, W, B, bias, y, late_W = ctx.saved_tensors
    op, rule = ctx.op, ctx.rule.without_estimate
    needs_x, needs_W, needs_B, needs_bias = ctx.needs_input_grad[:4]

    tied = needs_B and rule.tie_grad
    learns = _learns(ctx)
    images, share = 0, 1.0
    if learns and rule.input_noise is not None and not rule.input_noise.follows_batch:
        images, share = amount(rule.input_noise, x, B, op)
    way_back, met = B, None
    if learns and rule.on_impulses:  # they come before the error does
        met = met_by_impulses(rule.input_noise, x, B, images, op)
        way_back = heard(met, W, B, rule) if needs_x else B
    dx, dW, db = op.backward(dy, x, way_back.to(x.dtype), (needs_x, needs_W or tied, needs_bias))
    dW = None if dW is None else dW.to(ctx.weight_dtype)
    db = None if db is None else db.to(bias.dtype)
    task_dW = dW

    dB: Tensor | None = None
    dW_alignment: Tensor | None = None
    if learns:
        if met is None and (rule.amp or rule.null or rule.sparse):
            x, y = _activities(ctx, x, y, B, bias, images)
        if W is None:
            W = B  # never read by this rule; stands in for its shape
        in_one = rule.closed_form and share == 1  # the task's gradient is added along the way
        if rule.closed_form:
            also = task_dW if tied and in_one else None
            if needs_B and met is not None:
                dB = gradient_on_impulses(met, W, B, rule, also)
            elif needs_B:
                dB = backward_gradient(x, y, W, B, rule, op, also)
            if needs_W and rule.update_forward:
                dW_alignment = forward_gradient(x, y, W, B, rule, op)
        else:
            dB, dW_alignment = gradients_by_differentiation(x, W, B, bias, rule, op)
        if share < 1:
            dB, dW_alignment = (None if g is None else g * share for g in (dB, dW_alignment))
        if tied and not in_one and dB is not None and task_dW is not None:
            dB = dB + task_dW
        if dB is not None and ctx.rule.estimate is not None:
            dB = dB + estimate_gradient(W if late_W is None else late_W, B, ctx.rule)
        if dW is not None and dW_alignment is not None:
            dW = dW + dW_alignment
    return dx, dW if needs_W else None, dB, db, None, None, None


def _activities(
    ctx: Any, x: Tensor, y: Tensor | None, B: Tensor, bias: Tensor | None, images: int
) -> tuple[Tensor, Tensor | None]:
    """The part of x that R is computed on, or ``images`` of noise in its place, and of y = W x where it is at hand."""
    op, rule = ctx.op, ctx.rule
    if images:
        return driving_noise(rule.input_noise, x, B, images, op), None
    n = 1 if op.unbatched(x) else x.shape[0]
    # One example alone would be its own mean.
    least = 2 if rule.operations.batch_center_backward_input or rule.operations.batch_center_forward_output else 1
    rows = max(min(least, n), round(rule.fraction * n))
    if y is None:
        y = _recall(ctx.kept)
    if rows < n:
        # Each example is as likely as the others. As indices, so that a compiler need not know the draw.
        picks = (torch.arange(rows, device=x.device) + torch.randint(n, (1,), device=x.device)) % n
        x, y = x[picks], None if y is None else y[picks]
    if rule.input_noise is not None:
        return rule.input_noise.like(x), None
    return x, y if y is None or bias is None else op.add_bias(y, bias.to(y.dtype), -1)


def _recall(kept: _KeptOutput | None) -> Tensor | None:
    """The kept output, or None if it changed or must stay differentiable (double backward)."""
    return None if kept is None or torch.is_grad_enabled() or not kept.unchanged else kept.y


class _Direct(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, W: Tensor, D: Tensor, bias: Tensor | None, op: Operator) -> tuple[Tensor, Tensor]:
        y = op.project(x, W.to(x.dtype), None if bias is None else bias.to(x.dtype))
        return y, y.new_zeros(1 if op.unbatched(x) else x.shape[0], D.shape[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, W, D, bias, op = inputs
        ctx.op = op
        ctx.weight_dtype, ctx.bias_dtype = W.dtype, None if bias is None else bias.dtype
        ctx.save_for_backward(x, W, D)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, e: Tensor) -> tuple[Any, ...]:
        return _without_autocast(lambda ctx, dy: _backward_direct(ctx, dy, e), ctx, dy)


def _backward_direct(ctx: Any, dy: Tensor, e: Tensor) -> tuple[Any, ...]:
    x, W, D = ctx.saved_tensors
    op: Operator = ctx.op
    needs_x, needs_W, _, needs_bias = ctx.needs_input_grad[:4]
    dx = op.spread(e.to(x.dtype) @ D.to(x.dtype), x) if needs_x else None
    _, dW, db = op.backward(dy, x, W.to(x.dtype), (False, needs_W, needs_bias))
    dW = None if dW is None else dW.to(ctx.weight_dtype)
    db = None if db is None else db.to(ctx.bias_dtype)
    return dx, dW, None, db, None
