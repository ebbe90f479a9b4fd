"""The page of meta-trainings: the same figures for every learner, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from backroads.report import figure, text
from backroads.report.curve import Curve, through
from backroads.report.figure import PANEL, Scale
from backroads.report.page import Block, Figure, Headline, Page, Panel, Problem, Section, Table
from backroads.report.parts import course, damaged, headline, key, loss_axis, overview, panels
from backroads.report.read import Record
from backroads.runs.results import MetaAnalysis, MetaEvaluation
from backroads.runs.schema import Lifetimes, MetaResults

UPDATES = {"step": "step’s own loss", "query": "query loss", "random_feedback": "random feedback"}
INTERFERENCE = {
    "own": "Own",
    "others": "Others",
    "cosine": "Cosine",
    "gradient_own": "Gradient: own",
    "gradient_others": "Gradient: others",
    "gradient_cosine": "Gradient: cosine",
}


def meta_page(records: Sequence[Record]) -> Page:
    """The whole page, about one or more meta-trainings."""
    accuracy = any(found.measure == "accuracy" for record in records for found in record.lifetimes)
    measure = "accuracy, %" if accuracy else "mean squared error"
    one, single = records[0], len(records) == 1
    states = [headline(record, _told(record)) for record in records]
    others = [f"{_label(r)}: {told.state.lower()} {told.text}" for r, told in zip(records, states, strict=True)]
    tasks = text.listing(list(dict.fromkeys(text.title(str(record.setting("task"))) for record in records)))
    learner = text.capital(text.title(str(one.setting("learner"))))
    return Page(
        one,
        title=f"{learner} learns to learn {tasks}" if single else f"{len(records)} runs that learn to learn {tasks}",
        facts=[text.counted(len(records), "run"), f"{max(record.step for record in records)} meta-steps"],
        headline=states[0] if single else Headline("", " ".join(map(text.capital, others))),
        problems=[problem for record in records for problem in _problems(record)],
        sections=[
            Section("results", "Results", [_results(records, measure)]),
            *_curves(records, measure, accuracy),
            Section("retention", "Retention", _retention(records, measure, accuracy)),
            *_analysed({_label(r): r.beside["analysis.json"] for r in records if "analysis.json" in r.beside}),
        ],
    )


def _label(record: Record) -> str:
    return f"{record.setting('learner')}, {record.setting('order')}, seed {record.setting('seed')}"


def _told(record: Record) -> str:
    """The last score on validation tasks."""
    if not record.lifetimes:
        return "nothing was evaluated yet"
    last = record.lifetimes[-1]
    unit = f"{text.NBSP}% accuracy" if last.measure == "accuracy" else " mean squared error"
    return f"{_score(last)}{unit} on validation tasks"


def _score(found: Lifetimes) -> str:
    shown = text.percent if found.measure == "accuracy" else text.number
    return shown(found.mean) + ("" if found.interval_95 is None else f" ± {shown(found.interval_95)}")


def _problems(record: Record) -> list[Problem]:
    results: MetaResults | None = record.ended
    skipped = record.arms[0].skipped if results is None else results.skipped
    by_parameter = results.skipped_by_parameter if results is not None else {}
    worst = max(by_parameter, key=lambda name: by_parameter[name], default="")
    where = f", mostly of {worst} ({by_parameter[worst]} times)" if worst else ""
    told = Problem(f"{text.counted(skipped, 'meta-step')} skipped", f"{_label(record)}: gradients not finite{where}.")
    return [*damaged(record), *([told] if skipped else [])]


def _ways(record: Record) -> dict[str, Lifetimes]:
    """What ``meta eval`` measured, by number of tasks in a lifetime."""
    evaluation: MetaEvaluation | None = record.beside.get("evaluation.json")
    return evaluation.ways if evaluation is not None else {}


def _last(record: Record) -> Lifetimes | None:
    """The evaluation of the settings' own number of tasks if there is one, else the last on validation tasks."""
    ways = _ways(record)
    found = ways.get(str(record.setting("tasks"))) or next(iter(ways.values()), None)
    return found or (record.lifetimes[-1] if record.lifetimes else None)


def _results(records: Sequence[Record], measure: str) -> Table:
    rows = []
    for record in records:
        evaluation: MetaEvaluation | None = record.beside.get("evaluation.json")
        last = record.lifetimes[-1:]
        found = [(str(record.setting("tasks")), one, "validation", one.step) for one in last]
        if evaluation is not None:
            found = [(ways, one, evaluation.split, evaluation.step) for ways, one in evaluation.ways.items()]
        for ways, one, split, step in found:
            lost = f"; {one.skipped} were not finite" if one.skipped else ""
            about = f"{one.lifetimes} lifetimes of {split}, weights of meta-step {step}{lost}"
            rows.append([_label(record), ways, _score(one), about])
    return Table(["Learner", "Tasks", text.capital(measure), "Measured on"], rows, text.caption("lifetimes"))


