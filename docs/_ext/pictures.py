"""Pictures drawn with the package from its theory and its results when the pages are built: they cannot go stale."""

from __future__ import annotations

import functools
import json
import math
import re
import runpy
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

import backroads.report as report
from backroads.contrib.streams import Resonators, SequenceUnit, reflex_task, timing_kernel
from backroads.contrib.theory.run import theory as work_out
from backroads.contrib.theory.settings import TheoryConfig
from backroads.report import figure, reproduction, theory
from backroads.report.curve import Curve, over_seeds, through
from backroads.report.figure import OVERVIEW, Scale, look, swatch
from backroads.report.read import read_record
from backroads.report.svg import TEXT, Size, draw
from backroads.runs.results import TheoryResults
from backroads.runs.verdicts import Reproduction

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
RECORDED = RESULTS / "theory"
# What each picture is worked out for.
SETTINGS: dict[str, dict[str, Any]] = {
    "mirror": {"null": 0.0, "decay": 0.5},
    "bounded": {"null": 1.0, "decay": 0.5},
    "axes": {"null": 0.0, "decay": 0.5, "condition": 10.0},
}


def theory_picture(what: str) -> str:
    """MyST for ``diagram NAME``, ``plane NAME``, ``norms NAME``, ``noise`` or ``network``."""
    kind, _, name = what.partition(" ")
    if kind == "network":
        return _network()
    if kind == "noise":
        return _of_report(theory.mirror(_results("bounded")))
    results = _results(name)
    if kind == "diagram":
        return _of_report(theory.phase_diagram(results.diagram))
    plane, norms = theory.paths(results).panels
    return _raw((plane if kind == "plane" else norms).drawing)


def meta_picture(what: str) -> str:
    """MyST of the long meta-trainings of ``benchmarks/meta_learning.py``: means over seeds, with standard deviations.

    ``curve EXPERIMENT``: score on validation tasks in the course of meta-training; ``so_far EXPERIMENT``: on the tasks
    presented so far in a lifetime; ``ways EXPERIMENT``: at the end of lifetimes of so many classes; ``retention
    EXPERIMENT``: by task learned (rows) and task tested, a matrix for each learner.
    """
    kind, _, experiment = what.partition(" ")
    rows = [row for row in _rows("meta_learning", "meta_learning", "by_experiment") if row["experiment"] == experiment]
    is_error = rows[0]["measure"] != "accuracy"
    measure = rows[0]["measure"] if is_error else "accuracy, %"
    courses = {row["learner"]: _mean_of([run["course"] for run in row["seeds"].values()]) for row in rows}
    if kind == "retention":
        known = [value for course in courses.values() for tested in course for value in tested if value is not None]
        scale = figure.loss_scale([through(enumerate(known))]) if is_error else figure.FRACTION
        drawn = [
            figure.heat(
                f"{experiment}, {learner}: {measure} by task learned and task tested",
                range(1, len(course) + 1),
                [through(enumerate(tested)).y for tested in course],
                scale,
                f"{learner}: task tested",
                "tasks learned",
                OVERVIEW._replace(right=60, width=300),
            )
            for learner, course in courses.items()
        ]
        return _raw(*drawn)
    curves = {}
    for row in rows:
        runs = row["seeds"].values()
        if kind == "curve":
            curves[row["learner"]] = over_seeds(dict(run["curve"]) for run in runs)
        elif kind == "ways":
            curves[row["learner"]] = over_seeds({int(n): score for n, score in run["ways"].items()} for run in runs)
        else:
            so_far = [[_mean_of(tested[: n + 1]) for n, tested in enumerate(run["course"])] for run in runs]
            curves[row["learner"]] = over_seeds(dict(enumerate(scores, 1)) for scores in so_far)
    xlabel = {"curve": "meta-step", "ways": "classes of a lifetime"}.get(kind, "tasks presented so far")
    return _curves(experiment, curves, xlabel, measure, is_error)


def rule_picture(experiment: str) -> str:
    """MyST: score on validation tasks in the course of meta-training, each seed of ``benchmarks/learned_rule.py``."""
    rows = [row for row in _rows("learned_rule") if row["experiment"] == experiment]
    curves = {
        f"{row['rule']}, seed {seed}": through(run["curve"]) for row in rows for seed, run in row["seeds"].items()
    }
    return _curves(experiment, curves, "meta-step", "accuracy, %")


