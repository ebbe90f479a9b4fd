"""What a feedback rule is: frozen data that says all there is to say of a layer's way back, in one class in one file.

The layers, the optimisers, data parallelism, cost, metrics and reports ask the rule, and never which rule it is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from backroads.errors import RuleError, nearest
from backroads.feedback.checks import Options
from backroads.feedback.operators import Operator
from backroads.feedback.rules.memory import Memory

State = dict[str, Tensor]
"""What a rule keeps beside W, by name: parameters, which may learn, and buffers, which do not."""


@dataclasses.dataclass(slots=True)
class Use:
    """One use of a layer in a forward pass.

    Attributes:
        op: the layer's map.
        x: its input, (N, ...).
        W: the forward weight.
        memory: of the layer; a rule changes it in a pass of ``training`` that is not ``repeated`` alone.
        training: whether the layer is in training mode, and a backward pass may follow. In evaluation mode a rule
            teaches as it does in training, but for what depends on the number of passes: nothing is remembered then.
        repeated: whether this repeats an earlier pass (activation checkpointing), and has to see what that saw.
        first: whether this is the first use in a step; see :meth:`Memory.begins`. Under a compiler, which sees no
            steps, every use is a first one.
        scale: factor on the gradients of the rule's tensors; see :class:`backroads.alignment_scale`.
    """

    op: Operator
    x: Tensor
    W: Tensor
    memory: Memory
    training: bool
    repeated: bool
    first: bool
    scale: float


@dataclasses.dataclass(slots=True)
class LayerStep:
    """One layer in its backward pass: all that a rule may read.

    Attributes:
        op: the layer's map.
        x: its input, (N, ...).
        dy: error of its output.
        bias: (O,) or None.
        feedback: what :meth:`FeedbackRule.feedback` gave in the forward pass.
        state: the tensors that :meth:`FeedbackRule.begin` handed over.
        needs_state: which of them learn.
        W: the forward weight, if the rule reads "weight"; else None.
        output: y = W x + bias, if the rule reads "output" and it is still at hand; else None.
        e: error of the network's output, (N, K), for a rule that broadcasts it; else None.
        needs_input, needs_weight, needs_bias: which gradients are asked for.
        weight_learns: whether W is taught at all, in this backward pass or in another. A B that gets the increments of
            W gets none of a W that stands still.
        weight_dtype: of the gradient of W, which may be wider than that of x (mixed precision).
        memory: of the layer; None outside of a layer.
    """

    op: Operator
    x: Tensor
    dy: Tensor
    bias: Tensor | None
    feedback: Tensor | None
    state: State
    needs_state: dict[str, bool]
    W: Tensor | None
    output: Tensor | None
    e: Tensor | None
    needs_input: bool
    needs_weight: bool
    needs_bias: bool
    weight_learns: bool
    weight_dtype: torch.dtype
    memory: Memory | None = None

    def task(
        self, feedback: Tensor, *, input: bool | None = None, weight: bool | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """``(F^T dy, sum dy x^T, sum dy)``: the errors of input, weight and bias when F carries the error back.

        F is noted for metrics, if they measure this pass.

        Args:
            feedback: F, in the layout of W.
            input, weight: whether these two are computed; None: where they are asked for.
        """
        if self.memory is not None and self.memory.carried is not None:
            self.memory.carried.append(feedback.detach())
        needs = (
            self.needs_input if input is None else input,
            self.needs_weight if weight is None else weight,
            self.needs_bias,
        )
        dx, dW, db = self.op.backward(self.dy, self.x, feedback.to(self.x.dtype), needs)
        dW = None if dW is None else dW.to(self.weight_dtype)
        return dx, dW, db if db is None or self.bias is None else db.to(self.bias.dtype)


@dataclasses.dataclass(slots=True)
class Gradients:
    """What a layer's backward pass gives back; None where nothing is asked for.

    Attributes:
        x, W, bias: of the input, the forward weight and the bias.
        state: of the rule's tensors that learn, by name.
    """

    x: Tensor | None
    W: Tensor | None
    bias: Tensor | None
    state: State = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class BackwardOptimiser:
    """How the optimiser of the tensors that a rule teaches has to be set.

    Attributes:
        follows: the settings of W's own optimiser (kind, rate, momentum), because increments have to be W's own.
        decays: with ``follows``: W's weight decay acts on them too.
        rate, momentum: of plain SGD, without ``follows``; momentum is Nesterov's.
        constant: the rate is the same in all steps, whatever the schedule of W's.
    """

    follows: bool = False
    decays: bool = False
    rate: float = 1.0
    momentum: float = 0.0
    constant: bool = False


@dataclasses.dataclass(frozen=True)
class FeedbackRule(Options):
    """Base of all feedback rules. The defaults are those of a rule with a fixed way back through :meth:`feedback`.

    A rule holds no tensors: a layer keeps those of :meth:`state`, under their names, and hands them over.

    Attributes:
        kind: the name under which the class is written to TOML and JSON; the class's import path if not given.
        broadcasts: whether the error comes straight from the network's output, as ``step.e``.
        is_backprop: whether W itself carries the error back, so that torch's own layer does everything.
        owns_feedback: whether a weight of its own carries the error back, "backward_weight" in the layout of W. Phases
            between epochs may then set it.
    """

    kind: ClassVar[str] = ""
    broadcasts: ClassVar[bool] = False
    is_backprop: ClassVar[bool] = False
    owns_feedback: ClassVar[bool] = False
    classes: ClassVar[dict[str, type[FeedbackRule]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "kind" not in vars(cls):
            cls.kind = f"{cls.__module__}:{cls.__qualname__}"
        FeedbackRule.classes[cls.kind] = cls

    # -- what stands beside W ------------------------------------------------------------------------------------------

    def state(self, W: Tensor, features: int, generator: torch.Generator | None) -> State:
        """The tensors kept beside W, drawn to fit the present W: a Parameter may learn, a plain tensor is a buffer.

        Args:
            W: (O, I) or (O, I/groups, *kernel).
            features: of the layer's input, I.
            generator: on the CPU; None is torch's global one.
        """
        return {}

    @property
    def layout(self) -> Hashable:
        """Two rules of one layout keep the same tensors: a layer can change between them while it trains."""
        return self

    def settle(self, state: State) -> None:
        """Move what else carries the error back into "backward_weight", so that it alone does."""

    @property
    def counters(self) -> dict[str, int]:
        """The numbers of :class:`Memory` that a state dict has to hold: attribute -> modulus."""
        return {}

    # -- the passes ----------------------------------------------------------------------------------------------------

    @property
    def learns(self) -> bool:
        """Whether any of the rule's tensors ever moves."""
        return False

    def reads(self, state_learns: bool, weight_learns: bool) -> frozenset[str]:
        """What the backward pass needs to be kept: of "weight" (W) and "output" (y).

        Args:
            state_learns: whether a gradient of any of the rule's tensors is asked for.
            weight_learns: whether one of W.
        """
        return frozenset()

    def begin(self, use: Use, state: State) -> tuple[bool, State]:
        """Called in each forward pass.

        Returns:
            Whether the rule acts on this pass (see :meth:`in_effect`), and the tensors that the backward pass needs;
            among them "feedback", if the rule has at hand what :meth:`feedback` would give.
        """
        return True, state

    def in_effect(self, scale: float, active: bool) -> FeedbackRule:
        """The rule of one pass.

        Args:
            scale: factor on the gradients of its tensors; see :class:`backroads.alignment_scale`.
            active: what :meth:`begin` said.
        """
        return self

    def averages(self, name: str) -> bool:
        """Whether the gradient of the tensor called ``name`` is the mean over the layer's uses in a step.

        Else it is their sum, as W's own gradient is: of a tensor that has to move as W does.
        """
        return not self.optimiser(name, 0.0).follows

    def without_own(self) -> FeedbackRule:
        """The rule without what does not scale with the task's loss, in gradients that are sums.

        A decay of B beside the task's gradient counts once in a step, however often the layer is used.
        """
        return self

    def feedback(self, W: Tensor, state: State) -> Tensor | None:
        """What carries the error back, in the layout of W; None where the error comes from elsewhere."""
        raise NotImplementedError

    def backward(self, step: LayerStep) -> Gradients:
        """dx = F^T dy, dW = dy x^T and db = sum dy, with F = :meth:`feedback`; nothing for the rule's tensors."""
        assert step.feedback is not None
        return Gradients(*step.task(step.feedback))

    # -- what others ask -----------------------------------------------------------------------------------------------

    def optimiser(self, name: str, momentum: float) -> BackwardOptimiser:
        """How the optimiser of the rule's tensor called ``name`` has to be set. momentum: of W's optimiser."""
        return BackwardOptimiser()

    @property
    def gradient_is_local(self) -> bool:
        """Whether the gradients of its tensors follow from W and them alone: data parallel processes then make the same
        ones, and need not send them."""
        return False

    def clip(self, name: str, value: Tensor, gradient: Tensor, factor: float | Tensor, scale: float) -> None:
        """Scale ``gradient``, of the tensor called ``name``, in place, as the gradient of W was scaled by ``factor``.

        Only what has to move as W does is scaled. scale: as of :meth:`in_effect`.
        """

    @property
    def aligns(self) -> bool:
        """Whether B should come to stand along W: a right angle at the end of a training is worth a warning."""
        return False

    def predicted_angle(self, state: State) -> float | None:
        """Degrees between W and what carries the error back, as the rule itself expects them; None: it does not."""
        return None

    def for_network(self, outputs: int | None) -> FeedbackRule:
        """The rule in a network whose last layer has so many outputs."""
        return self

    @property
    def coefficients(self) -> dict[str, float]:
        """Numbers that schedules and searches may change, by name; see :meth:`with_coefficients`."""
        return {}

    @property
    def searchable(self) -> frozenset[str]:
        """Names of what makes a difference to a search of the rule's settings, beside those of W: its coefficients, the
        switches of :class:`backroads.Operations`, "reduction", "noise", "every", "backward_rate", "backward_optimizer".
        """
        return frozenset()

    def with_coefficients(self, **changes: float) -> Self:
        """The rule with other coefficients.

        Raises:
            RuleError: for a name that is not in :attr:`coefficients`, or a value that makes no sense.
        """
        for name in changes:
            if name not in self.coefficients:
                known = ", ".join(self.coefficients) or "it has none"
                raise RuleError(
                    f"unknown coefficient {name!r} of {self!r}.{nearest(name, self.coefficients)} Known: {known}"
                )
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for TOML and JSON: ``kind``, and what differs from the class's defaults.

        :func:`backroads.rules.from_dict` reads it back.
        """
        return {"kind": self.kind, **_differences(self)}


def _differences(value: Any) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        default = field.default if field.default is not dataclasses.MISSING else None
        if inner == default:
            continue
        if dataclasses.is_dataclass(inner) and not isinstance(inner, type):
            kind = getattr(inner, "kind", None)
            inner = ({} if kind is None else {"kind": kind}) | _differences(inner)
        data[field.name.rstrip("_")] = inner
    return data


def draw_like(W: Tensor, generator: torch.Generator | None = None, shape: tuple[int, ...] | None = None) -> Tensor:
    """An independent draw from the distribution of the entries of W: their magnitudes, resampled, with random signs.

    A larger B than W gives wild first steps, and W may come from any initialiser or from training; so B takes its
    distribution from W itself. Random signs keep the mean of W, if it has one, from aligning B with it. A W of zeros
    says nothing: then B is U(-1/sqrt(fan in), 1/sqrt(fan in)), as torch would initialise it.

    Args:
        W: (O, ...).
        generator: CPU generator; None is torch's global one.
        shape: of the draw; None: that of W.
    """
    shape = tuple(W.shape) if shape is None else shape
    empty = W.detach().new_empty(shape)
    if W.is_meta or W.numel() == 0:
        return empty
    n = math.prod(shape)
    if not W.detach().any():
        bound = 1 / math.sqrt(W[0].numel())
        return empty.copy_((torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1) * bound)
    picks = torch.randint(W.numel(), (n,), generator=generator)
    signs = torch.randint(2, (n,), generator=generator) * 2 - 1
    return empty.copy_((W.detach().cpu().reshape(-1).abs()[picks] * signs).reshape(shape))
