"""What the layers share: a forward weight W, a feedback rule, and what the rule keeps beside W."""

from __future__ import annotations

import contextlib
import math
import warnings
import weakref
from typing import Any, Self, cast

import torch
from torch import Tensor

from backroads.errors import RuleError, ShapeError, StateError, UsageError
from backroads.feedback.functional.layer import autocast_enabled, propagate, recomputing, traced
from backroads.feedback.nn.broadcast import attach_carrier
from backroads.feedback.operators import LinearMap, Operator
from backroads.feedback.rules import as_rule, symmetric_alignment
from backroads.feedback.rules.base import FeedbackRule, State, Use
from backroads.feedback.rules.memory import Memory

MEMORY_KEY = "rule_memory"  # in a state dict: the counters of the rule
_LINEAR = LinearMap()
_CAST_BY_AUTOCAST = (torch.float32, torch.float16, torch.bfloat16)


class _Mean:
    """A hook on a tensor that a rule teaches: its gradient becomes the mean over the layer's uses in a step."""

    def __init__(self, memory: Memory, taught: Tensor) -> None:
        self._memory, self._taught = memory, weakref.ref(taught)

    def __call__(self, gradient: Tensor | None) -> Tensor | None:
        taught = self._taught()
        if gradient is None or taught is None:
            return None
        if self._memory.backward != torch._C._current_graph_task_id():  # no pass of training
            return None
        return self._memory.mean(taught, gradient)


