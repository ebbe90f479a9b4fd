"""Linsker's covariance rule: cells with local inputs grow centre-surround and oriented fields from noise.

    dw_i/dt = k1 + sum_j (Q_ij + k2) w_j,   clipped to -w_max <= w_i <= w_max

with Q the covariance of a cell's inputs. Sources: R. Linsker, PNAS 83, 1986 (three papers), who has 1/N before the sum;
D. J. C. MacKay, K. D. Miller, "Analysis of Linsker's simulations of Hebbian rules", NIPS 1989. Everything is float64.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from backroads.contrib.selforganisation.checks import check_steps, checked, covariance, positive
from backroads.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Grown:
    """Cells after their development.

    Attributes:
        w: (cells, N).
        steps: how many were taken.
        energy: of all cells, before each step and after the last one, (steps + 1, cells). It never rises.
    """

    w: Tensor
    steps: int
    energy: Tensor


def energy(w: Tensor, Q: Tensor, k1: float, k2: float) -> Tensor:
    """E(w) = -k1 sum w - w^T (Q + k2 J) w / 2, J all ones, which the rule descends. w: (cells, N); returns (cells,)."""
    return -k1 * w.sum(1) - (w * (w @ Q)).sum(1) / 2 - k2 * w.sum(1) ** 2 / 2


def grow(
    Q: Tensor, k1: float, k2: float, w: Tensor, *, w_max: float = 1.0, steps: int = 4000, tolerance: float = 1e-12
) -> Grown:
    """Follow the rule by Euler steps of 0.1 / max |eigenvalue of Q + k2 J|, each clipped.

    It ends when 99 % of the weights of every cell are at a bound, or no weight moves by more than ``tolerance``.

    Args:
        Q: covariance of the inputs, (N, N).
        k1, k2: constants of the rule, see :func:`constants`.
        w: at the start, (cells, N); all cells have the same Q and do not meet.
        w_max: bound of the weights; infinite for none.
        steps: at most.
        tolerance: as above.

    Raises:
        ShapeError: a tensor of another shape or dtype, or not finite; Q not symmetric, or with negative eigenvalues.
        ConfigError: w_max not above 0, k1 or k2 not finite, or steps below 1.
    """
    Q = covariance("Q", Q)
    w = checked("w", w, None, len(Q))
    if w_max != math.inf:
        positive(w_max=w_max)
    check_steps(steps)
    if not (math.isfinite(k1) and math.isfinite(k2)):
        raise ConfigError(f"k1, k2: expected finite numbers, got {k1!r} and {k2!r}")
    M = Q + k2
    dt = 0.1 / float(torch.linalg.eigvalsh(M).abs().max().clamp_min(torch.finfo(M.dtype).tiny))
    w = w.clamp(-w_max, w_max)
    energies = [energy(w, Q, k1, k2)]
    for _ in range(steps):
        new = (w + dt * (k1 + w @ M)).clamp(-w_max, w_max)
        moved, w = float((new - w).abs().max()), new
        energies.append(energy(w, Q, k1, k2))
        if moved <= tolerance or bool(((w.abs() >= w_max).double().mean(1) >= 0.99).all()):
            break
    return Grown(w, len(energies) - 1, torch.stack(energies))


def constants(mean: float, x0: float, y0: float) -> tuple[float, float]:
    """k1 and k2 of the online rule dw_i = (x_i - x0) (y - y0), y = sum w x, for inputs of this mean.

    Its average is the covariance rule with k1 = -y0 (m - x0) and k2 = m (m - x0). k2 < 0 needs x0 > m > 0.
    """
    return -y0 * (mean - x0), mean * (mean - x0)


def grow_online(
    batches: Iterable[Tensor], x0: float, y0: float, w: Tensor, *, rate: float, w_max: float = 1.0
) -> Tensor:
    """Follow dw_i = rate * mean of (x_i - x0) (y - y0), y = sum w x, clipped after each batch.

    Args:
        batches: of inputs, each (n, N).
        x0, y0: constants of the rule.
        w: at the start, (cells, N).
        rate: above 0.
        w_max: bound of the weights.

    Returns:
        (cells, N). w is not changed.

    Raises:
        ShapeError: a tensor of another shape or dtype, or not finite. ConfigError: a rate or w_max not above 0.
    """
    positive(rate=rate, w_max=w_max)
    w = checked("w", w, None, None)
    for batch in batches:
        x = checked("x", batch, None, w.shape[1])
        w = (w + rate * (x @ w.T - y0).T @ (x - x0) / len(x)).clamp(-w_max, w_max)
    return w


def next_covariance(W: Tensor, Q: Tensor) -> Tensor:
    """Covariance of the answers of cells, W Q W^T, which the next layer sees. W: (cells, N); Q: (N, N)."""
    Q = covariance("Q", Q)
    W = checked("W", W, None, len(Q))
    return W @ Q @ W.T


def gaussian_covariance(places: Tensor, width: float) -> Tensor:
    """exp(-d^2 / (2 width^2)) over the distances d of inputs at these places, (N, 2): (N, N)."""
    positive(width=width)
    return (-_squares(places) / (2 * width**2)).exp()


def centre_surround_covariance(places: Tensor, a: float, b: float) -> Tensor:
    """Covariance of a layer of centre-surround cells on white noise, 1 at distance 0.

    The autocorrelation of the field exp(-d^2 / 2a^2) / a^2 - exp(-d^2 / 2b^2) / b^2.

    Args:
        places: of the cells, (N, 2).
        a, b: widths of centre and surround, not the same.
    """
    positive(a=a, b=b)
    if a == b:
        raise ConfigError(f"a, b: expected two widths, got {a!r} twice")
    d = _squares(places)

    def over(d: Tensor) -> Tensor:
        between = 2 * (-d / (2 * (a**2 + b**2))).exp() / (a**2 + b**2)
        return (-d / (4 * a**2)).exp() / (2 * a**2) - between + (-d / (4 * b**2)).exp() / (2 * b**2)

    return over(d) / over(torch.zeros((), dtype=d.dtype))


def _squares(places: Tensor) -> Tensor:
    places = checked("places", places, None, 2)
    return ((places[:, None] - places[None]) ** 2).sum(-1)


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a cell looks like.

    Attributes:
        mean: of all weights. centre, surround: of those within 0.6 of the cell, and beyond 1.3.
        dipole, quadrupole: |mean of w e^(i angle)| and |mean of w e^(2 i angle)|, 0 for what looks the same from all
            sides; 2 / pi for two halves, and for four quarters, of opposite signs.
    """

    mean: float
    centre: float
    surround: float
    dipole: float
    quadrupole: float


def shape_of(w: Tensor, places: Tensor) -> Shape:
    """What a cell looks like. w: (N,), in units of w_max; places: of its inputs around it, (N, 2)."""
    places = checked("places", places, None, 2)
    w = checked("w", w, len(places))
    r, angle = places.norm(dim=1), torch.atan2(places[:, 1], places[:, 0])
    dipole, quadrupole = (float(torch.polar(torch.ones_like(w), n * angle).mul(w).mean().abs()) for n in (1, 2))
    return Shape(float(w.mean()), float(w[r < 0.6].mean()), float(w[r > 1.3].mean()), dipole, quadrupole)
