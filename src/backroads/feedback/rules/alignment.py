"""Alignment: a weighted sum of the five primitives teaches the backward weights B.

Kunin et al., "Two Routes to Scalable Credit Assignment without Weight Symmetry", ICML 2020 (arXiv 2003.01513).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import ClassVar

import torch
from torch import Tensor

from backroads.errors import RuleError
from backroads.feedback.checks import check_flag, check_number, chosen
from backroads.feedback.drive import Activity, Drive
from backroads.feedback.drive.base import Activities
from backroads.feedback.operators import Operator
from backroads.feedback.primitives import PRIMITIVES, Operations, WeightedSum, forward_gradient
from backroads.feedback.primitives.gradients import gradients_by_differentiation
from backroads.feedback.primitives.operations import ON_ACTIVATION, ON_INPUT
from backroads.feedback.rules.base import (
    BackwardOptimiser,
    FeedbackRule,
    Gradients,
    LayerStep,
    State,
    Use,
    draw_like,
)
from backroads.feedback.rules.cadence import Cadence
from backroads.feedback.rules.view import WeightEstimate

# Of B, under rules with a sparse term on activity. Momentum m lengthens a step of share s of the way to the nearest
# point to s / (1 - m) in the long run; at s = 1/2 that stays below 2, from where on steps lead away.
MOMENTUM = 0.7
# The same on noise: steps are not shortened where the noise of one step is strong. It halves the lag behind W; 0.7
# would need twice the noise to be stable.
MOMENTUM_ON_NOISE = 0.5


@dataclasses.dataclass(frozen=True)
class Alignment(WeightedSum, FeedbackRule):
    """Each layer's B descends R, while W descends the task's loss with errors that came back through B.

    R = decay 1/2|B|^2 - amp M<Wx, Bx> + null 1/2 M|B^T y|^2 + sparse 1/2 M|Bx|^2 - self <W, B>. Inputs, biases and,
    unless ``update_forward``, W are constants of R, which never sends a gradient to another layer.

    Args:
        decay, amp, null, sparse, self_, update_forward, reduction, operations: the sum; see
            :class:`backroads.feedback.primitives.WeightedSum`. (In TOML and on the command line the last coefficient is
            ``self``.)
        tie_grad: B also gets the task's gradient of W (Kolen and Pollack).
        drive: what the activities are: :class:`backroads.Activity` (the layer's own), :class:`backroads.WhiteNoise` or
            :class:`backroads.Impulses`.
        view: what self sees of W in place of W itself: a :class:`backroads.WeightEstimate`; None: W.
        cadence: on which steps, and on how much of the batch; see :class:`backroads.Cadence`.

    Raises:
        RuleError: if a value makes no sense, or two do not go together; the message says what was expected.

    Rules add, and scale by a number: ``Alignment(decay=1) + 0.5 * Alignment(self_=2)``.
    """

    kind: ClassVar[str] = "alignment"
    owns_feedback: ClassVar[bool] = True

    _: dataclasses.KW_ONLY
    tie_grad: bool = False
    drive: Drive = Activity()  # noqa: RUF009  frozen
    view: WeightEstimate | None = None
    cadence: Cadence = Cadence()  # noqa: RUF009  frozen

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("Alignment", "tie_grad", self.tie_grad)
        for name, cls in (("drive", Drive), ("view", WeightEstimate | None), ("cadence", Cadence)):
            if not isinstance(getattr(self, name), cls):
                raise RuleError(f"Alignment: {name} must be a {name}, got {getattr(self, name)!r}")
        if self.drive.of_own_size and self.cadence.fraction < 1:
            raise RuleError(
                f"Alignment: fraction is a part of the batch, and the drive has a size of its own; got fraction "
                f"{self.cadence.fraction:g} and {self.drive!r}; give one of them"
            )
        self.drive.check(self)
        if self.view is not None:
            if self.update_forward:
                raise RuleError("Alignment: the view is B's of W; with update_forward W sees itself; give one of them")
            # What the view does not teach; made once, as it is asked for in every backward pass.
            object.__setattr__(self, "_rest", dataclasses.replace(self, decay=0.0, self_=0.0, view=None))

    # -- what stands beside W ------------------------------------------------------------------------------------------

    def state(self, W: Tensor, features: int, generator: torch.Generator | None) -> State:
        B = torch.nn.Parameter(draw_like(W, generator), requires_grad=self.learns)
        late = self._delay
        return {"backward_weight": B} | ({"late_weights": W.detach().expand(late, *W.shape).clone()} if late else {})

    @property
    def layout(self) -> Hashable:
        return ("alignment", self._delay)

    @property
    def counters(self) -> dict[str, int]:
        every = {"step": self.cadence.every} if self.cadence.every > 1 else {}
        uses = {"before": 2**31, "uses": 2**31} if self.drive.counts_uses else {}  # of a step, when it is over
        return every | uses | ({"place": self._delay} if self._delay else {})

    @property
    def _delay(self) -> int:
        """By how many training passes the view of W is late."""
        return 0 if self.view is None else self.view.delay_steps

    # -- the passes ----------------------------------------------------------------------------------------------------

    @property
    def learns(self) -> bool:
        return bool(self.tie_grad or self.decay or self.self_ or self.reads_activities)

    def reads(self, state_learns: bool, weight_learns: bool) -> frozenset[str]:
        if not (state_learns or (weight_learns and self.update_forward)):
            return frozenset()
        output = isinstance(self.drive, Activity) and self.drive.keep_output and self._sum.reads_output
        return _READS[self.reads_weight, output]

    def begin(self, use: Use, state: State) -> tuple[bool, State]:
        if not self.learns:
            return True, {}
        B = {"backward_weight": state["backward_weight"]}
        if not use.training:  # what counts passes rests
            return True, {} if self.cadence.every > 1 or self._delay else B
        active = self.cadence.tick(use.memory, use.repeated)
        if self.view is None or not self.view.delay_steps:
            return active, B
        return active, B | {
            "late_weight": self.view.pass_through(use.W, state["late_weights"], use.memory, use.repeated)
        }

    def in_effect(self, scale: float, active: bool) -> Alignment:
        return self.scaled(scale, float(self.cadence.every) if active else 0.0)

    def averages(self, name: str) -> bool:
        return not (self.tie_grad or self.update_forward)

    def without_own(self) -> Alignment:
        return self.scaled(0.0) if self.tie_grad or self.update_forward else self

    def feedback(self, W: Tensor, state: State) -> Tensor | None:
        return state["backward_weight"]

    @property
    def _sum(self) -> Alignment:
        """The rule without the terms that a view of W teaches, which are decay and self; without a view, the rule."""
        return self if self.view is None else self._rest  # type: ignore[attr-defined]

    def backward(self, step: LayerStep) -> Gradients:
        """dx = B^T dy, dW = dy x^T (+ dR/dW), dB = dR/dB (+ dy x^T), db = sum dy; dR/dB does not depend on dy."""
        if "backward_weight" not in step.state:  # nothing learns
            return FeedbackRule.backward(self, step)
        rule, op, B = self._sum, step.op, step.state["backward_weight"]
        needs_B = step.needs_state["backward_weight"]
        if self.tie_grad and not (step.weight_learns or self.self_ or self.reads_activities):
            needs_B = False  # no gradient at all: of zeros the optimiser's decay would move B, and W stands still
        learns = needs_B or (step.needs_weight and self.update_forward)
        tied = needs_B and self.tie_grad and step.weight_learns
        W = B if step.W is None else step.W  # never read by this rule; stands in for its shape
        drawn = Activities(step.x)
        if learns and rule.reads_activities:
            # One example alone would be its own mean.
            centred = self.operations.batch_center_backward_input or self.operations.batch_center_forward_output
            drawn = self.drive.draw(step.x, step.output, B, op, self.cadence.fraction, 2 if centred else 1)
            if drawn.y is not None and step.bias is not None:
                drawn = dataclasses.replace(drawn, y=op.add_bias(drawn.y, step.bias.to(drawn.y.dtype), -1))
        way_back = self.drive.feedback(drawn, step.W, B, rule) if learns else B
        dx, dW, db = step.task(way_back, weight=step.needs_weight or tied)
        if not learns:
            return Gradients(dx, dW if step.needs_weight else None, db)

        uses = 1 if step.memory is None else step.memory.last // self.cadence.every
        share = self.drive.share(step.x, B, op, max(1, uses))
        task = dW if tied else None
        in_one = task if rule.closed_form and share == 1 else None  # the task's gradient is added along the way
        dB: Tensor | None = None
        dW_alignment: Tensor | None = None
        if rule.closed_form:
            if needs_B:
                dB = self.drive.gradient(drawn, W, B, rule, op, in_one)
            if step.needs_weight and self.update_forward:
                dW_alignment = forward_gradient(drawn.x, drawn.y, W, B, rule, op)
        else:
            dB, dW_alignment = gradients_by_differentiation(drawn.x, W, B, step.bias, rule, op)
        if share < 1:
            dB, dW_alignment = (None if g is None else g * share for g in (dB, dW_alignment))
        if task is not None and in_one is None and dB is not None:
            dB = dB + task
        if dB is not None and self.view is not None:
            dB = dB + self.view.gradient(step.state.get("late_weight", W), B, self.decay, self.self_)
        if dW is not None and dW_alignment is not None:
            dW = dW + dW_alignment
        return Gradients(dx, dW if step.needs_weight else None, db, {} if dB is None else {"backward_weight": dB})

    def gradient(self, drawn: Activities, W: Tensor, B: Tensor, op: Operator) -> Tensor:
        """dR/dB on given activities, for phases in which B alone learns: closed form, view included."""
        dB = self.drive.gradient(drawn, W, B, self._sum, op, None)
        return dB if self.view is None else dB + self.view.gradient(W, B, self.decay, self.self_)

    # -- what others ask -----------------------------------------------------------------------------------------------

    def optimiser(self, name: str, momentum: float) -> BackwardOptimiser:
        if self.tie_grad:  # W - B shrinks by the same factor a step under any optimiser if both have the same settings
            return BackwardOptimiser(follows=True, decays=not self.decay)
        on_activity = isinstance(self.drive, Activity)
        if self.sparse:  # as ill-conditioned as the activities
            return BackwardOptimiser(momentum=MOMENTUM if on_activity else MOMENTUM_ON_NOISE)
        if self.view is not None or self.amp or self.null or self.decay > 1 or not self.self_:
            # Momentum would add up the noise of a view, go on where nothing arrives, and lower bounds of stability.
            return BackwardOptimiser()
        # B is drawn to the W before the step that W is about to take. At rate 1 and decay = self = 1 Nesterov's B is
        # W_t + m (W_t - W_(t-1)): as much further as W's own momentum m will carry it.
        return BackwardOptimiser(momentum=momentum)

    @property
    def gradient_is_local(self) -> bool:
        draws = self.view is not None and self.view.draws  # each process has draws of its own
        return not (self.tie_grad or self.reads_activities or draws or self.update_forward)

    def clip(self, name: str, value: Tensor, gradient: Tensor, factor: float | Tensor, scale: float) -> None:
        if self.tie_grad:  # the part that is W's own is scaled with it, the decay is not
            own = value * (self.decay * scale)
            gradient.sub_(own).mul_(factor).add_(own)

    @property
    def aligns(self) -> bool:
        return self.learns

    @property
    def searchable(self) -> frozenset[str]:
        if not self.learns or self.tie_grad:  # nothing, or the settings of W's own optimiser
            return frozenset()
        rates = {"backward_rate", "backward_optimizer"}
        if self.reduction == "per_tap_mean":  # on noise: the coefficients belong together, and a rate is what is left
            return frozenset(rates)
        found = rates | {name for name, c in self.coefficients.items() if c}
        if self.reads_activities:
            switches = {f.name for f in dataclasses.fields(Operations) if f.name not in ON_ACTIVATION}
            # A projected step needs the closed form, and its reduction is what makes it.
            projected = self.reduction == "projected_step"
            found |= set(ON_INPUT) if projected else switches | {"reduction"}
            found |= {"noise", "every"}
        return frozenset(found)

    def __add__(self, other: object) -> Alignment:
        if not isinstance(other, Alignment):
            return NotImplemented
        for name in ("reduction", "operations", "drive", "view", "cadence"):
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
        text = self.formula() + (", dB += dW" if self.tie_grad else "")
        options = chosen(self, besides=(*PRIMITIVES, "tie_grad"))
        return f"{text} [{options}]" if options else text


_READS = {
    (weight, output): frozenset((*(["weight"] if weight else []), *(["output"] if output else [])))
    for weight in (False, True)
    for output in (False, True)
}
