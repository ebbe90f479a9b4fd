"""Alignment: a weighted sum of five primitives that teaches the backward weights B.

Kunin et al., "Two Routes to Scalable Credit Assignment without Weight Symmetry", ICML 2020 (arXiv 2003.01513).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from backroads.errors import RuleError, nearest
from backroads.feedback.rules.base import Rule, check_number
from backroads.feedback.rules.estimate import WeightEstimate
from backroads.feedback.rules.noise import Noise, as_noise

REDUCTIONS = ("sum", "overlap", "mean", "taps", "power", "nearest")
PRIMITIVES = ("decay", "amp", "null", "sparse", "self_")

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "leaky_relu": F.leaky_relu,
}


@dataclasses.dataclass(frozen=True)
class Operations:
    """What is done to the activities before the alignment is computed; the reference's options by their names.

    Order: center_input; normalize_input; batch_center_backward_input (input of the B projection only); projections
    y = W x and z = B x; biases; activations; reconstructions B^T y and W^T z; then centering, normalising and batch
    centering of the outputs and their reconstructions (B^T y with the forward options, W^T z with the backward ones).

    Centering and normalising act per example over all features, channels and positions. Normalising subtracts the
    mean and multiplies by rsqrt(max(sum of squares, 1e-12)). Batch centering subtracts the mean over the batch axis.

    Attributes:
        activation: name of the activation that ``activation_forward`` and ``activation_backward`` apply, one of
            relu, tanh, sigmoid, softplus, elu, gelu, silu, leaky_relu; None is the identity (a torch layer has no
            activation of its own).
        reconstruction_reversal: null (and amp, with ``reconstruction_amp``) use W^T z in place of B^T y.
        reconstruction_amp: amp is -M<x, reconstruction> in place of -M<y, z>.

    Raises:
        RuleError: for an unknown activation or a flag that is not a bool.
    """

    center_input: bool = False
    normalize_input: bool = False
    batch_center_backward_input: bool = False
    use_bias_forward: bool = False
    use_bias_backward: bool = False
    activation: str | None = None
    activation_forward: bool = False
    activation_backward: bool = False
    center_forward_output: bool = False
    normalize_forward_output: bool = False
    batch_center_forward_output: bool = False
    center_backward_output: bool = False
    normalize_backward_output: bool = False
    reconstruction_reversal: bool = False
    reconstruction_amp: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "activation":
                if value is not None and (not isinstance(value, str) or value not in ACTIVATIONS):
                    raise RuleError(
                        f"Operations: unknown activation {value!r}.{nearest(str(value), ACTIVATIONS)} "
                        f"Known: {', '.join(ACTIVATIONS)}, or None"
                    )
            elif not isinstance(value, bool):
                raise RuleError(f"Operations: {field.name} must be True or False, got {value!r}")

    @property
    def only_on_input(self) -> bool:
        """Whether nothing is done but to the input. Spelt out: it is asked in every pass of every layer."""
        return not (
            self.use_bias_forward
            or self.use_bias_backward
            or self.activation_forward
            or self.activation_backward
            or self.center_forward_output
            or self.normalize_forward_output
            or self.batch_center_forward_output
            or self.center_backward_output
            or self.normalize_backward_output
            or self.reconstruction_reversal
            or self.reconstruction_amp
        )

    def __repr__(self) -> str:
        chosen = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        ]
        return f"Operations({', '.join(chosen)})"


@dataclasses.dataclass(frozen=True)
class Alignment(Rule):
    """R = decay 1/2|B|^2 - amp M<Wx, Bx> + null 1/2 M|B^T y|^2 + sparse 1/2 M|Bx|^2 - self <W, B>.

    Each layer's B descends R, while W descends the task's loss with errors that came back through B. M is the mean
    over the batch; positions of a convolution are summed (see ``reduction``). Inputs, biases and, unless
    ``update_forward``, W are constants of R, which never sends a gradient to another layer.

    Args:
        decay, amp, null, sparse, self_: coefficients of the primitives, finite and >= 0. With y = W x, z = B x and
            r = B^T y their gradients for B are B, -M[y x^T], M[y r^T], M[z x^T] and -W. (The reference has no 1/2:
            its coefficient of decay, null or sparse is half of ours.)
        tie_grad: B also gets the task gradient of W (Kolen and Pollack).
        update_forward: W also gets its gradient of R, to which decay then adds 1/2|W|^2 and sparse 1/2 M|Wx|^2.
        reduction: "sum" over positions (the reference); "overlap": the sum, divided by the most positions at which one
            pixel is met (9 for a 3x3 convolution at stride 1, 4 at stride 2), so that with x of norm 1 no layer's
            second moment of patches has an eigenvalue above 1; "mean" over positions; or "power": mean, and each term
            divided by the mean square of the activity it is quadratic in (x for amp and sparse, y for null), which
            makes all coefficients dimensionless. "taps", for amp and sparse on noise: mean over the positions at which
            each tap of the kernel meets the input and not its padding, so that a border does not weaken some taps; of
            impulses, mean over those that a weight meets.
            "nearest", for sparse with or without amp: each row of their gradient is brought to the length at which a
            step of rate 1 / sparse ends nearest to the row's fixed point, (amp / sparse) W: for any input, and
            whatever its scale.
        operations: what is done to the activities first.
        input_noise: compute R on noise of the input's shape instead of the activity: a :class:`Noise`, its
            distribution's name, its std, or a pair (distribution, std). It is drawn in the backward pass, from torch's
            global generator: under data parallelism let each process have a seed of its own.
        estimate: what self sees of W in place of W itself: a :class:`WeightEstimate`.
        every: compute the terms that need activities on every k-th training step only, times k.
        fraction: compute them on so much of the batch only, > 0 and <= 1: at least one example (two under batch
            centring, whose mean is then the part's), neighbours from a random place on, so that M is unbiased.
        keep_output: keep y from the forward pass where amp or null needs it; False computes it again, for a projection
            more and an activation less (with ``fraction``, that part of a projection).

    Raises:
        RuleError: if a value makes no sense; the message says what was expected.

    Rules add, and scale by a number: ``Alignment(decay=1) + 0.5 * Alignment(self_=2)``.
    """

    kind: ClassVar[str] = "alignment"

    decay: float = 0.0
    amp: float = 0.0
    null: float = 0.0
    sparse: float = 0.0
    self_: float = 0.0
    _: dataclasses.KW_ONLY
    tie_grad: bool = False
    update_forward: bool = False
    reduction: str = "sum"
    operations: Operations = Operations()
    input_noise: Noise | None = None
    estimate: WeightEstimate | None = None
    every: int = 1
    fraction: float = 1.0
    keep_output: bool = True

    def __post_init__(self) -> None:
        for name in PRIMITIVES:
            check_number("Alignment", name, getattr(self, name))
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("tie_grad", "update_forward", "keep_output"):
            if not isinstance(getattr(self, name), bool):
                raise RuleError(f"Alignment: {name} must be True or False, got {getattr(self, name)!r}")
        if not isinstance(self.reduction, str) or self.reduction not in REDUCTIONS:
            raise RuleError(
                f"Alignment: unknown reduction {self.reduction!r}.{nearest(str(self.reduction), REDUCTIONS)} "
                f"Known: {', '.join(REDUCTIONS)}"
            )
        if not isinstance(self.operations, Operations):
            raise RuleError(f"Alignment: operations must be Operations(...), got {self.operations!r}")
        object.__setattr__(self, "input_noise", as_noise(self.input_noise))
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise RuleError(f"Alignment: every must be a whole number of steps >= 1, got {self.every!r}")
        check_number("Alignment", "fraction", self.fraction)
        if not 0 < self.fraction <= 1:
            raise RuleError(f"Alignment: fraction must be > 0 and <= 1, got {self.fraction!r}")
        object.__setattr__(self, "fraction", float(self.fraction))
        if self.reduction in ("nearest", "taps") and (self.null or not self.closed_form or self.update_forward):
            raise RuleError(
                f'Alignment: reduction "{self.reduction}" is for sparse and amp, without null, update_forward and '
                f"operations on outputs; got {self!r}; choose another reduction"
            )
        if self.input_noise is not None and not self.input_noise.follows_batch and self.fraction < 1:
            raise RuleError(
                f"Alignment: fraction is a part of the batch, and the noise has a size of its own; got fraction "
                f"{self.fraction:g} and {self.input_noise!r}; give one of them"
            )
        if self.on_impulses and (self.reduction != "taps" or self.operations != Operations()):
            raise RuleError(
                f'Alignment: impulses are for reduction "taps", which counts those that a weight meets, and no '
                f'operations; got "{self.reduction}" and {self.operations!r}; give reduction="taps" and leave '
                f"operations out, or give another noise"
            )
        if self.estimate is not None:
            if not isinstance(self.estimate, WeightEstimate):
                raise RuleError(f"Alignment: estimate must be None or WeightEstimate(...), got {self.estimate!r}")
            if self.update_forward:
                raise RuleError("Alignment: estimate is B's view of W; with update_forward W sees itself; give one")
            object.__setattr__(self, "_rest", dataclasses.replace(self, decay=0.0, self_=0.0, estimate=None))

    @property
    def coefficients(self) -> dict[str, float]:
        """The five coefficients by name, in the order decay, amp, null, sparse, self_."""
        return {name: getattr(self, name) for name in PRIMITIVES}

    @property
    def without_estimate(self) -> Alignment:
        """The rule without the terms that an estimate of W teaches, which are decay and self; without one, the rule."""
        if self.estimate is None:
            return self
        rest: Alignment = self._rest  # type: ignore[attr-defined]
        return rest

    @property
    def learns(self) -> bool:
        """Whether B ever moves; False is feedback alignment."""
        return self.tie_grad or any(self.coefficients.values())

    @property
    def closed_form(self) -> bool:
        """Whether no operation but those on the input stands between the rule and its closed form."""
        return self.operations.only_on_input

    @property
    def on_impulses(self) -> bool:
        """Whether inputs take turns, one at a time in each receptive field."""
        return self.input_noise is not None and self.input_noise.distribution == "impulses"

    @property
    def reads_output(self) -> bool:
        """Whether the closed form needs the layer's own y = W x: keeping it then saves a projection."""
        ops = self.operations
        own = (
            self.closed_form
            and self.keep_output
            and self.input_noise is None
            and not (ops.center_input or ops.normalize_input)
        )
        fused = self.sparse != 0 and not self.update_forward  # amp is then part of the projection of sparse
        return own and (self.null != 0 or (self.amp != 0 and not fused) or (self.sparse != 0 and self.update_forward))

    @property
    def reads_forward_weight(self) -> bool:
        """Whether the alignment gradient needs W."""
        return self.update_forward or not self.closed_form or any((self.amp, self.null, self.self_))

    def scaled(self, everything: float, data: float = 1.0) -> Alignment:
        """The same rule with all coefficients times ``everything`` and amp, null, sparse times ``data`` as well."""
        factors = {name: everything if name in ("decay", "self_") else everything * data for name in PRIMITIVES}
        return dataclasses.replace(self, **{name: getattr(self, name) * f for name, f in factors.items()})

    def __add__(self, other: object) -> Alignment:
        if not isinstance(other, Alignment):
            return NotImplemented
        for name in ("reduction", "operations", "input_noise", "estimate", "every", "fraction", "keep_output"):
            if getattr(self, name) != getattr(other, name):
                raise RuleError(
                    f"cannot add rules with different {name}: {getattr(self, name)!r} and {getattr(other, name)!r}; "
                    f"give both the same {name}"
                )
        return dataclasses.replace(
            self,
            **{name: getattr(self, name) + getattr(other, name) for name in PRIMITIVES},
            tie_grad=self.tie_grad or other.tie_grad,
            update_forward=self.update_forward or other.update_forward,
        )

    def __mul__(self, factor: object) -> Alignment:
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            return NotImplemented
        check_number("Alignment", "the factor", factor)
        return self.scaled(float(factor))

    __rmul__ = __mul__

    def __repr__(self) -> str:
        terms = [f"{c:g} {name.rstrip('_')}" for name, c in self.coefficients.items() if c]
        text = f"R = {' + '.join(terms) or '0'}"
        if self.tie_grad:
            text += ", dB += dW"
        options = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(self)
            if f.name not in (*PRIMITIVES, "tie_grad") and getattr(self, f.name) != f.default
        ]
        return f"{text} [{', '.join(options)}]" if options else text
