"""What the page of meta-trainings says: the same panels for every learner, side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from backroads.report import figures, meta_figures, text
from backroads.report.curves import NAN, Curve, curve_through, thinned
from backroads.report.meta_run import Lifetimes, MetaRun
from backroads.report.page import render
from backroads.report.panels import FigureParts, Panel

POINTS = 200  # of a curve, at most
UPDATES = {"step": "step’s own loss", "query": "query loss", "random_feedback": "random feedback"}


@dataclass(frozen=True)
class Line:
    """One row of a table: a name and its numbers."""

    label: str
    cells: Sequence[str]
    note: str = ""


def meta_page(runs: Sequence[MetaRun]) -> str:
    """The whole page."""
    accuracy = _is_accuracy(runs)
    return render(
        "meta.html.j2",
        title=_title(runs),
        facts=_facts(runs),
        measure="accuracy, %" if accuracy else "mean squared error",
        accuracy=accuracy,
        results=_results(runs),
        loss=_loss(runs),
        validation=_validation(runs, accuracy),
        learned=_learned(runs, accuracy),
        course=_courses(runs, accuracy),
        retention=_retention(runs, accuracy),
        updates=_updates(runs),
        feedback=_feedback(runs),
        interference=_interference(runs),
        settings=[(run.label, text.settings(run.config)) for run in runs],
        environment=[(key, text.setting(value)) for key, value in runs[0].environment.items()],
        repeats=[
            (run.label, run.environment.get("command"), run.environment.get("commit"), _dirty(run)) for run in runs
        ],
        cut_off=any(run.cut_off for run in runs),
    )


def _results(runs: Sequence[MetaRun]) -> Sequence[Line]:
    lines = []
    for run in runs:
        rows = run.evaluation.ways if run.evaluation is not None else {}
        notes = [run.reason] if run.reason else []
        if run.bad:
            worst = max(run.bad, key=lambda name: run.bad[name])
            notes.append(f"meta-gradients were not finite, mostly of {worst} ({run.bad[worst]} times)")
        for ways, found in rows.items():
            lost = f"; {found.skipped} lifetimes were not finite" if found.skipped else ""
            about = f"{found.lifetimes} lifetimes of {run.evaluation.split}{lost}" if run.evaluation else ""
            lines.append(Line(run.label, (ways, _score(found), about), "; ".join(notes)))
        if not rows and run.validations:
            last = run.validations[-1]
            about = f"{last.lifetimes} lifetimes of validation, at meta-step {last.step}"
            lines.append(Line(run.label, (str(run.config.get("tasks")), _score(last), about), "; ".join(notes)))
    return lines


def _loss(runs: Sequence[MetaRun]) -> FigureParts | None:
    curves = [thinned(curve_through((one.step, one.loss) for one in run.steps), POINTS) for run in runs]
    return _overview("loss", "Query loss while meta-training", runs, curves, "meta-step", "query loss", log=True)


def _validation(runs: Sequence[MetaRun], accuracy: bool) -> FigureParts | None:
    curves = [thinned(curve_through((one.step, one.mean) for one in run.validations), POINTS) for run in runs]
    ylabel = "accuracy, %" if accuracy else "mean squared error"
    label = "Score on validation tasks while meta-training"
    return _overview("validation", label, runs, curves, "meta-step", ylabel, log=not accuracy)


def _learned(runs: Sequence[MetaRun], accuracy: bool) -> FigureParts | None:
    """The score after a lifetime of n tasks, where several n were measured; else on the way through one."""
    curves = []
    for run in runs:
        ways = {} if run.evaluation is None else run.evaluation.ways
        if len(ways) > 1:
            curves.append(
                curve_through((int(n), found.mean) for n, found in sorted(ways.items(), key=lambda p: int(p[0])))
            )
        else:
            last = _last(run)
            curves.append(curve_through((n, value) for n, value in enumerate(last.so_far if last else [], 1)))
    ylabel = "accuracy, %" if accuracy else "mean squared error"
    return _overview("learned", "Score by number of tasks learned", runs, curves, "tasks", ylabel, log=not accuracy)


def _courses(runs: Sequence[MetaRun], accuracy: bool) -> FigureParts | None:
    panels = []
    for n, run in enumerate(runs):
        last = _last(run)
        if last is None or not last.course:
            continue
        columns = list(zip(*last.course, strict=True))
        tasks = [curve_through(enumerate(column, 1)) for column in columns]
        so_far = curve_through(enumerate(last.so_far, 1))
        label = f"{run.label}: score on each task and on those so far, against parts of a lifetime."
        panels.append(
            Panel(run.label, meta_figures.course_panel(f"course-{n}", label, tasks, so_far, log=not accuracy))
        )
    return FigureParts(panels, []) if panels else None


def _retention(runs: Sequence[MetaRun], accuracy: bool) -> FigureParts | None:
    panels = []
    for n, run in enumerate(runs):
        last = _last(run)
        if last is None or not last.course or run.config.get("order") != "continual":
            continue
        course = [[NAN if value is None else value for value in row] for row in last.course]
        first = [row[0] for row in course]
        label = f"{run.label}: scores by task learned and task tested. The first task: {first[0]:.3g} once learned, "
        label += f"{first[-1]:.3g} at the end."
        drawing = meta_figures.retention_panel(f"retention-{n}", label, course, accuracy=accuracy)
        panels.append(Panel(run.label, drawing))
    return FigureParts(panels, []) if panels else None


def _updates(runs: Sequence[MetaRun]) -> FigureParts | None:
    panels, layers = [], list[str]()
    for n, run in enumerate(runs):
        if run.analysis is None:
            continue
        for kind, words in (
            ("step", "step’s own loss"),
            ("query", "query loss"),
            ("random_feedback", "random feedback"),
        ):
            by_layer = run.analysis.update_angle.get(kind, {})
            curves = [curve_through(zip(run.analysis.probes, angles, strict=True)) for angles in by_layer.values()]
            if not any(curve.known for curve in curves):
                continue
            layers = max(layers, list(by_layer), key=len)
            ends = "; ".join(f"layer {name} {_course(curve)}" for name, curve in zip(by_layer, curves, strict=True))
            title = f"{run.label}: {words}"
            panels.append(Panel(title, meta_figures.angle_panel(f"update-{n}-{kind}", f"{title}: {ends}", curves)))
    key = [Panel(f"layer {name}", figures.swatch(f"layer-{n}", figures.look(n))) for n, name in enumerate(layers)]
    return FigureParts(panels, [], key) if panels else None


def _feedback(runs: Sequence[MetaRun]) -> Sequence[Line]:
    return [
        Line(f"{run.label}, layer {layer}", [text.degrees(by[when].get(layer)) for when in by])
        for run in runs
        if run.analysis is not None
        for by in [run.analysis.feedback_angle]
        for layer in by.get("meta_trained", {})
    ]


def _interference(runs: Sequence[MetaRun]) -> Sequence[Line]:
    kinds = ("own", "others", "cosine", "gradient_own", "gradient_others", "gradient_cosine")
    return [
        Line(run.label, [text.loss(run.analysis.interference.get(kind)) for kind in kinds])
        for run in runs
        if run.analysis is not None
    ]


def _overview(
    name: str, label: str, runs: Sequence[MetaRun], curves: Sequence[Curve], xlabel: str, ylabel: str, *, log: bool
) -> FigureParts | None:
    if not any(curve.known for curve in curves):
        return None
    looks = [figures.look(n) for n in range(len(runs))]
    ends = "; ".join(f"{run.label} {_course(curve)}" for run, curve in zip(runs, curves, strict=True))
    drawing = meta_figures.overview(name, f"{label}. {ends}.", curves, looks, xlabel, ylabel, log=log)
    key = [
        Panel(run.label, figures.swatch(f"{name}-{n}", looks[n]), _end(curve, percent=not log))
        for n, (run, curve) in enumerate(zip(runs, curves, strict=True))
    ]
    return FigureParts((), (), key, drawing)


def _course(curve: Curve) -> str:
    known = curve.known
    return f"from {known[0][1]:.3g} to {known[-1][1]:.3g}" if known else "has no finite value"


def _end(curve: Curve, *, percent: bool) -> str:
    if not curve.known:
        return text.DASH
    return text.percent(curve.known[-1][1]) if percent else text.loss(curve.known[-1][1])


def _last(run: MetaRun) -> Lifetimes | None:
    """The evaluation of the settings' own number of tasks if there is one, else the last on validation tasks."""
    if run.evaluation is not None:
        ways = run.evaluation.ways
        return ways.get(str(run.config.get("tasks"))) or next(iter(ways.values()), None)
    return run.validations[-1] if run.validations else None


