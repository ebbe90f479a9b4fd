"""The page of a training: how it stands, its curves, every metric, its layers, and how to go on."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence

from backroads.report import figure, text
from backroads.report.curve import Curve, through
from backroads.report.figure import EVALUATED, TRAINED, Look, Series
from backroads.report.page import Block, Cell, Figure, Page, Panel, Problem, Rows, Section, Table, Text
from backroads.report.parts import (
    NAMED,
    axis_name,
    course,
    damaged,
    headline,
    loss_axis,
    metric_sections,
    overview,
    title,
)
from backroads.report.read import ArmRecord, Record
from backroads.runs.schema import ArmResult, ByLayer
from backroads.runs.statistics import overall

RATES = {
    "learning_rate": "learning rate of W",
    "backward_rate": "learning rate of B",
    "gradient_norm": "norm of W’s gradient",
}
GO_ON = {
    "finished": "It trains on, to a higher number of epochs.",
    "diverged": "It goes on from the last good checkpoint. Other settings need a new run.",
    "stopped": "It goes on from the checkpoint that was saved when it stopped.",
    "unfinished": "It goes on from the last checkpoint, once nothing trains in this folder any more.",
}


def training_page(record: Record) -> Page:
    """The whole page."""
    arm = record.arms[0]
    split = str(record.setting("split") or "evaluation")
    name = record.name if not record.name.startswith("-") else f"./{record.name}"
    more = " --epochs MORE" if record.status == "finished" else ""
    resume = [
        Text(f"backroads train --resume --out {shlex.quote(name)}{more}", code=True),
        Text(f"{GO_ON[record.status]} To be given in the folder that holds the run’s."),
    ]
    return Page(
        record,
        title=text.capital(f"{title(record)} with {text.title(arm.arm.name)}"),
        facts=_facts(record),
        headline=headline(record, _accuracy(record, arm, split)),
        problems=_problems(record),
        sections=[
            Section("accuracy", "Accuracy", [_accuracy_figure(arm, split)]),
            Section("loss", "Loss", [_loss_figure(record, arm, split)]),
            *metric_sections(record, {arm.arm.name: [arm]}),
            Section("rates", "Rates", _rates(record, arm)),
            Section("rules", "Rules", _rules(record, arm)),
        ],
        after=[Section("resume", "Go on", resume)],
    )


def _accuracy(record: Record, arm: ArmRecord, split: str) -> str:
    """The last accuracy, and the best one if that is another epoch's."""
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
        words += ", the best of its epochs"
    else:
        also = "also " if text.percent(best) == text.percent(last) else ""
        words += f"; the best, {also}{text.percent(best)}{text.NBSP}%, after epoch {best_event.epoch}"
    top5 = event.eval_top5 if any((e.eval_top5 or 1.0) < 1 for _, e in known) else None  # 1 with five classes or fewer
    return words + ("" if top5 is None else f"; top-5 {text.percent(top5)}{text.NBSP}%")


def _facts(record: Record) -> list[str | None]:
    start, results = record.start, record.ended
    assert start is not None
    speeds = [speed for _, speed in record.speeds.curve("speed").known]
    again = [str(resume.step) for resume in record.resumes]
    seconds = None if results is None else results.seconds
    return [
        None if start.parameters is None else f"{start.parameters:,} parameters",
        None if start.train_examples is None else f"{start.train_examples:,} training examples",
        None if start.eval_examples is None else f"{start.eval_examples:,} for evaluation",
        f"{text.number(statistics.median(speeds))} examples a second" if speeds else None,
        f"{text.memory(record.memory_mb)} of memory at most" if record.memory_mb else None,
        f"taken up again at step {text.some(again, 3)}" if again else None,
        None if seconds is None else text.duration(seconds) + (" since then" if again else ""),
    ]


