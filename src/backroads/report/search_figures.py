"""The figures of a search: what all trials reached, what each value did, and which primitives help together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from backroads.report.curves import NAN, Curve
from backroads.report.figures import OVERVIEW, PANEL, Look, accuracy_axes, labels, line
from backroads.report.svg import HEAT, SERIES, TEXT, Size, draw
from backroads.report.text import points as in_points

STRIP = Size(220, 18, left=2, right=2, top=2, bottom=2)
MOST = 300  # marks in a drawing: a page of thousands of trials stays small
_GRID = Size(330, 300, left=60, right=8, top=8, bottom=40)


def thinned(values: Sequence[float], most: int = MOST) -> list[float]:
    """At most ``most`` of the sorted values, evenly, with the smallest and the largest."""
    ordered = sorted(values)
    if len(ordered) <= most:
        return ordered
    return [ordered[round(k * (len(ordered) - 1) / (most - 1))] for k in range(most)]


def strip(name: str, label: str, values: Sequence[float], quartiles: Sequence[float] | None, low: float) -> Markup:
    """A tick for each trial, on an axis of accuracy from ``low`` to 1, with the quartiles as a bar."""

    def paint(axes: Axes) -> None:
        axes.set_axis_off()
        axes.set(xlim=(low - 0.01, 1.005), ylim=(-1, 1))
        if quartiles is not None:
            box = Rectangle(
                (max(low, quartiles[0]), -0.9), max(0.002, quartiles[2] - max(low, quartiles[0])), 1.8, alpha=0.25
            )
            box.set(facecolor=SERIES[0], linewidth=0)
            axes.add_patch(box)
        shown = [max(low, value) for value in thinned(values, 80)]
        axes.vlines(shown, -0.8, 0.8, colors=TEXT, linewidth=0.7)

    return draw(name, label, STRIP, paint)


def best_so_far(name: str, label: str, curves: Sequence[Curve], looks: Sequence[Look]) -> Markup:
    """The best accuracy until then, against the number of trials."""

    def paint(axes: Axes) -> None:
        accuracy_axes(axes, curves)
        axes.set(xlabel="trials", ylabel="best so far, %")
        for place, (curve, look) in enumerate(zip(curves, looks, strict=True)):
            line(axes, curve, look, mark=slice(place % 3, None, max(3, len(curve.epochs) // 6)))

    return draw(name, label, OVERVIEW, paint)


def slice_panel(name: str, label: str, points: Sequence[tuple[float, float]], low: float) -> Markup:
    """Accuracy of complete trials against a value on a logarithmic axis."""
    shown = _every(points)

    def paint(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=4))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(labels(1))
        _accuracies(axes, low)
        _dots(axes, [x for x, _ in shown], [max(low, y) for _, y in shown])

    return draw(name, label, PANEL, paint)


def choice_panel(name: str, label: str, by_choice: Mapping[int, Sequence[float]], low: float) -> Markup:
    """Accuracy of complete trials by choice, which are numbered; the page names them."""

    def paint(axes: Axes) -> None:
        axes.set_xlim(0.4, len(by_choice) + 0.6)
        axes.xaxis.set_major_locator(FixedLocator(list(by_choice)))
        _accuracies(axes, low)
        for number, values in by_choice.items():
            shown = thinned(values, 60)
            spread = [number + 0.5 * (k / max(1, len(shown) - 1) - 0.5) for k in range(len(shown))]
            _dots(axes, spread, [max(low, value) for value in shown])

    return draw(name, label, PANEL, paint)


def together(name: str, label: str, names: Sequence[str], effects: Mapping[tuple[int, int], float]) -> Markup:
    """The effect of each pair of primitives, and on the diagonal of each alone, in percentage points.

    Args:
        names: of the primitives. effects: by (row, column), column <= row; in accuracy.
    """
    most = max((abs(effect) for effect in effects.values()), default=0.0) or 1.0

    def paint(axes: Axes) -> None:
        n = len(names)
        axes.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
        axes.grid(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.set_xticks(range(n), names)
        axes.set_yticks(range(n), names)
        axes.tick_params(length=0)
        for (row, column), effect in effects.items():
            # Helps: the shades of blue. Harms: the one warm colour, the fainter the less.
            level = min(6, int(6.99 * abs(effect) / most))
            square = Rectangle((column - 0.46, row - 0.46), 0.92, 0.6)
            square.set(
                linewidth=0,
                facecolor=HEAT[level] if effect >= 0 else HEAT[7],
                alpha=1 if effect >= 0 else 0.25 + 0.1 * level,
            )
            axes.add_patch(square)
            text = in_points(effect)
            axes.text(column, row + 0.33, text, ha="center", va="center", color=TEXT, fontsize=9)

    return draw(name, label, _GRID, paint)


def steps(values: Sequence[float | None]) -> Curve:
    """The best of ``values`` until then; None (a trial without a value) leaves it."""
    best, found = -math.inf, []
    for value in values:
        best = max(best, -math.inf if value is None else value)
        found.append(NAN if best == -math.inf else best)
    places = range(1, len(found) + 1)
    if len(found) > MOST:  # where it rises, and evenly between
        stride = math.ceil(len(found) / MOST)
        keep = [k for k in range(len(found)) if k % stride == 0 or k + 1 == len(found) or found[k] != found[k - 1]]
        return Curve(tuple(k + 1 for k in keep), tuple(found[k] for k in keep), (NAN,) * len(keep))
    return Curve(tuple(places), tuple(found), (NAN,) * len(found))


def _every(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    stride = math.ceil(len(points) / MOST)
    return sorted(points)[:: max(1, stride)]


def _accuracies(axes: Axes, low: float) -> None:
    axes.set_ylim(low - 0.01, 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(labels(100))


def _dots(axes: Axes, xs: Sequence[float], ys: Sequence[float]) -> None:
    axes.plot(xs, ys, linestyle="none", marker="o", markersize=2.6, markeredgewidth=0, color=SERIES[0], alpha=0.55)
