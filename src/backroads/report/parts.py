"""What several pages say in the same way: title, headline, figures of named curves, and any metric of a training."""

from __future__ import annotations

import functools
import signal
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from backroads.report import figure, text
from backroads.report.curve import Curve, merged, over_layers
from backroads.report.figure import OVERVIEW, PLAIN, Look, Scale, Series, look
from backroads.report.page import Block, Figure, Headline, Panel, Problem, Section, Text
from backroads.report.read import ArmRecord, Record
from backroads.runs.quantity import Quantity

MAPPED = 120  # columns of a map
LINES = 4  # layers that get a line each; more become a map, or their median
NAMED = 12  # of layers, files and so on, in a sentence or a list

Format = Callable[[float | None], str]


def title(record: Record) -> str:
    """What is trained, such as "ResNet-8 on CIFAR-10"."""
    model, data = record.setting("model"), record.setting("data")
    words = text.title(model) if isinstance(model, str) else "training"
    return words + (f" on {text.title(data)}" if isinstance(data, str) else "")


def headline(record: Record, told: str) -> Headline:
    """How a run stands. told: how good it is, without its full stop."""
    total = record.start.steps if record.start is not None else 0
    per_epoch = record.start.steps_per_epoch if record.start is not None else None
    epochs = text.plain(record.step / per_epoch) if per_epoch else ""
    if record.status == "finished":
        length = f"{epochs} epoch{'s' * (epochs != '1')}" if epochs else text.counted(record.step, "step")
        return Headline("Finished", f"after {length}: {told}.")
    place = f"at step {record.step}" + (f" of {total}" if total >= record.step and total else "")
    place += f" (epoch {epochs})" if epochs else ""
    if record.status == "diverged":
        found = next((arm.diverged for arm in record.arms if arm.diverged), None)
        reason = found.reason if found else str(getattr(record.results, "reason", "") or "numbers were not finite")
        where = f" (in {found.layer})" if found and found.layer and found.layer not in reason else ""
        kept = "" if record.last_saved is None else f", of step {record.last_saved},"
        told = f"{reason}{where}. The last good checkpoint{kept} is kept. {text.capital(told)}"
        return Headline("Diverged", f"{place}: {told}.")
    if record.status == "stopped" and record.stop is not None:
        number = record.stop.signal
        name = f" ({signal.Signals(number).name})" if number in list(signal.Signals) else ""
        return Headline("Stopped", f"by signal {number}{name} {place}, before its end. {text.capital(told)}.")
    return Headline("Unfinished", f"{place}: still running, or killed. {text.capital(told)}.")


def damaged(record: Record) -> list[Problem]:
    """Checkpoints that could not be used when the run was taken up again."""
    aside = [problem for resume in record.resumes for problem in resume.problems]
    what = f"{text.counted(len(aside), 'checkpoint')} damaged"
    return [Problem(what, "Set aside when the run was taken up again.", aside)] if aside else []


def loss_axis(scale: Scale) -> str:
    """What has to be said of an axis of losses."""
    words = " Logarithmic axis." if scale.log else ""
    return words + (" Losses above ten times the highest one before training are cut off." if scale.cut else "")


def axis_name(record: Record) -> str:
    """Against what curves are drawn."""
    return "epoch" if record.start is not None and record.start.steps_per_epoch is not None else "step"


def key(looks: Mapping[str, Look], values: Sequence[str] = ()) -> list[Panel]:
    """The key of a figure: what each look stands for, and perhaps a number for each."""
    shown = values or [""] * len(looks)
    return [Panel(name, figure.swatch(own), value) for (name, own), value in zip(looks.items(), shown, strict=True)]


def overview(
    caption: str,
    shown: Mapping[str, tuple[Curve, Look]],
    scale: Scale,
    x: str,
    y: str,
    format: Format = text.number,
    notes: Sequence[str] = (),
) -> Figure:
    """A large figure of a few named curves, with the last value of each in its key."""
    shown = {title: found for title, found in shown.items() if found[0].x}
    told = ". ".join(f"{text.capital(title)} {course(curve, x, format)}" for title, (curve, _) in shown.items())
    label = f"{text.capital(y)} against {x}. {told}."
    drawing = figure.lines(label, list(shown.values()), scale, x=x, y=y, size=OVERVIEW)
    entries = key({title: own for title, (_, own) in shown.items()}, [format(c.last) for c, _ in shown.values()])
    return Figure(caption, overview=drawing, key=entries, notes=notes)


def panels(shown: Mapping[str, tuple[Series, str]], scale: Scale, places: Sequence[float] = ()) -> list[Panel]:
    """Small figures with the same axes: by name the curves of each, and in words what is to be seen."""
    each = {name: (f"{name}: {told}.", series) for name, (series, told) in shown.items()}
    return [Panel(name, figure.lines(*drawn, scale, places=places)) for name, drawn in each.items()]


def course(curve: Curve, x: str, format: Format = text.number) -> str:
    """Where a curve begins and ends, in words."""
    if not curve.known:
        return "has no finite value"
    (first, start), (last, end) = curve.known[0], curve.known[-1]
    if first == last:
        return f"is {format(end)} at {x} {text.plain(last)}"
    return f"from {format(start)} at {x} {text.plain(first)} to {format(end)} at {x} {text.plain(last)}"


