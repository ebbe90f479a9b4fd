"""The page of a comparison: rules side by side, their gaps to the baseline with intervals, and the curves of each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from backroads.report import figure, text
from backroads.report.curve import Curve, merged, through
from backroads.report.figure import BEHIND, DASHED, PLAIN, Look
from backroads.report.page import Block, Cell, Figure, Headline, Page, Pairs, Rows, Section, Table
from backroads.report.parts import course, headline, key, loss_axis, metric_sections, panels, title
from backroads.report.read import ArmRecord, Record
from backroads.runs.schema import ArmResult, TrainingResults
from backroads.runs.statistics import Estimate, RuleSummary, summarise

Arms = Mapping[str, Sequence[ArmRecord]]
Colours = Mapping[str, str]


def comparison_page(record: Record) -> Page:
    """The whole page."""
    results: TrainingResults = record.ended or results_so_far(record)
    rows, split = summarise(results), _followed(record)
    arms: dict[str, list[ArmRecord]] = {}
    for arm in record.arms:
        arms.setdefault(_name(arm.arm.name), []).append(arm)
    baseline = None if results.baseline is None else _name(results.baseline)
    others = [name for name in arms if name != baseline]
    colours = {name: PLAIN.colour if name == baseline else figure.look(others.index(name)).colour for name in arms}
    kind = "method" if record.setting("methods") else "rule"
    told = _summary(results, rows, kind)
    formulas = [(name, " · ".join(dict.fromkeys(own[0].arm.formulas.values())) or name) for name, own in arms.items()]
    epochs = sorted(set().union(*(arm.evaluations.x for arm in record.arms)))
    model = record.setting("model")
    again = [str(resume.step) for resume in record.resumes]
    facts = [
        model if isinstance(model, str) else None,
        text.counted(len(rows), kind),
        text.counted(max((row.seeds for row in rows), default=0), "seed"),
        text.counted(int(max(epochs, default=0)), "epoch"),
        f"taken up again at step {text.some(again, 3)}" if again else None,
        None if results.seconds is None else text.duration(results.seconds) + (" since then" if again else ""),
    ]
    finished = record.status == "finished"
    return Page(
        record,
        title=f"Learning {kind}s compared: {title(record)}",
        facts=facts,
        headline=Headline("", f"{text.capital(told)}.") if finished else headline(record, told),
        sections=[
            Section("results", "Results", _results(results, rows, colours, kind)),
            Section("accuracy", "Accuracy", [_accuracy(arms, colours, baseline, split, epochs)]),
            Section("loss", "Loss", [_loss(arms, colours, split, epochs)]),
            *metric_sections(record, arms),
            Section("alignment", "Metrics at the end", _metrics(record, rows, kind)),
            Section("rules", f"{text.capital(kind)}s", [Pairs(formulas)]),
        ],
    )


def results_so_far(record: Record) -> TrainingResults:
    """What the results would be if the run ended now, on the validation part."""
    arms = []
    for arm in record.arms:
        accuracy = arm.evaluations.last.get("eval_accuracy") if arm.diverged is None else None
        readings = {metric: log.last for metric, log in arm.readings.items()}
        status: Literal["finished", "diverged"] = "finished" if arm.diverged is None else "diverged"
        arms.append(ArmResult(arm.arm.name, arm.arm.seed, status, arm.step, accuracy=accuracy, readings=readings))
    baseline = record.start.baseline if record.start is not None else None
    return TrainingResults("compare", "validation", tuple(arms), baseline)


def _followed(record: Record) -> str:
    """What is evaluated after every epoch: the validation part, or the training examples if there is none."""
    return "training" if record.start is not None and record.start.eval_examples is None else "validation"


def _name(rule: str) -> str:
    return rule.replace("_", " ")


def _summary(results: TrainingResults, rows: Sequence[RuleSummary], kind: str) -> str:
    """Which rules or methods are near the baseline, which is the lowest, which diverged, over how many seeds."""
    known = [row for row in rows if row.accuracy.mean is not None]
    base = next((row for row in known if row.name == results.baseline), None)
    others = sorted((row for row in known if row is not base), key=lambda row: -(row.accuracy.mean or 0.0))
    # As many digits as the table shows, so that the two agree.
    near = [_name(row.name) for row in others if row.gap and round(100 * (row.gap.mean or 0.0), 1) >= -1]
    split = f"{results.split} accuracy"
    if not known:
        told = f"no {kind} has a finite {split}"
    elif base is None:
        told = f"the highest {split}: {_level(others[0])}; no baseline to compare"
    elif not others:
        told = f"{_level(base)} {split}, alone"
    else:
        who = (
            f"all {len(others)} other {kind}s" if len(near) == len(others) > 1 else text.listing(near or [f"no {kind}"])
        )
        told = f"within one point of {_level(base)} {split} or above it: {who}"
    if len(others) > 1:
        gap = others[-1].gap
        told += f"; the lowest: {_level(others[-1])}" + (f" (gap {text.points(gap.mean)} points)" if gap else "")
    diverged = [f"{_name(row.name)} ({row.diverged} of {row.seeds})" for row in rows if row.diverged]
    told += f"; seeds diverged under {text.listing(diverged)}" if diverged else ""
    return f"{told}; n = {text.counted(max((row.seeds for row in rows), default=0), 'seed')}"


def _level(row: RuleSummary) -> str:
    return f"{_name(row.name)} at " + " ".join(filter(None, [*_spread(row.accuracy, text.percent), "%"])).replace(
        " ", text.NBSP
    )


def _spread(found: Estimate | None, show: Callable[[float | None], str]) -> tuple[str, str]:
    """A mean, and ± its sample standard deviation where there is one."""
    if found is None:
        return text.DASH, ""
    return show(found.mean), "" if found.std is None else f"± {show(found.std)}"


def _results(results: TrainingResults, rows: Sequence[RuleSummary], colours: Colours, kind: str) -> list[Block]:
    """Accuracy, gap with its interval and test, and step time of each rule or method."""
    gaps = [(abs(row.gap.mean), row.gap.half or 0.0) for row in rows if row.gap and row.gap.mean is not None]
    # An interval of two seeds may be wider than anything else: what lies beyond twice the largest gap is cut.
    largest = max((gap for gap, _ in gaps), default=0.0)
    most = max(0.005, min(2 * largest, max((gap + half for gap, half in gaps), default=0.0)))
    heads = [text.capital(kind), "Accuracy, %", "Gap, points", "95 % interval", "n", "p", "Step time, ×"]
    about = {"Accuracy": "about_accuracy", "Gap": "about_gap", "n, p": "about_n", "Step time": "about_time"}
    words = {name: text.caption(key, split=results.split, most=text.percent(most)) for name, key in about.items()}
    lines = [_line(row, results.baseline, colours[_name(row.name)], most) for row in rows]
    return [Table(heads, lines), Pairs(list(words.items()))]


def _line(row: RuleSummary, baseline: str | None, colour: str, most: float) -> list[Cell | str]:
    note = f"{row.diverged} of {text.counted(row.seeds, 'seed')} diverged" if row.diverged else ""
    ratio, gap = row.step_ratio, row.gap
    accuracy = Cell(*_spread(row.accuracy, text.percent))
    time = Cell(text.DASH) if ratio is None else Cell(f"{ratio[1]:.2f}", f"{ratio[0]:.2f}–{ratio[2]:.2f}")
    middle: list[Cell | str] = [""] * 4
    if gap is not None and row.name != baseline:
        half = "" if gap.half is None else f"± {text.percent(gap.half)}"
        marks = [] if gap.mean is None else [gap.mean]
        bar = None if gap.mean is None or gap.half is None else (gap.mean - gap.half, gap.mean + gap.half)
        label = f"Gap of {_name(row.name)}: {text.points(gap.mean)} points {half}, 95 % interval."
        drawn = figure.inline(label, -most, most, bar, marks, colour, "o")
        middle = [Cell(text.points(gap.mean), half), Cell(drawn), str(gap.n), text.probability(gap.p)]
    return [Cell(_name(row.name), warning=note), accuracy, *middle, time]


def _evaluated(arms: Arms, key: str) -> dict[str, Curve]:
    """The mean over the seeds of one number of the evaluations, by epoch."""
    return {name: merged([arm.evaluations for arm in own], [key])[key] for name, own in arms.items()}


def _missing(arms: Arms, epochs: Sequence[float], *keys: str) -> list[str]:
    """A sentence for each rule of which some seeds lack one of these numbers at some epochs."""
    notes = []
    for name, own in arms.items():
        said = []
        for arm in own:
            log = arm.evaluations
            # Before training there is no training loss.
            there = [~np.isnan(log.values(key)) | ((log.places == 0) & key.startswith("train")) for key in keys]
            lost = np.setdiff1d(epochs, log.places[np.logical_and.reduce(there)]).astype(int).tolist()
            said += [f"seed {arm.arm.seed}, epoch {text.ranges(lost)}"] if lost else []
        notes += [f"{name}: not finite: {'; '.join(said)}. Mean and band are over the others."] if said else []
    return notes


def _accuracy(arms: Arms, colours: Colours, baseline: str | None, split: str, epochs: Sequence[float]) -> Figure:
    measured = "train_accuracy" if split == "training" else "eval_accuracy"
    curves = _evaluated(arms, measured)
    base = [(through(curves[baseline].known), BEHIND)] if baseline in curves and len(curves) > 1 else []
    shown = {}
    for name, curve in curves.items():
        told = f"mean {split} accuracy {course(curve, 'epoch', lambda v: text.percent(v) + ' %')}"
        shown[name] = [*(base if name != baseline else []), (curve, Look(colours[name]))], told
    grey = " The baseline’s mean is grey." if base else ""
    caption = text.caption("compared_accuracy", Split=text.capital(split), grey=grey)
    notes = _missing(arms, epochs, measured)
    return Figure(caption, panels(shown, figure.accuracy_scale(list(curves.values())), epochs), notes=notes)


def _loss(arms: Arms, colours: Colours, split: str, epochs: Sequence[float]) -> Figure:
    looks = {"validation": ("eval_loss", PLAIN), "training": ("train_loss", DASHED)}
    looks = looks if split == "validation" else {"training": looks["training"]}
    curves = {what: _evaluated(arms, key) for what, (key, _) in looks.items()}
    scale = figure.loss_scale([curve for of in curves.values() for curve in of.values()])
    shown = {}
    for name, colour in colours.items():
        told = "; ".join(f"mean {what} loss {course(of[name], 'epoch')}" for what, of in curves.items())
        shown[name] = [(of[name], Look(colour, looks[what][1].dashes)) for what, of in curves.items()], told
    notes = _missing(arms, epochs, *(key for key, _ in looks.values()))
    caption = text.caption("compared_loss") + loss_axis(scale)
    keys = {f"{what} loss": own for what, (_, own) in looks.items()}
    return Figure(caption, panels(shown, scale, epochs), key=key(keys), notes=notes)


def _metrics(record: Record, rows: Sequence[RuleSummary], kind: str) -> list[Block]:
    metrics = record.metrics
    show = {name: functools.partial(text.measured, quantity=quantity) for name, quantity in metrics.items()}
    cells = [[Cell(*_spread(row.readings.get(name), show[name])) for name in metrics] for row in rows]
    lines: Rows = [[_name(row.name), *own] for row, own in zip(rows, cells, strict=True) if metrics]
    return [Table([text.capital(kind), *map(text.head, metrics.values())], lines, text.caption("compared_metrics"))]
