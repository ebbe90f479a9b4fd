"""Fixed points and stability in closed form: the boundaries of the rules, and any sum against automatic derivatives."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from problems import agree, randn
from torch import Tensor

import backroads as br
from backroads.contrib.theory.closed import Mode, fate, held, noise_floor
from backroads.contrib.theory.flow import field, follow, linearise, observed_fates, settle, spectrum
from backroads.errors import RuleError
from backroads.feedback.functional import LinearMap, propagate

A = br.Alignment
SUBSETS = [
    dict(zip(("decay", "amp", "null", "sparse", "self_"), on, strict=True))
    for on in itertools.product((0, 1), repeat=5)
]
VALUES = {"decay": 0.3, "amp": 0.7, "null": 0.4, "sparse": 0.2, "self_": 0.6}


def rule_of(subset: dict[str, int]) -> br.Alignment:
    return A(**{name: VALUES[name] * on for name, on in subset.items()})


# --- the boundaries of the mirror and of information alignment ---


@pytest.mark.parametrize("decay", [0.3, 1.0, 2.0])
def test_the_mirror_explodes_below_decay_one_and_collapses_above(decay: float) -> None:
    mode = Mode.of(A(amp=1, decay=decay))
    assert mode.origin == (1 - decay, -1 - decay)
    assert [(p.w, p.b) for p in mode.fixed_points()] == [(0.0, 0.0)]
    assert mode.fate == ("explodes" if decay < 1 else "collapses" if decay > 1 else "undecided")


@pytest.mark.parametrize("decay", [0.1, 0.5, 0.9])
def test_information_alignment_has_two_stable_points_with_their_known_eigenvalues(decay: float) -> None:
    mode = Mode.of(A(amp=1, null=1, decay=decay))
    origin, *ends = mode.fixed_points()
    assert origin.stability == "unstable"
    assert sorted(p.w for p in ends) == pytest.approx([-math.sqrt(1 - decay), math.sqrt(1 - decay)], rel=1e-15)
    for point in ends:
        assert point.w == point.b
        assert point.eigenvalues == pytest.approx((-2 * (1 - decay), -2 * decay), rel=1e-15)
        assert point.stability == "stable"
    assert Mode.of(A(amp=1, null=1, decay=1.5)).fate == "collapses"


# --- any sum ---


def gradient_flow(rule: br.Alignment, point: Tensor, x: float) -> Tensor:
    """(w', b') by the library's own backward pass."""
    w, b = (point[n].reshape(1, 1).clone().requires_grad_() for n in range(2))
    moving = br.Alignment(**{n: getattr(rule, n) for n in VALUES}, update_forward=True)
    y = propagate(torch.full((1, 1), x, dtype=torch.float64), w, None, LinearMap(), moving, {"backward_weight": b})
    return -torch.cat(torch.autograd.grad(0 * y.sum(), (w, b))).flatten()


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: "+".join(n for n, on in s.items() if on) or "none")
def test_the_modes_of_all_sums_are_the_librarys_own_gradients(subset: dict[str, int]) -> None:
    rule, x = rule_of(subset), 1.3
    mode = Mode.of(rule, x * x)
    for start in ((0.7, -0.4), (1.1, 0.9)):
        point = torch.tensor(start, dtype=torch.float64)
        w, b = start
        expected = [
            mode.pull * b - mode.loss * w - mode.bound * b * b * w,
            mode.pull * w - mode.loss * b - mode.bound * w * w * b,
        ]
        if rule.learns:
            agree(gradient_flow(rule, point, x), torch.tensor(expected, dtype=torch.float64))
        f = field(rule, torch.tensor([[x * x]], dtype=torch.float64), 1)
        agree(f(point), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: "+".join(n for n, on in s.items() if on) or "none")
