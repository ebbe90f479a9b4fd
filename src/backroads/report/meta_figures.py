"""The figures of the page of meta-trainings, in the look of all figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator

from backroads.report.curves import Curve
from backroads.report.figures import (
    OVERVIEW,
    PANEL,
    Look,
    epoch_axis,
    labels,
    line,
    look,
    loss_axes,
    loss_limits,
)
from backroads.report.svg import AXIS, HEAT, TEXT, draw


def overview(
    name: str, label: str, curves: Sequence[Curve], looks: Sequence[Look], xlabel: str, ylabel: str, *, log: bool
) -> Markup:
    """Some curves in one figure; logarithmic where they are losses, else from 0 to 100 %."""

    def paint(axes: Axes) -> None:
        _vertical(axes, curves, log)
        epoch_axis(axes, curves)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        for place, (curve, one) in enumerate(zip(curves, looks, strict=True)):
            line(axes, curve, one, mark=slice(place % 4, None, max(4, len(curve.epochs) // 6)))

    return draw(name, label, OVERVIEW, paint)


def course_panel(name: str, label: str, tasks: Sequence[Curve], so_far: Curve, *, log: bool) -> Markup:
    """Each task's score in a lifetime, thin, and that of those presented so far, thick."""

    def paint(axes: Axes) -> None:
        _vertical(axes, [*tasks, so_far], log)
        epoch_axis(axes, [*tasks, so_far])
        for place, curve in enumerate(tasks):
            axes.plot(curve.epochs, curve.mean, color=look(place).colour, linewidth=0.8)
        line(axes, so_far, Look(TEXT))

    return draw(name, label, PANEL, paint)


def retention_panel(name: str, label: str, course: Sequence[Sequence[float]], *, accuracy: bool) -> Markup:
    """Scores as shades: a row after each task learned, the first on top, a column for each task tested."""
    known = [value for row in course for value in row if not math.isnan(value)]
    low, high = (0.0, 1.0) if accuracy else (min(known, default=0.0), max(known, default=1.0))

    def paint(axes: Axes) -> None:
        for r, row in enumerate(course):
            for c, value in enumerate(row):
                if not math.isnan(value):
                    level = int((value - low) / (high - low or 1.0) * 7 * 0.999)
                    axes.add_patch(
                        Rectangle((c + 0.5, r + 0.5), 1, 1, facecolor=HEAT[min(6, max(0, level))], linewidth=0)
                    )
        axes.grid(visible=False)
        axes.set(xlim=(0.5, len(course[0]) + 0.5), ylim=(len(course) + 0.5, 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))

    return draw(name, label, PANEL, paint)


def angle_panel(name: str, label: str, curves: Sequence[Curve]) -> Markup:
    """Angles of updates by layer against step."""

    def paint(axes: Axes) -> None:
        axes.set_ylim(-3, 183)
        axes.yaxis.set_major_locator(FixedLocator(range(0, 181, 45)))
        axes.axhline(90, color=AXIS, linewidth=0.8)
        epoch_axis(axes, curves)
        for place, curve in enumerate(curves):
            line(axes, curve, look(place), mark=slice(place % 4, None, 4))

    return draw(name, label, PANEL, paint)


def _vertical(axes: Axes, curves: Sequence[Curve], log: bool) -> None:
    if log:
        loss_axes(axes, loss_limits(curves))
        return
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(labels(100))
