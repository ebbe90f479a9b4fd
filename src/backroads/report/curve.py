"""Curves: points in order, with a band where there are several measurements of each; thinned while they are read."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NAN = math.nan


@dataclass(frozen=True)
class Curve:
    """Values at places x; NaN where there is none.

    Attributes:
        low, high: edges of a band around the values, of the same length; empty for no band.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def known(self) -> list[tuple[float, float]]:
        """The points that have a value."""
        return [(x, y) for x, y in zip(self.x, self.y, strict=True) if not math.isnan(y)]

    @property
    def last(self) -> float | None:
        """The value at the end; None where it is not finite."""
        return None if not self.y or math.isnan(self.y[-1]) else self.y[-1]


def through(points: Iterable[tuple[float, float | None]]) -> Curve:
    """The curve through points that were measured once each."""
    places, values = zip(*points, strict=True) if (points := list(points)) else ((), ())
    return Curve(tuple(places), tuple(NAN if value is None or not math.isfinite(value) else value for value in values))


def over_seeds(seeds: Iterable[Mapping[float, float | None]]) -> Curve:
    """Mean over the seeds that have a finite value, with a band of one sample standard deviation to either side.

    Args:
        seeds: for each, value by place.
    """
    found: dict[float, list[float]] = {}
    for seed in seeds:
        for x, value in seed.items():
            found.setdefault(x, [])
            found[x] += [value] if value is not None and math.isfinite(value) else []
    rows = []
    for x, values in sorted(found.items()):
        # Exact sums, not floating ones: the losses of a diverging seed may be too large to square.
        mean = statistics.mean(values) if values else NAN
        spread = statistics.stdev(values) if len(values) > 1 else NAN
        rows.append((x, mean, mean - spread, mean + spread))
    return Curve(*zip(*rows, strict=True)) if rows else Curve((), ())


def over_layers(curves: Sequence[Curve]) -> Curve:
    """Median over curves at the same places, with a band from the lowest to the highest."""
    columns = [[y for y in column if not math.isnan(y)] for column in zip(*(c.y for c in curves), strict=True)]
    rows = [(statistics.median(c), min(c), max(c)) if c else (NAN, NAN, NAN) for c in columns]
    return Curve(curves[0].x, *zip(*rows, strict=True)) if rows else Curve((), ())


@dataclass
class Thinned:
    """Named values along a log of any length, kept as at most ``2 * most`` points: means of equally many neighbours.

    Points that are still single keep their exact values. Numbers that are missing are left out of the means.

    Example:
        >>> log = Thinned()
        >>> log.add(1, {"loss": 2.0})
        >>> log.curve("loss").y
        (2.0,)

    Attributes:
        size: lines in a point.
        points: by name the sum, the lines that have the value, and those in which it is missing; the places have the
            name None.
        last: the values of the last line.
    """

    most: int = 240
    size: int = 1
    lines: int = 0
    points: list[dict[str | None, tuple[float, int, int]]] = field(default_factory=list)
    last: dict[str, float | None] = field(default_factory=dict)

    def add(self, x: float, values: dict[str, float | None]) -> None:
        """Append what was measured at x."""
        if self.lines % self.size == 0:
            if len(self.points) == 2 * self.most:
                pairs = zip(self.points[::2], self.points[1::2], strict=True)
                self.points, self.size = [_joined(one, other) for one, other in pairs], 2 * self.size
            self.points.append({})
        self.lines, self.last = self.lines + 1, values
        line: dict[str | None, Any] = {name: (0.0, 0, 1) if v is None else (v, 1, 0) for name, v in values.items()}
        self.points[-1] = _joined(self.points[-1], {None: (x, 1, 0), **line})

    @property
    def names(self) -> list[str]:
        """Of all values, in the order in which they came."""
        return list(dict.fromkeys(name for point in self.points for name in point if name is not None))

    def curve(self, name: str) -> Curve:
        """The curve of one value."""
        found = [(point[None], point.get(name, (0.0, 0, 0))) for point in self.points]
        return through((x / lines, total / count if count else None) for (x, lines, _), (total, count, _) in found)

    def missing(self, name: str) -> int:
        """Lines in which the value is not finite."""
        return sum(point[name][2] for point in self.points if name in point)


def _joined(one: dict[Any, tuple[float, int, int]], other: dict[Any, tuple[float, int, int]]) -> dict[Any, Any]:
    sums = dict(one)
    for name, (total, count, lost) in other.items():
        a, b, c = one.get(name, (0.0, 0, 0))
        sums[name] = (a + total, b + count, c + lost)
    return sums
