"""The figures of all reports: lines, heat maps, intervals and points, drawn small so that a page can set them in rows.

A figure holds numbers and fixed words; names that users chose stand in the page, except those of categories.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from backroads.report.curve import Curve
from backroads.report.svg import AXIS, HEAT, REFERENCE, SERIES, TEXT, Size, draw
from backroads.report.text import short
from backroads.runs.statistics import Estimate

OVERVIEW = Size(370, 270, left=48, right=10, top=10, bottom=36)
PANEL = Size(172, 136, left=36, right=8, top=8, bottom=20)
MAP = Size(370, 270, left=40, right=52, top=10, bottom=36)
SHADES = HEAT[:7]
_SWATCH = Size(30, 12, right=0.5, left=0.5)
_DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 1.6), (7, 2, 1.6, 2))
_MARKERS = ("o", "s", "^", "D", "v", "P", "<", "X", ">", "p")


@dataclass(frozen=True)
class Look:
    """What tells one line from the others: never the colour alone."""

    colour: str
    dashes: tuple[float, ...] = ()
    marker: str = ""
    width: float = 1.6


PLAIN = Look(TEXT)
DASHED = Look(TEXT, (4, 2))
BEHIND = Look(REFERENCE, width=1.0)
EVALUATED = Look(SERIES[0])
TRAINED = Look(SERIES[1], (4, 2))


def look(index: int) -> Look:
    """The look of the line with this index, different for the first forty."""
    turn, number = divmod(index, len(SERIES))
    return Look(SERIES[number], _DASHES[(index + turn) % len(_DASHES)], _MARKERS[number])


@dataclass(frozen=True)
class Scale:
    """An axis.

    Attributes:
        low, high: its ends; None: those of the figure.
        log: logarithmic.
        factor: labels are values times this.
        ideal: a value at which a line is drawn.
        cut: whether some values lie beyond the ends.
        ticks: places of the labels.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    factor: float = 1.0
    ideal: float | None = None
    cut: bool = False
    ticks: tuple[float, ...] = ()


FRACTION = Scale(0.0, 1.0, factor=100)


def accuracy_scale(curves: Sequence[Curve]) -> Scale:
    """From 0 to a little above the highest accuracy, in percent."""
    best = max((y for curve in curves for _, y in curve.known), default=1.0)
    return Scale(0.0, min(1.02, 1.08 * best) or 1.0, factor=100)


def loss_scale(curves: Sequence[Curve]) -> Scale:
    """Logarithmic if all are positive; ends at ten times the highest first value, for losses that explode."""
    values = [y for curve in curves for _, y in curve.known] or [0.0, 1.0]
    first = [curve.known[0][1] for curve in curves if curve.known and curve.known[0][0] == 0]
    highest = min(max(values), 10 * max(first)) if first and max(first) > 0 else max(values)
    found = scale_of([y for y in values if y <= highest], log=True)
    return Scale(found.low, found.high, log=found.log, cut=highest < max(values))