def metric_sections(record: Record, arms: Mapping[str, Sequence[ArmRecord]]) -> list[Section]:
    """A section for each metric of the run. arms: the seeds of each rule; several rules have a panel each."""
    metrics = enumerate(record.metrics.items())
    return [Section(f"metric-{n}", text.capital(q.title), [_metric(record, arms, m, q)]) for n, (m, q) in metrics]


def _metric(record: Record, arms: Mapping[str, Sequence[ArmRecord]], metric: str, quantity: Quantity) -> Block:
    x, format = axis_name(record), functools.partial(text.measured, quantity=quantity)
    by_rule: dict[str, dict[str, Curve]] = {}
    read = {rule: [arm.readings[metric] for arm in own if metric in arm.readings] for rule, own in arms.items()}
    names = dict.fromkeys(layer for logs in read.values() for log in logs for layer in log.columns)
    for rule, logs in read.items():
        own = [name for name in names if any(name in log.columns for log in logs)]
        means = merged(logs, own, together=len(names) > LINES)
        by_rule[rule] = {_layer(layer): Curve(mean.x, mean.y) for layer, mean in means.items() if mean.known}
    shown = {rule: curves for rule, curves in by_rule.items() if curves}
    if not shown:
        return Text("No finite number was measured here.")
    values = [y for curves in shown.values() for curve in curves.values() for _, y in curve.known]
    scale = figure.scale_of(values, log=quantity.log, ideal=quantity.ideal, unit=quantity.unit)
    layers = list(dict.fromkeys(layer for curves in shown.values() for layer in curves))
    looks = {layer: look(n) for n, layer in enumerate(layers)} if len(layers) <= LINES else {}
    caption = f"{quantity.about} {_meaning(quantity, scale)}".strip()
    if len(arms) == 1:
        (curves,), (one,) = shown.values(), arms.values()
        lost = [_layer(layer) for layer, lines in one[0].readings[metric].lost.items() if lines]
        notes = [f"{text.some(lost, 6)}: not finite at some measurements."] if lost else []
        high = [layer for layer, curve in curves.items() if quantity.unit == "degrees" and (curve.last or 0.0) >= 85]
        if high:
            many = f"{len(high)} of {text.counted(len(curves), 'layer')}"
            caption += f" At 85° or more when last measured: {many}: {text.some(high, NAMED)}."
        if not looks:
            label, measured = _range(quantity, curves, x, format), next(iter(curves.values())).x
            some = np.unique(np.linspace(0, len(measured) - 1, MAPPED).round().astype(int))
            mapped = [np.array(row)[some].tolist() for row in (measured, *(curve.y for curve in curves.values()))]
            drawing = figure.heat(label, mapped[0], mapped[1:], scale, x, y="layer")
            return Figure(caption + text.caption("map", x=x), overview=drawing, notes=notes)
        each = {layer: (curve, looks[layer]) for layer, curve in curves.items()}
        caption += f" One line per layer against {x}, with the last value."
        return overview(caption, each, scale, x, text.head(quantity), format, notes)
    drawn: dict[str, tuple[Series, str]] = {}
    for rule, curves in shown.items():
        middle = {"median": over_layers(list(curves.values()))}
        told = "; ".join(f"{name} {course(curve, x, format)}" for name, curve in (curves if looks else middle).items())
        series = [(curve, looks.get(name, PLAIN)) for name, curve in (curves if looks else middle).items()]
        drawn[rule] = series, f"{quantity.title} by layer against {x}. {told}"
    over = "one line per layer." if looks else f"median over {len(layers)} layers; the band is from lowest to highest."
    without = [rule for rule, curves in by_rule.items() if not curves]
    caption += f" Against {x}, mean over the seeds: {over}"
    caption += f" Without such a number: {text.listing(without)}." if without else ""
    places = [place for curves in shown.values() for curve in curves.values() for place in curve.x]
    return Figure(caption, panels(drawn, scale, places), key=key(looks) if len(looks) > 1 else [])


def _range(quantity: Quantity, curves: Mapping[str, Curve], x: str, format: Format) -> str:
    """What is to be seen of many layers, in words."""
    (first, *_, last), ends = curves.values(), [curve.last for curve in curves.values() if curve.last is not None]
    told = (
        f"{quantity.title} of {len(curves)} layers against {x}. First layer: {course(first, x, format)}. Last layer: "
    )
    told += f"{course(last, x, format)}."
    median = statistics.median(ends) if ends else None
    return told + (f" At the end: {format(min(ends))} to {format(max(ends))}, median {format(median)}." if ends else "")


def _meaning(quantity: Quantity, scale: Scale) -> str:
    """How to read the numbers of a metric."""
    words = ["90° is where unrelated directions lie."] if quantity.unit == "degrees" else []
    if quantity.ideal is not None:
        ideal = text.plain(quantity.ideal) + ("°" if quantity.unit == "degrees" else "")
        words.append(f"With W’s own transpose on the way back it would be {ideal}.")
    return " ".join([*words, *(["Logarithmic scale."] if scale.log else [])])


def _layer(name: str) -> str:
    return name or "the whole network"
