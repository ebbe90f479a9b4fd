"""ISO and ICO learning: recorded cases, closed forms, and the reflex task."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backroads.contrib.streams import ExponentialTraces, Resonators, SequenceUnit, reflex_task, timing_kernel
from backroads.contrib.streams.fields import Array
from backroads.errors import ConfigError, DivergedError, ShapeError

REPO = Path(__file__).parents[3]
FOLDER = Path(os.environ.get("BACKROADS_LOCAL_PARITY", REPO.parent / "shared" / "local_parity")) / "ico"
CASES = json.loads((FOLDER / "cases.json").read_text())["cases"] if FOLDER.exists() else []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_ico_meets_what_was_recorded_of_its_public_code(case: dict[str, Any]) -> None:
    stored = np.load(FOLDER / case["file"])
    arrays = {name: stored[key] for name, key in case["arrays"].items()}
    settings = case["settings"]
    given = settings["predictors"]
    assert (given["kind"], settings["only_changes"]) == ("bandpass", False)
    reflex = Resonators(**settings["reflex"])
    predictors = Resonators(given["f"], given["Q"], number=case["filters"])
    unit = SequenceUnit(settings["mu"], "ico", reflex, predictors, inputs=case["channels"] - 1)
    found = unit.run(arrays["x"][:, 0], arrays["x"][:, 1:])
    for name in ("v", "u0", "du0", "u", "w"):
        recorded = arrays[name]
        difference = np.abs(getattr(found, name).reshape(recorded.shape) - recorded).max()
        assert difference < 1e-9 * max(np.abs(recorded).max(), 1e-6), name


def impulses(T: int, length: int = 4000) -> tuple[Array, Array]:
    """A reflex and an early signal that comes T steps before it."""
    late, early = np.zeros(length), np.zeros(length)
    late[1000], early[1000 - T] = 1.0, 1.0
    return late, early


def change(T: int, f: float, mu: float = 1.0) -> float:
    """dw of a pair of impulses T apart, with equal filters."""
    unit = SequenceUnit(mu, "ico", Resonators(f), Resonators(f), bound=np.inf)
    return float(unit.run(*impulses(T)).w[-1].item())


@pytest.mark.parametrize(
    "filters",
    [Resonators(0.1, number=3), Resonators(0.05, 0.9, 2, delay=0, unit_peak=True), ExponentialTraces(12, 0.3, 4)],
    ids=str,
)
def test_filters_have_their_impulse_responses(filters: Any) -> None:
    state = filters.start()
    found = np.array([filters.step(state, float(n == 0)) for n in range(60)])
    np.testing.assert_allclose(found, filters.impulse_response(60), atol=1e-12)
    if isinstance(filters, ExponentialTraces):
        assert (found[:, 3] > 0).sum() == 3  # int(12 / 4)
        np.testing.assert_allclose(found[:12, 0], np.exp(-0.3 * np.arange(12)))
    else:
        a = np.pi * filters.f / filters.Q
        b = np.sqrt((2 * np.pi * filters.f) ** 2 - a**2)
        n = np.arange(60 - filters.delay)
        first = np.exp(-a * n) * np.sin(b * (n + 1)) / np.sin(b)
        if filters.unit_peak:
            assert found.max(0) == pytest.approx(1.0)
            first /= first.max()
        np.testing.assert_allclose(found[filters.delay :, 0], first, atol=1e-12)
        assert not found[: filters.delay].any()


def test_the_kernel_is_that_of_spike_timing() -> None:
    """sign(T) (mu / 4a) h(|T|), at a frequency so low that steps are short; antisymmetric but for half a step."""
    f = 0.002
    steps = np.array([10, 40, 80, 150, 300])
    found = np.array([change(int(T), f) for T in steps])
    a = np.pi * f / 0.6
    b = np.sqrt((2 * np.pi * f) ** 2 - a**2)
    # Half a step more, as the backward difference is the derivative half a step ago; the discrete resonator's gain.
    expected = np.exp(2 * a) * (b / np.sin(b)) ** 2 * timing_kernel(steps + 0.5, f)
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    np.testing.assert_allclose(expected[0] / timing_kernel(10.5, f), 1, rtol=0.03)
    np.testing.assert_allclose([change(int(-1 - T), f) for T in steps], -found, rtol=1e-9)
    np.testing.assert_array_equal(timing_kernel(-steps, f), -timing_kernel(steps, f))


def test_the_kernel_is_a_difference_of_the_autocorrelation() -> None:
    """Of the discrete impulse response, by its closed form, at any frequency."""
    h = Resonators(0.05).impulse_response(3000)[:, 0]
    for T in (-30, -4, -1, 0, 1, 3, 25):
        R = [float(h[: len(h) - abs(k)] @ h[abs(k) :]) for k in (T, T + 1)]
        assert change(T, 0.05) == pytest.approx(R[0] - R[1], rel=1e-9, abs=1e-12)


def test_ico_is_linear_in_either_signal_and_iso_is_not() -> None:
    rng = np.random.default_rng(0)
    one, two, late = rng.normal(size=(3, 300))

    def learned(rule: str, reflex: Array, early: Array) -> Array:
        return SequenceUnit(1e-4, rule, predictors=Resonators(0.1, number=4)).run(reflex, early).w[-1]

    both = learned("ico", late, one) + learned("ico", late, two)
    np.testing.assert_allclose(learned("ico", late, one + two), both, rtol=1e-10)
    both = learned("ico", one, late) + learned("ico", two, late)
    np.testing.assert_allclose(learned("ico", one + two, late), both, rtol=1e-10)
    iso = learned("iso", late, one) + learned("iso", late, two)
    assert np.abs(learned("iso", late, one + two) - iso).max() > 0.01 * np.abs(iso).max()


def test_weights_follow_the_products_of_what_was_recorded() -> None:
    """The mean of this step's and the last one's, or this one's; the output is that of the weights from before."""
    rng = np.random.default_rng(0)
    for trapezoid in (True, False):
        found = SequenceUnit(1e-3, trapezoid=trapezoid).run(rng.normal(size=50), rng.normal(size=50))
        product = found.u * found.du0[:, None, None]
        before = np.concatenate([np.zeros_like(product[:1]), product[:-1]]) if trapezoid else product
        np.testing.assert_allclose(np.diff(found.w, axis=0), 1e-3 * (product + before)[1:] / 2, atol=1e-12)
        np.testing.assert_allclose(found.v[1:], found.u0[1:] + (found.w[:-1] * found.u[1:]).sum((1, 2)), rtol=1e-12)


