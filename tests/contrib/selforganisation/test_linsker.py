"""Linsker's covariance rule against its closed forms, its energy, and the table of what grows where."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch
from torch import Tensor

from backroads.contrib.selforganisation import (
    Shape,
    centre_surround_covariance,
    constants,
    energy,
    gaussian_covariance,
    grow,
    grow_online,
    next_covariance,
    shape_of,
)
from backroads.errors import BackroadsError

D = torch.float64
N = 400


def uniform(*shape: int, seed: int = 5, size: float = 0.05) -> Tensor:
    return (2 * torch.rand(*shape, dtype=D, generator=torch.Generator().manual_seed(seed)) - 1) * size


def spiral() -> Tensor:
    """Places of the density N(0, I), evenly spread over angles."""
    i = torch.arange(N, dtype=D) + 0.5
    r, angle = (-2 * torch.log(1 - i / N)).sqrt(), i * math.pi * (3 - math.sqrt(5))
    return torch.stack([r * angle.cos(), r * angle.sin()], 1)


PLACES = {
    "spread evenly": spiral(),
    "drawn": torch.randn(N, 2, dtype=D, generator=torch.Generator().manual_seed(0)),
}
CENTRE_SURROUND = [(30.0, -3.0), (60.0, -3.0), (100.0, -3.0), (30.0, -0.5)]


def grown(places: Tensor, Q: Tensor, k1: float, k2: float) -> list[Shape]:
    """The shapes of cells from nine starts."""
    found = grow(Q, k1, k2, uniform(9, N))
    assert float(found.energy.diff(dim=0).max()) <= 1e-9 * float(found.energy.abs().max())
    assert float(found.w.abs().max()) <= 1
    return [shape_of(w, places) for w in found.w]


def middle(shapes: list[Shape], name: str) -> float:
    return statistics.median(getattr(shape, name) for shape in shapes)


@pytest.mark.parametrize("where", PLACES)
def test_without_constants_all_weights_go_to_one_bound(where: str) -> None:
    shapes = grown(PLACES[where], gaussian_covariance(PLACES[where], 0.7), 0.0, 0.0)
    assert all(abs(shape.mean) > 0.98 for shape in shapes)
    assert len({shape.mean > 0 for shape in shapes}) == 2  # either sign


@pytest.mark.slow
@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("k2", [-0.5, -3.0])
def test_a_pinned_sum_of_0_grows_two_lobes(where: str, k2: float) -> None:
    shapes = grown(PLACES[where], gaussian_covariance(PLACES[where], 0.7), 0.0, k2)
    assert middle(shapes, "dipole") > 0.5
    assert all(abs(shape.mean) < 0.1 for shape in shapes)


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize(("k1", "k2"), CENTRE_SURROUND)
@pytest.mark.slow
def test_a_pinned_positive_sum_grows_centre_and_surround(where: str, k1: float, k2: float) -> None:
    shapes = grown(PLACES[where], gaussian_covariance(PLACES[where], 0.7), k1, k2)
    assert all(shape.centre == pytest.approx(1) for shape in shapes)
    assert -0.99 < middle(shapes, "surround") < -0.55
    assert middle(shapes, "dipole") < 0.2
    if k2 == -0.5:
        assert middle(shapes, "mean") == pytest.approx(0.3, abs=0.03)


def test_a_strong_k2_pins_the_sum() -> None:
    """The mean weight is -k1 / (k2 N) as k2 goes to -infinity, here up to (largest eigenvalue of Q) / (|k2| N)."""
    found = grow(gaussian_covariance(PLACES["drawn"], 0.7), 2000.0, -100.0, uniform(3, N), steps=300)
    torch.testing.assert_close(found.w.mean(1), torch.full((3,), 0.05, dtype=D), rtol=0.01, atol=0)


@pytest.mark.parametrize("where", PLACES)
def test_behind_centre_surround_cells_grow_oriented_ones(where: str) -> None:
    shapes = grown(PLACES[where], centre_surround_covariance(PLACES[where], 0.6, 1.2), 0.0, -0.2)
    assert statistics.median(max(shape.dipole, shape.quadrupole) for shape in shapes) > 0.35
    assert all(abs(shape.mean) < 0.2 for shape in shapes)


def test_unclipped_every_mode_grows_as_its_closed_form() -> None:
    """(c + k1 n / l) e^(l t) - k1 n / l on each eigenvector of Q + k2 J, n the sum of its entries."""
    places = PLACES["drawn"][:30]
    Q, k1, k2, steps = gaussian_covariance(places, 0.7), 0.3, -0.2, 50
    w = uniform(2, 30)
    values, vectors = torch.linalg.eigh(Q + k2)
    dt = 0.1 / float(values.abs().max())
    found = grow(Q, k1, k2, w, w_max=math.inf, steps=steps)
    c, n = w @ vectors, vectors.sum(0)
    euler = (c + k1 * n / values) * (1 + dt * values) ** steps - k1 * n / values  # tends to e^(l t)
    torch.testing.assert_close(found.w @ vectors, euler, rtol=1e-6, atol=1e-9)
    assert found.steps == steps


def test_the_rule_descends_its_energy() -> None:
    """-dE/dw = k1 + (Q + k2 J) w, by autograd."""
    Q, k1, k2 = gaussian_covariance(PLACES["drawn"][:20], 0.7), 0.3, -0.2
    w = uniform(1, 20).requires_grad_()
    energy(w, Q, k1, k2).sum().backward()
    torch.testing.assert_close(-w.grad, k1 + w.detach() @ (Q + k2))
    size = 0.1 / float(torch.linalg.eigvalsh(Q + k2).abs().max())
    one = grow(Q, k1, k2, w.detach(), steps=1).w
    torch.testing.assert_close(one - w.detach(), -size * w.grad)


def test_the_online_rule_is_the_covariance_rule_on_average() -> None:
    """k2 = m (m - x0), k1 = -y0 (m - x0), for inputs of mean m: exactly, on samples whose mean is exactly m."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(40, 6, dtype=D, generator=generator) @ torch.randn(6, 6, dtype=D, generator=generator)
    mean, x0, y0, rate = 0.7, 1.1, 0.4, 1e-3
    x = x - x.mean(0) + mean
    Q = (x - mean).T @ (x - mean) / len(x)
    k1, k2 = constants(mean, x0, y0)
    assert (k1, k2) == pytest.approx((0.16, -0.28))
    w = uniform(3, 6)
    found = grow_online([x], x0, y0, w, rate=rate)
    torch.testing.assert_close(found - w, rate * (k1 + w @ (Q + k2)))


