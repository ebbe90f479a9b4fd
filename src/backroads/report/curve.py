"""Curves: points in order, with a band where there are several measurements of each; thinned while they are read."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NAN = math.nan
POINTS = 240


@dataclass(frozen=True)
class Curve:
    """Values at increasing places x; NaN where there is none.

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
    places = sorted(found)
    # Exact sums, not floating ones: the losses of a diverging seed may be too large to square.
    means = [statistics.mean(found[x]) if found[x] else NAN for x in places]
    spreads = [statistics.stdev(found[x]) if len(found[x]) > 1 else NAN for x in places]
    low = tuple(mean - spread for mean, spread in zip(means, spreads, strict=True))
    high = tuple(mean + spread for mean, spread in zip(means, spreads, strict=True))
    return Curve(tuple(places), tuple(means), low, high)


def over_layers(curves: Sequence[Curve]) -> Curve:
    """Median over curves at the same places, with a band from the lowest to the highest."""
    columns = [[y for y in column if not math.isnan(y)] for column in zip(*(c.y for c in curves), strict=True)]
    return Curve(
        curves[0].x,
        tuple(statistics.median(column) if column else NAN for column in columns),
        tuple(min(column, default=NAN) for column in columns),
        tuple(max(column, default=NAN) for column in columns),
    )


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
        lines: so far.
        points: by name the sum, the lines that have the value, and those in which it is missing; the places have the
            name None.
        last: the values of the last line.
    """

    most: int = POINTS
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
            self.points.append({None: (0.0, 0, 0)})
        self.lines, self.last, point = self.lines + 1, values, self.points[-1]
        total, count, _ = point[None]
        point[None] = (total + x, count + 1, 0)
        for name, value in values.items():
            total, count, lost = point.get(name, (0.0, 0, 0))
            point[name] = (total, count, lost + 1) if value is None else (total + value, count + 1, lost)

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
    zero = (0.0, 0, 0)
    names = dict.fromkeys([*one, *other])
    return {n: tuple(a + b for a, b in zip(one.get(n, zero), other.get(n, zero), strict=True)) for n in names}


def thinned(curve: Curve, most: int) -> Curve:
    """The curve with fewer than ``2 * most`` points."""
    log = Thinned(most)
    for x, y in zip(curve.x, curve.y, strict=True):
        log.add(x, {"": None if math.isnan(y) else y})
    return log.curve("")
