"""The page of meta-trainings: the same figures for every learner, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backroads.report import figure, text
from backroads.report.curve import Curve, through
from backroads.report.figure import PANEL, PLAIN, Look, Scale, Series
from backroads.report.page import Block, Figure, Headline, Page, Panel, Problem, Row, Section, Table
from backroads.report.parts import course, damaged, headline, overview
from backroads.report.read import Record
from backroads.runs.results import MetaAnalysis, MetaEvaluation
from backroads.runs.schema import Lifetimes, MetaResults

UPDATES = {"step": "step’s own loss", "query": "query loss", "random_feedback": "random feedback"}


def meta_page(records: Sequence[Record]) -> Page:
    """The whole page, about one or more meta-trainings."""
    accuracy = any(found.measure == "accuracy" for record in records for found in record.lifetimes)
    measure = "accuracy, %" if accuracy else "mean squared error"
    one, single = records[0], len(records) == 1
    states = [headline(record, _told(record)) for record in records]
    others = [f"{_label(r)}: {told.state.lower()} {told.text}" for r, told in zip(records, states, strict=True)]
    tasks = text.listing(list(dict.fromkeys(text.title(str(record.setting("task"))) for record in records)))
    return Page(
        one,
        title=f"{one.setting('learner')} learns to learn {tasks}"
        if single
        else f"{len(records)} runs that learn to learn {tasks}",
        facts=[text.counted(len(records), "run"), f"{max(record.step for record in records)} meta-steps"],
        headline=states[0] if single else Headline("", False, " ".join(map(text.capital, others))),
        problems=[problem for record in records for problem in _problems(record)],
        sections=[
            Section("results", "Results", [_results(records, measure)]),
            Section("loss", "Meta-loss", _loss(records)),
            Section("validation", "Validation", _validation(records, measure, accuracy)),
            Section("learned", "Tasks learned", _learned(records, measure, accuracy)),
            Section("course", "Within a lifetime", _courses(records, measure, accuracy)),
            Section("retention", "Retention", _retention(records, measure, accuracy)),
            Section("updates", "Updates and gradients", _updates(records)),
            Section("feedback", "Feedback and forward weights", _feedback(records)),
            Section("interference", "Interference", _interference(records)),
        ],
        footer="" if single else "Made from the files in the folders of the runs.",
    )


def _what(measure: str) -> str:
    """What is measured, without its unit, at the beginning of a sentence."""
    return text.capital(measure.removesuffix(", %"))


def _label(record: Record) -> str:
    return f"{record.setting('learner')}, {record.setting('order')}, seed {record.setting('seed')}"


def _evaluation(record: Record) -> MetaEvaluation | None:
    found: MetaEvaluation | None = record.beside.get("evaluation.json")
    return found


def _analyses(records: Sequence[Record]) -> list[tuple[Record, MetaAnalysis]]:
    return [(record, record.beside["analysis.json"]) for record in records if "analysis.json" in record.beside]


def _told(record: Record) -> str:
    """The last score on validation tasks."""
    if not record.lifetimes:
        return "nothing was evaluated yet"
    last = record.lifetimes[-1]
    score = f"{_score(last)}{text.NBSP}%" if last.measure == "accuracy" else _score(last)
    return f"{score} {'accuracy' if last.measure == 'accuracy' else 'mean squared error'} on validation tasks"


def _problems(record: Record) -> list[Problem]:
    results: MetaResults | None = record.ended
    found = damaged(record)
    skipped = record.arms[0].skipped if results is None else results.skipped
    if skipped:
        by_parameter = results.skipped_by_parameter if results is not None else {}
        worst = max(by_parameter, key=lambda name: by_parameter[name], default="")
        where = f", mostly of {worst} ({by_parameter[worst]} times)" if worst else ""
        found.append(
            Problem(f"{text.counted(skipped, 'meta-step')} skipped", f"{_label(record)}: gradients not finite{where}.")
        )
    return found


def _results(records: Sequence[Record], measure: str) -> Table:
    rows = []
    for record in records:
        evaluation = _evaluation(record)
        for ways, found in (evaluation.ways if evaluation is not None else {}).items():
            assert evaluation is not None
            lost = f"; {found.skipped} were not finite" if found.skipped else ""
            about = f"{found.lifetimes} lifetimes of {evaluation.split}, weights of meta-step {evaluation.step}{lost}"
            rows.append(Row(_label(record), [ways, _score(found), about]))
        if evaluation is None and record.lifetimes:
            last = record.lifetimes[-1]
            about = f"{last.lifetimes} lifetimes of validation, weights of meta-step {last.step}"
            rows.append(Row(_label(record), [str(record.setting("tasks")), _score(last), about]))
    caption = "After one lifetime, on examples that it has not seen; mean over lifetimes ± 95 % interval."
    return Table(["Learner", "Tasks", text.capital(measure), "Measured on"], rows, caption)


def _score(found: Lifetimes) -> str:
    shown = text.percent if found.measure == "accuracy" else text.number
    return shown(found.mean) + ("" if found.interval_95 is None else f" ± {shown(found.interval_95)}")


def _over_runs(
    name: str, records: Sequence[Record], curves: Sequence[Curve], caption: str, x: str, y: str, accuracy: bool
) -> list[Block]:
    """A curve for each run in one figure; logarithmic where they are losses, else from 0 to 100 %."""
    known = [curve for curve in curves if curve.known]
    if not known:
        return []
    scale = _scale(known, accuracy)
    shown = {_label(r): (c, figure.look(n)) for n, (r, c) in enumerate(zip(records, curves, strict=True)) if c.known}
    format = text.percent if accuracy else text.number
    return [overview(name, text.capital(y), shown, scale, caption + ", with the last value.", x=x, y=y, format=format)]


def _scale(curves: Sequence[Curve], accuracy: bool) -> Scale:
    return figure.FRACTION if accuracy else figure.loss_scale(curves)


def _loss(records: Sequence[Record]) -> list[Block]:
    curves = [record.arms[0].steps.curve("loss") for record in records]
    caption = "Loss of meta-training, on the query after a lifetime, means over lines of the log"
    return _over_runs("loss", records, curves, caption, "meta-step", "query loss", accuracy=False)


def _validation(records: Sequence[Record], measure: str, accuracy: bool) -> list[Block]:
    curves = [through((one.step, one.mean) for one in record.lifetimes) for record in records]
    caption = f"{_what(measure)} after lifetimes on validation tasks, against meta-step"
    return _over_runs("validation", records, curves, caption, "meta-step", measure, accuracy)


def _last(record: Record) -> Lifetimes | None:
    """The evaluation of the settings' own number of tasks if there is one, else the last on validation tasks."""
    evaluation = _evaluation(record)
    if evaluation is not None:
        return evaluation.ways.get(str(record.setting("tasks"))) or next(iter(evaluation.ways.values()), None)
    return record.lifetimes[-1] if record.lifetimes else None