class WithRule:
    """A module of torch that takes ``rule`` and ``generator`` beside torch's own arguments."""

    def __init__(
        self,
        *args: Any,
        rule: FeedbackRule | str | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.attach(symmetric_alignment() if rule is None else as_rule(rule), generator)

    def attach(self, rule: FeedbackRule, generator: torch.Generator | None = None) -> None:
        """Give a module that has its torch attributes a rule, and draw the rule's tensors.

        Args:
            rule: what carries the error back.
            generator: on the CPU; None is torch's global one.
        """
        raise NotImplementedError


class AlignedLayer(WithRule, torch.nn.Module):
    """A layer with a feedback rule. It asks the rule, and never which rule it is.

    Attributes:
        weight: the Parameter of the plain layer; usually :attr:`W` itself.
        backward_weight: B, under this name in most rules: a Parameter, in the layout of W, or (K, I) under the rules
            that broadcast the output's error; None for rules whose way back is made from W (backprop, sign symmetry).
        state_names: names of the rule's tensors, which are parameters and buffers of the layer.
        memory: what the rule remembers from pass to pass beside them.
        torch_class: the plain layer's class.
        rule: the layer's rule; assign to change coefficients while training (the rule's tensors must stay the same).
    """

    weight: Tensor
    bias: Any  # a Parameter or None; torch's layers disagree about its declared type
    backward_weight: torch.nn.Parameter | None
    torch_class: type[torch.nn.Module]

    def attach(self, rule: FeedbackRule, generator: torch.Generator | None = None) -> None:
        self._rule = rule
        self._alignment_scale: float | None = None
        self.memory = Memory()
        self._as_backprop = False
        self._undrawn = False
        self.announces_draws = True
        self.register_parameter("backward_weight", None)
        state = rule.state(self.W, self._features(), generator)
        if not isinstance(state, dict):
            raise RuleError(f"rule {rule!r}: expected state() to return tensors by name, got {type(state).__name__}")
        self.state_names = tuple(state)
        for name, value in state.items():
            if isinstance(value, torch.nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value)
        self._refresh()

    def detach_rule(self) -> None:
        """Remove what :meth:`attach` added; the layer can then become torch's own again."""
        for name in ("backward_weight", *self.state_names):
            self._parameters.pop(name, None)
            self._buffers.pop(name, None)
        for name in (
            "_rule",
            "_alignment_scale",
            "memory",
            "_as_backprop",
            "_undrawn",
            "_factor",
            "_in_effect",
            "announces_draws",
            "state_names",
        ):
            self.__dict__.pop(name, None)

    @property
    def rule(self) -> FeedbackRule:
        """The layer's rule."""
        return self._rule

    @rule.setter
    def rule(self, rule: FeedbackRule | str) -> None:
        old, rule = self._rule, as_rule(rule)
        if old.layout != rule.layout:
            raise RuleError(
                f"a layer with rule {old!r} cannot change to {rule!r}, which keeps other weights; "
                f"use br.revert(model) and br.convert(model, ...) again"
            )
        self._rule = rule
        if rule.learns and not old.learns and self.backward_weight is not None:
            self.backward_weight.requires_grad_(True)
        self._refresh()

    @property
    def alignment_scale(self) -> float | None:
        """Factor on the gradients of the rule's tensors; see :func:`backroads.alignment_scale`. None: not set."""
        return self._alignment_scale

    @alignment_scale.setter
    def alignment_scale(self, scale: float | None) -> None:
        self._alignment_scale = scale
        self._refresh()

    def _refresh(self) -> None:
        """The rule as the backward pass uses it, on passes on which it does not act, and on which it does."""
        self._factor = 1.0 if self._alignment_scale is None else self._alignment_scale
        self._in_effect = tuple(self._rule.in_effect(self._factor, active) for active in (False, True))

    @property
    def state(self) -> State:
        """The rule's tensors by name."""
        parameters, buffers = self._parameters, self._buffers  # faster than getattr, in every forward pass
        found = {name: parameters[name] if name in parameters else buffers[name] for name in self.state_names}
        return cast(State, found)

    @property
    def operator(self) -> Operator:
        """The layer's linear map, for :mod:`backroads.functional`: that of a matrix, unless the layer is another."""
        return _LINEAR

    def operand(self, x: Tensor) -> Tensor:
        """The input as the map sees it: padded, where the padding is not zeros."""
        return x

    def feedback_weight(self) -> Tensor | None:
        """The tensor that carries the error back, in the layout of W; None where the error is broadcast.

        W itself under backprop; made from W under sign symmetry (a fresh draw under "batch_random").
        """
        return self._rule.feedback(self.W, self.state)

    def forward(self, input: Tensor) -> Tensor:
        """``W x + bias``, W applied at every position."""
        self._check_shape(input)
        if input.dtype != self.weight.dtype and not (
            input.dtype in _CAST_BY_AUTOCAST and autocast_enabled(input.device.type)
        ):
            raise ShapeError(
                f"{type(self).__name__}: expected input of dtype {self.weight.dtype}, the weight's, got {input.dtype}; "
                f"cast the input or the model"
            )
        if self._as_backprop:
            self.feedback_weight()  # make the draw it may make, so that dropout later on draws the same
        return self._plain(input) if self._as_backprop or self._rule.is_backprop else self._project(input)

    def _check_shape(self, x: Tensor) -> None:
        """Refuse an input that does not fit W."""
        raise NotImplementedError

    def _plain(self, x: Tensor) -> Tensor:
        """The forward pass where the way back is W's transpose: torch's own layer does everything."""
        y: Tensor = super().forward(x)
        return y

    def _project(self, x: Tensor) -> Tensor:
        """The forward pass with its own way back."""
        autocast = autocast_enabled(x.device.type)
        if autocast and x.dtype in _CAST_BY_AUTOCAST:
            x = x.to(torch.get_autocast_dtype(x.device.type))
        rule, x, W, state = self._rule, self.operand(x), self.W, self.state
        if hasattr(W, "full_tensor"):  # under FSDP2 the weights are whole in a forward pass
            raise UsageError(
                f"{type(self).__name__}: expected a whole weight, got a DTensor, as tensor parallelism makes it; leave "
                f"converted layers out of the plan of parallelize_module, or shard the model with fully_shard"
            )
        if self._undrawn:
            self._check_drawn(state)
        if not (self.training or torch.is_grad_enabled()):  # nothing goes back
            return self.operator.project(x, W.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
        gradients = torch.is_grad_enabled()
        training = self.training and gradients
        taught, memory, repeated = self._taught(gradients, state), self.memory, recomputing()
        first = not taught or (not repeated and memory.begins(taught))
        if taught and first and training:
            memory.last = memory.before + memory.uses
        use = Use(self.operator, x, W, memory, training, repeated, first, self._factor)
        active, tensors = rule.begin(use, state)
        if taught and training and not repeated:
            memory.look(taught)
        feedback = tensors.pop("feedback", None)
        if feedback is None:
            with torch.autocast(x.device.type, enabled=False) if autocast else contextlib.nullcontext():
                feedback = rule.feedback(W, state)
        known = None if traced() else memory
        in_effect = self._in_effect[active]
        made = propagate(x, W, self.bias, self.operator, in_effect, tensors, feedback, known, bool(taught and tensors))
        return attach_carrier(*made) if rule.broadcasts else made

    def _taught(self, gradients: bool, state: State) -> list[Tensor]:
        """What a pass with gradients will teach, by which steps are told apart; nothing where uses do not count.

        Gradients that are means over the uses are made so by a hook, which a copy of the layer has to set anew.
        """
        if not (gradients and self._rule.learns) or traced():
            return []
        found = {name: tensor for name, tensor in state.items() if tensor.requires_grad}
        for name, tensor in found.items():
            if self._rule.averages(name) and not any(
                isinstance(h, _Mean) for h in (tensor._backward_hooks or {}).values()
            ):
                tensor.register_hook(_Mean(self.memory, tensor))
        self.memory.weighted = self._alignment_scale is not None
        return list(found.values())

    @property
    def W(self) -> Tensor:
        """W, (O, I) or (O, I/groups, *kernel), in whichever layout the plain layer keeps it."""
        return self.weight

    @property
    def parameter(self) -> Tensor:
        """The Parameter that holds W; usually W itself."""
        return self.weight

    def part(self, tensor: Tensor) -> Tensor:
        """The part of a tensor in the shape of :attr:`parameter` that belongs to W."""
        return tensor

    def weight_key(self, prefix: str) -> str:
        """Where a state dict has :attr:`parameter`, if the layer's own names begin with ``prefix``."""
        return prefix + "weight"

    def _features(self) -> int:
        """Number of features or channels of the input."""
        return self.W.shape[1]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rule=({self._rule!r})"

    # -- values that come later than the layer -------------------------------------------------------------------------

    def reset_parameters(self) -> None:
        """torch's own for W and bias, if the plain layer has one, and a new draw of the rule's tensors, to fit W."""
        reset = getattr(super(), "reset_parameters", None)
        if reset is not None:
            reset()
        if "_rule" in self.__dict__:  # not while torch makes the plain layer
            self._redraw()

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """As torch's, for ``to`` and ``to_empty``. What leaves the meta device becomes NaN, until it gets values."""
        on_meta = [name for name, tensor in self.state.items() if tensor.is_meta]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name in on_meta:
                if not (tensor := self.state[name]).is_meta:
                    tensor.fill_(math.nan)
                    self._undrawn = True
        return self

    def _check_drawn(self, state: State) -> None:
        """Refuse a layer from the meta device whose rule's tensors never got values."""
        if any(bool(tensor.isnan().any()) for tensor in state.values()):
            raise StateError(
                f"{type(self).__name__}: its backward weights come from the meta device and have no values; after "
                f"to_empty call reset_parameters() of each layer, or load a state dict; or give W its values and "
                f"convert anew: br.convert(br.revert(model), rule)"
            )
        self._undrawn = False

    # -- state dicts ---------------------------------------------------------------------------------------------------

    def foreign_keys(self, state_dict: dict[str, Any], prefix: str) -> list[str]:
        """Keys of a state dict with this layer's prefix that have no place in it: another rule's tensors."""
        own = {name for name, value in {**self._parameters, **self._buffers}.items() if value is not None}
        own.add(MEMORY_KEY)
        names = (key.removeprefix(prefix) for key in state_dict if key.startswith(prefix))
        return [prefix + name for name in names if "." not in name and name not in own]

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        counted = state_dict.get(prefix + MEMORY_KEY)
        if counted is not None:
            state_dict = {key: value for key, value in state_dict.items() if key != prefix + MEMORY_KEY}
            for (name, modulus), count in zip(self._rule.counters.items(), counted.tolist(), strict=False):
                setattr(self.memory, name, count % modulus)
        plain = self._is_plain_state(state_dict, prefix)
        load = super()._load_from_state_dict
        if not (self.state_names and plain):
            load(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
            return
        missing: list[str] = []
        load(state_dict, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs)
        missing_keys.extend(key for key in missing if key.removeprefix(prefix) not in self.state_names)
        if error_msgs:
            return
        self._redraw()
        if self.announces_draws:
            name = prefix.rstrip(".") or "the layer"
            warnings.warn(
                f"{name}: the state dict has no backward weights; drew them anew to fit the loaded weight",
                stacklevel=2,
            )

    def _is_plain_state(self, state_dict: dict[str, Any], prefix: str) -> bool:
        """Whether a state dict has W and nothing of what the rule keeps."""
        own = any(prefix + name in state_dict for name in self.state_names)
        return self.weight_key(prefix) in state_dict and not own

    def _redraw(self) -> None:
        """Draw the rule's tensors anew, to fit the present W, in place."""
        with torch.no_grad():
            for name, value in self._rule.state(self.W, self._features(), None).items():
                old = getattr(self, name)
                if old.device == value.device:
                    old.copy_(value)
                else:  # loaded by assignment over a model on the meta device
                    setattr(self, name, value)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if counters := self._rule.counters:
            destination[prefix + MEMORY_KEY] = torch.tensor([getattr(self.memory, name) for name in counters])
