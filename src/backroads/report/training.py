"""The page of a training: how it stands, its curves, every metric, its layers, and how to go on."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence

from backroads.report import figure, parts, text
from backroads.report.curve import Curve, through
from backroads.report.figure import EVALUATED, TRAINED, Look
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
    split = str(record.setting("split") or "evaluation")
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
        headline=parts.headline(record, _accuracy(record, arm, split)),
        problems=_problems(record),
        sections=[
            Section("accuracy", "Accuracy", [_accuracy_figure(arm, split)]),
            Section("loss", "Loss", [_loss_figure(record, arm, split)]),
            *parts.metric_sections(record, {arm.arm.name: [arm]}),
            Section("rates", "Rates", _rates(record, arm)),
            Section("rules", "Rules", _rules(record, arm)),
            Section("resume", "Go on", resume),
        ],
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


def _accuracy_figure(arm: ArmRecord, split: str) -> Block:
    found = list(arm.evaluations.values())
    if not found:
        return Text("Nothing was evaluated yet.")
    evaluated = through((one.epoch, one.eval_accuracy) for one in found)
    trained = through((one.epoch, one.train_accuracy) for one in found if one.epoch > 0)
    shown = {f"{split} accuracy": (evaluated, EVALUATED), "training accuracy": (trained, TRAINED)}
    scale, caption = figure.accuracy_scale([evaluated, trained]), text.caption("accuracy", split=split)
    return parts.overview(caption, shown, scale, "epoch", "accuracy, %", text.percent, _lost(shown))


def _loss_figure(record: Record, arm: ArmRecord, split: str) -> Block:
    x = parts.axis_name(record)
    evaluated = through((one.epoch if x == "epoch" else one.step, one.eval_loss) for one in arm.evaluations.values())
    trained, lost = arm.losses.curve("loss"), arm.losses.missing("loss")
    if not evaluated.x and not trained.x:
        return Text("No loss was measured yet.")
    shown = {f"{split} loss": (evaluated, EVALUATED), "training loss": (trained, TRAINED)}
    scale = figure.loss_scale([evaluated, trained])
    means = f"as means of {arm.losses.size} lines of the log" if arm.losses.size > 1 else "by lines of the log"
    caption = text.caption("loss", x=x, split=split, means=means) + parts.loss_axis(scale)
    notes = _lost({f"{split} loss": (evaluated, EVALUATED)})
    notes += [f"training loss: not finite in {text.counted(lost, 'line')} of the log."] if lost else []
    return parts.overview(caption, shown, scale, x, "loss", notes=notes)


def _lost(shown: Mapping[str, tuple[Curve, Look]]) -> list[str]:
    """A sentence for each curve that has no finite value at some epochs."""
    lost = {name: [int(x) for x, y in zip(c.x, c.y, strict=True) if y != y] for name, (c, _) in shown.items()}
    return [f"{name}: not finite at epoch{'s' * (len(e) > 1)} {text.ranges(e)}." for name, e in lost.items() if e]


def _rates(record: Record, arm: ArmRecord) -> list[Block]:
    """Learning rates, scheduled coefficients, the norm of the gradient and the speed against step."""
    order = [*RATES, *(name for name in arm.steps.names if name.startswith("coefficient "))]
    curves = {RATES.get(name, name): arm.steps.curve(name) for name in order}
    curves["examples a second"] = record.speeds.curve("speed")
    shown = []
    for name, curve in curves.items():
        if values := [y for _, y in curve.known]:
            # Most of the curve is far below its highest value.
            log = min(values) > 0 and statistics.median(values) <= max(values) / 8
            scale, told = figure.scale_of(values, log=log), f"{name} against step: {parts.course(curve, 'step')}."
            drawing = figure.lines(told, [(curve, EVALUATED)], scale)
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