def scale_of(values: Sequence[float], *, log: bool = False, ideal: float | None = None, unit: str = "") -> Scale:
    """An axis that holds all values: of degrees from 0 to at least 90, logarithmic where asked for and possible."""
    known = [v for v in (*values, *([] if ideal is None else [ideal])) if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(known), max(known)
    if unit == "degrees":
        top = 180.0 if high > 120 else max(90.0, high)
        ticks = tuple(range(0, 181, 45 if top == 180 else 30))
        return Scale(-2.0 if low >= 0 else low, top + 2, ideal=ideal, ticks=ticks)
    if log and low > 0:
        return Scale(low / 1.3, high * 1.3, log=True, ideal=ideal)
    margin = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    return Scale(0.0 if 0 <= low < 0.5 * high else low - margin, high + margin, ideal=ideal)


@dataclass(frozen=True)
class Series:
    """A curve and its look. mark: whether its points get marks, so that lines that run together can be told apart."""

    curve: Curve
    look: Look
    mark: bool = False


def lines(
    name: str,
    label: str,
    series: Sequence[Series],
    scale: Scale,
    *,
    x: str = "",
    y: str = "",
    size: Size = PANEL,
    places: Sequence[float] = (),
    marks: Sequence[float] = (),
) -> Markup:
    """A chart of lines with their bands.

    Args:
        name, label: as for ``draw``.
        series: the first is at the back.
        scale: of the vertical axis.
        x, y: names of the axes.
        places: that the horizontal axis holds as well.
        marks: places of upright lines.
    """

    def paint(axes: Axes) -> None:
        apply(axes.yaxis, scale)
        across(axes, [*places, *marks, *(place for one in series for place in one.curve.x)])
        axes.set(xlabel=x, ylabel=y)
        for place in marks:
            axes.axvline(place, color=REFERENCE, dashes=(2, 1.6), linewidth=1.6)
        for number, one in enumerate(series):
            _band(axes, one, scale)
            curve, alone = one.curve, len(one.curve.known) == 1
            axes.plot(
                curve.x,
                curve.y,
                color=one.look.colour,
                linewidth=one.look.width,
                dashes=one.look.dashes or (None, None),
                marker=(one.look.marker or "o") if alone or one.mark else "",
                markersize=4,
                markeredgewidth=0,
                markevery=None if alone else slice(number % 4, None, max(4, len(curve.x) // 6)),
            )

    return draw(name, label, size, paint)


def _band(axes: Axes, one: Series, scale: Scale) -> None:
    low, high = np.asarray(one.curve.low), np.asarray(one.curve.high)
    if np.isfinite(low).any():
        if scale.log and scale.low is not None:
            low = np.maximum(low, scale.low)
        axes.fill_between(one.curve.x, low, high, color=one.look.colour, alpha=0.22, linewidth=0)


def heat(
    name: str,
    label: str,
    places: Sequence[float],
    rows: Sequence[Sequence[float]],
    scale: Scale,
    *,
    x: str = "",
    y: str = "",
    size: Size = MAP,
) -> Markup:
    """Shades in a row for each of ``rows``, the first on top, at ``places``; with a bar that says what they mean.

    NaN stays blank. Darker (on a dark page: lighter) is higher.
    """
    low, high = _ends(scale)

    def position(value: float) -> float:
        if scale.log:
            return (math.log(max(value, 1e-300)) - math.log(low)) / (math.log(high) - math.log(low))
        return (value - low) / (high - low)

    def level(value: float) -> int:
        return min(6, max(0, int(7 * position(value))))

    def paint(axes: Axes) -> None:
        edges = _between(places)
        cells: list[list[Path]] = [[] for _ in SHADES]
        for row, values in enumerate(rows, 1):
            column = 0
            for value, run in itertools.groupby(None if math.isnan(v) else level(v) for v in values):
                width = len(list(run))
                if value is not None:
                    cells[value].append(_cell(edges[column], edges[column + width], row - 0.5, row + 0.5))
                column += width
        for colour, found in zip(SHADES, cells, strict=True):
            if found:  # without smoothing: no seams between cells that touch
                path = Path.make_compound_path(*found)
                axes.add_patch(PathPatch(path, facecolor=colour, linewidth=0, antialiased=False))
        axes.grid(visible=False)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(len(rows) + 0.5, 0.5), xlabel=x, ylabel=y)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        _bar(axes, scale, low, high)

    return draw(name, label, size, paint)


def _bar(axes: Axes, scale: Scale, low: float, high: float) -> None:
    """The bar of shades beside a map."""
    bar = axes.inset_axes((1.03, 0.0, 0.045, 1.0))
    edges = np.geomspace(low, high, 8) if scale.log else np.linspace(low, high, 8)
    bar.grid(visible=False)
    for bottom, top, colour in zip(edges, edges[1:], SHADES, strict=False):
        patch = PathPatch(_cell(0, 1, bottom, top), facecolor=colour, linewidth=0, antialiased=False)
        bar.add_patch(patch)
    apply(bar.yaxis, Scale(low, high, log=scale.log, factor=scale.factor, ticks=scale.ticks))
    bar.set(xlim=(0, 1))
    bar.xaxis.set_visible(False)
    bar.yaxis.tick_right()
    bar.spines[["left", "bottom"]].set_visible(False)


def interval(name: str, label: str, one: Estimate, colour: str, most: float) -> Markup:
    """A dot with its interval over a line at 0, on an axis from ``-most`` to ``most``, to stand in a row of a table."""

    def paint(axes: Axes) -> None:
        axes.set_axis_off()
        axes.set(xlim=(-most, most), ylim=(-1, 1))
        axes.axvline(0, color=AXIS, linewidth=0.8)
        if one.mean is not None and one.half is not None:
            ends = (max(-most, one.mean - one.half), min(most, one.mean + one.half))
            axes.plot(ends, (0, 0), color=colour, linewidth=2.2, solid_capstyle="butt")
        if one.mean is not None:
            axes.plot([one.mean], [0], color=colour, marker="o", markersize=6, markeredgewidth=0)

    return draw(name, label, Size(180, 22, left=3, right=3), paint)


def points(
    name: str,
    label: str,
    xs: Sequence[float],
    ys: Sequence[float],
    scale: Scale,
    shades: Sequence[float] = (),
    **axis: bool,
) -> Markup:
    """Points; of the shades of a map if ``shades`` (0 to 1) are given. ``log_x``, ``log_y``: logarithmic axes."""

    def paint(axes: Axes) -> None:
        apply(axes.yaxis, scale)
        apply(axes.xaxis, scale_of(xs, log=axis.get("log_x", False)), few=True)
        if not shades:
            axes.plot(xs, ys, linestyle="none", marker="o", markersize=4, markeredgewidth=0, color=SERIES[0], alpha=0.6)
        for level, colour in enumerate(SHADES):
            own = [n for n, shade in enumerate(shades) if min(6, int(7 * shade)) == level]
            at = [xs[n] for n in own], [ys[n] for n in own]
            axes.plot(*at, linestyle="none", marker="o", markersize=5, markeredgewidth=0.4, mec=AXIS, color=colour)

    return draw(name, label, PANEL, paint)


def categories(name: str, label: str, values: Sequence[tuple[str, Sequence[float]]], scale: Scale) -> Markup:
    """Values of each category as points in a row with its name."""
    names = [name if len(name) <= 14 else f"{name[:13]}…" for name, _ in values]
    left = 10 + 5.6 * max(map(len, names))

    def paint(axes: Axes) -> None:
        apply(axes.xaxis, scale, few=True)
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set_yticks(range(len(values)), names, parse_math=False)
        for row, (_, found) in enumerate(values):
            spread = [row + 0.5 * ((k * 0.618) % 1 - 0.5) for k in range(len(found))]
            axes.plot(
                found, spread, linestyle="none", marker="o", markersize=4, markeredgewidth=0, color=SERIES[0], alpha=0.6
            )

    return draw(name, label, Size(172, max(60, 26 * len(values) + 24), left=left, right=10, top=6, bottom=20), paint)


def bar(name: str, label: str, share: float) -> Markup:
    """A bar from 0 to ``share`` of the width, to stand in a row of a table."""

    def paint(axes: Axes) -> None:
        axes.set_axis_off()
        axes.set(xlim=(0, 1), ylim=(-1, 1))
        axes.add_patch(PathPatch(_cell(0, share, -0.6, 0.6), facecolor=SERIES[0], linewidth=0))

    return draw(name, label, Size(180, 18), paint)


def shade(name: str, level: int) -> Markup:
    """A piece of a shade, for a key."""

    def paint(axes: Axes) -> None:
        axes.set_axis_off()
        axes.add_patch(PathPatch(_cell(0, 1, 0, 1), facecolor=SHADES[level], linewidth=0))

    return draw(name, "", _SWATCH, paint)


def swatch(name: str, look: Look) -> Markup:
    """A short piece of a line, for a key."""

    def paint(axes: Axes) -> None:
        axes.set_axis_off()
        axes.set(xlim=(0, 2), ylim=(-1, 1))
        dashes = look.dashes or (None, None)
        axes.plot([0, 2], [0, 0], color=look.colour, dashes=dashes, linewidth=look.width)
        axes.plot([1], [0], color=look.colour, marker=look.marker, markersize=4, markeredgewidth=0)

    return draw(name, "", _SWATCH, paint)


def apply(axis: Axis, scale: Scale, *, few: bool = False) -> None:
    """Give an axis its ends, ticks and labels."""
    axes, vertical = axis.axes, axis is axis.axes.yaxis
    if scale.log:
        (axes.set_yscale if vertical else axes.set_xscale)("log")
    low, high = _ends(scale)
    (axes.set_ylim if vertical else axes.set_xlim)(low, high)
    if scale.ticks:
        axis.set_major_locator(FixedLocator([tick for tick in scale.ticks if low <= tick <= high]))
    elif scale.log and high / low > 8:
        subs = (1.0,) if high / low > 100 else (1.0, 3.0) if few else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=subs, numticks=4 if few else 6))
    else:
        axis.set_major_locator(MaxNLocator(3 if few else 5, steps=[1, 2, 5, 10]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(scale.factor * value)))
    if scale.ideal is not None:
        (axes.axhline if vertical else axes.axvline)(scale.ideal, color=AXIS, linewidth=0.8)


def across(axes: Axes, places: Sequence[float]) -> None:
    """A horizontal axis that holds these places."""
    first, last = min(places, default=0.0), max(places, default=0.0)
    margin = 0.03 * (last - first) or 0.5
    axes.set_xlim(first - margin, last + margin)
    if first == last:
        axes.set_xticks([first])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=last - first > 2, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def _ends(scale: Scale) -> tuple[float, float]:
    low, high = 0.0 if scale.low is None else scale.low, 1.0 if scale.high is None else scale.high
    return (low, high) if high > low else (low, low * 2 if scale.log else low + 1.0)


def _between(places: Sequence[float]) -> list[float]:
    """Edges of cells around these places."""
    if len(places) == 1:
        return [places[0] - 0.5, places[0] + 0.5]
    middles = [(one + other) / 2 for one, other in itertools.pairwise(places)]
    return [2 * places[0] - middles[0], *middles, 2 * places[-1] - middles[-1]]


def _cell(left: float, right: float, bottom: float, top: float) -> Path:
    corners = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
    return Path(corners, [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY])