def test_without_a_change_of_the_reflex_ico_stands_still_exactly_and_iso_does_not() -> None:
    rng = np.random.default_rng(0)
    for rule in ("ico", "iso"):
        unit = SequenceUnit(1e-6, rule, Resonators(0.01), Resonators(0.1, number=5))
        unit.w = rng.normal(size=(1, 5))
        start = unit.w.copy()
        w = unit.run(np.zeros(500), rng.normal(size=500)).w
        assert (w == start).all() == (rule == "ico")


def test_iso_grows_of_itself_by_a_second_order_effect() -> None:
    """Averaged, ISO rotates w; what steps of finite size add to |w|^2 in a given turn grows with mu."""
    x = np.sin(2 * np.pi * 0.03 * np.arange(40_000))
    growth = []
    for mu in (1e-5, 2e-5):
        steps = round(40_000 * 1e-5 / mu)
        unit = SequenceUnit(mu, "iso", predictors=Resonators(0.1, number=3, unit_peak=True), trapezoid=False)
        unit.w = np.array([[1.0, -0.5, 0.3]])
        start = (unit.w**2).sum()
        unit.run(np.zeros(steps), x[:steps])
        growth.append((unit.w**2).sum() - start)
    assert growth[0] > 0
    assert growth[1] > growth[0]


def test_a_run_goes_on_where_it_ended_and_a_step_is_one_of_it() -> None:
    rng = np.random.default_rng(0)
    late, early = rng.normal(size=100), rng.normal(size=(100, 2))
    for predictors in (Resonators(0.1, number=3), ExponentialTraces(10, 0.2, 3)):
        unit = SequenceUnit(1e-3, predictors=predictors, inputs=2)
        whole = copy.deepcopy(unit).run(late, early)
        first, second = unit.run(late[:37], early[:37]), unit.run(late[37:99], early[37:99])
        np.testing.assert_array_equal(np.concatenate([first.w, second.w]), whole.w[:99])
        assert unit.step(late[99], early[99]) == whole.v[99]
        np.testing.assert_array_equal(unit.w, whole.w[99])
        assert whole.w.shape == (100, 2, 3)


# --- the reflex task: deterministic, so its numbers are exact to the digits given ---


def unit_of(rule: str, mu: float) -> SequenceUnit:
    reflex = Resonators(0.01, delay=0, unit_peak=True)
    predictors = Resonators(0.1, number=10, delay=0, unit_peak=True)
    return SequenceUnit(mu, rule, reflex, predictors, trapezoid=False, bound=100.0)


