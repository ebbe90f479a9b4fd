"""The page of a reproduction: each claim, its verdict, the numbers of each seed, and what it costs to run it again."""

from __future__ import annotations

import math
from collections import Counter

from markupsafe import Markup

from backroads.report import figure, text
from backroads.report.curve import Curve
from backroads.report.figure import OVERVIEW, look, scale_of
from backroads.report.page import Block, Cell, Figure, Headline, Page, Pairs, Panel, Problem, Section, Table, Text
from backroads.report.parts import key
from backroads.report.read import Record
from backroads.runs.verdicts import ClaimResult, Decided, Line, Reproduction

FRACTIONS = ("accuracy", "accuracy kept", "failed")  # values that are shown in points
WORDS = {"undecided": "undecided at this scale", "not judged": "not judged"}


def reproduction_page(record: Record) -> Page:
    """The whole page."""
    results: Reproduction = record.results
    smoke = results.scale == "smoke"
    counts = Counter(claim.verdict for claim in results.claims)
    told = text.listing([f"{n} {WORDS.get(verdict, verdict)}" for verdict, n in counts.items()])
    said = f"{text.counted(len(results.claims), 'claim')}: {told}."
    said += " " + text.caption("reproduce_smoke") if smoke else ""
    problems = [problem for claim in results.claims for problem in claim.problems]
    rows = [
        [f"{claim.id}: {claim.sentence}", _verdict(claim), f"{claim.done} of {claim.trainings}"]
        for claim in results.claims
    ]
    return Page(
        record,
        title="Claims, and what became of them",
        facts=[f"scale {results.scale}"],
        headline=Headline("", said),
        sections=[
            Section(
                "claims",
                "Verdicts",
                [Table(["Claim", "Verdict", "Trainings"], rows, text.caption("reproduce_verdicts"))],
            ),
            *(_section(claim) for claim in results.claims),
        ],
        problems=[Problem(text.counted(len(problems), "training") + " damaged", "", problems)] if problems else [],
    )


def _verdict(claim: ClaimResult) -> str:
    return WORDS.get(claim.verdict, claim.verdict)


def _section(claim: ClaimResult) -> Section:
    """All about one claim."""
    state = f"{text.capital(_verdict(claim))}."
    if claim.verdict == "not run":
        state += f" {claim.done} of the {claim.trainings} trainings that it needs have ended."
    cost = text.DASH if claim.petaflop is None else f"{text.number(claim.petaflop)} PFLOP"
    hours = text.DASH if claim.hours is None else f"{text.number(claim.hours)} hours"
    facts = [("Source", claim.source), ("Quantity", claim.quantity), ("Operations", cost), ("On two CPU cores", hours)]
    done = text.counted(claim.done, "training")
    facts += [("Diverged", f"{claim.diverged} of {done}")] if claim.diverged else []
    facts += [("From another campaign", f"{claim.known} of {done}")] if claim.known else []
    facts += [("See also", claim.see)] if claim.see else []
    blocks: list[Block] = [Text(f"“{claim.sentence}” {state}"), *_decisions(claim)]
    blocks += [curves(claim)] if any(y is not None for line in claim.lines for y in line.mean) else []
    return Section(claim.id, f"{claim.id}: {_verdict(claim)}", [*blocks, Pairs(facts), Text(claim.command, code=True)])


def shown(value: float | None, name: str) -> str:
    """A difference: in points for accuracies and shares, else as it is."""
    if value is None:
        return text.DASH
    if name in FRACTIONS:
        return text.points(value)
    return ("+" if value > 0 else "") + text.number(value)


def _decisions(claim: ClaimResult) -> list[Block]:
    rows = [_row(one) for one in claim.decisions]
    heads = ["Decision", "Mean", "95 % interval", "By seed", "Must exceed", "n", "Verdict"]
    return [Table(heads, rows, text.caption("reproduce_decisions"))]


def _row(one: Decided) -> list[Cell | str]:
    numbers = [d for d in one.differences if d is not None]
    mean, above = shown(one.mean, one.value), shown(one.above, one.value)
    verdict = WORDS.get(one.verdict, one.verdict)
    if not numbers:
        return [one.says, text.DASH, text.DASH, text.DASH, above, "0", verdict]
    return [one.says, mean, interval_of(one), Cell(bar(one)), above, str(len(numbers)), verdict]