def _mean_of(rows: Sequence[Any]) -> Any:
    """The mean of numbers, or of lists of them place by place, without what is None."""
    if isinstance(rows[0], list):
        return [_mean_of(list(column)) for column in zip(*rows, strict=True)]
    numbers = [value for value in rows if value is not None]
    return statistics.fmean(numbers) if numbers else None


def angles_picture(network: str) -> str:
    """MyST: angle between B and W against the layer, the rules of one network of ``benchmarks/local_rules.py``."""
    curves = {}
    for row in _rows("local_rules_short"):
        if row["network"] != network:
            continue
        rule, runs = row["rule"], [list(run["angles"].values()) for run in row["seeds"].values()]
        angles = [[a for a in layer if a is not None] for layer in zip(*runs, strict=True)]
        if rule != "backprop" and all(angles):
            curves[rule] = through((n, statistics.fmean(layer)) for n, layer in enumerate(angles, 1))
    return _in_their_range(network, curves, "layer", "angle, degrees")


def noise_picture() -> str:
    """MyST: accuracy, with its spread, against the variance of noisy updates (``benchmarks/update_noise.py``)."""
    curves = {}
    rows = _rows("update_noise")
    for rule in dict.fromkeys(row["rule"] for row in rows):
        noisy = [p for p in rows if p["rule"] == rule and p["variance"] and p["accuracy_mean"] is not None]
        means = [100 * p["accuracy_mean"] for p in noisy]
        spreads = [math.nan if p["accuracy_std"] is None else 100 * p["accuracy_std"] for p in noisy]
        low, high = (tuple(m + k * s for m, s in zip(means, spreads, strict=True)) for k in (-1, 1))
        curves[rule] = Curve(tuple(math.log10(p["variance"]) for p in noisy), tuple(means), low, high)
    return _in_their_range("CIFAR-10", curves, "log10 of the variance", "accuracy, %")


def increments_picture() -> str:
    """MyST: angle between B and W against the variance of noise in B's increments (``benchmarks/update_noise.py
    --increments``)."""
    rows = [row for row in _rows("increment_noise") if row["on"] == "backward" and row["variance"]]
    curves = {
        rule: through((math.log10(row["variance"]), row["angle_mean"]) for row in rows if row["rule"] == rule)
        for rule in dict.fromkeys(row["rule"] for row in rows)
    }
    return _in_their_range(
        "noise in the increments of B", curves, "log10 of the variance", "angle between B and W, degrees"
    )


def floor_picture(rows: str) -> str:
    """MyST for so many rows of noise per input in a view: angle between B and W against the variance of a walk of B,
    for four filters and the one that knows the variance (``benchmarks/floor.py``)."""
    own = [row for row in _rows("floor") if row["rows"] == float(rows) and row["variance"]]
    curves = {
        name: through((math.log10(row["variance"]), row["angle_mean"]) for row in own if row["filter"] == name)
        for name in dict.fromkeys(row["filter"] for row in own)
    }
    best = runpy.run_path(str(RESULTS.parent / "floor.py"))["best"]
    variances = dict.fromkeys(row["variance"] for row in own)
    curves["knows v"] = through((math.log10(v), best(v, float(rows))) for v in variances)
    return _in_their_range(f"{rows} rows", curves, "log10 of v", "angle between B and W, degrees")


def price_picture(what: str) -> str:
    """MyST for ``accuracy NETWORK`` or ``angle NETWORK`` against the rows of noise that a training takes for each input
    (``benchmarks/noise_rows.py``). Rules without noise are level lines."""
    kind, _, network = what.partition(" ")
    rows = [row for row in _rows("noise_rows") if row["network"] == network]
    places = sorted({math.log10(row["rows"]) for row in rows if row["rows"]})
    curves = {}
    for rule in dict.fromkeys(row["rule"] for row in rows):
        own = [row for row in rows if row["rule"] == rule and row["accuracy_mean"] is not None]
        value = {row["rows"]: row["angle_mean"] if kind == "angle" else 100 * row["accuracy_mean"] for row in own}
        ends = (places[0], places[-1])
        points = [(x, value[0]) for x in ends] if list(value) == [0] else [(math.log10(r), v) for r, v in value.items()]
        curves[rule] = through(points)
    ylabel = "angle between B and W, degrees" if kind == "angle" else "accuracy, %"
    return _in_their_range(network, curves, "log10 of the rows of noise per input", ylabel)


