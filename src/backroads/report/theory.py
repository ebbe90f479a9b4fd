"""What the page of the theory says: fixed points, the phase diagram, trajectories, and what a network does."""

from __future__ import annotations

from collections import Counter

from backroads.report import text, theory_figures
from backroads.report.figures import look, swatch
from backroads.report.page import render
from backroads.report.panels import FigureParts, Panel
from backroads.report.theory_run import Network, Results, Theory


def theory_page(theory: Theory) -> str:
    """The whole page."""
    results = theory.results
    across, up = results.diagram.across, results.diagram.up
    return render(
        "theory.html.j2",
        title=f"Where {results.rule.removeprefix('R = ')} leads",
        facts=[f"R = {results.rule.removeprefix('R = ')}", str(theory.environment.get("started", ""))[:10]],
        summary=summary(results),
        moving=results.moving,
        points=[
            (number(p.w), number(p.b), ", ".join(number(v) for v in p.eigenvalues), p.stability)
            for p in results.moving.points
        ],
        held=_held(results),
        diagram=FigureParts(
            panels=(),
            notes=(),
            overview=theory_figures.diagram("diagram", _told(results), results.diagram),
            key=[Panel(fate, theory_figures.key("diagram", fate)) for fate in ("explodes", "settles", "collapses")],
        ),
        agreement=f"{results.diagram.agreed} of {results.diagram.of}",
        across=across,
        up=up,
        plane=theory_figures.plane(
            "plane",
            f"Trajectories of w and b: {_counted([p.fate for p in results.plane])}.",
            results.plane,
            results.moving.points,
        ),
        norms=theory_figures.norms(
            "norms",
            f"|W| from {number(results.matrix.course.W[0])} to {number(results.matrix.course.W[-1])}, |B| from "
            f"{number(results.matrix.course.B[0])} to {number(results.matrix.course.B[-1])}.",
            results.matrix.course.times,
            results.matrix.course.W,
            results.matrix.course.B,
        ),
        matrix=results.matrix,
        matrix_end=_matrix_end(results),
        mirror=_mirror(results),
        floor=text.degrees(results.mirror.floor_angle),
        network=_network(results.network, across, up),
        strengths=[
            (name, number(value)) for name, value in (results.network.strengths if results.network else {}).items()
        ],
        settings=text.settings(results.settings),
        environment=[(key, text.setting(value)) for key, value in theory.environment.items()],
        command=theory.environment.get("command"),
        commit=theory.environment.get("commit"),
        dirty=theory.environment.get("uncommitted_changes") is True,
    )


def number(value: float) -> str:
    """Four digits, with a minus sign that is one."""
    return f"{value:.4g}".replace("-", text.MINUS)


def summary(results: Results) -> str:
    """The outcome in words."""
    moving, held = results.moving, results.held
    first = {
        "explodes": "With both weights moving it explodes: what pulls them together is stronger than what they lose, "
        "and nothing bounds it.",
        "settles": "With both weights moving it settles where W and B are equal and not zero.",
        "collapses": "With both weights moving it collapses: both go to zero.",
        "undecided": "With both weights moving it stands on a border, where the first order says nothing.",
    }[moving.matrix_fate]
    if not held.finite:
        return f"{first} With W held, B grows for ever."
    gain, angle = number(held.gain or 0), text.degrees(held.angle)
    return f"{first} With W held, B goes to {gain} times the length of W, at {angle}° to it."


def _held(results: Results) -> list[tuple[str, str]]:
    held = results.held
    step = "any" if held.largest_step is None else number(held.largest_step)
    return [
        ("Angle to W, °", text.degrees(held.angle)),
        ("Length over that of W", text.DASH if held.gain is None else number(held.gain)),
        ("Slowest rate, fastest rate", f"{number(held.slowest)}, {number(held.fastest)}"),
        ("Gradient steps diverge beyond a rate of", step),
        ("Eigenvalues, closed form less linearisation, at most", f"{held.eigenvalue_error:.1e}"),
    ]


def _told(results: Results) -> str:
    found = results.diagram
    counts = _counted([fate for row in found.closed for fate in row])
    return f"Phase diagram over {found.across} and {found.up}, points of the closed form: {counts}."


def _counted(fates: list[str]) -> str:
    return text.listing([f"{number} {fate}" for fate, number in Counter(fates).most_common()])


def _matrix_end(results: Results) -> str:
    point = results.matrix.fixed_point
    if point is None:
        return f"It {results.matrix.fate}."
    largest = max(value[0] for value in point["eigenvalues"])
    return (
        f"It settles at |W| = {number(point['W'])}, |B| = {number(point['B'])}, {text.degrees(point['angle'])}° apart; "
        f"the largest eigenvalue of the linearisation there is {number(largest)}."
    )


def _mirror(results: Results) -> FigureParts:
    curves = results.mirror.curves
    ends = text.listing([f"{c.name} {number(c.gain[-1])} at {text.degrees(c.angle[-1])}°" for c in curves])
    return FigureParts(
        panels=[
            Panel(title, theory_figures.mirror(f"mirror-{quantity}", f"{title}: {ends}.", curves, quantity))
            for title, quantity in (("Gain", "gain"), ("Angle", "angle"))
        ],
        notes=(),
        key=[Panel(c.name, swatch(f"mirror-{n}", look(n)), number(c.gain[-1])) for n, c in enumerate(curves)],
    )


def _network(found: Network | None, across: str, up: str) -> FigureParts | None:
    if found is None:
        return None
    counts = _counted([outcome.fate for row in found.outcomes for outcome in row])
    return FigureParts(
        panels=(),
        notes=(),
        overview=theory_figures.network("network", f"What became of the network: {counts}.", found, across, up),
        key=[Panel(fate, theory_figures.key("network", fate)) for fate in ("explodes", "settles", "collapses")],
    )