def _score(found: Lifetimes) -> str:
    percent = found.measure == "accuracy"
    shown = text.percent(found.mean) if percent else text.loss(found.mean)
    if found.interval_95 is None:
        return shown
    return f"{shown} ± {text.percent(found.interval_95) if percent else text.loss(found.interval_95)}"


def _is_accuracy(runs: Sequence[MetaRun]) -> bool:
    return any(one.measure == "accuracy" for run in runs for one in run.validations)


def _title(runs: Sequence[MetaRun]) -> str:
    tasks = text.listing(list(dict.fromkeys(str(run.config.get("task")) for run in runs)))
    if len(runs) == 1:
        return f"{runs[0].config.get('learner')} learns to learn {tasks}"
    return f"{text.counted(len(runs), 'run')} that learn to learn {tasks}"


def _facts(runs: Sequence[MetaRun]) -> list[str]:
    steps = [run.steps[-1].step for run in runs if run.steps]
    facts = [
        text.counted(len(runs), "run"),
        f"{statistics.median(steps):.0f} meta-steps" if steps else None,
        str(runs[0].environment.get("started", ""))[:10],
    ]
    return [fact.replace(" ", text.NBSP) for fact in facts if fact]


def _dirty(run: MetaRun) -> bool:
    return run.environment.get("uncommitted_changes") is True
