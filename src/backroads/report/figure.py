"""The drawings of all reports: lines, maps, points, and bars in rows of tables, small so that a page sets them in rows.

A drawing holds numbers and fixed words; names that users chose stand in the page, except those of categories.
"""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from backroads.runs.schema import Fields

OVERVIEW = Size(370, 270, left=48, right=10, top=10, bottom=36)
HALF = Size(300, 250, left=48, right=12, top=10, bottom=36)
PANEL = Size(172, 136, left=36, right=8, top=8, bottom=20)
MAP = Size(370, 270, left=40, right=52, top=10, bottom=36)
SHADES = HEAT[:7]
_DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 1.6), (7, 2, 1.6, 2))
_BOX = [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY]
_MARKERS = ("o", "s", "^", "D", "v", "P", "<", "X", ">", "p")


@dataclass(frozen=True)
class Look:
    """What tells one line from the others: never the colour alone."""

    colour: Any
    dashes: tuple[float, ...] = ()
    marker: str = ""
    width: float = 1.6


PLAIN = Look(TEXT)
DASHED = Look(TEXT, (4, 2))
BEHIND = Look(REFERENCE, width=1.0)
EVALUATED = Look(SERIES[0])
TRAINED = Look(SERIES[1], (4, 2))
TESTED = Look(SERIES[2], marker="D")


def look(index: int) -> Look:
    """The look of the line with this index, different for the first forty."""
    turn, number = divmod(index, len(SERIES))
    return Look(SERIES[number], _DASHES[(index + turn) % len(_DASHES)], _MARKERS[number])


@dataclass(frozen=True)
class Scale:
    """An axis.

    Attributes:
        factor: labels are values times this.
        ideal: a value at which a line is drawn.
        cut: whether some values lie beyond the ends.
        ticks: places of the labels.
    """

    low: float = 0.0
    high: float = 1.0
    log: bool = False
    factor: float = 1.0
    ideal: float | None = None
    cut: bool = False
    ticks: tuple[float, ...] = ()


FRACTION = Scale(factor=100)


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


Series = Sequence[tuple[Curve, Look]]
"""Curves of a chart, the first at the back; where the look has a marker, lines that run together can be told apart."""