def _curves(records: Sequence[Record], measure: str, accuracy: bool) -> list[Section]:
    """A figure with a curve for each run, of each: meta-loss, validation, and tasks learned."""
    what = text.capital(measure.removesuffix(", %"))
    about = {name: text.caption(name, Measure=what) for name in ("meta_loss", "validation", "learned")}
    losses = [record.arms[0].steps.curve("loss") for record in records]
    scores = [through((one.step, one.mean) for one in record.lifetimes) for record in records]
    learned = []
    for record in records:
        points = sorted((float(n), found.mean) for n, found in _ways(record).items())
        last = _last(record)
        learned.append(through(points if len(points) > 1 else enumerate(last.so_far if last else [], 1)))

    def section(id: str, title: str, curves: Sequence[Curve], caption: str, x: str, y: str, fraction: bool) -> Section:
        shown = {
            _label(r): (c, figure.look(n)) for n, (r, c) in enumerate(zip(records, curves, strict=True)) if c.known
        }
        scale = figure.FRACTION if fraction else figure.loss_scale(curves)
        format = text.percent if fraction else text.number
        found = [overview(caption + loss_axis(scale), shown, scale, x, y, format)] if shown else []
        return Section(id, title, found)

    return [
        section("loss", "Meta-loss", losses, about["meta_loss"], "meta-step", "query loss", fraction=False),
        section("validation", "Validation", scores, about["validation"], "meta-step", measure, accuracy),
        section("learned", "Tasks learned", learned, about["learned"], "tasks", measure, accuracy),
    ]


def _retention(records: Sequence[Record], measure: str, accuracy: bool) -> list[Block]:
    shown = []
    for record in records:
        last = _last(record)
        if last is None or not last.course or record.setting("order") != "continual":
            continue
        rows = [through(enumerate(row, 1)).y for row in last.course]
        known = [value for row in rows for value in row if value == value]
        scale = figure.FRACTION if accuracy else Scale(min(known, default=0.0), max(known, default=1.0))
        format = text.percent if accuracy else text.number
        label = (
            f"{_label(record)}: scores by task learned and task tested. The first task: {format(last.course[0][0])} "
        )
        label += f"once learned, {format(last.course[-1][0])} at the end."
        size = PANEL._replace(right=44, width=190)
        shown.append(Panel(_label(record), figure.heat(label, range(1, len(rows[0]) + 1), rows, scale, "", "", size)))
    return [Figure(text.caption("retention", Measure=text.capital(measure)), shown)]


def _analysed(analyses: dict[str, MetaAnalysis]) -> list[Section]:
    """What ``meta analyse`` measured: updates, feedback weights, and what a task does to the others."""
    shown, layers = {}, list[str]()
    for label, analysis in analyses.items():
        for kind, words in UPDATES.items():
            by_layer = analysis.update_angle.get(kind, {})
            curves = {layer: through(zip(analysis.probes, found, strict=True)) for layer, found in by_layer.items()}
            if any(curve.known for curve in curves.values()):
                layers = max(layers, list(curves), key=len)
                ends = "; ".join(
                    f"layer {layer} {course(curve, 'step', text.degrees)}" for layer, curve in curves.items()
                )
                series = [(curve, figure.look(k)) for k, curve in enumerate(curves.values())]
                shown[f"{label}: {words}"] = series, ends
    looks = {f"layer {name}": figure.look(n) for n, name in enumerate(layers)}
    scale = Scale(-3, 183, ideal=90, ticks=(0, 45, 90, 135, 180))
    updates = Figure(text.caption("updates"), panels(shown, scale), key=key(looks))
    feedback = [
        [f"{label}, layer {layer}", *(text.degrees(moment.get(layer)) for moment in analysis.feedback_angle.values())]
        for label, analysis in analyses.items()
        for layer in analysis.feedback_angle.get("meta_trained", {})
    ]
    interference = [
        [label, *(text.number(analysis.interference.get(kind)) for kind in INTERFERENCE)]
        for label, analysis in analyses.items()
    ]
    angles = Table(["Path", "Initial, °", "Meta-trained, °", "End of lifetime, °"], feedback, text.caption("feedback"))
    table = Table(["Learner", *INTERFERENCE.values()], interference, text.caption("interference"))
    return [
        Section("updates", "Updates and gradients", [updates]),
        Section("feedback", "Feedback and forward weights", [angles]),
        Section("interference", "Interference", [table]),
    ]
