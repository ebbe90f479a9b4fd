"""The mirrored Kolen-Pollack rule: shared increments, and white noise that removes the constant difference."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable
from typing import ClassVar, Self

import torch
from torch import Tensor

from backroads.feedback.checks import check_choice, check_count, check_number, check_positive, checked_options, chosen
from backroads.feedback.drive.white_noise import WhiteNoise
from backroads.feedback.operators import Operator
from backroads.feedback.primitives import WeightedSum, backward_gradient
from backroads.feedback.rules.base import BackwardOptimiser, FeedbackRule, Gradients, LayerStep, State, Use, draw_like

# Its gradient is B - M[y x^T], M the mean over the rows that a weight meets.
DIFFERENCE = WeightedSum(decay=1.0, amp=1.0, reduction="per_tap_mean")
NOISE = {distribution: WhiteNoise(distribution) for distribution in ("normal", "uniform")}
START = 2.0  # |B - W|^2 / |B|^2 of a B that is drawn like W, independent of it
RATE, MARGIN = 0.1, 0.05  # of Q; a covariance of innovations that is no sign of a walk, in R
WATCHED = 16  # neurons of a layer, whose innovations are kept from one noise to the next


@dataclasses.dataclass(frozen=True, repr=False)
class MirroredKolenPollack(FeedbackRule):
    """``dB = dW + g (V - B)``, V what white noise shows of W; see :func:`mirrored_kolen_pollack`.

    Two tensors carry the error back, B + C. B gets the task's gradient of W, in W's own optimiser. C gets the gradient
    g (B + C - V) and plain SGD at rate 1, and moves into B before the next step, so that W's weight decay acts on all
    of it. Data parallelism, accumulation and clipping see two ordinary gradients.
    """

    kind: ClassVar[str] = "mirrored_kolen_pollack"
    owns_feedback: ClassVar[bool] = True
    rows: float = 64.0
    every: int = 8
    first: float = 131.0
    floor: float = 1e-3
    noise: str = "normal"
    scale: float = dataclasses.field(default=1.0, kw_only=True)  # of one pass; see in_effect

    def __post_init__(self) -> None:
        check_positive("mirrored_kolen_pollack", "rows", self.rows)
        check_count("mirrored_kolen_pollack", "every", self.every)
        check_number("mirrored_kolen_pollack", "first", self.first)
        check_positive("mirrored_kolen_pollack", "floor", self.floor, most=1.0)
        check_choice("mirrored_kolen_pollack", "noise", self.noise, tuple(NOISE))

    # -- what stands beside W ------------------------------------------------------------------------------------------

    def state(self, W: Tensor, features: int, generator: torch.Generator | None) -> State:
        """B, drawn like W; C, zeros; P and Q of the filter; and of the last noise g, R, and what some neurons saw."""
        B = torch.nn.Parameter(draw_like(W, generator))
        C = torch.nn.Parameter(torch.zeros_like(B))
        P = START * B.detach().square().sum()
        filtered = {"variance": P, "drift": P.new_zeros(()), "gain": P.new_zeros(()), "power": P.new_zeros(())}
        return {"backward_weight": B, "correction": C, **filtered, "innovation": torch.zeros_like(B.detach()[:WATCHED])}

    @property
    def layout(self) -> Hashable:
        return self.kind

    @property
    def counters(self) -> dict[str, int]:
        # The rows of a step are known when it is over.
        return {"step": self.every, "active": 2, "before": 2**31, "uses": 2**31, "noisy": 2**31, "early": 2}

    def settle(self, state: State) -> None:
        C, Q, g, last = (state[name] for name in ("correction", "drift", "gain", "innovation"))
        with torch.no_grad():
            # C = g (V - B), the mean over the step's parts and processes; with g = 0 it has been looked at already.
            e = C[:WATCHED] / g.clamp(min=torch.finfo(g.dtype).tiny)
            # E[e e'] = (1 - g) P - g R, with the true P and R: 0 if g is right, more if B walks, less if V or the read
            # of B is noisier than R says.
            covariance = (e * last).sum() * (C.shape[0] / last.shape[0])
            Q.add_(RATE * g * (covariance - MARGIN * state["power"])).clamp_(min=0.0)
            last.copy_(torch.where(g > 0, e, last))
            state["backward_weight"].add_(C)
            C.zero_()
            g.zero_()

    # -- how much noise there is ---------------------------------------------------------------------------------------

    def images(self, x: Tensor, W: Tensor, op: Operator) -> int:
        """How many examples of noise a layer gets in place of x: those for ``rows``, at most the batch's."""
        n, rows = 1 if op.unbatched(x) else max(1, x.shape[0]), self.rows
        if torch.compiler.is_compiling():  # which has noise in every step
            n, rows = math.ceil(n / self.every), rows / self.every
        return min(n, max(1, math.ceil(rows / self._rows_of_one(x, W, op) - 1e-9)))

    def rows_per_input(self, x: Tensor, W: Tensor, op: Operator) -> float:
        """q of that noise: E|V - W|^2 = |W|^2 / q, or less at borders. A tap that meets a border has fewer rows."""
        return self.images(x, W, op) * self._rows_of_one(x, W, op)

    def _rows_of_one(self, x: Tensor, W: Tensor, op: Operator) -> float:
        """The rows per input of one example."""
        reciprocals = math.prod([sum(1 / places for places in axis if places) for axis in op.taps(x, W)])
        return 1 / (W.shape[1] * (reciprocals or 1.0))

    # -- the passes ----------------------------------------------------------------------------------------------------

    @property
    def learns(self) -> bool:
        return True

    def reads(self, state_learns: bool, weight_learns: bool) -> frozenset[str]:
        # W answers the noise, y = W xi
        return frozenset({"weight"}) if state_learns and self.scale else frozenset()

    @torch.no_grad()
    def begin(self, use: Use, state: State) -> tuple[bool, State]:
        B, C, memory = state["backward_weight"], state["correction"], use.memory
        transformed = torch._C._are_functorch_transforms_active()  # vmap and grad change nothing in place
        compiled = torch.compiler.is_compiling()  # it would take a count for a constant: noise in every step
        learning = use.training and not transformed
        step = learning and use.first and not use.repeated
        if step:
            if memory.active or compiled or memory.seen < 0:
                self.settle(state)
            if use.scale == 0.0:  # a schedule lets C rest in this step; the noise waits for the next
                memory.active = False
            else:
                self._decide(use, compiled)
        # After that C is zero until the optimiser has stepped, and B alone carries the error back.
        tensors = {"backward_weight": B, "correction": C} | ({"feedback": B} if learning else {})
        if not memory.active or not use.training:
            return False, tensors
        if step:
            # R = E|V - W|^2 of the V of a step. The rows are those of all uses in a step; |W|^2 is the power of the
            # answers to the noise, E|W xi|^2, and taken from W to save their second pass.
            q = self.rows_per_input(use.x, use.W, use.op) * max(1, memory.last)
            R = (torch.linalg.vector_norm(use.W).square() / q).clamp(min=torch.finfo(B.dtype).tiny)
            P = state["variance"] + state["drift"]
            g = (P / (P + R)).clamp(min=self.floor)
            state["gain"].copy_(g)
            state["power"].copy_(R)
            state["variance"].copy_((1 - g).square() * P + g.square() * R)
        return True, {**tensors, "gain": state["gain"].clone()}

    def _decide(self, use: Use, compiled: bool) -> None:
        """Whether noise comes in this step. The first rows come in every one, where an error passes: B is still far."""
        memory = use.memory
        if memory.early and not compiled:
            memory.early = memory.noisy * self.rows_per_input(use.x, use.W, use.op) < self.first
        memory.active = compiled or memory.step == 0 or (memory.early and use.x.requires_grad)
        memory.step = 0 if compiled else (memory.step + 1) % self.every
        memory.noisy += memory.active and memory.early and not compiled

    def in_effect(self, scale: float, active: bool) -> Self:
        scale = scale if active else 0.0
        return self if scale == self.scale else dataclasses.replace(self, scale=scale)

    def feedback(self, W: Tensor, state: State) -> Tensor | None:
        return state["backward_weight"] + state["correction"]

    def backward(self, step: LayerStep) -> Gradients:
        assert step.feedback is not None
        needs_B, needs_C = step.needs_state["backward_weight"], step.needs_state["correction"]
        needs_B = needs_B and step.weight_learns  # a W that stands still has no increments
        dx, dW, db = step.task(step.feedback, weight=step.needs_weight or needs_B)
        state: State = {}
        if needs_B and dW is not None:
            state["backward_weight"] = dW.clone() if step.needs_weight else dW
        if needs_C and self.scale:
            assert step.W is not None
            g = step.state["gain"] * self.scale
            state["correction"] = self._innovation(step.x, step.W, step.feedback, step.op) * g
        return Gradients(dx, dW if step.needs_weight else None, db, state)

    def _innovation(self, x: Tensor, W: Tensor, B: Tensor, op: Operator) -> Tensor:
        """``B - V``, V = M[y xi^T] of fresh noise xi, of power 1, where x would be, and y = W xi."""
        xi = NOISE[self.noise].sample(x.unsqueeze(0) if op.unbatched(x) else x, self.images(x, W, op))
        return backward_gradient(xi, None, W, B, DIFFERENCE, op)

    # -- what others ask -----------------------------------------------------------------------------------------------

    def optimiser(self, name: str, momentum: float) -> BackwardOptimiser:
        if name == "backward_weight":
            return BackwardOptimiser(follows=True, decays=True)
        return BackwardOptimiser(constant=True)  # the gain falls by itself

    def clip(self, name: str, value: Tensor, gradient: Tensor, factor: float | Tensor, scale: float) -> None:
        if name == "backward_weight":
            gradient.mul_(factor)

    @property
    def aligns(self) -> bool:
        return True

    def predicted_angle(self, state: State) -> float | None:
        # |B - W|^2 = 2 |B|^2 (1 - cos), |B| being |W| throughout
        share = float(state["variance"]) / max(float(state["backward_weight"].detach().square().sum()), 1e-300)
        return math.degrees(math.acos(1 - min(share, START) / 2))

    def __repr__(self) -> str:
        text = "dB = dW + g (M[y xi^T] - B), g from a Kalman filter"
        options = chosen(self, besides=("scale",))
        return f"{text} [{options}]" if options else text