def lines(
    label: str,
    series: Series,
    scale: Scale,
    *,
    x: str = "",
    y: str = "",
    size: Size = PANEL,
    places: Sequence[float] = (),
    names: Mapping[float, str] | None = None,
) -> Markup:
    """A chart of lines with their bands.

    Args:
        label: for those who do not see it. series: curves and how they look. scale: of the vertical axis.
        x, y: names of the axes. places: which the horizontal axis holds as well. names: of places on it, in place of
            numbers.
    """

    def paint(axes: Axes) -> None:
        apply(axes.yaxis, scale)
        held = [*places, *(place for curve, _ in series for place in curve.x)] or [0.0]
        first, last = min(held), max(held)
        margin = 0.03 * (last - first) or 0.5
        apply(axes.xaxis, Scale(first - margin, last + margin, ticks=(first,) if first == last else ()))
        if names:
            axes.set_xticks(list(names), list(names.values()), parse_math=False)
        axes.set(xlabel=x, ylabel=y)
        for number, (curve, own) in enumerate(series):
            if curve.low and not np.isnan(curve.low).all():
                low = np.maximum(curve.low, scale.low) if scale.log else curve.low
                axes.fill_between(curve.x, low, curve.high, color=own.colour, alpha=0.22, linewidth=0)
            alone = len(curve.known) == 1
            axes.plot(
                curve.x,
                curve.y,
                color=own.colour,
                linewidth=own.width,
                dashes=own.dashes or (None, None),
                marker=own.marker or ("o" if alone else ""),
                markersize=5 if alone else 4,
                markevery=None if alone else slice(number % 4, None, max(4, len(curve.x) // 6)),
            )

    return draw(label, size, paint)


def heat(
    label: str, places: Sequence[float], rows: Sequence[Sequence[float]], scale: Scale, x: str, y: str, size: Size = MAP
) -> Markup:
    """Shades in a row for each of ``rows``, the first on top, at ``places``; with a bar that says what they mean.

    NaN stays blank. Darker (on a dark page: lighter) is higher.
    """
    low, high = _ends(scale)
    bounds = np.geomspace(low, high, 8) if scale.log else np.linspace(low, high, 8)

    def shade(value: float) -> str | None:
        return None if math.isnan(value) else SHADES[int(np.searchsorted(bounds[1:-1], value, side="right"))]

    def paint(axes: Axes) -> None:
        edges = _between(places)
        cells(axes, edges, [n + 0.5 for n in range(len(rows) + 1)], [[shade(value) for value in row] for row in rows])
        axes.grid(visible=False)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(len(rows) + 0.5, 0.5), xlabel=x, ylabel=y)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        bar = axes.inset_axes((1.0 + 10 / (size.width - size.left - size.right), 0.0, 0.045, 1.0))
        bar.grid(visible=False)
        cells(bar, [0, 1], [float(bound) for bound in bounds], [[colour] for colour in SHADES])
        apply(bar.yaxis, Scale(low, high, log=scale.log, factor=scale.factor, ticks=scale.ticks))
        bar.set(xlim=(0, 1))
        bar.xaxis.set_visible(False)
        bar.yaxis.tick_right()
        bar.spines[["left", "bottom"]].set_visible(False)

    return draw(label, size, paint)


def cells(axes: Axes, xs: Sequence[float], ys: Sequence[float], rows: Sequence[Sequence[Any]]) -> None:
    """Fill the cells between the edges ``xs`` and ``ys`` with the colours in ``rows``; None leaves a cell blank."""
    found: dict[Any, list[Path]] = {}
    for bottom, top, row in zip(ys, ys[1:], rows, strict=False):
        column = 0
        for colour, run in itertools.groupby(row):
            left, column = column, column + len(list(run))
            corners = [(xs[k], y) for k, y in ((left, bottom), (column, bottom), (column, top), (left, top))]
            found.setdefault(colour, []).append(Path([*corners, corners[0]], _BOX))
    for colour, paths in found.items():
        if colour is not None:  # without smoothing: no seams between cells that touch
            path = Path.make_compound_path(*paths)
            axes.add_patch(PathPatch(path, facecolor=colour, linewidth=0, antialiased=False))


def images(label: str, fields: Fields) -> Markup:
    """Images of units side by side, on a page of any colour."""
    stored = np.frombuffer(base64.b64decode(fields.values), np.uint8).reshape(fields.shape)
    n, height, width, _ = fields.shape
    columns = math.ceil(math.sqrt(1.5 * n * height / width))
    rows, columns = math.ceil(n / columns), min(n, columns)
    scale = max(1, math.ceil(24 / max(height, width)))  # pixels a weight, so that the gap of 2 is narrow
    shown = np.zeros((rows * (scale * height + 2) - 2, columns * (scale * width + 2) - 2, 4), np.uint8)
    for k, image in enumerate(stored):
        top, left = (k // columns) * (scale * height + 2), (k % columns) * (scale * width + 2)
        place = shown[top : top + scale * height, left : left + scale * width]
        place[..., :3], place[..., 3] = image.repeat(scale, 0).repeat(scale, 1), 255

    def paint(axes: Axes) -> None:
        axes.set_axis_off()
        axes.imshow(shown, interpolation="none", aspect="auto")

    return draw(label, Size(370, max(1, round(370 * shown.shape[0] / shown.shape[1]))), paint)


def points(
    label: str,
    xs: Sequence[float],
    ys: Sequence[float],
    x: Scale,
    y: Scale,
    *,
    shades: Sequence[float] = (),
    names: Sequence[str] = (),
) -> Markup:
    """Points. shades: of each, from 0 to 1, as in a map. names: of rows at 0, 1, ... instead of an upright axis."""
    names = [name if len(name) <= 14 else f"{name[:13]}…" for name in names]
    size = Size(172, max(60, 26 * len(names) + 24), 10 + 5.6 * max(map(len, names)), 10, 6, 20) if names else PANEL

    def paint(axes: Axes) -> None:
        apply(axes.xaxis, x)
        if names:
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.grid(visible=False, axis="y")
            axes.grid(visible=True, axis="x")
            axes.set_yticks(range(len(names)), names, parse_math=False)
        else:
            apply(axes.yaxis, y)
        if not shades:
            axes.plot(xs, ys, linestyle="none", marker="o", markersize=4, color=SERIES[0], alpha=0.6)
        for level, colour in enumerate(SHADES):
            own = [n for n, shade in enumerate(shades) if min(6, int(7 * shade)) == level]
            places = [xs[n] for n in own], [ys[n] for n in own]
            axes.plot(*places, linestyle="none", marker="o", markersize=5, color=colour, mec=AXIS, mew=0.4)

    return draw(label, size, paint)


def intervals(label: str, rows: Sequence[tuple[str, float, float, float, Look]], scale: Scale, x: str) -> Markup:
    """A row for each of (name, low, value, high, look): a mark, and a bar from low to high unless they are equal."""
    names = [name if len(name) <= 26 else f"{name[:25]}…" for name, *_ in rows]
    left = 12 + 5.8 * max(20, *map(len, names))  # panels of one size
    size = Size(left + 180, 22 * len(rows) + 42, left, 12, 6, 34)

    def paint(axes: Axes) -> None:
        apply(axes.xaxis, scale)
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=x)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set_yticks(range(len(rows)), names, parse_math=False)
        for n, (_, low, value, high, own) in enumerate(rows):
            axes.plot((low, high), (n, n), color=own.colour, linewidth=2.2, solid_capstyle="butt")
            axes.plot([value], [n], linestyle="none", marker=own.marker or "o", markersize=5, color=own.colour)

    return draw(label, size, paint)


def inline(
    label: str,
    low: float,
    high: float,
    bar: tuple[float, float] | None,
    marks: Sequence[float] = (),
    colour: str = SERIES[0],
    marker: str = "|",
) -> Markup:
    """A bar and marks on a line from ``low`` to ``high``, to stand in a row of a table.

    With the marker "o" the bar is thin, and an upright line stands at 0.
    """

    def paint(axes: Axes) -> None:
        axes.set_axis_off()
        axes.set(xlim=(low, high), ylim=(-1, 1))
        dot = marker == "o"
        if dot:
            axes.axvline(0, color=AXIS, linewidth=0.8)
        if bar is not None:
            ends, width, alpha = (max(low, bar[0]), min(high, bar[1])), 2.2 if dot else 12, 1.0 if dot else 0.45
            axes.plot(ends, (0, 0), color=colour, linewidth=width, solid_capstyle="butt", alpha=alpha)
        axes.plot(
            marks, [0] * len(marks), linestyle="none", marker=marker, color=colour if dot else TEXT, ms=6, mew=0.7
        )

    return draw(label, Size(180, 20, left=3, right=3), paint)


def swatch(own: Look) -> Markup:
    """A short piece of a line, for a key."""

    def paint(axes: Axes) -> None:
        axes.set_axis_off()
        axes.set(xlim=(0, 2), ylim=(-1, 1))
        dashes = own.dashes or (None, None)
        axes.plot([0, 2], [0, 0], color=own.colour, dashes=dashes, linewidth=own.width)
        axes.plot([1], [0], color=own.colour if own.width < 4 else TEXT, marker=own.marker, markersize=4)

    return draw("", Size(30, 12, left=0.5, right=0.5), paint)


def apply(axis: Axis, scale: Scale) -> None:
    """Give an axis its ends, ticks and labels; a horizontal one has fewer labels."""
    axes, upright = axis.axes, axis is axis.axes.yaxis
    if scale.log:
        (axes.set_yscale if upright else axes.set_xscale)("log")
    low, high = _ends(scale)
    (axes.set_ylim if upright else axes.set_xlim)(low, high)
    if scale.ticks:
        axis.set_major_locator(FixedLocator([tick for tick in scale.ticks if low <= tick <= high]))
    elif scale.log and high / low > 8:
        subs = (1.0,) if high / low > 100 else (1.0, 2.0, 5.0) if upright else (1.0, 3.0)
        axis.set_major_locator(LogLocator(subs=subs, numticks=6 if upright else 4))
    else:
        whole = not upright and high - low >= 1
        axis.set_major_locator(MaxNLocator(5 if upright else 4, integer=whole, steps=[1, 2, 5, 10]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(scale.factor * value)))
    if scale.ideal is not None:
        (axes.axhline if upright else axes.axvline)(scale.ideal, color=AXIS, linewidth=0.8)


def _ends(scale: Scale) -> tuple[float, float]:
    if scale.high > scale.low:
        return scale.low, scale.high
    return scale.low, scale.low * 2 if scale.log else scale.low + 1.0


def _between(places: Sequence[float]) -> list[float]:
    """Edges of cells around these places."""
    if len(places) == 1:
        return [places[0] - 0.5, places[0] + 0.5]
    middles = [(one + other) / 2 for one, other in itertools.pairwise(places)]
    return [2 * places[0] - middles[0], *middles, 2 * places[-1] - middles[-1]]