def interval_of(one: Decided) -> str:
    """The 95 % interval of a decision, in words."""
    if one.low is None or one.high is None:
        return text.DASH
    return f"{shown(one.low, one.value)} to {shown(one.high, one.value)}"


def bar(one: Decided) -> Markup:
    """The numbers of a decision, a mark for each, around their interval; the middle is zero."""
    numbers = [d for d in one.differences if d is not None]
    interval = None if one.low is None or one.high is None else (one.low, one.high)
    # An interval of two seeds may be wider than all else: what lies beyond three times the largest number is cut.
    largest = max(abs(value) for value in (*numbers, one.above))
    most = max(1e-3, min(3 * largest, max(abs(value) for value in (*numbers, one.above, *(interval or ())))))
    mean, n = shown(one.mean, one.value), text.counted(len(numbers), "number")
    label = f"{one.says}: mean {mean}, 95 % interval {interval_of(one)}, {n}."
    return figure.inline(label, -1.05 * most, 1.05 * most, interval, numbers[:60], marker="o")


def curves(claim: ClaimResult) -> Figure:
    """What the claim's trainings came to: lines against noise, depth or rank; else, by network or task, rows."""
    unit = 100.0 if claim.value in FRACTIONS else 1.0
    y = f"{claim.value}{', %' if claim.value in FRACTIONS else ''}"
    return _lines(claim, unit, y) if claim.ordered else _rows(claim, unit, y)


def _lines(claim: ClaimResult, unit: float, y: str) -> Figure:
    trials = claim.over == "trial"
    series = [(_curve(line, unit), look(n)) for n, line in enumerate(claim.lines)]
    x = "trials, the lowest first" if trials else claim.over
    told = "; ".join(f"{line.name} {_told(line, unit)}" for line in claim.lines)
    named = {} if trials else {at: name for line in claim.lines for at, name in zip(line.x, line.labels, strict=True)}
    drawing = figure.lines(
        f"{y} against {x}. {told}.",
        series,
        scale_of([v for c, _ in series for v in (*c.y, *c.low, *c.high)]),
        x=x,
        y=y,
        size=OVERVIEW,
        names=named,
    )
    caption = text.caption("reproduce_lines", value=text.capital(y), over=x)
    return Figure(caption, overview=drawing, key=key({line.name: look(n) for n, line in enumerate(claim.lines)}))


def _rows(claim: ClaimResult, unit: float, y: str) -> Figure:
    panels = []
    for label in dict.fromkeys(label for line in claim.lines for label in line.labels):
        rows = [
            (line.name, *_ends(mean, half, unit), look(n))
            for n, line in enumerate(claim.lines)
            for own, mean, half in zip(line.labels, line.mean, line.half, strict=True)
            if own == label and mean is not None
        ]
        if rows:
            told = "; ".join(f"{name} {text.number(value)}" for name, _, value, _, _ in rows)
            scale = scale_of([end for _, *ends, _ in rows for end in ends])
            panels.append(Panel(label, figure.intervals(f"{label}, {y}: {told}.", rows, scale, y)))
    return Figure(text.caption("reproduce_rows", value=text.capital(y), over=claim.over), panels, large=True)


def _curve(line: Line, unit: float) -> Curve:
    points = sorted(
        (x, *_ends(m, h, unit)) for x, m, h in zip(line.x, line.mean, line.half, strict=True) if m is not None
    )
    xs, low, ys, high = zip(*points, strict=True) if points else ((), (), (), ())
    return Curve(xs, ys, low, high)


def _ends(mean: float, half: float | None, unit: float) -> tuple[float, float, float]:
    """The low end of an interval, the mean, and the high end; those of an accuracy lie between 0 and 1."""
    least, most = (-math.inf, math.inf) if unit == 1.0 else (0.0, 1.0)
    half = half or 0.0
    return unit * max(least, mean - half), unit * mean, unit * min(most, mean + half)


def _told(line: Line, unit: float) -> str:
    known = [unit * mean for mean in line.mean if mean is not None]
    return f"from {text.number(known[0])} to {text.number(known[-1])}" if known else "has no number"
