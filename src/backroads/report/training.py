"""The page of a training: how it stands, its curves, every metric, its layers, and how to go on."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence

from backroads.report import figure, text
from backroads.report.curve import Curve, thinned, through
from backroads.report.figure import BEHIND, EVALUATED, OVERVIEW, TRAINED, Look, Series
from backroads.report.page import Block, Figure, Page, Panel, Problem, Row, Section, Table, Text
from backroads.report.parts import (
    NAMED,
    axis_name,
    course,
    damaged,
    epochs,
    headline,
    loss_axis,
    metric_figure,
    metric_sections,
    overview,
    title,
)
from backroads.report.read import ArmRecord, Record
from backroads.runs.schema import ArmResult, ByLayer
from backroads.runs.statistics import overall


def training_page(record: Record) -> Page:
    """The whole page."""
    arm = record.arms[0]
    split = str(record.setting("split") or "evaluation")
    return Page(
        record,
        title=text.capital(f"{title(record)} with {text.title(arm.arm.name)}"),
        facts=_facts(record),
        headline=headline(record, _accuracy(record, arm, split)),
        problems=_problems(record),
        sections=[
            Section("accuracy", "Accuracy", [_accuracy_figure(arm, split)]),
            Section("loss", "Loss", [_loss_figure(record, arm, split)]),
            *metric_sections(record, lambda name, quantity: metric_figure(record, arm, name, quantity)),
            Section("rates", "Rates", _rates(arm)),
            Section("speed", "Throughput", _speed(record)),
            Section("rules", "Rules", _rules(record, arm)),
        ],
        after=[Section("resume", "Go on", _resume(record))],
    )


def _accuracy(record: Record, arm: ArmRecord, split: str) -> str:
    """The last accuracy, and the best one on the validation part if that is another epoch's."""
    known = [(one.eval_accuracy, one) for one in arm.evaluations.values() if one.eval_accuracy is not None]
    if not known:
        return "nothing was evaluated yet" if not arm.evaluations else f"no {split} accuracy is finite"
    last, event = known[-1]
    words = f"{text.percent(last)}{text.NBSP}% {split} accuracy"
    if event.epoch == 0:
        return f"{words} before training"
    words += "" if record.status == "finished" else f" after epoch {event.epoch}"
    best, best_event = max(((a, e) for a, e in known if e.epoch > 0), key=lambda one: one[0])
    if best_event.epoch == event.epoch:
        words += ", the best of all epochs" if record.status in ("finished", "diverged") else ", the best so far"
    else:
        also = "also " if text.percent(best) == text.percent(last) else ""
        words += f"; the best, {also}{text.percent(best)}{text.NBSP}%, after epoch {best_event.epoch}"
    top5 = event.eval_top5 if any((e.eval_top5 or 1.0) < 1 for _, e in known) else None  # 1 with five classes or fewer
    return words + ("" if top5 is None else f"; top-5 {text.percent(top5)}{text.NBSP}%")


def _facts(record: Record) -> list[str | None]:
    start, results = record.start, record.ended
    assert start is not None
    since = " since it was taken up again" if record.resumes else ""
    speed = statistics.median(record.all_speeds) if record.all_speeds else None
    return [
        None if start.parameters is None else f"{start.parameters:,} parameters",
        None if start.train_examples is None else f"{start.train_examples:,} training examples",
        None if start.eval_examples is None else f"{start.eval_examples:,} for evaluation",
        None if speed is None else f"{text.whole(speed)} examples a second",
        f"{text.memory(record.memory_mb)} of memory at most" if record.memory_mb else None,
        None if results is None or results.seconds is None else f"{text.duration(results.seconds)}{since}",
    ]