def hardware_picture() -> str:
    """MyST: a map of the accuracies of ``benchmarks/hardware.py``, by rule, device and weight."""
    rows = [row for row in _rows("hardware") if row["accuracy_mean"] is not None]
    found = {(row["device"], row["weight"], row["rule"]): 100 * row["accuracy_mean"] for row in rows}
    every = _rows("hardware")
    places = list(dict.fromkeys((row["device"], row["weight"]) for row in every))
    rules = list(dict.fromkeys(row["rule"] for row in every))
    bounds = [50, 70, 80, 90, 94, 96]

    def shade(place: tuple[str, str], rule: str) -> str | None:
        value = found.get((*place, rule))
        return None if value is None else figure.SHADES[np.searchsorted(bounds, value, side="right")]

    def paint(axes: Any) -> None:
        edges = [[n - 0.5 for n in range(len(of) + 1)] for of in (rules, places)]
        figure.cells(axes, *edges, [[shade(place, rule) for rule in rules] for place in places])
        axes.grid(visible=False)
        axes.set(xlim=(edges[0][0], edges[0][-1]), ylim=(edges[1][-1], edges[1][0]))
        axes.set_xticks(range(len(rules)), [rule.replace(" ", "\n") for rule in rules])
        names = [device if weight == "none" else f"{device}, {weight}" for device, weight in places]
        axes.set_yticks(range(len(places)), names)

    label = f"accuracy on digits, darker where it is higher, in steps at {bounds} %; white: diverged, or no B"
    return _raw(draw(label, Size(620, 330, left=110, right=10, top=6, bottom=48), paint))


def leaderboard_picture(task: str) -> str:
    """MyST: error against the cost of a step over backpropagation's, a mark for each rule and method, a look for
    each family (``benchmarks/leaderboard.py``)."""
    cards = _cards()
    cost = {row["rule"]: row["ratio"] for row in json.loads((RESULTS / "leaderboard_cost.json").read_text())["rows"]}
    families = list(dict.fromkeys(card.family for card in cards.values()))
    series, values = [], []
    for row in _rows(f"leaderboard_{task}"):
        name, accuracy = row["name"], row["accuracy_mean"]
        if name in cost and accuracy is not None:
            values.append(100 - 100 * accuracy)
            mark = through([(math.log10(cost[name]), values[-1])])
            series.append((mark, look(families.index(cards[name].family))))
    drawn = figure.lines(
        f"{task}: error against the cost of a step",
        series,
        figure.scale_of(values, log=True),
        x="log10 of a step over backpropagation's",
        y="error, %",
        size=OVERVIEW,
    )
    return _raw(drawn, key=" ".join(f"{swatch(look(n))} {family}" for n, family in enumerate(families)))


def reproduced_pictures() -> str:
    """MyST: of the claims of which something was trained, the numbers of each decision around their interval, and the
    figures (``benchmarks/claims.py``)."""
    results = TypeAdapter(Reproduction).validate_json((RESULTS / "claims.json").read_bytes())
    parts = []
    for claim in results.claims:
        for decided in claim.decisions if claim.done else ():
            if decided.differences:
                parts.append(f"{claim.id}, {decided.says}: by seed, around zero\n\n{_raw(reproduction.bar(decided))}")
        if claim.lines:
            parts.append(f"{claim.id}\n\n{_of_report(reproduction.curves(claim))}")
    return "\n\n".join(parts)


def _cards() -> dict[str, Any]:
    cards: dict[str, Any] = runpy.run_path(str(RESULTS.parent / "leaderboard.py"))["CARDS"]
    return cards


def _rows(name: str, script: str = "grid", function: str = "rows_of") -> list[dict[str, Any]]:
    """The arms of a grid of ``benchmarks``, as a function of a script reads them."""
    rows: Callable[[Any], list[dict[str, Any]]] = runpy.run_path(str(RESULTS.parent / f"{script}.py"))[function]
    return rows(json.loads((RESULTS / f"{name}.json").read_text()))


