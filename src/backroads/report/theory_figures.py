"""The figures of the theory: phase diagrams, the plane of two weights, and curves over time."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from backroads.report.figures import OVERVIEW, labels, look
from backroads.report.svg import AXIS, HEAT, REFERENCE, SERIES, TEXT, Size, draw
from backroads.report.theory_run import Diagram, MirrorCurve, Network, Point, Trajectory

DIAGRAM = Size(370, 300, left=46, right=10, top=8, bottom=36)
PLANE = Size(330, 310, left=46, right=10, top=8, bottom=36)
NARROW = Size(330, 310, left=46, right=10, top=8, bottom=36)
# Never the colour alone: each fate has a mark of its own.
MARKS = {"collapses": "v", "settles": "o", "explodes": "^", "undecided": "s"}
FILL = {"collapses": (HEAT[1], 0.6), "settles": (HEAT[3], 0.7), "explodes": (HEAT[7], 0.5), "undecided": (AXIS, 0.6)}
EDGE = 2.0  # the plane of two weights is drawn as far as that


def key(place: str, fate: str) -> Markup:
    """What stands for a fate in the diagrams."""

    def paint(axes: Axes) -> None:
        axes.set_axis_off()
        axes.set(xlim=(0, 2), ylim=(0, 1))
        colour, alpha = FILL[fate]
        axes.add_patch(Rectangle((0, 0), 2, 1, facecolor=colour, alpha=alpha, linewidth=0))
        axes.plot([1], [0.5], marker=MARKS[fate], color=TEXT, markersize=5, linestyle="none", markeredgewidth=0)

    return draw(f"key-{place}-{fate}", "", Size(30, 12), paint)


def diagram(name: str, label: str, found: Diagram) -> Markup:
    """Areas by the closed form, marks where the system was followed."""

    def paint(axes: Axes) -> None:
        _areas(axes, found.xs, found.ys, found.closed)
        _marks(axes, found.some_x, found.some_y, found.followed)
        _coefficients(axes, found.across, found.up)

    return draw(name, label, DIAGRAM, paint)


def network(name: str, label: str, found: Network, across: str, up: str) -> Markup:
    """Marks where the network was trained, and the border at which theory expects its strongest axis to grow."""

    def paint(axes: Axes) -> None:
        axes.set(xlim=(found.fine_x[0], found.fine_x[-1]), ylim=(found.fine_y[0], found.fine_y[-1]))
        values = [value for row in found.growth for value in row]
        if min(values) < 0 < max(values):
            axes.contour(found.fine_x, found.fine_y, found.growth, levels=[0.0], colors=[TEXT], linewidths=1.6)
        _marks(axes, found.xs, found.ys, [[outcome.fate for outcome in row] for row in found.outcomes], tinted=True)
        _coefficients(axes, across, up)

    return draw(name, label, DIAGRAM, paint)


def plane(name: str, label: str, paths: Sequence[Trajectory], points: Sequence[Point]) -> Markup:
    """Trajectories of (w, b): a dot where each begins; fixed points are filled if stable."""

    def paint(axes: Axes) -> None:
        axes.grid(True, axis="both")
        axes.plot([-EDGE, EDGE], [-EDGE, EDGE], color=REFERENCE, linewidth=0.8)
        for n, path in enumerate(paths):
            axes.plot(*zip(*path.points, strict=True), color=SERIES[n % len(SERIES)], linewidth=1.2)
            axes.plot(*path.points[0], marker=".", color=SERIES[n % len(SERIES)], markersize=5)
        for point in points:
            face = TEXT if point.stability == "stable" else "none"
            axes.plot(point.w, point.b, marker="o", markersize=7, color=TEXT, markerfacecolor=face, linestyle="none")
        axes.set(xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE), xlabel="w", ylabel="b")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(labels(1))

    return draw(name, label, PLANE, paint)


def norms(name: str, label: str, times: Sequence[float], W: Sequence[float], B: Sequence[float]) -> Markup:
    """|W| (solid) and |B| (dashed) over time, on a logarithmic axis."""

    def paint(axes: Axes) -> None:
        axes.set_yscale("log")
        axes.plot(times, [max(v, 1e-6) for v in W], color=SERIES[0])
        axes.plot(times, [max(v, 1e-6) for v in B], color=SERIES[1], dashes=(4, 2))
        axes.set(xlabel="time", ylabel="length")

    return draw(name, label, NARROW, paint)


def mirror(name: str, label: str, curves: Sequence[MirrorCurve], quantity: str) -> Markup:
    """Gain or angle against steps, one line a curve."""

    def paint(axes: Axes) -> None:
        for n, curve in enumerate(curves):
            values = curve.gain if quantity == "gain" else curve.angle
            shown = look(n)
            axes.plot(range(0, len(values), 4), values[::4], color=shown.colour, dashes=shown.dashes or (None, None))
        if quantity == "gain":
            axes.set_yscale("log")
            axes.axhline(1.0, color=AXIS, linewidth=0.8)
        else:
            axes.set_ylim(0, 95)
        axes.yaxis.set_major_formatter(labels(1))
        axes.set(xlabel="steps", ylabel="|B| / |W|" if quantity == "gain" else "angle, degrees")

    return draw(name, label, OVERVIEW, paint)


def _areas(axes: Axes, xs: Sequence[float], ys: Sequence[float], fates: Sequence[Sequence[str]]) -> None:
    """A rectangle for each run of equal fates in a row: a few hundred at most."""
    dx, dy = (values[1] - values[0] for values in (xs, ys))
    for y, row in zip(ys, fates, strict=True):
        first = 0
        for n in range(1, len(row) + 1):
            if n == len(row) or row[n] != row[first]:
                colour, alpha = FILL[row[first]]
                corner = (xs[first] - dx / 2, y - dy / 2)
                axes.add_patch(Rectangle(corner, (n - first) * dx, dy, facecolor=colour, alpha=alpha, linewidth=0))
                first = n
    axes.set(xlim=(xs[0], xs[-1]), ylim=(ys[0], ys[-1]))


def _marks(
    axes: Axes, xs: Sequence[float], ys: Sequence[float], fates: Sequence[Sequence[str]], tinted: bool = False
) -> None:
    for fate, mark in MARKS.items():
        places = [
            (x, y) for y, row in zip(ys, fates, strict=True) for x, own in zip(xs, row, strict=True) if own == fate
        ]
        if places:
            colour = {"explodes": HEAT[7], "settles": HEAT[5]}.get(fate, TEXT) if tinted else TEXT
            axes.plot(
                *zip(*places, strict=True),
                marker=mark,
                color=colour,
                markersize=6 if tinted else 4,
                linestyle="none",
                markeredgewidth=0,
            )


def _coefficients(axes: Axes, across: str, up: str) -> None:
    axes.grid(False)
    axes.set(xlabel=across, ylabel=up)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(labels(1))