def _problems(record: Record) -> list[Problem]:
    """Layers that collapsed or are dead, examples that were skipped, checkpoints that were damaged."""
    found, results = list[Problem](), record.ended
    arm: ArmResult | None = results.arms[0] if results is not None else None
    if arm is not None and arm.collapsed:
        found.append(
            Problem(
                f"{text.counted(len(arm.collapsed), 'layer')} collapsed",
                f"B stands at a right angle to W, as unrelated weights do, although the rule should have brought them "
                f"together: {text.some(arm.collapsed, NAMED)}.",
            )
        )
    if arm is not None and arm.dead:
        found.append(
            Problem(
                f"{text.counted(len(arm.dead), 'layer')} dead",
                f"W got a gradient of zeros in the last step: {text.some(arm.dead, NAMED)}.",
            )
        )
    named: Mapping[str, str] = results.corrupt_examples if results is not None else {}
    if count := len(named) or record.corrupt:
        items = [f"{path}: {reason}" for path, reason in list(named.items())[:NAMED]]
        items += [f"and {len(named) - NAMED} more, in results.json"] if len(named) > NAMED else []
        found.append(Problem(f"{text.counted(count, 'example')} skipped", "They could not be read.", items))
    return [*found, *damaged(record)]


def _accuracy_figure(arm: ArmRecord, split: str) -> Block:
    found = list(arm.evaluations.values())
    if not found:
        return Text("Nothing was evaluated yet.")
    evaluated = through((one.epoch, one.eval_accuracy) for one in found)
    trained = through((one.epoch, one.train_accuracy) for one in found if one.epoch > 0)
    shown = {f"{split} accuracy": (evaluated, EVALUATED), "training accuracy": (trained, TRAINED)}
    scale = figure.accuracy_scale([evaluated, trained])
    return overview(
        "accuracy",
        "Accuracy",
        shown,
        scale,
        f"Accuracy against epoch, with the last value in %: on the {split} split after the epoch, and over the "
        f"training examples while the weights were moving. Epoch 0 is before training.",
        x="epoch",
        y="accuracy, %",
        format=text.percent,
        notes=_without(shown),
    )


def _loss_figure(record: Record, arm: ArmRecord, split: str) -> Block:
    x = axis_name(record)
    evaluated = through((one.epoch if x == "epoch" else one.step, one.eval_loss) for one in arm.evaluations.values())
    trained = arm.losses.curve("loss")
    shown = {f"{split} loss": (evaluated, EVALUATED), "training loss": (trained, TRAINED)}
    if not evaluated.x and not trained.x:
        return Text("No loss was measured yet.")
    scale = figure.loss_scale([evaluated, trained])
    lost = arm.losses.missing("loss")
    several = f"as means of {arm.losses.size} lines of the log" if arm.losses.size > 1 else "by lines of the log"
    return overview(
        "loss",
        "Loss",
        shown,
        scale,
        f"Losses against {x}, with the last value: on the {split} split after the epoch, and in training {several}."
        + loss_axis(scale),
        x=x,
        y="loss",
        notes=[
            *_without({f"{split} loss": shown[f"{split} loss"]}),
            *([f"training loss: not finite in {text.counted(lost, 'line')} of the log."] if lost else []),
        ],
    )


def _without(shown: Mapping[str, tuple[Curve, Look]]) -> list[str]:
    """A sentence for each curve that has no finite value at some epochs."""
    notes = []
    for name, (curve, _) in shown.items():
        known = {x for x, _ in curve.known}
        lost = [int(x) for x in curve.x if x not in known]
        notes += [f"{name}: not finite at {epochs(lost)}."] if lost else []
    return notes


def _rates(arm: ArmRecord) -> list[Block]:
    """Learning rates, scheduled coefficients and the norm of the gradient against step."""
    names = {
        "learning_rate": "learning rate of W",
        "backward_rate": "learning rate of B",
        "gradient_norm": "norm of W’s gradient",
    }
    order = [*names, *(name for name in arm.steps.names if name.startswith("coefficient "))]
    panels = []
    for n, name in enumerate(order):
        curve = arm.steps.curve(name)
        values = [y for _, y in curve.known]
        if not values:
            continue
        # Most of the curve is far below its highest value.
        log = min(values) > 0 and statistics.median(values) <= max(values) / 8
        told, scale = names.get(name, name), figure.scale_of(values, log=log)
        drawing = figure.lines(
            f"rate-{n}", f"{told} against step: {course(curve, 'step')}.", [Series(curve, EVALUATED)], scale
        )
        panels.append(Panel(f"{told}, log" if log else told, drawing))
    caption = "What was in effect, against step. The rate of B moves nothing where the rule does not teach B."
    return [Figure(caption, panels)] if panels else []