def test_fixed_points_of_all_sums_rest_and_have_the_eigenvalues_of_the_linearisation(subset: dict[str, int]) -> None:
    rule = rule_of(subset)
    f = field(rule, torch.tensor([[1.7]], dtype=torch.float64), 1)
    for point in Mode.of(rule, 1.7).fixed_points():
        at = torch.tensor([point.w, point.b], dtype=torch.float64)
        agree(f(at), torch.zeros(2, dtype=torch.float64))
        agree(linearise(f, at).real, torch.tensor(sorted(point.eigenvalues, reverse=True), dtype=torch.float64))


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda s: "+".join(n for n, on in s.items() if on) or "none")
def test_with_w_held_every_sum_has_its_closed_form(subset: dict[str, int]) -> None:
    rule = rule_of(subset)
    W, x = randn(3, 4, seed=0), randn(9, 4, seed=1)
    C = x.t() @ x / 9
    solution = held(rule, W, C)
    f = field(rule, C, 3, W)
    values = linearise(f, randn(12, seed=2)).real  # a linear flow: the same everywhere
    agree(values, -solution.rates.flatten().sort().values)
    if bool(solution.B.isfinite().all()):
        agree(f(solution.B.flatten()), torch.zeros(12, dtype=torch.float64))
    else:
        assert float(solution.rates.min()) == pytest.approx(0, abs=1e-12)


def test_with_w_held_the_named_rules_go_where_they_are_known_to() -> None:
    W, x = randn(3, 4, seed=0), randn(9, 4, seed=1)
    C, identity = x.t() @ x / 9, torch.eye(3, dtype=torch.float64)
    agree(held(A(amp=0.6, decay=0.3), W, C).B, 2 * W @ C)
    agree(held(A(self_=0.6, decay=0.3), W, C).B, 2 * W)
    agree(held(A(amp=0.6, sparse=0.6), W, C).B, W)
    agree(held(A(amp=1, null=1, decay=1), W, C).B, torch.linalg.solve(W @ C @ W.t() + identity, W @ C))
    assert held(A(decay=0.5, self_=0.5), W, C).largest_step == pytest.approx(4)
    assert not bool(held(A(amp=1), W, C).B.isfinite().any())


# --- matrices ---


def test_the_origin_of_the_matrix_system_grows_by_its_strongest_axis() -> None:
    rule, strengths = A(amp=0.8, decay=0.5, null=0.7, sparse=0.1, self_=0.2), [0.2, 1.0, 3.0]
    f = field(rule, torch.diag(torch.tensor(strengths, dtype=torch.float64)), 2)
    expected = sorted((v for s in strengths for v in Mode.of(rule, s).origin for _ in range(2)), reverse=True)
    agree(linearise(f, torch.zeros(12, dtype=torch.float64)).real, torch.tensor(expected, dtype=torch.float64))


def test_a_layer_explodes_if_one_axis_does() -> None:
    mirror = A(amp=1, decay=1)
    assert fate(mirror, [0.5, 0.9]) == "collapses"
    assert fate(mirror, [0.5, 1.1]) == "explodes"
    assert fate(mirror + A(null=0.1), [0.5, 1.1]) == "settles"
    W, B = randn(1, 2, 2, seed=0), randn(1, 2, 2, seed=1)
    for rule, strengths in itertools.product((mirror, mirror + A(null=0.1)), ([0.5, 0.8], [0.5, 1.3])):
        C = torch.diag(torch.tensor(strengths, dtype=torch.float64))
        assert observed_fates(follow([rule], W, B, C, 40.0)) == [fate(rule, strengths)]


def test_white_input_brings_w_and_b_together_on_a_sphere_of_known_size() -> None:
    rule, n = A(amp=1, null=0.5, decay=0.4), 3
    C = torch.eye(n, dtype=torch.float64)
    path = follow([rule], randn(1, n, n, seed=0), randn(1, n, n, seed=1), C, 40.0)
    W, B = path.W[-1, 0], path.B[-1, 0]
    agree(W, B, 1e-5)
    # Every singular value is the scalar system's end.
    end = torch.full((n,), math.sqrt((1 - 0.4) / 0.5), dtype=torch.float64)
    agree(torch.linalg.svdvals(W), end, 1e-5)
    point = settle(field(rule, C, n), torch.cat([W.flatten(), B.flatten()]))
    assert point is not None
    agree(torch.linalg.svdvals(point[: n * n].view(n, n)), end, 1e-10)
    values = linearise(field(rule, C, n), point).real
    # Along the sphere it rests; nothing grows; the scalar system's eigenvalues are among them.
    assert float(values[0]) < 1e-9
    for expected in (-2 * (1 - 0.4), -2 * 0.4):
        assert float((values - expected).abs().min()) < 1e-8


