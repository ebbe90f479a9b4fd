"""Curves: points in order, with a band where there are several measurements of each; as many as a figure can show.

Numbers are kept in full, in eight bytes each, so that what is said in words comes from all of them. What is drawn are
the first, lowest, highest and last of each column of a figure: drawn so, a line looks like the one through all points.

Source: U. Jugel, Z. Jerzak, G. Hackenbroich, V. Markl, M4: a visualization-oriented time series data aggregation,
VLDB 2014.
"""

from __future__ import annotations

import math
import statistics
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

NAN = math.nan
COLUMNS = 320  # of the widest figure, in pixels of the page
Numbers = NDArray[np.float64]


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
class Log:
    """Named numbers along a log of any length.

    Example:
        >>> log = Log()
        >>> log.add(1, {"loss": 2.0})
        >>> log.curve("loss").y
        (2.0,)

    Attributes:
        x: the place of each line.
        columns: by name the number in each line, NaN where there is none; a short one ends in such lines.
        lost: by name, how many lines have the name without a finite number.
        last: the values of the last line.
    """

    x: array[float] = field(default_factory=lambda: array("d"))
    columns: dict[str, array[float]] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)
    last: dict[str, float | None] = field(default_factory=dict)

    def add(self, x: float, values: dict[str, float | None]) -> None:
        """Append what was measured at x."""
        lines = len(self.x)
        self.x.append(x)
        self.last = values
        for name, value in values.items():
            try:
                column = self.columns[name]
            except KeyError:
                column = self.columns[name] = array("d")
            if len(column) < lines:
                column.extend([NAN] * (lines - len(column)))
            if value is None:
                self.lost[name] += 1
                value = NAN
            column.append(value)

    def undo(self) -> None:
        """Take the last line out again."""
        self.x.pop()
        for name, value in self.last.items():
            self.columns[name].pop()
            self.lost[name] -= value is None

    @property
    def places(self) -> Numbers:
        """The place of each line."""
        return np.array(self.x)

    def values(self, name: str) -> Numbers:
        """The number of this name in each line; NaN where there is none."""
        found = np.array(self.columns.get(name, ()), dtype=np.float64)
        return np.pad(found, (0, len(self.x) - len(found)), constant_values=NAN)

    def curve(self, name: str) -> Curve:
        """What has to be drawn of the numbers of this name."""
        return line(self.places, self.values(name))


def line(x: Numbers, y: Numbers) -> Curve:
    """What has to be drawn of a line through many points; arguments as for :func:`drawn`."""
    shown = drawn(x, y)
    return Curve(tuple(x[shown].tolist()), tuple(y[shown].tolist()))


def drawn(x: Numbers, y: Numbers) -> NDArray[np.intp]:
    """Which points a line through all of them needs: see the top of the file. The first and the last are among them.

    Args:
        x: places, ascending, (n,). y: values, (n,), NaN where there is none; a column without any stays blank.

    Returns:
        Their indices, ascending: all up to ``4 * COLUMNS``, never many more.
    """
    if len(x) <= 4 * COLUMNS:
        return np.arange(len(x))
    width = float(np.nanmax(x) - x[0]) or 1.0
    column = np.maximum.accumulate(np.floor(np.clip((x - x[0]) / width, 0.0, 1.0) * COLUMNS))
    found = {0, len(x) - 1}
    for part in np.split(np.arange(len(x)), np.flatnonzero(np.diff(column)) + 1):
        known = part[~np.isnan(y[part])]
        if not len(known):
            found.add(int(part[0]))
            continue
        found |= {int(known[k]) for k in (0, -1, y[known].argmin(), y[known].argmax())}
    return np.array(sorted(found))


def merged(logs: Sequence[Log], names: Iterable[str], *, together: bool = False) -> dict[str, Curve]:
    """What has to be drawn of the mean and the band over several seeds, by name; see :func:`over_seeds`.

    Args:
        logs: of each seed; their places may differ. names: of the values.
        together: draw all names at the same places, chosen by their mean, rather than each at its own.
    """
    x = np.unique(np.concatenate([np.empty(0), *(log.places for log in logs)]))
    seeds = {name: [_at(x, log, name) for log in logs] for name in names}
    means = {name: _mean(own) for name, own in seeds.items()}
    common = drawn(x, _mean(list(means.values()))) if together and means else None
    found = {}
    for name, own in seeds.items():
        shown = drawn(x, means[name]) if common is None else common
        found[name] = over_seeds(dict(zip(x[shown].tolist(), y[shown].tolist(), strict=True)) for y in own)
    return found


def _at(x: Numbers, log: Log, name: str) -> Numbers:
    """The numbers of a log at the places x, which hold all of its own; NaN where it has none."""
    found = np.full(len(x), NAN)
    found[np.searchsorted(x, log.places)] = log.values(name)
    return found


def _mean(rows: Sequence[Numbers]) -> Numbers:
    """By place, over the rows that have a number there."""
    known = [~np.isnan(row) for row in rows]
    with np.errstate(all="ignore"):
        total = sum(np.where(there, row, 0.0) for row, there in zip(rows, known, strict=True))
        return np.asarray(total / sum(there.astype(float) for there in known))
