"""The page of a comparison: rules side by side, their gaps to the baseline with intervals, and the curves of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from backroads.report import figure, text
from backroads.report.curve import Curve, over_layers, over_seeds, through
from backroads.report.figure import BEHIND, DASHED, PLAIN, Look, Scale, Series
from backroads.report.page import Cell, Figure, Headline, Page, Pairs, Panel, Row, Section, Table, Text
from backroads.report.parts import LINES, axis_name, course, headline, loss_axis, meaning, metric_sections, title
from backroads.report.read import ArmRecord, Record
from backroads.runs.quantity import Quantity
from backroads.runs.schema import ArmResult, Evaluation, TrainingResults
from backroads.runs.statistics import Estimate, RuleSummary, summarise

Arms = Mapping[str, Sequence[ArmRecord]]


def comparison_page(record: Record) -> Page:
    """The whole page."""
    results = record.ended or results_so_far(record)
    rows = summarise(results)
    arms: dict[str, list[ArmRecord]] = {name: [] for name in results.names}
    for arm in record.arms:
        arms[arm.arm.name].append(arm)
    looks = looks_of(results)
    told = _summary(results, rows)
    finished = record.status == "finished"
    formulas = [
        (_name(name), " · ".join(dict.fromkeys(own[0].arm.formulas.values())) or name) for name, own in arms.items()
    ]
    return Page(
        record,
        title=f"Learning rules compared: {title(record)}",
        facts=_facts(record, rows),
        headline=Headline("", False, f"{text.capital(told)}.") if finished else headline(record, told),
        sections=[
            Section("results", "Results", [_results(results, rows, looks)]),
            Section("accuracy", "Accuracy", [_accuracy(record, results, arms, looks)]),
            Section("loss", "Loss", [_loss(record, results, arms, looks)]),
            *metric_sections(record, lambda name, quantity: _metric(record, arms, name, quantity)),
            Section("alignment", "Metrics at the end", _metrics(record, rows)),
            Section("rules", "Rules", [Pairs(formulas)]),
        ],
    )


def results_so_far(record: Record) -> TrainingResults:
    """What the results would be if the run ended now."""
    split = record.setting("split")
    arms = []
    for arm in record.arms:
        last = list(arm.evaluations.values())[-1:]
        end = last[0] if last and arm.diverged is None else Evaluation(0, 0)
        readings = {metric: log.last for metric, log in arm.readings.items()}
        status: Literal["finished", "diverged"] = "finished" if arm.diverged is None else "diverged"
        arms.append(
            ArmResult(arm.arm.name, arm.arm.seed, status, arm.step, accuracy=end.eval_accuracy, readings=readings)
        )
    names = [arm.name for arm in arms]
    baseline = "backprop" if "backprop" in names else None
    return TrainingResults("compare", split if split in ("test", "validation") else "test", tuple(arms), baseline)


def looks_of(results: TrainingResults) -> dict[str, Look]:
    """The look of each rule: the baseline in the colour of the text."""
    others = [name for name in results.names if name != results.baseline]
    found = {name: figure.look(n) for n, name in enumerate(others)}
    return {name: found.get(name, PLAIN) for name in results.names}


def _name(rule: str) -> str:
    return rule.replace("_", " ")


def _facts(record: Record, rows: Sequence[RuleSummary]) -> list[str | None]:
    model, results = record.setting("model"), record.ended
    epochs = max((epoch for arm in record.arms for epoch in arm.evaluations), default=0)
    return [
        model if isinstance(model, str) else None,
        text.counted(len(rows), "rule"),
        text.counted(max((row.seeds for row in rows), default=0), "seed"),
        text.counted(epochs, "epoch"),
        None if results is None or results.seconds is None else text.duration(results.seconds),
    ]


def _summary(results: TrainingResults, rows: Sequence[RuleSummary]) -> str:
    """Which rules are near the baseline, which is the lowest, which diverged, over how many seeds."""
    known = [row for row in rows if row.accuracy.mean is not None]
    base = next((row for row in known if row.name == results.baseline), None)
    others = [row for row in known if row is not base]
    # As many digits as the table shows, so that the two agree.
    near = [row for row in others if row.gap and row.gap.mean is not None and round(100 * row.gap.mean, 1) >= -1]
    split, clauses = f"{results.split} accuracy", []
    if base is not None:
        who = (
            f"all {len(others)} other rules"
            if len(near) == len(others) > 1
            else text.listing(_names(near) or ["no rule"])
        )
        level = f"{_name(base.name)}’s {_level(base.accuracy)} {split}"
        clauses.append(f"within one point of {level} or above it: {who}" if others else f"{level}, alone")
    elif others:
        best = max(others, key=lambda row: row.accuracy.mean or 0.0)
        clauses.append(f"the highest {split}: {_name(best.name)} at {_level(best.accuracy)}; no baseline to compare")
    else:
        clauses.append(f"no rule has a finite {split}")
    if len(others) > 1:
        low = min(others, key=lambda row: row.accuracy.mean or 0.0)
        gap = f" (gap {text.points(low.gap.mean)} points)" if low.gap and low.gap.mean is not None else ""
        clauses.append(f"the lowest: {_name(low.name)} at {_level(low.accuracy)}{gap}")
    diverged = [f"{_name(row.name)} ({row.diverged} of {row.seeds})" for row in rows if row.diverged]
    clauses += [f"seeds diverged under {text.listing(diverged)}"] if diverged else []
    seeds = max((row.seeds for row in rows), default=0)
    return "; ".join([*clauses, f"n = {text.counted(seeds, 'seed')}"])


def _names(rows: Sequence[RuleSummary]) -> list[str]:
    return [_name(row.name) for row in rows]


def _level(accuracy: Estimate) -> str:
    spread = "" if accuracy.std is None else f"± {text.percent(accuracy.std)} "
    return f"{text.percent(accuracy.mean)} {spread}%".replace(" ", text.NBSP)


def _results(results: TrainingResults, rows: Sequence[RuleSummary], looks: Mapping[str, Look]) -> Table:
    """Accuracy, gap with its interval and test, and step time of each rule."""
    gaps = [row.gap for row in rows if row.gap is not None and row.gap.mean is not None]
    # An interval of two seeds may be wider than anything else: what lies beyond twice the largest gap is cut.
    largest = max((abs(gap.mean or 0.0) for gap in gaps), default=0.0)
    most = max(0.005, min(2 * largest, max((abs(gap.mean or 0.0) + (gap.half or 0.0) for gap in gaps), default=0.0)))
    reach, split = text.percent(most), results.split
    return Table(
        ["Rule", "Accuracy, %", "Gap, points", "95 % interval", "n", "p", "Step time, ×"],
        [_line(n, row, results, looks[row.name], most) for n, row in enumerate(rows)],
        legend=[
            (
                "Accuracy",
                f"On the {split} split after the last epoch: mean over the seeds ± sample standard deviation.",
            ),
            (
                "Gap",
                "Accuracy minus the baseline’s with the same seed, in percentage points: mean over the seeds ± half "
                f"the 95 % interval (paired, Student’s t). Drawn from −{reach} to +{reach} points; the line is no gap.",
            ),
            ("n", "Pairs of seeds behind the gap: those in which neither training diverged."),
            ("p", "Of the paired t test over these seeds, two-sided, that the gap is 0; not corrected for many rules."),
            (
                "Step time",
                "Time of one training step as a multiple of the baseline’s, median with lower and upper quartile: "
                "measured interleaved, step by step, in the same run.",
            ),
            ("–", "There is no such number: too few seeds, or none that is finite."),
        ],
    )


def _line(n: int, row: RuleSummary, results: TrainingResults, look: Look, most: float) -> Row:
    note = f"{row.diverged} of {text.counted(row.seeds, 'seed')} diverged" if row.diverged else ""
    accuracy = Cell(text.percent(row.accuracy.mean), _plus_minus(row.accuracy.std))
    ratio = row.step_ratio
    time = Cell(text.DASH) if ratio is None else Cell(f"{ratio[1]:.2f}", f"{ratio[0]:.2f}–{ratio[2]:.2f}")
    gap = row.gap
    if gap is None or row.name == results.baseline:
        return Row(_name(row.name), [accuracy, *[""] * 4, time], note)
    told = f"Gap of {_name(row.name)}: {text.points(gap.mean)} points {_plus_minus(gap.half)}, 95 % interval."
    drawn = figure.interval(f"gap-{n}", told, gap, look.colour, most)
    cells: list[Cell | str] = [
        Cell(text.points(gap.mean), _plus_minus(gap.half)),
        Cell(drawn),
        str(gap.n),
        text.probability(gap.p),
        time,
    ]
    return Row(_name(row.name), [accuracy, *cells], note)


def _plus_minus(spread: float | None) -> str:
    return "" if spread is None else f"± {text.percent(spread)}"


def _evaluated(arms: Sequence[ArmRecord], pick: Callable[[Evaluation], float | None]) -> Curve:
    """The mean of what is picked over the seeds, by epoch."""
    return over_seeds({float(one.epoch): pick(one) for one in arm.evaluations.values()} for arm in arms)


def _missing(record: Record, arms: Arms, pick: Callable[[Evaluation], float | None], what: str) -> list[str]:
    """A sentence for each rule that diverged, or of which values are missing."""
    expected = sorted({epoch for arm in record.arms for epoch in arm.evaluations})
    notes = []
    for name, own in arms.items():
        gone = sum(arm.diverged is not None for arm in own)
        parts = [f"{gone} of {text.counted(len(own), 'seed')} diverged"] if gone else []
        for arm in own:
            lost = [e for e in expected if e not in arm.evaluations or pick(arm.evaluations[e]) is None]
            if lost:
                parts.append(
                    f"no finite {what} for seed {arm.arm.seed} at epoch{'s' * (len(lost) > 1)} {text.ranges(lost)}"
                )
        notes += [f"{_name(name)}: {'; '.join(parts)}."] if parts else []
    return [*notes, "Where a seed is missing, mean and band are over the others."] if notes else []


def _accuracy(record: Record, results: TrainingResults, arms: Arms, looks: Mapping[str, Look]) -> Figure:
    curves = {name: _evaluated(own, lambda one: one.eval_accuracy) for name, own in arms.items()}
    scale = figure.accuracy_scale(list(curves.values()))
    baseline = curves.get(results.baseline or "")
    panels = []
    for n, (name, curve) in enumerate(curves.items()):
        behind = [Series(through(baseline.known), BEHIND)] if baseline and name != results.baseline else []
        told = (
            f"{_name(name)}: mean {results.split} accuracy {course(curve, 'epoch', lambda v: text.percent(v) + ' %')}."
        )
        series = [*behind, Series(curve, Look(looks[name].colour))]
        panels.append(Panel(_name(name), figure.lines(f"accuracy-{n}", told, series, scale, places=_places(record))))
    grey = " The baseline’s mean is grey." if baseline and len(curves) > 1 else ""
    caption = (
        f"{text.capital(results.split)} accuracy in % against epoch: mean over the seeds, with a band of ± one sample "
        f"standard deviation.{grey} Epoch 0 is before training."
    )
    return Figure(
        caption, panels, notes=_missing(record, arms, lambda one: one.eval_accuracy, f"{results.split} accuracy")
    )


def _loss(record: Record, results: TrainingResults, arms: Arms, looks: Mapping[str, Look]) -> Figure:
    train = {name: _evaluated(own, lambda one: one.train_loss) for name, own in arms.items()}
    evaluated = {name: _evaluated(own, lambda one: one.eval_loss) for name, own in arms.items()}
    scale = figure.loss_scale([*train.values(), *evaluated.values()])
    panels = []
    for n, name in enumerate(arms):
        told = f"{_name(name)}: mean {results.split} loss {course(evaluated[name], 'epoch')}; "
        told += f"training loss {course(train[name], 'epoch')}."
        colour = looks[name].colour
        series = [Series(train[name], Look(colour, DASHED.dashes)), Series(evaluated[name], Look(colour))]
        panels.append(Panel(_name(name), figure.lines(f"loss-{n}", told, series, scale, places=_places(record))))
    key = {f"{results.split} loss": PLAIN, "training loss": DASHED}
    return Figure(
        "Losses against epoch: mean over the seeds, with bands of ± one sample standard deviation." + loss_axis(scale),
        panels,
        key=[Panel(name, figure.swatch(f"loss-line-{n}", look)) for n, (name, look) in enumerate(key.items())],
        notes=_missing(
            record,
            arms,
            lambda one: one.eval_loss if one.epoch == 0 or one.train_loss is not None else None,
            "training or test loss",
        ),
    )


def _places(record: Record) -> list[float]:
    """All epochs of the run: every panel holds them, however long its rule was measured."""
    return sorted({float(epoch) for arm in record.arms for epoch in arm.evaluations})


def _metric(record: Record, arms: Arms, name: str, quantity: Quantity) -> Figure | Text:
    """One metric of each rule: a line for each layer, or the median over many with a band."""
    x = axis_name(record)
    by_rule: dict[str, dict[str, Curve]] = {}
    for rule, own in arms.items():
        logs = [arm.readings[name] for arm in own if name in arm.readings]
        names = dict.fromkeys(layer for log in logs for layer in log.names)
        curves = {layer: _seeds([log.curve(layer) for log in logs]) for layer in names}
        by_rule[rule] = {layer: curve for layer, curve in curves.items() if curve.known}
    shown = {rule: curves for rule, curves in by_rule.items() if curves}
    if not shown:
        return Text("No rule of this run has a finite number here.")
    values = [y for curves in shown.values() for curve in curves.values() for _, y in curve.known]
    scale = figure.scale_of(values, log=quantity.log, ideal=quantity.ideal, unit=quantity.unit)
    layers = list(dict.fromkeys(layer for curves in shown.values() for layer in curves))
    many = len(layers) > LINES
    places = [place for arm in record.arms if name in arm.readings for place in arm.readings[name].curve("").x]
    panels = [
        _metric_panel(f"{name}-{n}", rule, curves, layers, scale, quantity, x, places)
        for n, (rule, curves) in enumerate(shown.items())
    ]
    caption = f"{quantity.about} {meaning(quantity, scale)} Against {x}, mean over the seeds: "
    caption += (
        f"median over {len(layers)} layers, with a band from the lowest to the highest."
        if many
        else "one line per layer."
    )
    without = [_name(rule) for rule, curves in by_rule.items() if not curves]
    caption += f" Without such a number: {text.listing(without)}." if without else ""
    key = (
        []
        if many or layers == [""]
        else [Panel(layer, figure.swatch(f"{name}-layer-{n}", figure.look(n))) for n, layer in enumerate(layers)]
    )
    return Figure(caption, panels, key=key)


def _metric_panel(
    name: str,
    rule: str,
    curves: Mapping[str, Curve],
    layers: Sequence[str],
    scale: Scale,
    quantity: Quantity,
    x: str,
    places: Sequence[float],
) -> Panel:
    def format(value: float | None) -> str:
        return text.measured(value, quantity)

    if len(layers) > LINES:
        middle = over_layers(list(curves.values()))
        told, series = f"median {course(middle, x, format)}", [Series(middle, PLAIN)]
    else:
        told = "; ".join(f"{layer} {course(curve, x, format)}" for layer, curve in curves.items())
        series = [Series(curve, figure.look(layers.index(layer)), mark=True) for layer, curve in curves.items()]
    label = f"{_name(rule)}: {quantity.title} by layer against {x}. {told}."
    return Panel(_name(rule), figure.lines(name, label, series, scale, places=places))


def _seeds(curves: Sequence[Curve]) -> Curve:
    """The mean over seeds, without a band."""
    found = over_seeds(dict(zip(curve.x, curve.y, strict=True)) for curve in curves)
    return Curve(found.x, found.y)


def _metrics(record: Record, rows: Sequence[RuleSummary]) -> list[Table]:
    metrics = record.metrics
    if not metrics:
        return []

    def cell(found: Estimate | None, quantity: Quantity) -> Cell:
        if found is None:
            return Cell(text.DASH)
        spread = "" if found.std is None else f"± {text.measured(found.std, quantity)}"
        return Cell(text.measured(found.mean, quantity), spread)

    lines = [Row(_name(row.name), [cell(row.readings.get(m), q) for m, q in metrics.items()]) for row in rows]
    heads = ["Rule", *(text.capital(quantity.title) + text.unit(quantity) for quantity in metrics.values())]
    legend = [(text.capital(quantity.title), quantity.about) for quantity in metrics.values()]
    caption = "After the last epoch: mean over the layers, then over the seeds ± sample standard deviation."
    return [Table(heads, lines, legend=legend, caption=caption)]
