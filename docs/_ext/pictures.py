"""Pictures drawn with the package from its theory and its results when the pages are built: they cannot go stale."""

from __future__ import annotations

import functools
import json
import math
import re
import runpy
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

import backroads.report as report
from backroads.contrib.theory.run import theory
from backroads.contrib.theory.settings import TheoryConfig
from backroads.report import meta_figures, theory_figures
from backroads.report.curves import NAN, Curve, curve_through
from backroads.report.figures import OVERVIEW, band, epoch_axis, line, look, swatch
from backroads.report.svg import draw
from backroads.report.theory_run import Results, read_theory, results_of
from backroads.runs.schema import as_data

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
        mirror = _results("bounded").mirror
        drawn = [theory_figures.mirror(f"noise-{q}", f"{q} against steps", mirror.curves, q) for q in ("gain", "angle")]
        keys = " ".join(f"{swatch(f'noise-{n}', look(n))} {curve.name}" for n, curve in enumerate(mirror.curves))
        return _raw(*drawn, key=keys)
    results = _results(name)
    if kind == "diagram":
        return _raw(theory_figures.diagram(f"d-{name}", f"phase diagram: {name}", results.diagram), key=_fates(name))
    if kind == "plane":
        return _raw(theory_figures.plane(f"p-{name}", f"trajectories: {name}", results.plane, results.moving.points))
    course = results.matrix.course
    return _raw(theory_figures.norms(f"n-{name}", f"lengths over time: {name}", course.times, course.W, course.B))


def meta_picture(what: str) -> str:
    """MyST for ``ways EXPERIMENT``: score against classes of a lifetime; ``so_far EXPERIMENT``: against tasks seen."""
    kind, _, experiment = what.partition(" ")
    rows = [row for row in _rows("meta_learning", "meta_learning", "rows") if row["experiment"] == experiment]
    learners = list(dict.fromkeys(row["learner"] for row in rows))
    curves = []
    for learner in learners:
        own = [row for row in rows if row["learner"] == learner]
        points = [(row["tasks"], row["mean"]) for row in own] if kind == "ways" else enumerate(own[-1]["so_far"], 1)
        curves.append(curve_through(points))
    is_error = rows[0]["measure"] != "accuracy"
    ylabel = "mean squared error" if is_error else "accuracy, %"
    xlabel = "classes of a lifetime" if kind == "ways" else "tasks presented so far"
    return _curves(
        f"{kind}-{experiment}", experiment, dict(zip(learners, curves, strict=True)), xlabel, ylabel, is_error
    )


def angles_picture(network: str) -> str:
    """MyST: angle between B and W against the layer, the rules of one network of ``benchmarks/local_rules.py``."""
    curves = {}
    for row in _rows("local_rules"):
        if row["network"] != network:
            continue
        rule, runs = row["rule"], [list(run["angles"].values()) for run in row["seeds"].values()]
        angles = [[a for a in layer if a is not None] for layer in zip(*runs, strict=True)]
        if rule != "backprop" and all(angles):
            curves[rule] = curve_through((n, statistics.fmean(layer)) for n, layer in enumerate(angles, 1))
    return _in_their_range(f"angles-{network}", network, curves, "layer", "angle, degrees")


def noise_picture() -> str:
    """MyST: accuracy, with its spread, against the variance of noisy updates (``benchmarks/update_noise.py``)."""
    curves = {}
    rows = _rows("update_noise")
    for rule in dict.fromkeys(row["rule"] for row in rows):
        noisy = [p for p in rows if p["rule"] == rule and p["variance"] and p["accuracy_mean"] is not None]
        curves[rule] = Curve(
            epochs=tuple(math.log10(p["variance"]) for p in noisy),
            mean=tuple(100 * p["accuracy_mean"] for p in noisy),
            spread=tuple(NAN if p["accuracy_std"] is None else 100 * p["accuracy_std"] for p in noisy),
        )
    return _in_their_range("noise", "CIFAR-10", curves, "log10 of the variance", "accuracy, %")


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
            curves[f"{layer}, {kind}"] = curve_through(
                (math.log10(seconds), statistics.fmean(a) / 100) for seconds, a in found.items()
            )
    return _curves("spiking", "angle", curves, "log10 of the simulated seconds", "angle, degrees")


def _curves(name: str, title: str, curves: dict[str, Any], xlabel: str, ylabel: str, log: bool = False) -> str:
    """One figure with a key. Without ``log`` the axis goes from 0 to 100, which are values from 0 to 1."""
    looks = [look(place) for place in range(len(curves))]
    label = f"{title}: {ylabel} against {xlabel}"
    drawn = meta_figures.overview(name, label, list(curves.values()), looks, xlabel, ylabel, log=log)
    return _raw(drawn, key=f"{title}: {_keys(name, curves)}")


def _in_their_range(name: str, title: str, curves: dict[str, Curve], xlabel: str, ylabel: str) -> str:
    """One figure with a key, whose axis holds what there is; with bands."""

    def paint(axes: Axes) -> None:
        epoch_axis(axes, curves.values())
        axes.set(xlabel=xlabel, ylabel=ylabel)
        for place, curve in enumerate(curves.values()):
            band(axes, curve, look(place).colour)
            line(axes, curve, look(place))

    return _raw(
        draw(name, f"{title}: {ylabel} against {xlabel}", OVERVIEW, paint), key=f"{title}: {_keys(name, curves)}"
    )


def _keys(name: str, curves: dict[str, Any]) -> str:
    return " ".join(f"{swatch(f'{name}-{n}', look(n))} {key}" for n, key in enumerate(curves))


@functools.cache
def _results(name: str) -> Results:
    return results_of(as_data(theory(TheoryConfig(network=False, **SETTINGS[name]))))


def _network() -> str:
    if not RECORDED.exists():
        return "*(`backroads theory` draws this picture.)*"
    theory = read_theory(RECORDED)
    results, where = theory.results, theory.environment
    assert results.network is not None
    drawn = theory_figures.network("network", "fates of the network", results.network, "amp", "decay")
    return _raw(drawn, key=_fates("network")) + (
        f"\n\n`{where['command']}`, n = 1 training a mark: torch {where['torch']}, {where['cpu']}, "
        f"commit {str(where['commit'])[:7]}."
    )


def _fates(place: str) -> str:
    return " ".join(f"{theory_figures.key(place, fate)} {fate}" for fate in ("explodes", "settles", "collapses"))


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
