"""The page of the theory: fixed points, the phase diagram, trajectories, and what a network does."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes

from backroads.report import figure, text
from backroads.report.curve import Curve
from backroads.report.figure import BEHIND, HALF, Look, Scale, lines, look, scale_of
from backroads.report.page import Block, Figure, Headline, Page, Pairs, Panel, Section, Table, Text
from backroads.report.parts import key
from backroads.report.read import Record
from backroads.report.svg import AXIS, HEAT, TEXT, Size, draw
from backroads.runs.results import NetworkDiagram, PhaseDiagram, TheoryResults

WIDE = Size(370, 300, left=48, right=12, top=10, bottom=36)
# Never the colour alone: each fate has a mark of its own.
MARKS = {"collapses": "v", "settles": "o", "explodes": "^", "undecided": "s"}
FILL = {"collapses": (HEAT[1], 0.6), "settles": (HEAT[3], 0.7), "explodes": (HEAT[7], 0.5), "undecided": (AXIS, 0.6)}
EDGE = 2.0  # the plane of two weights is drawn as far as that


def theory_page(record: Record) -> Page:
    """The whole page."""
    results: TheoryResults = record.results
    rule = results.rule.removeprefix("R = ")
    return Page(
        record,
        title=f"Where {rule} leads",
        facts=[f"R = {rule}"],
        headline=Headline("", summary(results)),
        sections=[
            Section("diagram", "Phase diagram", [phase_diagram(results.diagram)]),
            Section("points", "Fixed points", _points(results)),
            Section("paths", "Trajectories", [paths(results)]),
            Section("mirror", "Noise of known power", [mirror(results)]),
            Section(
                "network", "On a network", [] if results.network is None else network_diagram(results, results.network)
            ),
        ],
    )


def summary(results: TheoryResults) -> str:
    """The outcome in words, and how it compares with what was measured."""
    held, network = results.held, results.network
    words = f"With both weights moving, in closed form, {text.caption(results.moving.matrix_fate)}. With W held, B "
    angle = text.degrees(held.angle)
    words += f"goes to {number(held.gain or 0)} times the length of W, at {angle}° to it." if held.finite else ""
    words += "" if held.finite else "grows for ever."
    if network is not None:
        agreed, of = agreement(network)
        words += " A network trained for a short time does what the closed form says of its strongest axis at "
        words += f"{agreed} of {of} points of the diagram."
    return words


def agreement(network: NetworkDiagram) -> tuple[int, int]:
    """At how many marks, of how many, the network shrank where the theory expects it and did not where it does not."""

    def nearest(grid: Sequence[float], value: float) -> int:
        return min(range(len(grid)), key=lambda n: abs(grid[n] - value))

    same = [
        (outcome.fate != "collapses") == (network.growth[nearest(network.fine_y, y)][nearest(network.fine_x, x)] > 0)
        for y, row in zip(network.ys, network.outcomes, strict=True)
        for x, outcome in zip(network.xs, row, strict=True)
    ]
    return sum(same), len(same)


def number(value: float) -> str:
    """With four digits."""
    return text.number(value, 4)


def _counted(fates: Iterable[str]) -> str:
    return text.listing([f"{number} {fate}" for fate, number in Counter(fates).most_common()])


def fates_key(fates: Iterable[str]) -> list[Panel]:
    """What stands for each fate that is drawn."""
    shown = set(fates)
    return key({fate: Look(FILL[fate], marker=MARKS[fate], width=12) for fate in MARKS if fate in shown})


def diagram(
    label: str,
    found: PhaseDiagram,
    xs: Sequence[float],
    ys: Sequence[float],
    fates: Sequence[Sequence[str]],
    network: NetworkDiagram | None = None,
) -> Markup:
    """Marks over two coefficients: over areas by the closed form, or beside the border that a network should have."""

    def paint(axes: Axes) -> None:
        if network is None:
            edges = [[2 * v[0] - v[1], *v] for v in (found.xs, found.ys)]
            dx, dy = ((e[1] - e[0]) / 2 for e in edges)
            fills = [[FILL[fate] for fate in row] for row in found.closed]
            figure.cells(axes, [x + dx for x in edges[0]], [y + dy for y in edges[1]], fills)
        elif min(min(row) for row in network.growth) < 0 < max(max(row) for row in network.growth):
            axes.contour(network.fine_x, network.fine_y, network.growth, levels=[0.0], colors=[TEXT], linewidths=1.6)
        colours = {} if network is None else {"explodes": HEAT[7], "settles": HEAT[5]}
        for fate, mark in MARKS.items():
            places = [
                (x, y) for y, row in zip(ys, fates, strict=True) for x, own in zip(xs, row, strict=True) if own == fate
            ]
            size = 4 if network is None else 6
            axes.plot(*zip(*places, strict=True) if places else ((), ()), mark, color=colours.get(fate, TEXT), ms=size)
        figure.apply(axes.xaxis, Scale(found.xs[0], found.xs[-1]))
        figure.apply(axes.yaxis, Scale(found.ys[0], found.ys[-1]))
        axes.grid(visible=False)
        axes.set(xlabel=found.across, ylabel=found.up)

    return draw(label, WIDE, paint)


def phase_diagram(found: PhaseDiagram) -> Figure:
    """Areas of the closed form, and marks of a layer that is followed over time."""
    fates = [fate for row in found.closed for fate in row]
    label = f"Phase diagram over {found.across} and {found.up}, points of the closed form: {_counted(fates)}."
    agreed = {"agreed": found.agreed, "of": found.of}
    caption = text.caption("diagram", across=found.across, up=found.up, **agreed)
    drawing = diagram(label, found, found.some_x, found.some_y, found.followed)
    return Figure(caption, overview=drawing, key=fates_key([*fates, *itertools.chain(*found.followed)]))


def network_diagram(results: TheoryResults, found: NetworkDiagram) -> list[Block]:
    """What became of a small network at each mark, and the strongest axis of each of its layers."""
    marks = [[outcome.fate for outcome in row] for row in found.outcomes]
    fates = list(itertools.chain(*marks))
    agreed, of = agreement(found)
    why = text.caption("disagreement", steps=results.settings.get("network_steps", "few")) if agreed < of else ""
    caption = text.caption("network", agreed=agreed, of=of, why=why)
    label = f"What became of the network: {_counted(fates)}."
    drawing = diagram(label, results.diagram, found.xs, found.ys, marks, found)
    strengths = [(name, number(value)) for name, value in found.strengths.items()]
    return [
        Figure(caption, overview=drawing, key=fates_key(fates)),
        Pairs(strengths, "Strongest axis of each layer’s input, over its power"),
    ]


def _points(results: TheoryResults) -> list[Block]:
    moving, held = results.moving, results.held
    fate = "stands on a border" if moving.fate == "undecided" else moving.fate
    pull, loss, bound = (number(value) for value in (moving.pull, moving.loss, moving.bound))
    rows = [
        [number(point.w), number(point.b), ", ".join(map(number, point.eigenvalues)), point.stability]
        for point in moving.points
    ]
    items = [
        ("Angle to W, °", text.degrees(held.angle)),
        ("Length over that of W", text.DASH if held.gain is None else number(held.gain)),
        ("Slowest rate, fastest rate", f"{number(held.slowest)}, {number(held.fastest)}"),
        ("Gradient steps diverge beyond a rate of", "any" if held.largest_step is None else number(held.largest_step)),
        ("Eigenvalues, closed form less linearisation, at most", text.short(held.eigenvalue_error)),
    ]
    return [
        Text(text.caption("points", pull=pull, loss=loss, bound=bound, fate=fate)),
        Table(["w", "b", "Eigenvalues", "Stability"], rows),
        Pairs(items, "B with W held"),
    ]


def paths(results: TheoryResults) -> Figure:
    """Trajectories of two numbers, and the lengths of two matrices over time."""
    moved, point = results.matrix.course, results.matrix.fixed_point
    end = f"It {results.matrix.fate}."
    if point is not None:
        largest = text.short(max(value[0] for value in point.eigenvalues))
        lengths = {"W": number(point.W), "B": number(point.B), "angle": text.degrees(point.angle)}
        end = text.caption("fixed_point", largest=largest, **lengths)
    plane = [(Curve((-EDGE, EDGE), (-EDGE, EDGE)), BEHIND)]
    for n, path in enumerate(results.plane):
        inside = list(itertools.takewhile(lambda p: max(map(abs, p)) <= EDGE, path.points)) or [*path.points[:1]]
        plane.append((Curve(*zip(*inside, strict=True)), Look(look(n).colour, width=1.2)))
        plane.append((Curve(*zip(inside[0], strict=True)), Look(look(n).colour)))
    for fixed in results.moving.points:
        mark = Look(TEXT, marker="D" if fixed.stability == "stable" else "X")
        plane.append((Curve((fixed.w,), (fixed.b,)), mark))
    label = f"Trajectories of w and b: {_counted(path.fate for path in results.plane)}."
    told = "; ".join(f"|{n}| from {number(v[0])} to {number(v[-1])}" for n, v in (("W", moved.W), ("B", moved.B)))
    norms = {"|W|": moved.W, "|B|": moved.B}
    curves = [Curve(moved.times, tuple(max(v, 1e-6) for v in values)) for values in norms.values()]
    scale = scale_of([y for curve in curves for y in curve.y], log=True)
    series = [(curve, look(n)) for n, curve in enumerate(curves)]
    return Figure(
        text.caption("paths", end=end),
        [
            Panel("w and b", lines(label, plane, Scale(-EDGE, EDGE), x="w", y="b", size=HALF)),
            Panel("|W| and |B|", lines(f"{told}.", series, scale, x="time", y="length", size=HALF)),
        ],
        key=key({name: look(n) for n, name in enumerate(norms)}),
        large=True,
    )


def mirror(results: TheoryResults) -> Figure:
    """Length and angle of B under a mirror on activity and on noise."""
    found = results.mirror
    ends = text.listing([f"{c.name} {number(c.gain[-1])} at {text.degrees(c.angle[-1])}°" for c in found.curves])

    def panel(title: str, y: str, values: Sequence[Sequence[float]], unit: str) -> Panel:
        flat = [value for curve in values for value in curve]
        scale = scale_of(flat, unit=unit) if unit else scale_of(flat, log=True, ideal=1.0)
        curves = [Curve(tuple(range(0, len(curve), 4)), tuple(curve[::4])) for curve in values]
        series = [(curve, look(n)) for n, curve in enumerate(curves)]
        return Panel(title, lines(f"{title}: {ends}.", series, scale, x="steps", y=y, size=HALF))

    return Figure(
        text.caption("mirror", floor=text.degrees(found.floor_angle)),
        [
            panel("Gain", "|B| / |W|", [curve.gain for curve in found.curves], ""),
            panel("Angle", "angle, °", [curve.angle for curve in found.curves], "degrees"),
        ],
        key=key(
            {curve.name: look(n) for n, curve in enumerate(found.curves)},
            [number(curve.gain[-1]) for curve in found.curves],
        ),
        large=True,
    )
