"""The figures of the page of a training, in the look of all figures."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from backroads.report.curves import NAN, Curve
from backroads.report.figures import (
    OVERVIEW,
    PANEL,
    Look,
    LossLimits,
    epoch_axis,
    line,
    look,
    loss_axes,
)
from backroads.report.svg import AXIS, HEAT, REFERENCE, SERIES, Size, draw

EVALUATED = Look(SERIES[0])
"""A value on the evaluation split."""

TRAINED = Look(SERIES[1], (4, 2))
"""A value on the training split."""

RESUMED = Look(REFERENCE, (2, 1.6))
"""A place where the training was taken up again."""

RIGHT_ANGLE = 85
"""Degrees from which B counts as unrelated to W."""

_EDGES = (10, 20, 30, 45, 60, 75, RIGHT_ANGLE)

LEVELS = (
    f"under {_EDGES[0]}°",
    *(f"{low}° to {high}°" for low, high in itertools.pairwise(_EDGES)),
    f"{_EDGES[-1]}° and more",
)
"""What the shades of the map of angles mean."""

_PATCH = Size(30, 12)
_STEPS = PANEL._replace(left=42)  # Room for labels such as 1.2e−10.


def loss_overview(name: str, label: str, *, train: Curve, evaluated: Curve, limits: LossLimits) -> Markup:
    """Losses against epoch."""

    def paint(axes: Axes) -> None:
        loss_axes(axes, limits)
        epoch_axis(axes, [train, evaluated])
        axes.set(xlabel="epoch", ylabel="loss")
        line(axes, train, TRAINED)
        line(axes, evaluated, EVALUATED)

    return draw(name, label, OVERVIEW, paint)


def angle_overview(name: str, label: str, curves: Sequence[Curve]) -> Markup:
    """Weight angles against epoch, one line per layer."""

    def paint(axes: Axes) -> None:
        highest = max((point[1] for curve in curves for point in curve.known), default=90)
        axes.set_ylim(-2, max(90.0, min(180.0, highest)) + 2)
        axes.yaxis.set_major_locator(FixedLocator(range(0, 181, 30)))
        axes.axhline(90, color=AXIS, linewidth=0.8)
        epoch_axis(axes, curves)
        axes.set(xlabel="epoch", ylabel="angle, °")
        for place, curve in enumerate(curves):
            line(axes, curve, look(place), mark=slice(place % 4, None, max(4, len(curve.epochs) // 8)))

    return draw(name, label, OVERVIEW, paint)


def angle_map(name: str, label: str, curves: Sequence[Curve]) -> Markup:
    """Weight angles as shades: a row per layer, the first on top, against epoch.

    Args:
        name, label: as for ``draw``.
        curves: one per layer, all at the same epochs.
    """

    def paint(axes: Axes) -> None:
        edges = _between(curves[0].epochs)
        cells: list[list[tuple[float, float, float]]] = [[] for _ in HEAT]
        for row, curve in enumerate(curves, 1):
            for level, left, right in _runs([level_of(angle) for angle in curve.mean], edges):
                cells[level].append((row, left, right))
        for colour, found in zip(HEAT, cells, strict=True):
            if found:
                path = Path.make_compound_path(*(_cell(*cell) for cell in found))
                # Without smoothing: no seams between cells that touch.
                axes.add_patch(PathPatch(path, facecolor=colour, linewidth=0, antialiased=False))
        axes.grid(visible=False)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(len(curves) + 0.5, 0.5), xlabel="epoch", ylabel="layer")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))

    return draw(name, label, OVERVIEW, paint)


def shade(name: str, level: int) -> Markup:
    """A piece of a shade of the map of angles, for its key."""

    def paint(axes: Axes) -> None:
        axes.set_axis_off()
        axes.add_patch(Rectangle((0, 0), 1, 1, facecolor=HEAT[level], linewidth=0))

    return draw(name, "", _PATCH, paint)


def step_panel(name: str, label: str, curve: Curve, *, log: bool) -> Markup:
    """A value against step: logarithmic, or from zero where none is negative."""

    def paint(axes: Axes) -> None:
        known = [point[1] for point in curve.known]
        if log:
            axes.set_yscale("log")
            axes.set_ylim(min(known) / 1.5, max(known) * 1.5)
            axes.yaxis.set_major_locator(LogLocator(numticks=5))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            lowest, highest = min(0.0, *known), max(0.0, *known)
            margin = 0.06 * (highest - lowest) or 1.0
            axes.set_ylim(lowest - (margin if lowest < 0 else 0), highest + margin)
            axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        _step_axis(axes, [curve])
        line(axes, curve, EVALUATED)

    return draw(name, label, _STEPS, paint)


def wants_log(curve: Curve) -> bool:
    """Whether a curve shows more on a logarithmic axis: most of it is far below its highest value."""
    known = [point[1] for point in curve.known]
    return min(known) > 0 and statistics.median(known) <= max(known) / 8


def speed_overview(name: str, label: str, curves: Sequence[Curve], resumed: Sequence[int]) -> Markup:
    """Images a second against step: a curve from each start to the next, with a line at each resume."""

    def paint(axes: Axes) -> None:
        highest = max((point[1] for curve in curves for point in curve.known), default=1.0)
        axes.set_ylim(0, 1.1 * highest or 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        _step_axis(axes, [*curves, Curve(tuple(resumed), (NAN,) * len(resumed), (NAN,) * len(resumed))])
        axes.set(xlabel="step", ylabel="images a second")
        for step in resumed:
            axes.axvline(step, color=RESUMED.colour, dashes=RESUMED.dashes, linewidth=1.6)
        for curve in curves:
            line(axes, curve, EVALUATED)

    return draw(name, label, OVERVIEW, paint)


def _step_axis(axes: Axes, curves: Sequence[Curve]) -> None:
    steps = [step for curve in curves for step in curve.epochs] or [0]
    margin = 0.03 * (max(steps) - min(steps)) or 0.5
    axes.set_xlim(min(steps) - margin, max(steps) + margin)
    axes.xaxis.set_major_locator(
        MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]) if margin != 0.5 else FixedLocator(steps[:1])
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    """``20000`` as ``20k`` and ``0.0001`` as ``1e−4``: a label for a narrow axis."""
    size = abs(value)
    if size >= 1e12 or 0 < size < 1e-3:
        mantissa, _, power = f"{value:.1e}".partition("e")
        text = f"{mantissa.removesuffix('.0')}e{int(power)}"
    else:
        unit, letter = next(((u, letter) for u, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if size >= u), (1.0, ""))
        text = f"{value / unit:.4g}{letter}"
    return text.replace("-", "\N{MINUS SIGN}")


def level_of(angle: float) -> int | None:
    """The place in ``LEVELS`` of an angle; None for NaN."""
    return None if math.isnan(angle) else sum(angle >= edge for edge in _EDGES)


def _between(places: Sequence[float]) -> list[float]:
    """Edges of cells around these places."""
    if len(places) == 1:
        return [places[0] - 0.5, places[0] + 0.5]
    middles = [(one + other) / 2 for one, other in itertools.pairwise(places)]
    return [2 * places[0] - middles[0], *middles, 2 * places[-1] - middles[-1]]


def _runs(levels: Sequence[int | None], edges: Sequence[float]) -> list[tuple[int, float, float]]:
    """Level, left and right edge of neighbouring cells of one level, without those that have none."""
    runs: list[tuple[int, float, float]] = []
    for place, level in enumerate(levels):
        if level is None:
            continue
        if runs and runs[-1][0] == level and runs[-1][2] == edges[place]:
            runs[-1] = (level, runs[-1][1], edges[place + 1])
        else:
            runs.append((level, edges[place], edges[place + 1]))
    return runs


def _cell(row: float, left: float, right: float) -> Path:
    top, bottom = row - 0.5, row + 0.5
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return Path(corners, [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY])