def spiking_picture() -> str:
    """MyST: angle of the estimate against simulated seconds, from ``benchmarks/spiking.py angle``."""
    rows = json.loads((RESULTS / "spiking.json").read_text())["angle"]["rows"]
    curves = {}
    for layer in dict.fromkeys(row["layer"] for row in rows):
        for kind, shrunk in (("shrunk slopes", True), ("least squares alone", False)):
            found: dict[float, list[float]] = {}
            for row in rows:
                if (
                    row["layer"] == layer
                    and bool(row["shrinkage"]) == shrunk
                    and not math.isnan(row["angle"] or math.nan)
                ):
                    found.setdefault(row["seconds"], []).append(row["angle"])
            curves[f"{layer}, {kind}"] = through(
                (math.log10(seconds), statistics.fmean(a) / 100) for seconds, a in found.items()
            )
    return _curves("angle", curves, "log10 of the simulated seconds", "angle, degrees")


def cross_picture() -> str:
    """MyST: the cross function and the receptive fields of RFWR on it, from ``benchmarks/cross_function.py``."""
    script = runpy.run_path(str(RESULTS.parent / "cross_function.py"))
    (row,) = (r for r in _rows("cross_function") if (r["data"], r["learner"]) == ("stream", "RFWR"))
    values = script["cross"](script["grid"]()).reshape(41, 41).T
    bounds = np.linspace(values.min(), values.max(), len(figure.SHADES) + 1)[1:-1]
    edges = np.linspace(-1.025, 1.025, 42).tolist()
    turn = np.linspace(0, 2 * np.pi, 61)
    half = math.sqrt(2 * math.log(2)) * np.stack([np.cos(turn), np.sin(turn)])  # the weight is 1/2 there

    def paint(axes: Any) -> None:
        figure.cells(axes, edges, edges, [[figure.SHADES[np.searchsorted(bounds, v)] for v in line] for line in values])
        for x, y, *(one, both, other) in row["seeds"]["0"]["centres_and_metrics"]:
            outline = np.linalg.solve(np.linalg.cholesky([[one, both], [both, other]]).T, half)
            axes.plot(x + outline[0], y + outline[1], color=TEXT, linewidth=0.9)
            axes.plot([x], [y], color=TEXT, marker=".", markersize=3)
        axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), xlabel="x1", ylabel="x2")
        axes.grid(visible=False)

    label = "the cross function, darker where it is higher, with an outline for each receptive field"
    return _raw(draw(label, Size(370, 366, left=48, right=10, top=6, bottom=38), paint))


def sizes_picture() -> str:
    """MyST: nMSE against the number of receptive fields, with spreads, from ``benchmarks/cross_function.py``."""
    curves = {}
    rows = [row for row in _rows("cross_function") if row["data"] == "sizes"]
    for learner, metric in dict.fromkeys((row["learner"], row["metric"]) for row in rows):
        own = sorted(
            (r["fields_mean"], r["nmse_mean"], r["nmse_std"])
            for r in rows
            if (r["learner"], r["metric"]) == (learner, metric)
        )
        number, mean, std = (np.array(column) for column in zip(*own, strict=True))
        curve = Curve(*(tuple(a.tolist()) for a in (number, mean, mean - std, mean + std)))
        curves[f"{learner}, metric {metric}"] = curve
    scale = figure.scale_of([y for curve in curves.values() for y in (*curve.low, *curve.high)], log=True)
    return _figure("the cross function", curves, "number of fields", "nMSE", scale)


def timing_picture() -> str:
    """MyST: what a pair of impulses changes in a weight under ICO, worked out step by step, and its closed form."""
    f, mu, gaps = 0.01, 1e-3, range(-120, 121, 4)
    found = []
    for gap in gaps:
        late, early = np.zeros(1500), np.zeros(1500)
        late[200], early[200 - gap] = 1.0, 1.0
        unit = SequenceUnit(mu, "ico", Resonators(f), Resonators(f))
        found.append((gap, float(unit.run(late, early).w[-1].item())))
    steps = range(-120, 121)
    closed = through(zip(steps, timing_kernel([*steps], f, mu=mu).tolist(), strict=True))
    curves = {"pairs of impulses": through(found), "(mu / 4a) h(|T|), in continuous time": closed}
    return _in_their_range("ICO", curves, "steps by which the early impulse comes first", "change of the weight")