@checked_options
def mirrored_kolen_pollack(
    rows: float = 64.0, *, every: int = 8, first: float = 131.0, floor: float = 1e-3, noise: str = "normal"
) -> MirroredKolenPollack:
    """Mirrored Kolen-Pollack: ``dB = dW + g (V - B)``. Local, and nothing to tune.

    B gets the increments that W's optimiser gives W (Kolen and Pollack), so that whatever W does leaves the difference
    D = B - W as it is. Now and then noise xi, white and of power 1, drives the layer in place of its input, apart from
    the task; with y = W xi the mean of y xi^T is an unbiased view V of W, E|V - W|^2 = |W|^2 / q for q rows of noise
    per input of a neuron, and removes D. As D is a constant seen through noise, the best gain is that of the Kalman
    filter: ``g = P / (P + R)``, ``P <- (1 - g) P``, R = |W|^2 / q, from P = E|D|^2 = 2 |B|^2 on, when B is drawn like
    W. While |W| stays the same, P = |W|^2 / (1/2 + rows per input so far): 131 rows over a whole training give an angle
    of 5 degrees, in any network.

    Where noise or rounding is in B's increments, D does a random walk, and what V - B shows of it is much the same from
    one noise to the next. From their covariance, which is 0 under the right gain, the filter learns the walk's variance
    Q, which is added to P before each step with noise: the gain stays as high as the noise in B needs.

    A noise of the mirror alone has to be averaged, and an average lags behind a W that moves; Kolen and Pollack's rule
    alone forgets D at the pace of weight decay. Nothing reads W: both terms are at hand at the synapse.

    B has to share W's optimiser and C needs plain SGD at rate 1: :func:`backroads.param_groups` sets that up.

    Args:
        rows: of noise in a step with noise, for each input of a neuron: so many, if the batch has them (a position of a
            convolution is a row); > 0.
        every: noise comes in the first step and in every so-manyth from then on; >= 1. As the noise takes two products
            of the layer's three, a step costs at most 2 / (3 every) more; in convolutions, where ``rows`` is a small
            part of the batch's, far less. Under torch.compile it comes in each step, in such a part of the rows.
        first: until there were so many rows for each input noise comes in every step, in layers through which an error
            passes; >= 0. 131 make 5 degrees. Not under torch.compile.
        floor: of g, > 0 and <= 1, for what moves B and W apart so slowly that V does not show it (rounding).
        noise: "normal" or "uniform".

    Raises:
        RuleError: for values out of range.

    Sources: Kolen, Pollack, ICNN 1994; Akrout et al., NeurIPS 2019 (both halves); Kalman, J. Basic Eng. 82 (1960);
    Mehra, IEEE Trans. Automatic Control 15 (1970) (noise from the covariance of innovations). The combination is ours.
    """
    return MirroredKolenPollack(rows, every, first, floor, noise)