def _problems(record: Record) -> list[Problem]:
    """Layers that collapsed or are dead, examples that were skipped, checkpoints that were damaged."""
    found, results = list[Problem](), record.ended
    arm: ArmResult | None = results.arms[0] if results is not None else None
    named: Mapping[str, str] = results.corrupt_examples if results is not None else {}
    if arm is not None and arm.collapsed:
        meaning = "B stands at a right angle to W, as unrelated weights do, although the rule should have brought them "
        meaning += f"together: {text.some(arm.collapsed, NAMED)}."
        found.append(Problem(f"{text.counted(len(arm.collapsed), 'layer')} collapsed", meaning))
    if arm is not None and arm.dead:
        meaning = f"W got a gradient of zeros in the last step: {text.some(arm.dead, NAMED)}."
        found.append(Problem(f"{text.counted(len(arm.dead), 'layer')} dead", meaning))
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
    caption = f"Accuracy against epoch, with the last value in %: on the {split} split after the epoch, and over the "
    caption += "training examples while the weights were moving. Epoch 0 is before training."
    scale, notes = figure.accuracy_scale([evaluated, trained]), _lost(shown)
    return overview("Accuracy", shown, scale, caption, x="epoch", y="accuracy, %", format=text.percent, notes=notes)


def _loss_figure(record: Record, arm: ArmRecord, split: str) -> Block:
    x = axis_name(record)
    evaluated = through((one.epoch if x == "epoch" else one.step, one.eval_loss) for one in arm.evaluations.values())
    trained, lost = arm.losses.curve("loss"), arm.losses.missing("loss")
    if not evaluated.x and not trained.x:
        return Text("No loss was measured yet.")
    shown = {f"{split} loss": (evaluated, EVALUATED), "training loss": (trained, TRAINED)}
    scale = figure.loss_scale([evaluated, trained])
    several = f"as means of {arm.losses.size} lines of the log" if arm.losses.size > 1 else "by lines of the log"
    caption = f"Losses against {x}, with the last value: on the {split} split after the epoch, and in training "
    notes = _lost({f"{split} loss": (evaluated, EVALUATED)})
    notes += [f"training loss: not finite in {text.counted(lost, 'line')} of the log."] if lost else []
    return overview("Loss", shown, scale, f"{caption}{several}.{loss_axis(scale)}", x=x, y="loss", notes=notes)


def _lost(shown: Mapping[str, tuple[Curve, Look]]) -> list[str]:
    """A sentence for each curve that has no finite value at some epochs."""
    lost = {
        name: sorted({int(x) for x in curve.x} - {int(x) for x, _ in curve.known}) for name, (curve, _) in shown.items()
    }
    return [f"{name}: not finite at epoch{'s' * (len(e) > 1)} {text.ranges(e)}." for name, e in lost.items() if e]


def _rates(record: Record, arm: ArmRecord) -> list[Block]:
    """Learning rates, scheduled coefficients, the norm of the gradient and the speed against step."""
    order = [*RATES, *(name for name in arm.steps.names if name.startswith("coefficient "))]
    curves = {RATES.get(name, name): arm.steps.curve(name) for name in order}
    curves["examples a second"] = record.speeds.curve("speed")
    shown = []
    for name, curve in curves.items():
        values = [y for _, y in curve.known]
        if values:
            # Most of the curve is far below its highest value.
            log = min(values) > 0 and statistics.median(values) <= max(values) / 8
            scale, told = figure.scale_of(values, log=log), f"{name} against step: {course(curve, 'step')}."
            drawing = figure.lines(told, [Series(curve, EVALUATED)], scale)
            shown.append(Panel(f"{name}, log" if log else name, drawing))
    caption = (
        "What was in effect, against step. The rate of B moves nothing where the rule does not teach B. Examples a "
    )
    return [Figure(caption + "second are those of training, without the time of evaluations.", shown)] if shown else []


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
    if not layers:
        return []

    def cells(names: Sequence[str]) -> list[str]:
        own = {m: {layer: last.get(m, {}).get(layer) for layer in names} for m in metrics}
        return [text.measured(overall(found), metrics[m]) for m, found in own.items()]

    def wrong(layer: str) -> str:
        kinds = {} if results is None else {"collapsed": results.collapsed, "dead": results.dead}
        return ", ".join(word for word, names in kinds.items() if layer in names)

    heads = [text.capital(quantity.title) + text.unit(quantity) for quantity in metrics.values()]
    when = "at the end" if results is not None else "when last measured"
    rules = [[rule, *cells(names), f"{len(names)}: {text.some(names, 3)}"] for rule, names in by_rule.items()]
    single: Rows = [[Cell(f"{n} {name}", warning=wrong(name)), *cells([name])] for n, name in enumerate(layers, 1)]
    caption = f"Means over the layers of a rule, {when}. – has no finite number."
    return [
        Table(["Rule", *heads, "Layers"], rules, caption),
        Table(["Layer", *heads], single, fold=f"Every layer, {when}"),
    ]