def test_the_integrator_follows_the_mirrors_exponentials() -> None:
    w, b, decay = 0.5, -0.1, 0.3
    start = [torch.full((1, 1, 1), value, dtype=torch.float64) for value in (w, b)]
    path = follow([A(amp=1, decay=decay)], *start, torch.eye(1, dtype=torch.float64), 3.0)
    for t, W, B in zip(path.times, path.W.flatten(), path.B.flatten(), strict=True):
        assert float(W + B) == pytest.approx((w + b) * math.exp((1 - decay) * t), rel=1e-3)
        assert float(W - B) == pytest.approx((w - b) * math.exp((-1 - decay) * t), rel=2e-3, abs=1e-6)


def test_the_path_of_kinds_matches_one_alone_and_stops_beyond_its_limit() -> None:
    rules = [A(amp=1, decay=0.1), A(amp=1, null=1, decay=0.5)]
    W, B, C = randn(1, 2, 3, seed=0), randn(1, 2, 3, seed=1), torch.eye(3, dtype=torch.float64)
    both = follow(rules, W, B, C, 12.0)
    assert observed_fates(both) == ["explodes", "settles"]
    assert float(both.sizes[-1, 0]) < 1.5e3
    alone = follow(rules[1:], W, B, C, 12.0)
    agree(both.W[-1, 1], alone.W[-1, 0], 1e-4)


def test_a_spectrum_has_its_mean_and_its_condition() -> None:
    values = spectrum(5, 2.0, 100.0)
    assert sum(values) / 5 == pytest.approx(2.0)
    assert max(values) / min(values) == pytest.approx(100.0)
    assert spectrum(3, 1.5, 1.0) == [1.5, 1.5, 1.5]


# --- the white-noise mirror ---


def test_the_noise_floor_is_what_a_simulation_leaves() -> None:
    rate, rows, W = 0.2, 64, randn(3, 4, seed=0)
    draw, B, squares = torch.Generator().manual_seed(1), W.clone(), []
    for step in range(6000):
        xi = torch.randn(rows, 4, dtype=torch.float64, generator=draw)
        B = B + rate * ((xi @ W.t()).t() @ xi / rows - B)
        if step >= 100:
            squares.append(float((B - W).square().sum() / W.square().sum()))
    assert math.sqrt(sum(squares) / len(squares)) == pytest.approx(noise_floor(rate, rows, 4), rel=0.05)


def test_what_is_no_sum_of_primitives_is_refused() -> None:
    for rule in (
        br.rules.kolen_pollack(),
        A(amp=1, decay=1, drive=br.WhiteNoise(std=1.0)),
        A(amp=1, operations=br.Operations(normalize_forward_output=True)),
        br.rules.weight_mirror(),
        A(amp=1, decay=1, cadence=br.Cadence(every=2)),
    ):
        with pytest.raises(RuleError, match="expected a weighted sum of the five primitives"):
            Mode.of(rule)
    assert Mode.of(A(amp=1, update_forward=True, drive=br.Activity(keep_output=False))) == Mode.of(A(amp=1))
    with pytest.raises(RuleError, match="0 < rate < 2"):
        noise_floor(2.5, 10, 3)


@pytest.mark.parametrize("seed", range(8))
def test_directions_in_which_nothing_is_learned_stay_at_zero(seed: int) -> None:
    """More outputs than inputs, and neither decay nor sparse: amp and null come to the pseudoinverse of W^T alone."""
    W = randn(6, 4, seed=seed)
    found = held(A(amp=1.0, null=1.0), W, torch.eye(4, dtype=torch.float64))
    agree(found.B, torch.linalg.pinv(W).t(), 1e-8)
    assert int((found.rates == 0).sum()) == 2 * 4
