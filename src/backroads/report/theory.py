"""The page of the theory: fixed points, the phase diagram, trajectories, and what a network does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from backroads.report import figure, text
from backroads.report.curve import Curve
from backroads.report.figure import Scale, Series, lines, scale_of
from backroads.report.page import Block, Figure, Headline, Page, Pairs, Panel, Row, Section, Table, Text
from backroads.report.read import Record
from backroads.report.svg import AXIS, HEAT, REFERENCE, SERIES, TEXT, Size, draw
from backroads.runs.results import FixedPoint, NetworkDiagram, NoiseMirror, PhaseDiagram, TheoryResults, Trajectory

WIDE = Size(370, 300, left=48, right=12, top=10, bottom=36)
HALF = Size(300, 250, left=48, right=12, top=10, bottom=36)
# Never the colour alone: each fate has a mark of its own.
MARKS = {"collapses": "v", "settles": "o", "explodes": "^", "undecided": "s"}
FILL = {"collapses": (HEAT[1], 0.6), "settles": (HEAT[3], 0.7), "explodes": (HEAT[7], 0.5), "undecided": (AXIS, 0.6)}
EDGE = 2.0  # the plane of two weights is drawn as far as that
MOVING = {
    "explodes": "it explodes: what pulls W and B together is stronger than what they lose, and nothing bounds it",
    "settles": "it settles where W and B are equal and not zero",
    "collapses": "it collapses: both go to zero",
    "undecided": "it stands on a border, where the first order says nothing",
}


def theory_page(record: Record) -> Page:
    """The whole page."""
    results: TheoryResults = record.results
    rule = results.rule.removeprefix("R = ")
    return Page(
        record,
        title=f"Where {rule} leads",
        facts=[f"R = {rule}"],
        headline=Headline("", False, summary(results)),
        sections=[
            Section("diagram", "Phase diagram", [_diagram(results.diagram)]),
            Section("points", "Fixed points", _points(results)),
            Section("paths", "Trajectories", [_paths(results)]),
            Section("mirror", "Noise of known power", [_mirror(results.mirror)]),
            Section("network", "On a network", _network(results)),
        ],
    )


def summary(results: TheoryResults) -> str:
    """The outcome in words, and how it compares with what was measured."""
    held, network = results.held, results.network
    words = [f"With both weights moving, in closed form, {MOVING[results.moving.matrix_fate]}."]
    if not held.finite:
        words.append("With W held, B grows for ever.")
    else:
        length = number(held.gain or 0)
        words.append(f"With W held, B goes to {length} times the length of W, at {text.degrees(held.angle)}° to it.")
    if network is not None:
        agreed, of = agreement(network)
        words.append(
            "A network trained for a short time does what the closed form says of its strongest axis at "
            f"{agreed} of {of} points of the diagram."
        )
    return " ".join(words)


def agreement(network: NetworkDiagram) -> tuple[int, int]:
    """At how many marks, of how many, the network shrank where the theory expects it and did not where it does not."""
    same = [
        (outcome.fate != "collapses") == (_nearest(network, x, y) > 0)
        for y, row in zip(network.ys, network.outcomes, strict=True)
        for x, outcome in zip(network.xs, row, strict=True)
    ]
    return sum(same), len(same)


def _nearest(network: NetworkDiagram, x: float, y: float) -> float:
    """The growth that the theory expects at the point of the fine grid nearest to (x, y)."""
    row = min(range(len(network.fine_y)), key=lambda n: abs(network.fine_y[n] - y))
    column = min(range(len(network.fine_x)), key=lambda n: abs(network.fine_x[n] - x))
    return network.growth[row][column]


def number(value: float) -> str:
    """Four digits, with a minus sign that is one."""
    return f"{value:.4g}".replace("-", text.MINUS)


def _counted(fates: Iterable[str]) -> str:
    return text.listing([f"{number} {fate}" for fate, number in Counter(fates).most_common()])


def fates_key(place: str, fates: Iterable[str]) -> list[Panel]:
    """What stands for each fate that is drawn."""
    shown = set(fates)
    return [Panel(fate, _swatch(f"key-{place}-{fate}", fate)) for fate in MARKS if fate in shown]


def _swatch(name: str, fate: str) -> Markup:
    def paint(axes: Axes) -> None:
        axes.set_axis_off()
        axes.set(xlim=(0, 2), ylim=(0, 1))
        colour, alpha = FILL[fate]
        axes.add_patch(Rectangle((0, 0), 2, 1, facecolor=colour, alpha=alpha, linewidth=0))
        axes.plot([1], [0.5], marker=MARKS[fate], color=TEXT, markersize=5, linestyle="none", markeredgewidth=0)

    return draw(name, "", Size(30, 12), paint)


def _diagram(found: PhaseDiagram) -> Figure:
    fates = [fate for row in found.closed for fate in row]
    label = f"Phase diagram over {found.across} and {found.up}, points of the closed form: {_counted(fates)}."
    caption = (
        f"What becomes of almost every start with both weights moving, over the coefficients of {found.across} and "
        f"{found.up}. Areas: closed form. Marks: the matrix system, followed numerically from one start; they agree at "
        f"{found.agreed} of {found.of} points."
    )
    drawn = [*fates, *(fate for row in found.followed for fate in row)]
    return Figure(caption, overview=diagram("diagram", label, found), key=fates_key("diagram", drawn))


def diagram(name: str, label: str, found: PhaseDiagram) -> Markup:
    """Areas by the closed form, marks where the system was followed."""

    def paint(axes: Axes) -> None:
        dx, dy = (values[1] - values[0] for values in (found.xs, found.ys))
        for y, row in zip(found.ys, found.closed, strict=True):
            first = 0
            for n in range(1, len(row) + 1):
                if n == len(row) or row[n] != row[first]:
                    colour, alpha = FILL[row[first]]
                    corner = (found.xs[first] - dx / 2, y - dy / 2)
                    box = Rectangle(corner, (n - first) * dx, dy, facecolor=colour, alpha=alpha, linewidth=0)
                    axes.add_patch(box)
                    first = n
        _marks(axes, found.some_x, found.some_y, found.followed)
        _coefficients(axes, found.xs, found.ys, found.across, found.up)

    return draw(name, label, WIDE, paint)


def _marks(
    axes: Axes, xs: Sequence[float], ys: Sequence[float], fates: Sequence[Sequence[str]], *, tinted: bool = False
) -> None:
    for fate, mark in MARKS.items():
        places = [
            (x, y) for y, row in zip(ys, fates, strict=True) for x, own in zip(xs, row, strict=True) if own == fate
        ]
        if places:
            colour = {"explodes": HEAT[7], "settles": HEAT[5]}.get(fate, TEXT) if tinted else TEXT
            size = 6 if tinted else 4
            columns = zip(*places, strict=True)
            axes.plot(*columns, marker=mark, color=colour, markersize=size, linestyle="none", markeredgewidth=0)


def _coefficients(axes: Axes, xs: Sequence[float], ys: Sequence[float], across: str, up: str) -> None:
    figure.apply(axes.xaxis, Scale(xs[0], xs[-1]))
    figure.apply(axes.yaxis, Scale(ys[0], ys[-1]))
    axes.grid(visible=False)
    axes.set(xlabel=across, ylabel=up)


def _points(results: TheoryResults) -> list[Block]:
    moving, held = results.moving, results.held
    fate = "stands on a border" if moving.fate == "undecided" else moving.fate
    step = "any" if held.largest_step is None else number(held.largest_step)
    rows = [
        Row(number(point.w), [number(point.b), ", ".join(map(number, point.eigenvalues)), point.stability])
        for point in moving.points
    ]
    items = [
        ("Angle to W, °", text.degrees(held.angle)),
        ("Length over that of W", text.DASH if held.gain is None else number(held.gain)),
        ("Slowest rate, fastest rate", f"{number(held.slowest)}, {number(held.fastest)}"),
        ("Gradient steps diverge beyond a rate of", step),
        ("Eigenvalues, closed form less linearisation, at most", text.short(held.eigenvalue_error)),
    ]
    return [
        Text(
            "One input and one output: w′ = pull b − loss w − bound b²w, and the same with w and b exchanged; "
            f"pull = {number(moving.pull)}, loss = {number(moving.loss)}, bound = {number(moving.bound)}. It {fate}."
        ),
        Table(["w", "b", "Eigenvalues", "Stability"], rows),
        Pairs(items, "B with W held"),
    ]


def _paths(results: TheoryResults) -> Figure:
    course, point = results.matrix.course, results.matrix.fixed_point
    end = f"It {results.matrix.fate}."
    if point is not None:
        largest = text.short(max(value[0] for value in point.eigenvalues))
        end = f"It settles at |W| = {number(point.W)}, |B| = {number(point.B)}, {text.degrees(point.angle)}° apart; "
        end += f"the largest eigenvalue of the linearisation there is {largest}."
    label = f"Trajectories of w and b: {_counted(path.fate for path in results.plane)}."
    key = [Panel("|W|", figure.swatch("norm-W", figure.look(0))), Panel("|B|", figure.swatch("norm-B", figure.look(1)))]
    return Figure(
        "Two numbers: w and b from several starts (dots); circles are fixed points, filled if stable; the grey line is "
        f"w = b. Two matrices: |W| and |B| over time from a random start. {end}",
        [
            Panel("w and b", plane("plane", label, results.plane, results.moving.points)),
            Panel("|W| and |B|", norms("norms", "", course.times, course.W, course.B)),
        ],
        key=key,
        large=True,
    )


def plane(name: str, label: str, paths: Sequence[Trajectory], points: Sequence[FixedPoint]) -> Markup:
    """Trajectories of (w, b): a dot where each begins; fixed points are filled if stable."""

    def paint(axes: Axes) -> None:
        for axis in (axes.xaxis, axes.yaxis):
            figure.apply(axis, Scale(-EDGE, EDGE))
        axes.grid(visible=True, axis="both")
        axes.set(xlabel="w", ylabel="b")
        axes.plot([-EDGE, EDGE], [-EDGE, EDGE], color=REFERENCE, linewidth=0.8)
        for n, path in enumerate(paths):
            colour = SERIES[n % len(SERIES)]
            axes.plot(*zip(*path.points, strict=True), color=colour, linewidth=1.2)
            axes.plot(*path.points[0], marker=".", color=colour, markersize=5)
        for point in points:
            face = TEXT if point.stability == "stable" else "none"
            axes.plot(point.w, point.b, marker="o", markersize=7, color=TEXT, markerfacecolor=face, linestyle="none")

    return draw(name, label, HALF, paint)


def norms(name: str, label: str, times: Sequence[float], W: Sequence[float], B: Sequence[float]) -> Markup:
    """|W| and |B| over time, on a logarithmic axis."""
    told = f"|W| from {number(W[0])} to {number(W[-1])}, |B| from {number(B[0])} to {number(B[-1])}."
    curves = [Curve(tuple(times), tuple(max(v, 1e-6) for v in values)) for values in (W, B)]
    series = [Series(curve, figure.look(n), mark=True) for n, curve in enumerate(curves)]
    scale = scale_of([y for curve in curves for y in curve.y], log=True)
    return lines(name, label or told, series, scale, x="time", y="length", size=HALF)


def mirror(name: str, label: str, found: NoiseMirror, what: str) -> Markup:
    """Gain or angle against steps, one line a curve."""
    values = [curve.gain if what == "gain" else curve.angle for curve in found.curves]
    flat = [y for curve in values for y in curve]
    scale = scale_of(flat, log=True, ideal=1.0) if what == "gain" else scale_of(flat, unit="degrees")
    curves = [Curve(tuple(range(0, len(curve), 4)), curve[::4]) for curve in values]
    series = [Series(curve, figure.look(n), mark=True) for n, curve in enumerate(curves)]
    return lines(name, label, series, scale, x="steps", y="|B| / |W|" if what == "gain" else "angle, °", size=HALF)


def _mirror(found: NoiseMirror) -> Figure:
    ends = text.listing([f"{c.name} {number(c.gain[-1])} at {text.degrees(c.angle[-1])}°" for c in found.curves])
    return Figure(
        "A mirror with decay equal to amp, W held: |B| over |W| and their angle. On activity, B goes to W C: "
        "its length is the activity’s power, which differs from layer to layer. On white noise of known power it goes "
        f"to W, in every layer; the noise of the estimate leaves about {text.degrees(found.floor_angle)}°.",
        [
            Panel(title, mirror(f"mirror-{what}", f"{title}: {ends}.", found, what))
            for title, what in (("Gain", "gain"), ("Angle", "angle"))
        ],
        key=[
            Panel(curve.name, figure.swatch(f"mirror-{n}", figure.look(n)), number(curve.gain[-1]))
            for n, curve in enumerate(found.curves)
        ],
        large=True,
    )


def _network(results: TheoryResults) -> list[Block]:
    found = results.network
    if found is None:
        return []
    across, up = results.diagram.across, results.diagram.up
    fates = [outcome.fate for row in found.outcomes for outcome in row]
    agreed, of = agreement(found)
    steps = results.settings.get("network_steps")
    said = f"They agree at {agreed} of {of} marks."
    if agreed < of:
        long = "the training" if steps is None else f"a training of {steps} steps"
        said += (
            " Where they do not: the closed form treats one layer with a fixed input and no task. In the network the "
            "task’s gradient moves W too, inputs change with the weights, weaker axes shrink as the strongest grows, "
            f"and near the line {long} is too short."
        )
    caption = (
        "A small convolutional network on handwritten digits, trained for a short time at each mark with the rule "
        "moving both weights (amp, null and sparse are divided by the strength of the strongest axis of any layer’s "
        f"input). On one side of the line the theory expects that axis to shrink, on the other to grow. {said}"
    )
    drawing = network("network", f"What became of the network: {_counted(fates)}.", found, across, up)
    strengths = [(name, number(value)) for name, value in found.strengths.items()]
    return [
        Figure(caption, overview=drawing, key=fates_key("network", fates)),
        Pairs(strengths, "Strongest axis of each layer’s input, over its power"),
    ]


def network(name: str, label: str, found: NetworkDiagram, across: str, up: str) -> Markup:
    """Marks where the network was trained, and the border at which theory expects its strongest axis to grow."""

    def paint(axes: Axes) -> None:
        _coefficients(axes, found.fine_x, found.fine_y, across, up)
        values = [value for row in found.growth for value in row]
        if min(values) < 0 < max(values):
            axes.contour(found.fine_x, found.fine_y, found.growth, levels=[0.0], colors=[TEXT], linewidths=1.6)
        _marks(axes, found.xs, found.ys, [[outcome.fate for outcome in row] for row in found.outcomes], tinted=True)

    return draw(name, label, WIDE, paint)
