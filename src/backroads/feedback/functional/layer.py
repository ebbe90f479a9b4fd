"""One layer's forward and backward pass: the autograd Function in which a feedback rule carries the error back.

The gradients of the rule's own tensors are returned by the Function in the one ordinary backward pass, so that
``loss.backward(); optimizer.step()`` is all there is, and data parallelism, gradient accumulation, autocast and
compilation see ordinary parameters with ordinary gradients.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from backroads.feedback.operators import Operator
from backroads.feedback.rules.base import FeedbackRule, LayerStep, State
from backroads.feedback.rules.memory import Memory


def propagate(
    x: Tensor,
    W: Tensor,
    bias: Tensor | None,
    op: Operator,
    rule: FeedbackRule,
    state: State,
    feedback: Tensor | None = None,
    memory: Memory | None = None,
    counts: bool = False,
) -> Any:
    """``y = W x + bias``, whose backward pass is the rule's.

    The gradients of the rule's tensors do not scale with the task's loss.

    Args:
        x: input, in the dtype to compute in.
        W: forward weight. It and the rule's tensors may be of a wider dtype, and their gradients come in it.
        bias: (O,) or None.
        op: the layer's map.
        rule: what carries the error back, and teaches.
        state: the rule's tensors by name, as :meth:`FeedbackRule.begin` hands them over.
        feedback: what carries the error back, if it is at hand; None asks the rule.
        memory: of a layer; None: each use is a step of its own.
        counts: whether this use is counted there among those of a step.

    Returns:
        y; or (y, carrier) for a rule that broadcasts the output's error. The carrier is a (N, K) tensor of zeros: added
        to the network's output (N, K), it brings that output's error here by ordinary differentiation.

    Example::

        op, rule = br.functional.LinearMap(), br.rules.symmetric_alignment()
        y = br.functional.propagate(x, W, None, op, rule, {"backward_weight": B})
    """
    if feedback is None:
        feedback = rule.feedback(W, state)
    # A tensor is handed over once: what carries the error back is often one of the rule's.
    through = next((name for name, tensor in state.items() if tensor is feedback), None)
    made_for_this_pass = None if through is not None else feedback
    call = _Call(op, rule, tuple(state), through, memory, counts)
    if not traced():
        return _Layer.apply(x, W, bias, made_for_this_pass, call, *state.values())  # type: ignore[no-untyped-call]
    made = _LayerTraced.apply(x, W, bias, made_for_this_pass, call, *state.values())  # type: ignore[no-untyped-call]
    # In-place operations under compilation would change the output that the Function saves, and vmap makes a
    # Function's output a view, which refuses them: give out a copy. (A compiler fuses it away.)
    return (made[0].clone(), made[1]) if rule.broadcasts else made.clone()


def autocast_enabled(device: str) -> bool:
    """Whether autocast is on for a device type; torch raises for those that have none, such as meta."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def traced() -> bool:
    """Whether a compiler or a function transform (vmap, grad) looks at this pass."""
    return bool(torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


def recomputing() -> bool:
    """Whether this forward pass runs inside a backward pass: activation checkpointing repeats one of training.

    With ``use_reentrant=True`` it repeats one without gradients. That inside the backward pass is then the first of
    training, and no repetition.
    """
    if torch.compiler.is_compiling() or torch._C._current_graph_task_id() == -1:
        return False
    node = torch._C._current_autograd_node()
    return node is None or node.name() != "CheckpointFunctionBackward"


@dataclasses.dataclass(slots=True, eq=False)  # made in every pass: a frozen one takes three times as long
class _Call:
    """What the Function gets beside tensors.

    Attributes:
        names: of the rule's tensors, in order.
        through: which of them carries the error back; None: none of them.
        memory: of the layer; None: there is none.
        counts: whether this use is counted there.
    """

    op: Operator
    rule: FeedbackRule
    names: tuple[str, ...]
    through: str | None
    memory: Memory | None
    counts: bool


class _Layer(torch.autograd.Function):
    """The Function of plain eager mode. Saving in ``forward`` costs tens of microseconds less a layer."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        output = _forward(*inputs)
        if "output" in _save(ctx, None, *inputs):
            # Were it saved the ordinary way, autograd would refuse an in-place activation right after the layer
            # (ReLU(inplace=True)), which plain torch layers allow. By its version a changed output is noticed.
            ctx.kept = output.detach(), output._version
        return output

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[Any, ...]:
        return _backward(ctx, *errors)


class _LayerTraced(_Layer):
    """The same for compilers and function transforms, which need ``setup_context`` and everything saved."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return _forward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        # Not for function transforms: they would differentiate the saved output through B.
        _save(ctx, output if torch.compiler.is_compiling() else None, *inputs)


def _forward(x: Tensor, W: Tensor, bias: Tensor | None, feedback: Tensor | None, call: _Call, *tensors: Tensor) -> Any:
    """y, or (y, carrier); the carrier is (N, K) zeros, for K rows of the rule's feedback weight."""
    y = call.op.project(x, W.to(x.dtype), None if bias is None else bias.to(x.dtype))
    if not call.rule.broadcasts:
        return y
    outputs = tensors[call.names.index("backward_weight")].shape[0]
    return y, y.new_zeros(1 if call.op.unbatched(x) else x.shape[0], outputs)


def _save(
    ctx: Any,
    y: Any,
    x: Tensor,
    W: Tensor,
    bias: Tensor | None,
    feedback: Tensor | None,
    call: _Call,
    *tensors: Tensor,
) -> frozenset[str]:
    """Keep what the backward pass reads; returns which of "weight" and "output" that is."""
    ctx.call, ctx.weight_dtype, ctx.kept = call, W.dtype, None
    ctx.weight_learns = ctx.needs_input_grad[1]  # in the backward pass: whether this one is asked for its gradient
    reads = call.rule.reads(any(ctx.needs_input_grad[_FIXED:]), ctx.needs_input_grad[1])
    ctx.save_for_backward(
        x, W if "weight" in reads else None, bias, feedback, y if "output" in reads else None, *tensors
    )
    return reads


_FIXED = 5  # inputs of the Function before the rule's tensors


def _backward(ctx: Any, dy: Tensor, e: Tensor | None = None) -> tuple[Any, ...]:
    """Call the rule in the dtypes that it states, also where the caller is inside an autocast context."""
    if autocast_enabled(dy.device.type):
        with torch.autocast(dy.device.type, enabled=False):
            return _backward(ctx, dy, e)
    x, W, bias, feedback, y, *tensors = ctx.saved_tensors
    needs = ctx.needs_input_grad
    if y is None and ctx.kept is not None and not torch.is_grad_enabled():  # not where it must stay differentiable
        kept, version = ctx.kept
        y = kept if kept._version == version else None
    call, state = ctx.call, dict(zip(ctx.call.names, tensors, strict=True))
    rule = call.rule
    if call.counts and call.memory is not None:
        taught = next(tensor for name, tensor in state.items() if needs[_FIXED + call.names.index(name)])
        if not call.memory.count(torch._C._current_graph_task_id(), taught):
            rule = rule.without_own()
    step = LayerStep(
        op=call.op,
        x=x,
        dy=dy,
        bias=bias,
        feedback=feedback if call.through is None else state[call.through],
        state=state,
        needs_state=dict(zip(call.names, needs[_FIXED:], strict=True)),
        W=W,
        output=y,
        e=e,
        needs_input=needs[0],
        needs_weight=needs[1],
        needs_bias=needs[2],
        weight_learns=ctx.weight_learns,
        weight_dtype=ctx.weight_dtype,
        memory=call.memory,
    )
    found = rule.backward(step)
    return found.x, found.W, found.bias, None, None, *(found.state.get(name) for name in call.names)