def _speed(record: Record) -> list[Block]:
    """Examples a second against step, with a gap and a line where the run was taken up again."""
    logs = [log for log in record.speeds if log.points]
    curves = [thinned(log.curve("speed"), max(10, 240 // len(logs))) for log in logs]
    if not record.all_speeds:
        return []
    median, resumed = statistics.median(record.all_speeds), [resume.step for resume in record.resumes]
    highest = max(y for curve in curves for _, y in curve.known)
    key = [Panel("examples a second, median", figure.swatch("speed-0", EVALUATED), text.whole(median))]
    again = f" Taken up again at step {text.some([str(step) for step in resumed], 20)}." if resumed else ""
    if resumed:
        key.append(Panel("taken up again", figure.swatch("speed-1", Look(BEHIND.colour, (2, 1.6))), f"{len(resumed)}×"))
    drawing = figure.lines(
        "speed",
        f"Examples a second against step: median {text.whole(median)}.{again}",
        [Series(curve, EVALUATED) for curve in curves],
        figure.Scale(0.0, 1.1 * highest or 1.0),
        x="step",
        y="examples a second",
        size=OVERVIEW,
        marks=resumed,
    )
    caption = "Training examples a second between lines of the log, without the time of evaluations."
    caption += " Steps that were taken again after an interruption appear again." if resumed else ""
    return [Figure(caption, overview=drawing, key=key)]


def _rules(record: Record, arm: ArmRecord) -> list[Block]:
    """A row for each distinct rule with the means over its layers; the numbers of each layer behind a fold."""
    results: ArmResult | None = record.ended.arms[0] if record.ended is not None else None
    last: dict[str, ByLayer] = {name: log.last for name, log in arm.readings.items()}
    if results is not None and results.readings:
        last |= results.readings
    layers = dict.fromkeys([*arm.arm.formulas, *(layer for found in last.values() for layer in found if layer)])
    by_rule: dict[str, list[str]] = {}
    for layer in layers:
        by_rule.setdefault(arm.arm.formulas.get(layer, text.DASH), []).append(layer)
    if not layers:
        return []

    metrics = {name: quantity for name, quantity in record.metrics.items() if set(last.get(name, {})) & set(layers)}

    def cells(names: Sequence[str]) -> list[str]:
        own = [{layer: last.get(m, {}).get(layer) for layer in names} for m in metrics]
        return [text.measured(overall(found), metrics[m]) for m, found in zip(metrics, own, strict=True)]

    heads = [text.capital(quantity.title) + text.unit(quantity) for quantity in metrics.values()]
    when = "at the end" if results is not None else "when last measured"
    bad = {name: word for word, names in _marked(results).items() for name in names}
    return [
        Table(
            ["Rule", *heads, "Layers"],
            [Row(rule, [*cells(names), f"{len(names)}: {text.some(names, 3)}"]) for rule, names in by_rule.items()],
            caption=f"Means over the layers of a rule, {when}. – has no finite number.",
        ),
        Table(
            ["Layer", *heads],
            [Row(f"{n} {name}", cells([name]), bad.get(name, "")) for n, name in enumerate(layers, 1)],
            fold=f"Every layer, {when}",
        ),
    ]


def _marked(results: ArmResult | None) -> dict[str, Sequence[str]]:
    if results is None:
        return {}
    both = [name for name in results.collapsed if name in results.dead]
    return {"collapsed": results.collapsed, "dead": results.dead, "collapsed, dead": both}


def _resume(record: Record) -> list[Block]:
    name = record.name if not record.name.startswith("-") else f"./{record.name}"
    said = {
        "finished": "It trains on, to a higher number of epochs.",
        "diverged": "It goes on from the last good checkpoint. Other settings need a new run.",
        "stopped": "It goes on from the checkpoint that was saved when it stopped.",
    }.get(record.status, "It goes on from the last checkpoint, once nothing trains in this folder any more.")
    more = " --epochs MORE" if record.status == "finished" else ""
    return [
        Text(f"backroads train --resume --out {shlex.quote(name)}{more}", code=True),
        Text(f"{said} To be given in the folder that holds the run’s."),
    ]