def test_the_next_layer_sees_the_covariance_of_the_answers() -> None:
    generator = torch.Generator().manual_seed(2)
    x, W = torch.randn(50, 6, dtype=D, generator=generator), uniform(4, 6)
    x = x - x.mean(0)
    y = x @ W.T
    torch.testing.assert_close(next_covariance(W, x.T @ x / 50), y.T @ y / 50)


def test_the_covariance_of_centre_surround_cells_is_the_autocorrelation_of_their_field() -> None:
    """By sums over a fine grid."""
    a, b, step = 0.6, 1.2, 0.05
    axis = torch.arange(-8, 8, step, dtype=D)
    r2 = axis[:, None] ** 2 + axis[None] ** 2
    field = (-r2 / (2 * a**2)).exp() / a**2 - (-r2 / (2 * b**2)).exp() / b**2
    places = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, 1.5], [3.0, 0.0]], dtype=D)
    found = centre_surround_covariance(places, a, b)[0]
    for value, (dx, dy) in zip(found.tolist(), (places / step).round().int().tolist(), strict=True):
        moved = field.roll((dx, dy), (0, 1))
        assert value == pytest.approx(float((field * moved).sum() / (field**2).sum()), abs=1e-6)


def test_it_ends_when_the_cells_stand_at_their_bounds_or_still() -> None:
    Q = gaussian_covariance(PLACES["drawn"], 0.7)
    assert grow(Q, 0.0, 0.0, uniform(1, N)).steps < 1000
    assert grow(torch.zeros(4, 4, dtype=D), 0.0, 0.0, uniform(1, 4)).steps == 1


Q3 = torch.eye(3, dtype=D)
W3 = torch.zeros(1, 3, dtype=D)
NAN = torch.tensor([[0.0, math.nan, 0.0]], dtype=D)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grow(Q3 + Q3.roll(1, 0), 0, 0, W3), "Q: expected a symmetric matrix"),
        (lambda: grow(-Q3, 0, 0, W3), "Q: expected a covariance, without negative eigenvalues, got -1"),
        (lambda: grow(Q3[:2], 0, 0, W3), "Q: expected a square matrix"),
        (lambda: grow(Q3, 0, 0, W3[:, :2]), r"w: expected a tensor .*of shape \(any, 3\).*got \(1, 2\)"),
        (lambda: grow(Q3, 0, 0, NAN), r"w: expected finite numbers, got nan at index \(0, 1\)"),
        (lambda: grow(Q3.half(), 0, 0, W3), "Q: expected a tensor in float32 or float64.*got torch.float16"),
        (lambda: grow(Q3, 0, 0, W3, w_max=0), "w_max: expected a number above 0, got 0"),
        (lambda: grow(Q3, 0, math.nan, W3), "k1, k2: expected finite numbers"),
        (lambda: grow(Q3, 0, 0, W3, steps=0), "steps: expected a whole number, 1 or more, got 0"),
        (lambda: grow(Q3, 0, 0, W3, steps=0.5), "steps: expected a whole number, 1 or more, got 0.5"),
        (lambda: grow_online([W3[:0]], 0, 0, W3, rate=0.1), "x: expected .* not empty"),
        (lambda: grow_online([NAN], 0, 0, W3, rate=0.1), r"x: expected finite numbers, got nan at index \(0, 1\)"),
        (lambda: grow_online([W3], 0, 0, W3, rate=-1), "rate: expected a number above 0, got -1"),
        (lambda: gaussian_covariance(Q3, 1.0), r"places: expected a tensor .* of shape \(any, 2\)"),
        (lambda: centre_surround_covariance(Q3[:, :2], 1.0, 1.0), "a, b: expected two widths"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(call: Any, message: str) -> None:
    with pytest.raises(BackroadsError, match=message) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    assert not bool(W3.any())
