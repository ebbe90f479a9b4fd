"""Fixed points and stability in closed form, for any weighted sum of the five primitives.

W (O, I) and B (O, I) are the forward and backward weights of a linear layer, C = M[x x^T] (I, I) is the second moment
of its input, gamma an eigenvalue of C; amp, decay, null, sparse, self are the rule's coefficients. Both weights, or B
alone, move along minus the gradient of the alignment loss (reduction "sum", no operations). Derived in docs/theory.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from backroads.errors import RuleError
from backroads.feedback.rules import Activity, Alignment
from backroads.runs.results import Fate, FixedPoint


def check_rule(rule: Alignment) -> None:
    """Raise :class:`RuleError` unless the rule is a weighted sum of the five primitives and nothing else."""
    coefficients: dict[str, Any] = rule.coefficients
    drive = Activity() if isinstance(rule.drive, Activity) else rule.drive
    if dataclasses.replace(rule, update_forward=False, drive=drive) != Alignment(**coefficients):
        raise RuleError(f"expected a weighted sum of the five primitives, without further options; got {rule!r}")


TINY = 1e-12  # of the largest: below it, a number of a decomposition in float64 is rounding


@dataclasses.dataclass(frozen=True)
class Mode:
    """The system of two numbers that every sum of primitives is along one eigenvector of C, with both weights moving::

        w' = pull b - loss w - bound b^2 w
        b' = pull w - loss b - bound w^2 b

    Attributes:
        pull: amp gamma + self.
        loss: decay + sparse gamma.
        bound: null gamma.
    """

    pull: float
    loss: float
    bound: float

    @classmethod
    def of(cls, rule: Alignment, strength: float = 1.0) -> Mode:
        """The mode along an eigenvector of C with eigenvalue ``strength``; RuleError as :func:`check_rule`."""
        check_rule(rule)
        return cls(rule.amp * strength + rule.self_, rule.decay + rule.sparse * strength, rule.null * strength)

    @property
    def origin(self) -> tuple[float, float]:
        """Eigenvalues at w = b = 0: along w = b, and along w = -b."""
        return self.pull - self.loss, -self.pull - self.loss

    @property
    def fate(self) -> Fate:
        """What becomes of almost every start: "collapses", "settles" or "explodes"; "undecided" on a border."""
        growth = self.pull - self.loss
        if math.isclose(self.pull, self.loss, rel_tol=1e-12, abs_tol=1e-300):
            return "undecided"
        if growth < 0:
            return "collapses"
        return "settles" if self.bound > 0 else "explodes"

    def fixed_points(self) -> list[FixedPoint]:
        """The isolated fixed points. A line of them (pull = loss, bound = 0) shows as an eigenvalue 0 at the origin.

        With bound > 0 and pull > loss there are two beside the origin, w = b = +-sqrt((pull - loss) / bound), whose
        eigenvalues are ``-2 (pull - loss)`` and ``-2 loss``. There are no others: w' = 0 and b' = 0 give
        ``(pull - bound w b)^2 = loss^2`` unless w = b = 0, and the negative root has no real solution. With loss = 0
        they lie on the hyperbola ``w b = pull / bound``, all of which is fixed: hence the eigenvalue 0.
        """
        points = [_fixed_point(0.0, 0.0, self.origin)]
        if self.bound > 0 and self.pull > self.loss:
            end = math.sqrt((self.pull - self.loss) / self.bound)
            values = (-2 * (self.pull - self.loss), -2 * self.loss)
            points += [_fixed_point(end, end, values), _fixed_point(-end, -end, values)]
        return points


def _fixed_point(w: float, b: float, eigenvalues: tuple[float, ...]) -> FixedPoint:
    largest = max(eigenvalues)
    return FixedPoint(w, b, eigenvalues, "unstable" if largest > 0 else "marginal" if largest == 0 else "stable")


def fate(rule: Alignment, strengths: Sequence[float]) -> Fate:
    """What becomes of a layer with both weights moving, by the eigenvalues ``strengths`` of its C.

    It explodes if it grows along some eigenvector without a bound, collapses if it grows along none, and settles
    otherwise.
    """
    fates = {Mode.of(rule, strength).fate for strength in strengths}
    order: tuple[Fate, ...] = ("explodes", "settles", "undecided", "collapses")
    return next(name for name in order if name in fates)


@dataclasses.dataclass(frozen=True)
class Held:
    """Where B goes while W does not move: a linear flow.

    Attributes:
        B: (O, I), the fixed point that a start at B = 0 goes to; infinite if B grows without end.
        rates: (O, I), how fast B gets there along each pair of eigenvectors, 1 / time; 0 where nothing is learned.
            The eigenvalues of the flow are their negatives.
    """

    B: Tensor
    rates: Tensor

    @property
    def largest_step(self) -> float:
        """The largest learning rate with which plain gradient steps converge: 2 over the fastest rate."""
        fastest = float(self.rates.max())
        return 2 / fastest if fastest > 0 else math.inf


def held(rule: Alignment, W: Tensor, C: Tensor) -> Held:
    """Solve ``(decay + null W C W^T) B + B (sparse C) = amp W C + self W``.

    With ``W C W^T = U diag(alpha) U^T`` and ``C = V diag(gamma) V^T``, entry (i, j) of ``U^T B V`` goes to that of the
    right side over its rate, ``decay + null alpha_i + sparse gamma_j``. Where the rate is 0 and the right side is not,
    B grows without end.

    Args:
        rule: a weighted sum of primitives; RuleError otherwise.
        W: (O, I) float64.
        C: (I, I) float64, symmetric and positive semi-definite.
    """
    check_rule(rule)
    alpha, U = torch.linalg.eigh(W @ C @ W.t())
    gamma, V = torch.linalg.eigh(C)
    alpha, gamma = alpha.clamp_(min=0), gamma.clamp_(min=0)
    rates = rule.decay + rule.null * alpha[:, None] + rule.sparse * gamma
    goal = U.t() @ (rule.amp * W @ C + rule.self_ * W) @ V
    # What is 0 in exact arithmetic comes out of the decompositions as rounding.
    rates = torch.where(rates > TINY * rates.max(), rates, 0.0)
    goal = torch.where(goal.abs() > TINY * goal.abs().max(), goal, 0.0)
    parts = torch.where(rates > 0, goal / rates, torch.where(goal.abs() > 0, goal.sign() * torch.inf, goal))
    B = U @ parts @ V.t() if bool(parts.isfinite().all()) else torch.full_like(W, torch.inf)
    return Held(B, rates)


def noise_floor(rate: float, rows: int, inputs: int) -> float:
    """Relative noise |B - W| / |W| that the white-noise mirror keeps while W does not move, as a root mean square.

    ``B <- B + rate (M[y xi^T] / s^2 - B)`` forgets its start at (1 - rate) a step; the noise of the estimate is left.
    With white normal noise, M over n rows, an entry of ``M[y xi^T] / s^2`` has variance ``(|w_o|^2 + w_oi^2) / n``, of
    which averaging over steps leaves ``rate / (2 - rate)``.

    Args:
        rate: of B, between 0 and 2.
        rows: n, at least 1.
        inputs: I, at least 1.

    Raises:
        RuleError: for values out of range.
    """
    if not 0 < rate < 2 or rows < 1 or inputs < 1:
        raise RuleError(f"noise_floor: expected 0 < rate < 2, rows >= 1 and inputs >= 1, got {rate}, {rows}, {inputs}")
    return math.sqrt(rate / (2 - rate) * (inputs + 1) / rows)