def _learned(records: Sequence[Record], measure: str, accuracy: bool) -> list[Block]:
    """The score after a lifetime of n tasks, where several n were measured; else on the way through one."""
    curves = []
    for record in records:
        evaluation, last = _evaluation(record), _last(record)
        ways: Mapping[str, Lifetimes] = evaluation.ways if evaluation is not None else {}
        points = sorted((int(n), found.mean) for n, found in ways.items())
        curves.append(through(points if len(points) > 1 else enumerate(last.so_far if last else [], 1)))
    caption = (
        f"{_what(measure)} against the number of tasks learned: after lifetimes of as many tasks where several "
        "numbers were measured, else on the tasks so far on the way through one lifetime"
    )
    return _over_runs("learned", records, curves, caption, "tasks", measure, accuracy)


def _courses(records: Sequence[Record], measure: str, accuracy: bool) -> list[Block]:
    panels = []
    for n, record in enumerate(records):
        last = _last(record)
        if last is None or not last.course:
            continue
        tasks = [through(enumerate(column, 1)) for column in zip(*last.course, strict=True)]
        so_far = through(enumerate(last.so_far, 1))
        series = [Series(curve, Look(figure.look(k).colour, width=0.8)) for k, curve in enumerate(tasks)]
        label = f"{_label(record)}: score on each task and on those so far, against parts of a lifetime."
        scale = _scale([*tasks, so_far], accuracy)
        panels.append(
            Panel(_label(record), figure.lines(f"course-{n}", label, [*series, Series(so_far, PLAIN)], scale))
        )
    caption = (
        f"{_what(measure)} on each task (thin) and on the tasks so far (thick) against equal parts of a "
        "lifetime; in the continual order a part is a task."
    )
    return [Figure(caption, panels)] if panels else []


