"""The flow of a layer's two weights integrated over time, and linearised by automatic differentiation. In float64."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from backroads.contrib.theory.closed import check_rule
from backroads.feedback.rules import Alignment
from backroads.metrics.angles import angle
from backroads.runs.results import Course, Fate

Field = Callable[[Tensor], Tensor]


def flow(coefficients: Sequence[float | Tensor], W: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """(W', B'), minus the gradients of the alignment loss, for W and B (..., O, I) and C = M[x x^T] (I, I)."""
    decay, amp, null, sparse, self_ = coefficients
    WC, BC = W @ C, B @ C
    dB = decay * B - amp * WC + null * (WC @ (W.mT @ B)) + sparse * BC - self_ * W
    dW = decay * W - amp * BC + null * (B @ (B.mT @ WC)) + sparse * WC - self_ * B
    return -dW, -dB


def field(rule: Alignment, C: Tensor, outputs: int, W: Tensor | None = None) -> Field:
    """The flow as a function of one vector: W and B flattened, one after the other; or B alone, if W is given."""
    check_rule(rule)
    coefficients, shape = tuple(rule.coefficients.values()), (outputs, len(C))

    def moving(point: Tensor) -> Tensor:
        if W is not None:
            return flow(coefficients, W, point.view(shape), C)[1].flatten()
        w, b = point.chunk(2)
        return torch.cat([part.flatten() for part in flow(coefficients, w.view(shape), b.view(shape), C)])

    return moving


def linearise(f: Field, point: Tensor) -> Tensor:
    """Eigenvalues of the flow's Jacobian at a point, complex, those with the largest real part first."""
    values: Tensor = torch.linalg.eigvals(torch.func.jacrev(f)(point))
    return values[values.real.argsort(descending=True)]


def settle(f: Field, start: Tensor) -> Tensor | None:
    """A fixed point near ``start`` by at most 60 steps of Newton's method; None if it does not converge."""
    point = start.clone()
    for _ in range(60):
        value = f(point)
        if float(value.norm()) <= 1e-12 * (1 + float(point.norm())):
            return point
        # Least squares: the Jacobian has no inverse where a whole line or surface is fixed.
        point = point - torch.linalg.lstsq(torch.func.jacrev(f)(point), value[:, None], driver="gelsd").solution[:, 0]
        if not bool(point.isfinite().all()):
            return None
    return None


@dataclasses.dataclass(frozen=True)
class Path:
    """N trajectories: K times, and the weights then, (K, N, O, I). A trajectory stops where it passes the limit."""

    times: list[float]
    W: Tensor
    B: Tensor

    @property
    def sizes(self) -> Tensor:
        """(K, N): the length of (W, B) as one vector."""
        return (self.W.square() + self.B.square()).sum((-1, -2)).sqrt()


LIMIT = 1e3
MOST_STEPS = 20_000
STILL = 0.01  # growth per unit of time that counts as none


def follow(
    rules: Sequence[Alignment], W: Tensor, B: Tensor, C: Tensor, time: float, *, limit: float = LIMIT, keep: int = 60
) -> Path:
    """Integrate the flow with both weights moving (Runge-Kutta of fourth order), all trajectories at once.

    Args:
        rules: one for each trajectory, or a single one for all; RuleError unless they are sums of primitives.
        W: (N, O, I), where they start; N may be 1.
        B: (N, O, I).
        C: (I, I).
        time: how long.
        limit: of sqrt(|W|^2 + |B|^2), beyond which a trajectory is not followed.
        keep: about how many points in time to keep.
    """
    for rule in rules:
        check_rule(rule)
    N = max(len(rules), len(W))
    W, B = (weight.expand(N, *weight.shape[1:]).clone() for weight in (W, B))
    coefficients = torch.tensor([list(rule.coefficients.values()) for rule in rules], dtype=W.dtype).expand(N, 5)
    c = coefficients[:, :, None, None].unbind(1)
    steps = max(1, min(MOST_STEPS, math.ceil(time / _step(coefficients, W, B, C))))
    h, every = time / steps, max(1, steps // keep)
    times, kept = [0.0], [(W, B)]
    for n in range(1, steps + 1):
        k1 = flow(c, W, B, C)
        k2 = flow(c, W + h / 2 * k1[0], B + h / 2 * k1[1], C)
        k3 = flow(c, W + h / 2 * k2[0], B + h / 2 * k2[1], C)
        k4 = flow(c, W + h * k3[0], B + h * k3[1], C)
        on = (W.square() + B.square()).sum((-1, -2), keepdim=True) <= limit**2
        new = [old + h / 6 * (a + 2 * b + 2 * d + e) for old, a, b, d, e in zip((W, B), k1, k2, k3, k4, strict=True)]
        W, B = (torch.where(on, now, old) for now, old in zip(new, (W, B), strict=True))
        if n % every == 0 or n == steps:
            times.append(n * h)
            kept.append((W, B))
    return Path(times, torch.stack([w for w, _ in kept]), torch.stack([b for _, b in kept]))


def _step(coefficients: Tensor, W: Tensor, B: Tensor, C: Tensor) -> float:
    """A time step that is short compared with the fastest rate that may occur."""
    decay, amp, null, sparse, self_ = coefficients.unbind(1)
    gamma = float(torch.linalg.eigvalsh(C)[-1])
    linear = decay + sparse * gamma + amp * gamma + self_
    most = (W.square().sum((-1, -2)) + B.square().sum((-1, -2))).max()
    # null bounds the squares of the weights by their start, or by where amp and self bring them.
    return 0.3 / max(1e-9, float((linear + 2 * null * gamma * most + 2 * (amp * gamma + self_) * (null > 0)).max()))


def observed_fates(path: Path, limit: float = LIMIT) -> list[Fate]:
    """What became of each trajectory, by how its length changes at the end: "explodes", "collapses" or "settles"."""
    sizes = path.sizes
    ago = max(0, len(path.times) - 1 - max(1, len(path.times) // 10))
    logs = sizes[[ago, -1]].clamp(min=1e-300).log()
    rates = (logs[1] - logs[0]) / (path.times[-1] - path.times[ago])
    return [
        "explodes" if not size <= limit or rate > STILL else "collapses" if rate < -STILL else "settles"
        for rate, size in zip(rates.tolist(), sizes[-1].tolist(), strict=True)
    ]


def course(path: Path) -> Course:
    """Norms and angles along the first trajectory, until it stops."""
    W, B = path.W[:, 0], path.B[:, 0]
    moves = [k for k in range(1, len(W)) if not (torch.equal(W[k], W[k - 1]) and torch.equal(B[k], B[k - 1]))]
    W, B = (weight[: max(moves, default=0) + 1] for weight in (W, B))
    return Course(
        tuple(path.times[: len(W)]),
        tuple(float(w.norm()) for w in W),
        tuple(float(b.norm()) for b in B),
        tuple(angle(b, w) for w, b in zip(W, B, strict=True)),
    )


def spectrum(inputs: int, power: float, condition: float) -> list[float]:
    """Eigenvalues of an input's second moment: evenly spread on a logarithmic scale, with mean ``power``, the largest
    ``condition`` times the smallest.
    """
    raw = [condition ** (-(k / max(1, inputs - 1))) for k in range(inputs)]
    mean = sum(raw) / inputs
    return [power * value / mean for value in raw]
