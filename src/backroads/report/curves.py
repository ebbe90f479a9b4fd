"""Curves over epochs: mean and spread over seeds, and which seeds are missing where."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from backroads.report.runs import Epoch

Pick = Callable[[Epoch], float | None]
"""Takes one measured value out of an epoch; None where it is missing."""

NAN = math.nan


@dataclass(frozen=True)
class Curve:
    """One value per epoch: mean and sample standard deviation over the seeds that have a finite value.

    Both are NaN where no seed has one; the spread is NaN where only one has.
    """

    epochs: tuple[float, ...]
    mean: tuple[float, ...]
    spread: tuple[float, ...]

    @property
    def known(self) -> list[tuple[float, float, float]]:
        """Epoch, mean and spread where the mean is known."""
        points = zip(self.epochs, self.mean, self.spread, strict=True)
        return [point for point in points if not math.isnan(point[1])]


def curve(numbers: Iterable[int], epochs: Iterable[Epoch], pick: Pick) -> Curve:
    """The curve of the picked value over all seeds in ``epochs``, at the epochs with these numbers."""
    values: dict[int, list[float]] = {number: [] for number in numbers}
    for epoch in epochs:
        value = pick(epoch)
        if value is not None:
            values[epoch.epoch].append(value)
    return Curve(
        epochs=tuple(values),
        # Exact, not numpy: the losses of a diverging seed may be too large to square.
        mean=tuple(statistics.mean(found) if found else NAN for found in values.values()),
        spread=tuple(statistics.stdev(found) if len(found) > 1 else NAN for found in values.values()),
    )


def curve_through(points: Iterable[tuple[float, float | None]]) -> Curve:
    """The curve of values that were measured once each, such as those of one training."""
    places, values = zip(*points, strict=True) if (points := list(points)) else ((), ())
    means = tuple(NAN if value is None else value for value in values)
    return Curve(tuple(places), means, (NAN,) * len(means))


def thinned(curve: Curve, most: int) -> Curve:
    """The curve with at most ``most`` points: means of equally many neighbours, where finite."""
    size = math.ceil(len(curve.epochs) / most)
    if size <= 1:
        return curve
    groups = [slice(start, start + size) for start in range(0, len(curve.epochs), size)]
    return curve_through((statistics.mean(curve.epochs[part]), _finite_mean(curve.mean[part])) for part in groups)


def _finite_mean(values: Iterable[float]) -> float | None:
    finite = [value for value in values if not math.isnan(value)]
    return statistics.mean(finite) if finite else None


def missing(epochs: Sequence[Epoch], pick: Pick, expected: Iterable[int], seeds: Iterable[int]) -> dict[int, list[int]]:
    """For each seed with missing values: the expected epochs without one."""
    found = {(epoch.seed, epoch.epoch) for epoch in epochs if pick(epoch) is not None}
    gaps = {seed: [number for number in expected if (seed, number) not in found] for seed in sorted(seeds)}
    return {seed: numbers for seed, numbers in gaps.items() if numbers}