def _retention(records: Sequence[Record], measure: str, accuracy: bool) -> list[Block]:
    panels = []
    for n, record in enumerate(records):
        last = _last(record)
        if last is None or not last.course or record.setting("order") != "continual":
            continue
        rows = [through(enumerate(row, 1)).y for row in last.course]
        known = [value for row in rows for value in row if value == value]
        scale = figure.FRACTION if accuracy else Scale(min(known, default=0.0), max(known, default=1.0))
        shown = text.percent if accuracy else text.number
        label = f"{_label(record)}: scores by task learned and task tested. The first task: {shown(last.course[0][0])} "
        label += f"once learned, {shown(last.course[-1][0])} at the end."
        size = PANEL._replace(right=44, width=190)
        drawing = figure.heat(f"retention-{n}", label, range(1, len(rows[0]) + 1), rows, scale, size=size)
        panels.append(Panel(_label(record), drawing))
    caption = (
        f"{_what(measure)} by task learned (row, the first on top) and task tested (column); the bar says what "
        "the shades mean. Below the diagonal: what is left of earlier tasks."
    )
    return [Figure(caption, panels)] if panels else []


def _updates(records: Sequence[Record]) -> list[Block]:
    panels, layers = [], list[str]()
    for n, (record, analysis) in enumerate(_analyses(records)):
        for kind, words in UPDATES.items():
            by_layer = analysis.update_angle.get(kind, {})
            curves = {layer: through(zip(analysis.probes, found, strict=True)) for layer, found in by_layer.items()}
            if not any(curve.known for curve in curves.values()):
                continue
            layers = max(layers, list(curves), key=len)
            ends = "; ".join(f"layer {layer} {course(curve, 'step', text.degrees)}" for layer, curve in curves.items())
            series = [Series(curve, figure.look(k), mark=True) for k, curve in enumerate(curves.values())]
            title, scale = f"{_label(record)}: {words}", Scale(-3, 183, ideal=90, ticks=(0, 45, 90, 135, 180))
            panels.append(Panel(title, figure.lines(f"update-{n}-{kind}", f"{title}: {ends}", series, scale)))
    key = [Panel(f"layer {name}", figure.swatch(f"layer-{n}", figure.look(n))) for n, name in enumerate(layers)]
    caption = (
        "Angle in degrees between a step’s update and minus the gradient at the same weights, by layer against the "
        "step of the lifetime: of the step’s own loss, of the query loss, and of the step’s loss with the "
        "feedback weights of before meta-training. The line at 90° is where unrelated directions lie."
    )
    return [Figure(caption, panels, key=key)] if panels else []


def _feedback(records: Sequence[Record]) -> list[Block]:
    rows = [
        Row(f"{_label(record)}, layer {layer}", [text.degrees(by_moment[moment].get(layer)) for moment in by_moment])
        for record, analysis in _analyses(records)
        for by_moment in [analysis.feedback_angle]
        for layer in by_moment.get("meta_trained", {})
    ]
    caption = (
        "Angle between the feedback weights B into a layer and the transpose of the product of the forward weights "
        "after it; unrelated ones lie at 90°."
    )
    return [Table(["Path", "Initial, °", "Meta-trained, °", "End of lifetime, °"], rows, caption)] if rows else []


def _interference(records: Sequence[Record]) -> list[Block]:
    kinds = ("own", "others", "cosine", "gradient_own", "gradient_others", "gradient_cosine")
    rows = [
        Row(_label(record), [text.number(analysis.interference.get(kind)) for kind in kinds])
        for record, analysis in _analyses(records)
    ]
    heads = ["Learner", "Own", "Others", "Cosine", "Gradient: own", "Gradient: others", "Gradient: cosine"]
    caption = (
        "In the middle of lifetimes: change of the query loss on the step’s own task and on another one (below zero is "
        "better), and the cosine between the updates of two tasks; the same for gradient steps of the same length."
    )
    return [Table(heads, rows, caption)] if rows else []
