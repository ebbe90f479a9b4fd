"""Means over seeds, their spread and intervals, and a paired test. The same numbers for reports, tables and promotions.

Seeds whose number is missing (they diverged) are left out. No torch in here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from backroads.runs.schema import ArmResult, TrainingResults

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over n numbers.

    Attributes:
        n: how many were finite. mean: None without any. std: sample standard deviation (n - 1 in the denominator),
            None for less than two. half: half the width of the 95 % interval of Student's t for the mean, likewise.
        p: of the two-sided t test that the mean is 0; None as well where all numbers are the same.
    """

    n: int
    mean: float | None = None
    std: float | None = None
    half: float | None = None
    p: float | None = None


def estimate(values: Iterable[float | None]) -> Estimate:
    """Mean, sample standard deviation, interval and test of the numbers that are there.

    Example:
        >>> estimate([1.0, 2.0, None, 3.0]).mean
        2.0
    """
    finite = [value for value in values if value is not None and math.isfinite(value)]
    n = len(finite)
    if n < 2:
        return Estimate(n, finite[0] if finite else None)
    from scipy.special import stdtr, stdtrit  # Student's distribution and its quantiles; slow to import

    mean, std = statistics.fmean(finite), statistics.stdev(finite)
    error = std / math.sqrt(n)
    half = float(stdtrit(n - 1, 0.5 + LEVEL / 2)) * error
    same = error <= 1e-12 * abs(mean) or error == 0  # but for rounding: the test has nothing to hold the mean against
    p = None if same else 2 * float(stdtr(n - 1, -abs(mean) / error))
    return Estimate(n, mean, std, half, p)


def paired(values: Sequence[float | None], reference: Sequence[float | None]) -> Estimate:
    """:func:`estimate` of the differences ``values - reference``, seed by seed: the interval is paired, p of the paired
    t test. Pairs in which one number is missing are left out. Both must be of one length."""
    pairs = zip(values, reference, strict=True)
    return estimate(a - b for a, b in pairs if a is not None and b is not None)


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % interval of Wilson's score (JASA 1927) for the probability behind ``successes`` of ``n`` > 0 trials."""
    z = statistics.NormalDist().inv_cdf(0.5 + LEVEL / 2)
    share = successes / n
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


@dataclass(frozen=True)
class RuleSummary:
    """One rule (or method) of a comparison, over its seeds.

    Attributes:
        name: of the rule. seeds: how many were trained. diverged: of them. accuracy: a fraction. gap: accuracy minus
            that of the baseline with the same seed; None without a baseline. readings: of each metric at the end, the
            mean over layers, or the number of the whole network where there is one. step_ms: median over seeds.
        step_ratio: lower quartile, median and upper quartile of step time over the baseline's; medians over seeds.
    """

    name: str
    seeds: int
    diverged: int
    accuracy: Estimate
    gap: Estimate | None
    readings: dict[str, Estimate]
    step_ms: float | None
    step_ratio: tuple[float, float, float] | None


def summarise(results: TrainingResults) -> list[RuleSummary]:
    """A row for each rule, in the order of the run."""
    arms: dict[str, list[ArmResult]] = {name: [] for name in results.names}
    for arm in results.arms:
        arms[arm.name].append(arm)
    baseline = {arm.seed: arm.accuracy for arm in results.arms if arm.name == results.baseline}
    return [_summary(name, own, baseline) for name, own in arms.items()]


def _summary(name: str, arms: list[ArmResult], baseline: dict[int, float | None]) -> RuleSummary:
    accuracies = [arm.accuracy for arm in arms]
    metrics = dict.fromkeys(metric for arm in arms for metric in arm.readings)
    times = [arm.step_ms for arm in arms if arm.step_ms is not None]
    ratios = [arm.step_ratio for arm in arms if arm.step_ratio is not None]
    quartiles = [statistics.median(column) for column in zip(*ratios, strict=True)]
    return RuleSummary(
        name,
        len(arms),
        sum(arm.status == "diverged" for arm in arms),
        estimate(accuracies),
        paired(accuracies, [baseline.get(arm.seed) for arm in arms]) if baseline else None,
        {metric: estimate(overall(arm.readings.get(metric, {})) for arm in arms) for metric in metrics},
        statistics.median(times) if times else None,
        (quartiles[0], quartiles[1], quartiles[2]) if quartiles else None,
    )


def overall(by_layer: dict[str, float | None]) -> float | None:
    """The number of the whole network (layer "") where there is one, else the mean over the layers that have one."""
    if "" in by_layer:
        return by_layer[""]
    finite = [value for value in by_layer.values() if value is not None]
    return statistics.fmean(finite) if finite else None