@pytest.mark.parametrize(
    ("mu", "peaks", "norm"),
    [(1e-3, {0: 0.353, 1: 0.227, 5: 0.011}, 0.049), (1e-2, {0: 0.286, 1: 0.006}, None), (3e-2, {1: 0.013}, None)],
)
def test_ico_learns_to_act_before_the_reflex(mu: float, peaks: dict[int, float], norm: float | None) -> None:
    found = reflex_task(unit_of("ico", mu), 30)
    assert {trial: round(found.peaks[trial], 3) for trial in peaks} == peaks
    assert found.diverged is None
    if norm is not None:
        assert round(found.norms[-1], 3) == norm
        assert found.norms[-1] == pytest.approx(found.norms[-5], rel=1e-3)  # it settles
        below = [trial for trial, peak in enumerate(found.peaks, 1) if peak < 0.1 * found.peaks[0]]
        assert below[0] == 4


def test_ico_overshoots_at_a_large_rate_and_takes_its_time_at_a_small_one() -> None:
    assert round(reflex_task(unit_of("ico", 0.1), 2).peaks[1], 3) == 0.042
    slow = reflex_task(unit_of("ico", 1e-4), 42).peaks
    assert [trial for trial, peak in enumerate(slow, 1) if peak < 0.1 * slow[0]] == [42]


@pytest.mark.slow
def test_iso_learns_and_then_unlearns() -> None:
    found = reflex_task(unit_of("iso", 1e-4), 200)
    assert [round(found.peaks[k - 1], 3) for k in (1, 21, 200)] == [0.389, 0.161, 0.449]
    assert all(later > earlier for earlier, later in zip(found.norms[40:], found.norms[41:], strict=False))


def test_iso_diverges_where_ico_learns_and_it_is_told_when() -> None:
    fast = reflex_task(unit_of("iso", 1e-3), 30)
    assert (fast.diverged, len(fast.peaks)) == (16, 16)
    assert reflex_task(unit_of("iso", 1e-2), 30).diverged == 0
    assert reflex_task(unit_of("ico", 1e-2), 30).diverged is None
    unit = SequenceUnit(1.0, "iso", predictors=Resonators(0.1, number=2), bound=50.0)
    signal = np.sin(0.3 * np.arange(500))
    with pytest.raises(DivergedError, match=r"in step \d+, beyond the bound of 50; take a smaller mu"):
        unit.run(signal, signal)
    assert 0 < unit.steps < 500


# --- bad input ---


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Resonators(0.5), r"f: expected a frequency above 0 and below 0\.5"),
        (lambda: Resonators(0.0), "f: expected"),
        (lambda: Resonators(float("nan")), "f: expected"),
        (lambda: Resonators(0.1, 0.5), r"Q: expected more than 0\.5"),
        (lambda: Resonators(0.1, number=0), "number: expected a whole number"),
        (lambda: Resonators(0.1, delay=3), "delay: expected 0, 1 or 2"),
        (lambda: ExponentialTraces(10, 0.0), "tau: expected a number above 0"),
        (lambda: ExponentialTraces(3, 0.1, 4), "number: expected at most taps = 3"),
        (lambda: SequenceUnit(-1.0), "mu: expected a finite number"),
        (lambda: SequenceUnit(1.0, "oco"), "rule: expected 'ico' or 'iso'"),
        (lambda: SequenceUnit(1.0, reflex=Resonators(0.1, number=2)), "reflex: expected a single filter"),
        (lambda: SequenceUnit(1.0, inputs=0), "inputs"),
        (lambda: SequenceUnit(1.0, bound=-1.0), "bound"),
        (lambda: reflex_task(SequenceUnit(1.0, inputs=2), 1), "one early signal"),
        (lambda: reflex_task(SequenceUnit(1.0), 1, period=90), r"at \+ lead \+ width <= period = 90"),
    ],
)
def test_a_setting_that_makes_no_sense_is_told(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_signals_that_do_not_fit_are_told_and_nothing_has_changed() -> None:
    unit = SequenceUnit(1e-3, inputs=2)
    unit.run(np.ones(5), np.ones((5, 2)))
    before = copy.deepcopy(vars(unit))
    for late, early in ((np.ones(4), np.ones((5, 2))), (np.ones(5), np.ones(5)), (np.ones(0), np.ones((0, 2)))):
        with pytest.raises(ShapeError, match="of the same length"):
            unit.run(late, early)
    early = np.ones((5, 2))
    early[3, 1] = np.inf
    with pytest.raises(ValueError, match="early: expected finite numbers, got inf in step 3"):
        unit.run(np.ones(5), early)
    with pytest.raises(ValueError, match="reflex: expected finite numbers, got nan in step 0"):
        unit.run(np.full(5, np.nan), np.ones((5, 2)))
    with pytest.raises(ShapeError, match="step: expected 2 early signals, got 1"):
        unit.step(1.0, 1.0)
    assert unit.steps == before["steps"] == 5
    np.testing.assert_array_equal(unit.w, before["w"])
    for state, old in zip(unit._states, before["_states"], strict=True):
        np.testing.assert_array_equal(state, old)