def reflex_picture() -> str:
    """MyST: the largest reflex of each trial of the reflex task, under ICO and ISO."""
    reflex = Resonators(0.01, delay=0, unit_peak=True)
    predictors = Resonators(0.1, number=10, delay=0, unit_peak=True)
    curves = {}
    for rule, mu in (("ico", 1e-4), ("ico", 1e-3), ("ico", 1e-2), ("iso", 1e-4), ("iso", 1e-3)):
        unit = SequenceUnit(mu, rule, reflex, predictors, trapezoid=False, bound=100.0)
        found = reflex_task(unit, 60)
        ended = "" if found.diverged is None else f", diverges in trial {found.diverged + 1}"
        curves[f"{rule.upper()}, mu {mu:g}{ended}"] = through(enumerate(found.peaks, 1))
    scale = figure.scale_of([y for curve in curves.values() for y in curve.y], log=True)
    return _figure("reflex task", curves, "trial", "largest reflex", scale)


def _curves(title: str, curves: dict[str, Any], xlabel: str, ylabel: str, log: bool = False) -> str:
    """One figure with a key. Without ``log`` the axis goes from 0 to 100, which are values from 0 to 1."""
    return _figure(title, curves, xlabel, ylabel, figure.loss_scale([*curves.values()]) if log else figure.FRACTION)


def _in_their_range(title: str, curves: dict[str, Curve], xlabel: str, ylabel: str) -> str:
    """One figure with a key, whose axis holds what there is; with bands."""
    values = [y for curve in curves.values() for y in (*curve.y, *curve.low, *curve.high)]
    return _figure(title, curves, xlabel, ylabel, figure.scale_of(values))


def _figure(title: str, curves: dict[str, Curve], xlabel: str, ylabel: str, scale: Scale) -> str:
    series = [(curve, look(n)) for n, curve in enumerate(curves.values())]
    label = f"{title}: {ylabel} against {xlabel}"
    drawn = figure.lines(label, series, scale, x=xlabel, y=ylabel, size=OVERVIEW)
    return _raw(drawn, key=f"{title}: {_keys(curves)}")


def _keys(curves: dict[str, Any]) -> str:
    return " ".join(f"{swatch(look(n))} {key}" for n, key in enumerate(curves))


@functools.cache
def _results(name: str) -> TheoryResults:
    return work_out(TheoryConfig(network=False, **SETTINGS[name]))


def _network() -> str:
    if not RECORDED.exists():
        return "*(`backroads theory` draws this picture.)*"
    record = read_record(RECORDED)
    where = record.environment
    drawn = theory.network_diagram(record.results, record.results.network)[0]
    return _of_report(drawn) + (
        f"\n\n`{where['command']}`, n = 1 training a mark: torch {where['torch']}, {where['cpu']}, "
        f"commit {str(where['commit'])[:7]}."
    )


def _of_report(drawn: Any) -> str:
    """A figure of a report, without its caption."""
    drawings = [drawn.overview] if drawn.overview else [f"{panel.title}{panel.drawing}" for panel in drawn.panels]
    return _raw(*drawings, key=" ".join(f"{entry.drawing} {entry.title}" for entry in drawn.key))


def _raw(*drawings: str, key: str = "") -> str:
    box = '<div style="flex: 1 1 18rem; max-width: 26rem">'
    shown = "".join(f"{box}{drawing}</div>" for drawing in drawings)
    legend = f'<div style="display: flex; gap: 0.6rem; flex-wrap: wrap; align-items: center">{key}</div>' if key else ""
    html = f'{_colours()}<div style="display: flex; gap: 1rem; flex-wrap: wrap">{shown}</div>{legend}'
    return f"```{{raw}} html\n{html}\n```"


@functools.cache
def _colours() -> str:
    """The reports' colours, light and dark, without the rest of their look."""
    css = (Path(report.__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
    light, dark = (
        "".join(re.findall(r"--(?:series|heat|axis|grid|reference)[\w-]*: #\w+;", block)) for block in blocks
    )
    rules = f":root{{{light}}}@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}"
    return f"<style>{rules} article svg {{width: 100%; height: auto}} article svg[aria-hidden] {{width: 30px}}</style>"
