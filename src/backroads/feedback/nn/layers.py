"""Layers that hold W and B. Each is torch's own layer, with its arguments, and ``rule=``."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from backroads.errors import RuleError, ShapeError
from backroads.feedback.functional import ConvolutionMap, LinearMap, Operator, aligned, direct
from backroads.feedback.functional.layer import autocast_enabled, recomputing
from backroads.feedback.nn.broadcast import carriers
from backroads.feedback.rules import as_rule, symmetric_alignment
from backroads.feedback.rules.alignment import Alignment
from backroads.feedback.rules.base import Backprop, DirectFeedback, Rule, SignSymmetry

FEEDBACK_KEYS = ("backward_weight", "sign_scale", "sign_magnitude", "late_weights")
STEP_KEY = "alignment_steps"
LATE_KEY = "late_place"
_CAST_BY_AUTOCAST = (torch.float32, torch.float16, torch.bfloat16)


class _Clock:
    """Says on which training passes of ``every`` the terms that need activities are computed.

    It counts modulo ``every``: torch.compile takes the count for a constant and makes one graph for each.

    Attributes:
        step: passes since the last active one began, modulo ``every``. active: what the last pass was told.
    """

    def __init__(self) -> None:
        self.step = 0
        self.active = True

    def tick(self, every: int) -> bool:
        """Whether this pass is an active one. A pass that activation checkpointing repeats is what it was before."""
        if not recomputing():
            self.active = self.step == 0
            self.step = (self.step + 1) % every
        return self.active


class _Delay:
    """The W of k training passes before, out of a ring of k copies.

    Attributes:
        place: of the oldest copy. late: what the last pass saw.
    """

    def __init__(self) -> None:
        self.place = 0
        self.late: Tensor | None = None

    def pass_through(self, W: Tensor, copies: Tensor) -> Tensor:
        """The oldest copy, (O, ...), whose place W takes. A pass that checkpointing repeats sees what it saw before."""
        if self.late is None or not recomputing():
            self.late = copies[self.place].clone()
            copies[self.place].copy_(W.detach())
            self.place = (self.place + 1) % len(copies)
        return self.late


class AlignedLayer(torch.nn.Module):
    """What the layers here share: a forward weight W, a rule, and the rule's backward weight B.

    Attributes:
        weight: W, (O, I) or (O, I/groups, *kernel).
        backward_weight: B, in the layout of W: a Parameter that learns under an Alignment that learns; fixed under
            feedback alignment; (K, I), fixed, under direct feedback; None for rules whose B is made from W
            (backprop, sign symmetry).
        late_weights: copies of W of the last training passes, (delay_steps, *W.shape), in turns; only for a rule whose
            estimate of W is late.
        rule: the layer's rule; assign to change coefficients while training (the kind of rule must stay).
    """

    weight: Tensor
    bias: Any  # a Parameter or None; torch's layers disagree about its declared type
    backward_weight: torch.nn.Parameter | None
    sign_scale: Tensor
    sign_magnitude: Tensor
    late_weights: Tensor
    torch_class: ClassVar[type[torch.nn.Module]]

    def attach(self, rule: Rule, generator: torch.Generator | None = None) -> None:
        """Give a layer that has its torch attributes a rule, and draw B.

        Args:
            rule: what teaches B.
            generator: source of B (CPU); None is torch's global generator.
        """
        self._rule = rule
        self._alignment_scale = 1.0
        self._clock, self._delay = _Clock(), _Delay()
        self._as_backprop = False
        self.announces_draws = True
        self.register_parameter("backward_weight", None)
        for name, value in self._draw(generator).items():
            if name == "backward_weight":
                learns = isinstance(rule, Alignment) and rule.learns
                self.backward_weight = torch.nn.Parameter(value, requires_grad=learns)
            else:
                self.register_buffer(name, value)
        self._refresh()

    def _draw(self, generator: torch.Generator | None) -> dict[str, Tensor]:
        """What the rule keeps beside W, drawn to fit the present W."""
        rule, W = self._rule, self.weight
        if isinstance(rule, Alignment):
            drawn = {"backward_weight": draw_like(W, generator)}
            steps = _late_steps(rule)
            return drawn | ({"late_weights": W.detach().expand(steps, *W.shape).clone()} if steps else {})
        if isinstance(rule, DirectFeedback):
            if rule.outputs is None:
                raise RuleError(
                    "direct_feedback_alignment on a single layer needs outputs=K, the network's number of outputs; "
                    "br.convert(model, rule) reads K off the last layer"
                )
            return {"backward_weight": _direct_weight(W, self._features(), rule.outputs, generator)}
        if isinstance(rule, SignSymmetry):
            if rule.variant == "fixed_random":
                return {"sign_magnitude": draw_like(W, generator).abs()}
            return {"sign_scale": _spread(W).to(W.dtype)} if rule.scale == "initial" else {}
        return {}

    def detach_rule(self) -> None:
        """Remove what :meth:`attach` set, but for the weights; the layer can then become torch's own again."""
        for name in (
            "_rule",
            "_alignment_scale",
            "_clock",
            "_delay",
            "_as_backprop",
            "_active",
            "_idle",
            "announces_draws",
        ):
            self.__dict__.pop(name, None)

    @property
    def rule(self) -> Rule:
        """The layer's rule."""
        return self._rule

    @rule.setter
    def rule(self, rule: Rule | str) -> None:
        old, rule = self._rule, as_rule(rule)
        same = type(old) is type(rule) and ((isinstance(old, Alignment) and isinstance(rule, Alignment)) or old == rule)
        if not same:
            raise RuleError(
                f"a layer with rule {old!r} cannot change to {rule!r}, which has other weights; "
                f"use br.revert(model) and br.convert(model, ...) again"
            )
        if _late_steps(old) != _late_steps(rule):
            raise RuleError(
                f"a layer whose estimate of W is {_late_steps(old)} passes late cannot change to one that is "
                f"{_late_steps(rule)} late, which needs other copies of W; use br.revert(model) and "
                f"br.convert(model, ...) again"
            )
        self._rule = rule
        if isinstance(rule, Alignment) and rule.learns and self.backward_weight is not None:
            self.backward_weight.requires_grad_(True)
        self._refresh()

    @property
    def alignment_scale(self) -> float:
        """Factor on the alignment gradient; see :func:`backroads.alignment_scale`."""
        return self._alignment_scale

    @alignment_scale.setter
    def alignment_scale(self, scale: float) -> None:
        self._alignment_scale = scale
        self._refresh()

    def _refresh(self) -> None:
        """The rule as the backward pass uses it, on steps with and without the terms that need activities."""
        rule = self._rule
        if isinstance(rule, Alignment):
            self._active = rule.scaled(self._alignment_scale, float(rule.every))
            self._idle = rule.scaled(self._alignment_scale, 0.0)

    @property
    def operator(self) -> Operator:
        """The layer's linear map, for :mod:`backroads.feedback.functional`."""
        raise NotImplementedError

    def operand(self, x: Tensor) -> Tensor:
        """The input as the map sees it: padded, where the padding is not zeros."""
        return x

    def feedback_weight(self) -> Tensor | None:
        """The tensor that carries the error back, in the layout of W; None under direct feedback.

        W itself under backprop; made from W under sign symmetry (a fresh draw under "batch_random").
        """
        rule, W = self._rule, self.weight
        if isinstance(rule, Backprop):
            return W
        if isinstance(rule, SignSymmetry):
            W = W.detach()
            B = W.sign()
            if rule.variant == "fixed_random":
                B = B * self.sign_magnitude
            elif rule.variant == "batch_random":
                B = B * torch.randn_like(B).abs()
            if rule.scale == "filter":
                return B.mul_(_gain(W, B, rule.variant == "uniform"))
            return B if rule.variant == "fixed_random" else B * self.sign_scale
        if isinstance(rule, DirectFeedback):
            return None
        return self.backward_weight

    def _is_plain(self) -> bool:
        """Whether the way back is W's transpose, so that torch's own layer does everything."""
        if self._as_backprop:
            self.feedback_weight()  # make the draw it may make, so that dropout later on draws the same
        return self._as_backprop or isinstance(self._rule, Backprop)

    def _project(self, x: Tensor) -> Tensor:
        """The forward pass with its own way back."""
        rule, op = self._rule, self.operator
        if x.dtype in _CAST_BY_AUTOCAST and autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        x = self.operand(x)
        if isinstance(rule, DirectFeedback):
            assert self.backward_weight is not None
            return carriers.attach(direct(x, self.weight, self.backward_weight, self.bias, op))
        B = self.feedback_weight()
        assert B is not None
        if not isinstance(rule, Alignment):
            return aligned(x, self.weight, B, self.bias, op, _NOTHING)
        if not rule.learns:
            return aligned(x, self.weight, B.detach(), self.bias, op, rule)
        active, late = True, None
        if self.training and torch.is_grad_enabled():
            if rule.every > 1:
                active = self._clock.tick(rule.every)
            if rule.estimate is not None and rule.estimate.delay_steps:
                late = self._delay.pass_through(self.weight, self.late_weights)
        return aligned(x, self.weight, B, self.bias, op, self._active if active else self._idle, late)

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

    def _check_dtype(self, x: Tensor) -> None:
        """Refuse an input of another dtype than the weight's, unless autocast brings them together."""
        if x.dtype == self.weight.dtype or (x.dtype in _CAST_BY_AUTOCAST and autocast_enabled(x.device.type)):
            return
        raise ShapeError(
            f"{type(self).__name__}: expected input of dtype {self.weight.dtype}, the weight's, got {x.dtype}; "
            f"cast the input or the model"
        )

    def _features(self) -> int:
        """Number of features or channels of the input."""
        raise NotImplementedError

    def _repr_rule(self) -> str:
        return f", rule=({self._rule!r})"

    # -- state dicts ---------------------------------------------------------------------------------------------

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
        steps, place = state_dict.get(prefix + STEP_KEY), state_dict.get(prefix + LATE_KEY)
        if steps is not None or place is not None:
            counts = (prefix + STEP_KEY, prefix + LATE_KEY)
            state_dict = {key: value for key, value in state_dict.items() if key not in counts}
            self._clock.step = int(steps or 0) % max(getattr(self._rule, "every", 1), 1)
            self._delay.place = int(place or 0) % max(_late_steps(self._rule), 1)
        own = [name for name in FEEDBACK_KEYS if isinstance(getattr(self, name, None), Tensor)]
        plain = self._is_plain_state(state_dict, prefix)
        load = super()._load_from_state_dict
        if not (own and plain):
            load(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
            return
        missing: list[str] = []
        load(state_dict, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs)
        missing_keys.extend(key for key in missing if key.removeprefix(prefix) not in own)
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
        own = any(prefix + name in state_dict for name in FEEDBACK_KEYS)
        return self.weight_key(prefix) in state_dict and not own

    def _redraw(self) -> None:
        """Draw B, or what sign symmetry keeps, anew from the present W, in place."""
        fresh = self._draw(None)
        with torch.no_grad():
            for name, value in fresh.items():
                old = getattr(self, name)
                if old.device == value.device:
                    old.copy_(value)
                elif name == "backward_weight":  # loaded by assignment over a model on the meta device
                    self.backward_weight = torch.nn.Parameter(value, requires_grad=old.requires_grad)
                else:
                    setattr(self, name, value)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._counts_steps():
            destination[prefix + STEP_KEY] = torch.tensor(self._clock.step)
        if _late_steps(self._rule):
            destination[prefix + LATE_KEY] = torch.tensor(self._delay.place)

    def _counts_steps(self) -> bool:
        return isinstance(self._rule, Alignment) and self._rule.every > 1


class Linear(AlignedLayer, torch.nn.Linear):
    """``torch.nn.Linear`` with backward weights of its own.

    Input (N, ..., I) or (I,), output (N, ..., O) or (O,); weight and backward_weight (O, I). The first dimension is
    the batch, further leading ones are positions.

    Args:
        rule: what teaches B: a rule or its name. The others are torch's.

    Raises:
        RuleError: for a rule that does not fit. ShapeError: from the forward pass, for an input that does not fit.
    """

    torch_class = torch.nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        rule: Rule | str | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.attach(symmetric_alignment() if rule is None else as_rule(rule), generator)

    @property
    def operator(self) -> Operator:
        return _LINEAR

    def forward(self, input: Tensor) -> Tensor:
        """``W x + bias``."""
        if input.dim() == 0 or input.shape[-1] != self.in_features:
            raise ShapeError(
                f"Linear: expected input of shape (..., {self.in_features}), got {tuple(input.shape)}; "
                f"the last dimension must be in_features"
            )
        self._check_dtype(input)
        return super().forward(input) if self._is_plain() else self._project(input)

    def _features(self) -> int:
        return self.in_features

    def extra_repr(self) -> str:
        return super().extra_repr() + self._repr_rule()


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

    def forward(self, input: Tensor) -> Tensor:
        """``W x + bias``, W applied at every position."""
        d = len(self.kernel_size)
        if input.dim() not in (d + 1, d + 2) or input.shape[-d - 1] != self.in_channels:
            places = ", ".join("LHW"[:1] if d == 1 else "DHW"[-d:])
            raise ShapeError(
                f"{type(self).__name__}: expected input of shape (N, {self.in_channels}, {places}) or "
                f"({self.in_channels}, {places}), got {tuple(input.shape)}"
            )
        self._check_dtype(input)
        return super().forward(input) if self._is_plain() else self._project(input)

    def _features(self) -> int:
        return self.in_channels

    def extra_repr(self) -> str:
        return f"{_ConvNd.extra_repr(self)}{self._repr_rule()}"


class Conv1d(_Convolution, torch.nn.Conv1d):
    """``torch.nn.Conv1d`` with backward weights of its own.

    Input (N, I, L) or (I, L); weight and backward_weight (O, I/groups, k). Every stride, padding
    (numbers, "same", "valid"), padding mode, dilation and groups. With a padding mode other than "zeros" the padded
    input is the layer's activity.

    Args:
        rule: what teaches B: a rule or its name. The others are torch's.

    Raises:
        RuleError: for a rule that does not fit. ShapeError: from the forward pass, for an input that does not fit.
    """

    torch_class = torch.nn.Conv1d

    def __init__(
        self,
        *args: Any,
        rule: Rule | str | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.attach(symmetric_alignment() if rule is None else as_rule(rule), generator)


class Conv2d(_Convolution, torch.nn.Conv2d):
    """``torch.nn.Conv2d`` with backward weights of its own.

    Input (N, I, H, W) or (I, H, W); weight and backward_weight (O, I/groups, kH, kW). Every stride, padding
    (numbers, "same", "valid"), padding mode, dilation and groups. With a padding mode other than "zeros" the padded
    input is the layer's activity.

    Args:
        rule: what teaches B: a rule or its name. The others are torch's.

    Raises:
        RuleError: for a rule that does not fit. ShapeError: from the forward pass, for an input that does not fit.
    """

    torch_class = torch.nn.Conv2d

    def __init__(
        self,
        *args: Any,
        rule: Rule | str | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.attach(symmetric_alignment() if rule is None else as_rule(rule), generator)


class Conv3d(_Convolution, torch.nn.Conv3d):
    """``torch.nn.Conv3d`` with backward weights of its own.

    Input (N, I, D, H, W) or (I, D, H, W); weight and backward_weight (O, I/groups, kD, kH, kW). Every stride, padding
    (numbers, "same", "valid"), padding mode, dilation and groups. With a padding mode other than "zeros" the padded
    input is the layer's activity.

    Args:
        rule: what teaches B: a rule or its name. The others are torch's.

    Raises:
        RuleError: for a rule that does not fit. ShapeError: from the forward pass, for an input that does not fit.
    """

    torch_class = torch.nn.Conv3d

    def __init__(
        self,
        *args: Any,
        rule: Rule | str | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.attach(symmetric_alignment() if rule is None else as_rule(rule), generator)


_LINEAR = LinearMap()
_NOTHING = Alignment()


def _late_steps(rule: Rule) -> int:
    """By how many training passes the rule's estimate of W is late."""
    return rule.estimate.delay_steps if isinstance(rule, Alignment) and rule.estimate is not None else 0


def draw_like(W: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """An independent draw from the distribution of the entries of W: their magnitudes, resampled, with random signs.

    A larger B than W gives wild first steps, and W may come from any initialiser or from training; so B takes its
    distribution from W itself. Random signs keep the mean of W, if it has one, from aligning B with it. A W of zeros
    says nothing: then B is U(-1/sqrt(fan in), 1/sqrt(fan in)), as torch would initialise it.

    Args:
        W: (O, ...). generator: CPU generator; None is torch's global one.
    """
    if W.is_meta or W.numel() == 0:
        return torch.empty_like(W, requires_grad=False)
    if not W.detach().any():
        bound = 1 / math.sqrt(W[0].numel())
        B = (torch.rand(W.shape, generator=generator, dtype=torch.float64) * 2 - 1) * bound
    else:
        picks = torch.randint(W.numel(), (W.numel(),), generator=generator)
        signs = torch.randint(2, (W.numel(),), generator=generator) * 2 - 1
        B = (W.detach().cpu().reshape(-1).abs()[picks] * signs).reshape(W.shape)
    return torch.empty_like(W, requires_grad=False).copy_(B)


def _spread(W: Tensor) -> Tensor:
    """Root mean square of W (its standard deviation, as initialisers have mean 0), or its initialiser's if W is 0."""
    if W.is_meta:
        return torch.empty((), device=W.device)
    s = W.detach().to(torch.promote_types(W.dtype, torch.float32)).square().mean().sqrt()
    return s if s > 0 else torch.full_like(s, 1 / math.sqrt(3 * W[0].numel()))


def _gain(W: Tensor, B: Tensor, signs_alone: bool) -> Tensor:
    """The factor on each row of B that makes its part along W's row that row: |W|^2 / <B, W>; 0 for a row of zeros."""
    rows = W.flatten(1)
    # <sign W, W> is the sum of |W|; as norms, no row is written before it is summed.
    along = torch.linalg.vector_norm(rows, 1, dim=1) if signs_alone else torch.linalg.vecdot(B.flatten(1), rows)
    gain: Tensor = torch.linalg.vector_norm(rows, 2, dim=1).square() / along.where(along > 0, torch.ones_like(along))
    return gain.view(-1, *(1,) * (W.dim() - 1))


def _direct_weight(W: Tensor, features: int, outputs: int, generator: torch.Generator | None = None) -> Tensor:
    """D: (K, I), U(-1/sqrt(I), 1/sqrt(I)): the weight of an imagined readout of the layer's input."""
    D = (torch.rand(outputs, features, generator=generator, dtype=torch.float64) * 2 - 1) / math.sqrt(features)
    return D.to(device=W.device, dtype=W.dtype)
