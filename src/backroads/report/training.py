"""The page of a training: how it stands, its curves, every metric, its layers, and how to go on."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backroads.report import figure, parts, text
from backroads.report.curve import Curve, Log, line
from backroads.report.figure import EVALUATED, TESTED, TRAINED, Look
from backroads.report.page import Block, Cell, Figure, Page, Panel, Problem, Rows, Section, Table, Text
from backroads.report.read import ArmRecord, Record
from backroads.runs.schema import ArmResult, ByLayer
from backroads.runs.statistics import overall

RATES = {
    "learning_rate": "learning rate of W",
    "backward_rate": "learning rate of B",
    "gradient_norm": "norm of W’s gradient",
}


def training_page(record: Record) -> Page:
    """The whole page."""
    arm = record.arms[0]
    name = record.name if not record.name.startswith("-") else f"./{record.name}"
    more = " --epochs MORE" if record.status == "finished" else ""
    resume = [
        Text(f"backroads train --resume --out {shlex.quote(name)}{more}", code=True),
        Text(text.caption(f"go_on_{record.status}")),
    ]
    return Page(
        record,
        title=text.capital(f"{parts.title(record)} with {text.title(arm.arm.name)}"),
        facts=_facts(record),
        headline=parts.headline(record, _accuracy(record, arm)),
        problems=_problems(record),
        sections=[
            Section("accuracy", "Accuracy", [_accuracy_figure(record, arm)]),
            Section("loss", "Loss", [_loss_figure(record, arm)]),
            *parts.metric_sections(record, {arm.arm.name: [arm]}),
            Section("fields", "First layer", _fields(record)),
            Section("rates", "Rates", _rates(record, arm)),
            Section("rules", "Rules", _rules(record, arm)),
            Section("resume", "Go on", resume),
        ],
    )


def _accuracy(record: Record, arm: ArmRecord) -> str:
    """The accuracy on the test split, if it was read, and the last one on the validation part, if there is one."""
    last = arm.evaluations.last
    words = []
    if (tested := last.get("test_accuracy")) is not None:
        words.append(f"{text.percent(tested)}{text.NBSP}% test accuracy{_top5(last.get('test_top5'))}")
    if _validated(record):
        words.append(_validation(record, arm))
    return "; ".join(words) or "the test split is read once, at the end"


def _top5(value: float | None) -> str:
    """Told where it says something: with five classes or fewer it is 1."""
    return "" if value is None or not value < 1 else f", top-5 {text.percent(value)}{text.NBSP}%"


def _validation(record: Record, arm: ArmRecord) -> str:
    """The last accuracy on the validation part, and the best one if that is another epoch's."""
    log = arm.evaluations
    accuracy, epochs, top5 = log.values("eval_accuracy"), log.places, log.values("eval_top5")
    known = np.flatnonzero(~np.isnan(accuracy))
    if not len(known):
        return "no validation accuracy is finite" if len(epochs) else "nothing was evaluated yet"
    end = known[-1]
    words = f"{text.percent(accuracy[end])}{text.NBSP}% validation accuracy{_top5(top5[end])}"
    if epochs[end] == 0:
        return f"{words} before training"
    words += "" if record.status == "finished" else f" after epoch {epochs[end]:.0f}"
    trained = known[epochs[known] > 0]
    best = trained[accuracy[trained].argmax()]
    if best == end:
        return f"{words}, the best of its epochs"
    also = "also " if text.percent(accuracy[best]) == text.percent(accuracy[end]) else ""
    return f"{words}; the best, {also}{text.percent(accuracy[best])}{text.NBSP}%, after epoch {epochs[best]:.0f}"


def _facts(record: Record) -> list[str | None]:
    start, results = record.start, record.ended
    assert start is not None
    speeds = record.speeds.values("speed")
    speeds = speeds[~np.isnan(speeds)]
    again = [str(resume.step) for resume in record.resumes]
    seconds = None if results is None else results.seconds
    return [
        None if start.parameters is None else f"{start.parameters:,} parameters",
        None if start.train_examples is None else f"{start.train_examples:,} training examples",
        None if start.eval_examples is None else f"{start.eval_examples:,} to validate on",
        None if start.test_examples is None else f"{start.test_examples:,} to test on",
        f"{text.number(float(np.median(speeds)))} examples a second" if len(speeds) else None,
        f"{record.memory_mb:,.0f} MiB of memory at most" if record.memory_mb else None,
        f"taken up again at step {text.some(again, 3)}" if again else None,
        None if seconds is None else text.duration(seconds) + (" since then" if again else ""),
    ]


def _problems(record: Record) -> list[Problem]:
    """Layers that collapsed or are dead, examples that were skipped, checkpoints that were damaged."""
    found, results = list[Problem](), record.ended
    arm: ArmResult | None = results.arms[0] if results is not None else None
    named: Mapping[str, str] = results.corrupt_examples if results is not None else {}
    for kind in ("collapsed", "dead"):
        layers: Sequence[str] = getattr(arm, kind, ())
        if layers:
            meaning = text.caption(kind, layers=text.some(layers, parts.NAMED))
            found.append(Problem(f"{text.counted(len(layers), 'layer')} {kind}", meaning))
    if count := len(named) or record.corrupt:
        items = [f"{path}: {reason}" for path, reason in list(named.items())[: parts.NAMED]]
        items += [f"and {len(named) - parts.NAMED} more, in results.json"] if len(named) > parts.NAMED else []
        found.append(Problem(f"{text.counted(count, 'example')} skipped", "They could not be read.", items))
    return [*found, *parts.damaged(record)]


