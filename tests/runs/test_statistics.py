"""Means over seeds, intervals and the paired test, against scipy's own and against tables of Student's t."""

from __future__ import annotations

import pytest
from scipy import stats

from backroads.runs.schema import ArmResult, TrainingResults
from backroads.runs.statistics import estimate, overall, paired, summarise

A, B = [0.91, 0.93, None, 0.95, 0.90, float("nan")], [0.90, 0.94, 0.5, 0.91, 0.88, 0.9]


def test_intervals_and_tests_are_students() -> None:
    found = estimate([1.0, 2.0, None, 3.0, 4.0, 5.0])

    assert (found.n, found.mean) == (5, 3.0)
    assert found.std == pytest.approx(2.5**0.5)
    assert found.half == pytest.approx(2.7764451 * (2.5 / 5) ** 0.5, rel=1e-7)  # t of 4 degrees, two-sided 95 %
    finite = [(a, b) for a, b in zip(A, B, strict=True) if a is not None and a == a]
    told, own = stats.ttest_rel(*zip(*finite, strict=True)), paired(A, B)
    assert own.n == 4
    assert own.p == pytest.approx(told.pvalue, rel=1e-10)
    low, high = told.confidence_interval(0.95)
    assert (own.mean or 0) - (own.half or 0) == pytest.approx(low)
    assert (own.mean or 0) + (own.half or 0) == pytest.approx(high)


@pytest.mark.parametrize("values", [[], [None], [0.5], [float("inf")]])
def test_too_few_numbers_have_no_spread(values: list[float | None]) -> None:
    found = estimate(values)
    assert (found.std, found.half, found.p) == (None, None, None)
    assert found.mean == (0.5 if values == [0.5] else None)


def test_the_same_difference_in_every_seed_has_no_test() -> None:
    assert paired([0.3, 0.6, 0.9], [0.2, 0.5, 0.8]).p is None  # but for rounding
    assert paired([0.5, 0.5], [0.5, 0.5]).p is None


def test_a_comparison_is_summed_up_by_rule_and_paired_by_seed() -> None:
    def arm(name: str, seed: int, accuracy: float | None, angle: float | None) -> ArmResult:
        readings = {"angle": {"one": angle, "two": None}, "whole": {"": 7.0, "one": 1.0}}
        status = "finished" if accuracy is not None else "diverged"
        return ArmResult(
            name, seed, status, 10, accuracy=accuracy, readings=readings, step_ratio=(1.0, seed + 1.0, 4.0)
        )

    arms = [arm("rule", 1, 0.8, 10.0), arm("rule", 0, 0.7, 20.0), arm("rule", 2, None, None)]
    base = [arm("base", seed, 0.9 + 0.01 * seed, 0.0) for seed in range(3)]
    rule, baseline = summarise(TrainingResults("compare", "test", (*arms, *base), baseline="base"))

    assert (rule.name, rule.seeds, rule.diverged, rule.accuracy.mean) == ("rule", 3, 1, pytest.approx(0.75))
    assert rule.gap is not None
    assert rule.gap.n == 2
    assert rule.gap.mean == pytest.approx(((0.8 - 0.91) + (0.7 - 0.9)) / 2)  # each with the baseline of its own seed
    assert rule.readings["angle"].mean == 15.0
    assert rule.readings["whole"].mean == 7.0
    assert rule.step_ratio == (1.0, 2.0, 4.0)
    assert baseline.gap is not None
    assert (baseline.gap.mean, baseline.gap.half, baseline.gap.p) == (0.0, 0.0, None)
    assert summarise(TrainingResults("compare", "test", tuple(arms)))[0].gap is None
    assert overall({}) is None
