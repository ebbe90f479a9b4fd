"""The figures of a report: curves with bands, in small panels that a page can flow like words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from backroads.report.curves import NAN, Curve
from backroads.report.svg import AXIS, REFERENCE, SERIES, TEXT, Size, draw

OVERVIEW = Size(370, 280, left=46, right=8, top=8, bottom=36)
PANEL = Size(172, 136, left=33, right=7, top=8, bottom=20)
_SWATCH = Size(30, 12, right=0.5, left=0.5)

_DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 1.6), (7, 2, 1.6, 2))
_MARKERS = ("o", "s", "^", "D", "v", "P", "<", "X", ">", "p")


@dataclass(frozen=True)
class Look:
    """What tells one line from the others: never the colour alone."""

    colour: str
    dashes: tuple[float, ...] = ()
    marker: str = ""


PLAIN = Look(TEXT)
"""The rule that the others are held against: a plain line in the colour of the text."""

TRAIN = Look(TEXT, (4, 2))
"""A training loss."""

BEHIND = Look(REFERENCE)
"""A line that is there for comparison only."""


def look(index: int) -> Look:
    """The look of the line with this index, different for the first forty."""
    turn, number = divmod(index, len(SERIES))
    return Look(SERIES[number], _DASHES[(index + turn) % len(_DASHES)], _MARKERS[number])


@dataclass(frozen=True)
class LossLimits:
    """The vertical axis that all loss panels share."""

    bottom: float
    top: float
    log: bool
    cut: bool
    """Whether some losses lie above ``top``."""


def loss_limits(curves: Sequence[Curve]) -> LossLimits:
    """Limits that show every curve, but not more than ten times the highest loss before training."""
    losses = [point[1] for curve in curves for point in curve.known] or [0.0, 1.0]
    first = [point[1] for curve in curves for point in curve.known[:1] if point[0] == 0]
    highest = min(max(losses), 10 * max(first)) if first and max(first) > 0 else max(losses)
    cut, lowest = highest < max(losses), min(losses)
    if lowest > 0:
        return LossLimits(lowest / 1.3, highest * 1.3, log=True, cut=cut)
    margin = 0.05 * (highest - lowest) or 0.5
    return LossLimits(lowest - margin, highest + margin, log=False, cut=cut)


def swatch(name: str, look: Look) -> Markup:
    """A short piece of the line, for a key."""

    def paint(axes: Axes) -> None:
        axes.set_axis_off()
        axes.set(xlim=(0, 2), ylim=(-1, 1))
        line(axes, Curve((0, 1, 2), (0.0, 0.0, 0.0), (NAN,) * 3), look, mark=slice(1, 2))

    return draw(name, "", _SWATCH, paint)


def is_stretched(curves: Sequence[Curve]) -> bool:
    """Whether the accuracy axis is stretched towards 100 %, because the curves would crowd there."""
    return max((point[1] for curve in curves for point in curve.known), default=0.0) >= 0.9


def accuracy_overview(name: str, label: str, curves: Sequence[Curve], looks: Sequence[Look]) -> Markup:
    """The mean accuracies of all rules in one figure."""

    def paint(axes: Axes) -> None:
        accuracy_axes(axes, curves)
        axes.set(xlabel="epoch", ylabel="accuracy, %")
        for place, (curve, look) in enumerate(zip(curves, looks, strict=True)):
            # Marks of neighbouring rules at different epochs: lines that run together stay apart.
            line(axes, curve, look, mark=slice(place % 3, None, 3))

    return draw(name, label, OVERVIEW, paint)


def accuracy_panel(name: str, label: str, curves: Sequence[Curve], shown: int, look: Look) -> Markup:
    """The accuracy of one rule with its band, in front of the means of the others."""

    def paint(axes: Axes) -> None:
        accuracy_axes(axes, curves)
        behind(axes, [curve for place, curve in enumerate(curves) if place != shown])
        band(axes, curves[shown], look.colour)
        line(axes, curves[shown], Look(look.colour))

    return draw(name, label, PANEL, paint)


def loss_panel(
    name: str,
    label: str,
    *,
    train: Curve,
    evaluated: Curve,
    reference: Curve | None,
    look: Look,
    limits: LossLimits,
) -> Markup:
    """Training loss (dashed) and evaluation loss of one rule, with bands."""

    def paint(axes: Axes) -> None:
        loss_axes(axes, limits)
        epoch_axis(axes, [train, evaluated])
        behind(axes, [reference] if reference else [])
        for curve in (train, evaluated):
            band(axes, curve, look.colour, floor=limits.bottom)
        line(axes, train, Look(look.colour, TRAIN.dashes))
        line(axes, evaluated, Look(look.colour))

    return draw(name, label, PANEL, paint)


def angle_panel(name: str, label: str, curves: Sequence[Curve], highest: float) -> Markup:
    """The weight angles of one rule, one line per layer; ``highest`` is the largest angle of any panel."""

    def paint(axes: Axes) -> None:
        top = max(90.0, min(180.0, highest))
        axes.set_ylim(-2, top + 2)
        axes.yaxis.set_major_locator(FixedLocator(range(0, 181, 30)))
        axes.axhline(90, color=AXIS, linewidth=0.8)
        epoch_axis(axes, curves)
        for place, curve in enumerate(curves):
            line(axes, curve, look(place), mark=slice(place % 4, None, 4))

    return draw(name, label, PANEL, paint)


def accuracy_axes(axes: Axes, curves: Sequence[Curve]) -> None:
    """An axis of accuracies for these curves, stretched where they crowd, over epochs."""
    epoch_axis(axes, curves)
    best = max((point[1] for curve in curves for point in curve.known), default=1.0)
    if not is_stretched(curves):
        axes.set_ylim(0, min(1.0, 1.1 * best) or 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(labels(100))
        return
    # Equal steps are equal factors of the error. The axis ends a little above the best mean, before 100 %.
    least_error = max(1 - best, 1e-3) / 1.7
    axes.set_yscale(
        "function",
        functions=(
            lambda accuracy: -np.log10(np.maximum(1 - accuracy, least_error)),
            lambda place: 1 - 10.0**-place,
        ),
    )
    axes.set_ylim(0, 1 - least_error)
    some, many = (0.0, 0.5, 0.9, 0.99, 0.999), (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
    ticks = some if least_error < 0.003 else many
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick <= 1 - least_error]))
    axes.yaxis.set_major_formatter(labels(100))


def loss_axes(axes: Axes, limits: LossLimits) -> None:
    """An axis of losses."""
    if limits.log:
        axes.set_yscale("log")
        wide = limits.top / limits.bottom >= 100
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(labels(1))
    axes.set_ylim(limits.bottom, limits.top)


def labels(factor: float) -> FuncFormatter:
    """Labels of an axis whose values are multiplied by ``factor``."""
    return FuncFormatter(lambda value, _: f"{factor * value:.4g}".replace("-", "\N{MINUS SIGN}"))


def epoch_axis(axes: Axes, curves: Iterable[Curve]) -> None:
    """An axis of epochs that holds all of these curves."""
    epochs = [epoch for curve in curves for epoch in curve.epochs] or [0]
    first, last = min(epochs), max(epochs)
    margin = 0.03 * (last - first) or 0.5
    axes.set_xlim(first - margin, last + margin)
    if first == last:
        axes.set_xticks([first])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))


def line(axes: Axes, curve: Curve, look: Look, mark: slice | None = None) -> None:
    """One curve; ``mark`` says which points get their marker."""
    alone = len(curve.known) == 1
    axes.plot(
        curve.epochs,
        curve.mean,
        color=look.colour,
        dashes=look.dashes or (None, None),
        marker=(look.marker or "o") if alone else look.marker,
        markersize=4,
        markeredgewidth=0,
        markevery=None if alone else mark,
    )


def behind(axes: Axes, curves: Sequence[Curve]) -> None:
    """Thin lines for comparison, drawn as one line with gaps: that keeps the page small."""
    epochs = [epoch for curve in curves for epoch in (*curve.epochs, NAN)]
    means = [mean for curve in curves for mean in (*curve.mean, NAN)]
    axes.plot(epochs, means, color=BEHIND.colour, linewidth=0.8)


def band(axes: Axes, curve: Curve, colour: str, floor: float = -math.inf) -> None:
    """The spread of a curve."""
    mean, spread = np.asarray(curve.mean), np.asarray(curve.spread)
    if np.isfinite(spread).any():
        low, high = np.maximum(mean - spread, floor), mean + spread
        axes.fill_between(curve.epochs, low, high, color=colour, alpha=0.22, linewidth=0)