def _accuracy_figure(record: Record, arm: ArmRecord) -> Block:
    log = arm.evaluations
    if not log.x:
        return Text("Nothing was evaluated yet.")
    begun = log.places > 0
    trained = line(log.places[begun], log.values("train_accuracy")[begun])
    shown = {"training accuracy": (trained, TRAINED), **_evaluated(record, log, log.places, "accuracy")}
    scale, caption = figure.accuracy_scale([curve for curve, _ in shown.values()]), text.caption("accuracy")
    notes = _lost("validation accuracy", log, "eval_accuracy", _validated(record))
    notes += _lost("training accuracy", log, "train_accuracy", begun)
    return parts.overview(caption, shown, scale, "epoch", "accuracy, %", text.percent, notes)


def _evaluated(record: Record, log: Log, places: Any, what: str) -> dict[str, tuple[Curve, Look]]:
    """The curve on the validation part, and the point on the test split; where they are."""
    shown = {f"validation {what}": (line(places, log.values(f"eval_{what}")), EVALUATED)} if _validated(record) else {}
    tested = line(places, log.values(f"test_{what}"))
    return shown | ({f"test {what}": (tested, TESTED)} if tested.known else {})


def _validated(record: Record) -> bool:
    return record.start is None or record.start.eval_examples is not None


def _loss_figure(record: Record, arm: ArmRecord) -> Block:
    x, log = parts.axis_name(record), arm.evaluations
    places = log.places if x == "epoch" else log.values("step")
    trained = line(arm.steps.values("place"), arm.steps.values("loss"))
    shown = {"training loss": (trained, TRAINED), **_evaluated(record, log, places, "loss")}
    if not any(curve.x for curve, _ in shown.values()):
        return Text("No loss was measured yet.")
    scale = figure.loss_scale([curve for curve, _ in shown.values()])
    caption = text.caption("loss", x=x) + parts.loss_axis(scale)
    notes, lost = _lost("validation loss", log, "eval_loss", _validated(record)), arm.steps.lost["loss"]
    notes += [f"training loss: not finite in {text.counted(lost, 'line')} of the log."] if lost else []
    return parts.overview(caption, shown, scale, x, "loss", notes=notes)


def _lost(name: str, log: Log, key: str, among: Any = True) -> list[str]:
    """A sentence if some evaluations, of those ``among`` which a number is expected, have no finite one."""
    epochs = log.places[np.isnan(log.values(key)) & among].astype(int).tolist()
    return [f"{name}: not finite at epoch{'s' * (len(epochs) > 1)} {text.ranges(epochs)}."] if epochs else []


def _fields(record: Record) -> list[Block]:
    """The weights of the layer that sees the images, at the end; nothing where there is none."""
    fields = record.ended.arms[0].fields if record.ended is not None else None
    if fields is None:
        return []
    n, height, width, channels = fields.shape
    shown = text.counted(n, "unit") if n == fields.units else f"the first {n} of {fields.units} units"
    name = f"{fields.layer}: {shown}" if fields.layer else shown
    drawing = figure.images(f"Weights of {name}, as images of {height} by {width} pixels.", fields)
    about = text.caption("fields", colour="" if channels == 1 else " in every colour")
    return [Figure(about, [Panel(name, drawing)], large=True)]


def _rates(record: Record, arm: ArmRecord) -> list[Block]:
    """Learning rates, scheduled coefficients, the norm of the gradient and the speed against step."""
    order = [*RATES, *(name for name in arm.steps.columns if name.startswith("coefficient "))]
    logs = {RATES.get(name, name): (arm.steps, name) for name in order}
    logs["examples a second"] = (record.speeds, "speed")
    shown = []
    for name, (measured, key) in logs.items():
        values = measured.values(key)
        if len(values := values[~np.isnan(values)]):
            # Most of the curve is far below its highest value.
            log = values.min() > 0 and np.median(values) <= values.max() / 8
            curve = measured.curve(key)
            scale, told = figure.scale_of([y for _, y in curve.known], log=log), parts.course(curve, "step")
            drawing = figure.lines(f"{name} against step: {told}.", [(curve, EVALUATED)], scale)
            shown.append(Panel(f"{name}, log" if log else name, drawing))
    return [Figure(text.caption("rates"), shown)]


def _rules(record: Record, arm: ArmRecord) -> list[Block]:
    """A row for each distinct rule with the means over its layers; the numbers of each layer behind a fold."""
    results: ArmResult | None = record.ended.arms[0] if record.ended is not None else None
    last: dict[str, ByLayer] = {name: log.last for name, log in arm.readings.items()}
    last |= results.readings if results is not None else {}
    layers = dict.fromkeys([*arm.arm.formulas, *(layer for found in last.values() for layer in found if layer)])
    metrics = {name: quantity for name, quantity in record.metrics.items() if set(last.get(name, {})) & set(layers)}
    by_rule: dict[str, list[str]] = {}
    for layer in layers:
        by_rule.setdefault(arm.arm.formulas.get(layer, text.DASH), []).append(layer)

    def cells(names: Sequence[str]) -> list[str]:
        own = {m: {layer: last.get(m, {}).get(layer) for layer in names} for m in metrics}
        return [text.measured(overall(found), metrics[m]) for m, found in own.items()]

    def wrong(layer: str) -> str:
        return ", ".join(kind for kind in ("collapsed", "dead") if layer in getattr(results, kind, ()))

    heads, when = [*map(text.head, metrics.values())], "at the end" if results is not None else "when last measured"
    rules = [[rule, *cells(names), f"{len(names)}: {text.some(names, 3)}"] for rule, names in by_rule.items()]
    single: Rows = [[Cell(f"{n} {name}", warning=wrong(name)), *cells([name])] for n, name in enumerate(layers, 1)]
    return [
        Table(["Rule", *heads, "Layers"], rules, text.caption("rules", when=when)),
        Table(["Layer", *heads], single, fold=f"Every layer, {when}"),
    ]
