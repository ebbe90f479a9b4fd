"""What several pages say in the same way: title, headline, overviews of curves, and any metric of a training."""

from __future__ import annotations

import signal
import statistics
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from backroads.report import figure, text
from backroads.report.curve import Curve
from backroads.report.figure import OVERVIEW, Look, Series
from backroads.report.page import Block, Figure, Headline, Panel, Problem, Section, Text
from backroads.report.read import ArmRecord, Record
from backroads.runs.quantity import Quantity
from backroads.runs.schema import ByLayer

LINES = 4  # layers that get a line each; more become a map
NAMED = 12  # of layers, files and so on, in a sentence or a list
RIGHT_ANGLE = 85.0  # degrees from which directions count as unrelated


def title(record: Record) -> str:
    """What is trained, such as "ResNet-8 on CIFAR-10"."""
    model, data = record.setting("model"), record.setting("data")
    words = text.title(model) if isinstance(model, str) else "training"
    return words + (f" on {text.title(data)}" if isinstance(data, str) else "")


def headline(record: Record, told: str) -> Headline:
    """How a run stands. told: how good it is, without its full stop."""
    if record.status == "finished":
        length = record.step if record.start is None else _length(record)
        return Headline("Finished", False, f"after {length}: {told}.")
    total = record.start.steps if record.start is not None else 0
    per_epoch = record.start.steps_per_epoch if record.start is not None else None
    place = f"at step {record.step}" + (f" of {total}" if total >= record.step and total else "")
    place += f" (epoch {text.plain(record.step / per_epoch)})" if per_epoch else ""
    if record.status == "diverged":
        found = next((arm.diverged for arm in record.arms if arm.diverged), None)
        reason = found.reason if found else str(getattr(record.results, "reason", "") or "numbers were not finite")
        where = f" (in {found.layer})" if found and found.layer and found.layer not in reason else ""
        kept = "" if record.last_saved is None else f", of step {record.last_saved},"
        told = f"{reason}{where}. The last good checkpoint{kept} is kept. {text.capital(told)}"
        return Headline("Diverged", True, f"{place}: {told}.")
    if record.stopped is not None:
        number = record.stopped.signal
        name = f" ({signal.Signals(number).name})" if number in list(signal.Signals) else ""
        return Headline("Stopped", False, f"by signal {number}{name} {place}, before its end. {text.capital(told)}.")
    return Headline("Unfinished", False, f"{place}: still running, or killed. {text.capital(told)}.")


def _length(record: Record) -> str:
    per_epoch = record.start.steps_per_epoch if record.start is not None else None
    if per_epoch is None:
        return text.counted(record.step, "step")
    epochs = record.step / per_epoch
    return f"{text.plain(epochs)} epoch{'' if epochs == 1 else 's'}"


def damaged(record: Record) -> list[Problem]:
    """Checkpoints that could not be used when the run was taken up again."""
    aside = [problem for resume in record.resumes for problem in resume.problems]
    what = f"{text.counted(len(aside), 'checkpoint')} damaged"
    return [Problem(what, "Set aside when the run was taken up again.", aside)] if aside else []


def loss_axis(scale: figure.Scale) -> str:
    """What has to be said of an axis of losses."""
    words = " Logarithmic axis." if scale.log else ""
    return words + (" Losses above ten times the highest one before training are cut off." if scale.cut else "")


def axis_name(record: Record) -> str:
    """Against what curves are drawn."""
    return "epoch" if record.start is not None and record.start.steps_per_epoch is not None else "step"


def overview(
    name: str,
    label: str,
    shown: Mapping[str, tuple[Curve, Look]],
    scale: figure.Scale,
    caption: str,
    *,
    x: str,
    y: str,
    format: Callable[[float | None], str] = text.number,
    notes: Sequence[str] = (),
    marks: Sequence[float] = (),
) -> Figure:
    """A large figure of a few named curves, with the last value of each in its key."""
    shown = {title: found for title, found in shown.items() if found[0].x}
    told = ". ".join(f"{text.capital(title)} {course(curve, x, format)}" for title, (curve, _) in shown.items())
    series = [Series(curve, look, mark=bool(look.marker)) for curve, look in shown.values()]
    return Figure(
        caption,
        overview=figure.lines(
            name, f"{label} against {x}. {told}.", series, scale, x=x, y=y, size=OVERVIEW, marks=marks
        ),
        key=[
            Panel(title, figure.swatch(f"{name}-{n}", look), format(curve.last))
            for n, (title, (curve, look)) in enumerate(shown.items())
        ],
        notes=notes,
    )


def course(curve: Curve, x: str, format: Callable[[float | None], str] = text.number) -> str:
    """Where a curve begins and ends, in words."""
    if not curve.known:
        return "has no finite value"
    (first, start), (last, end) = curve.known[0], curve.known[-1]
    return f"from {format(start)} at {x} {text.plain(first)} to {format(end)} at {x} {text.plain(last)}"


def epochs(numbers: Sequence[int]) -> str:
    """``epoch 3`` or ``epochs 3, 6–15``."""
    return f"epoch{'s' if len(numbers) > 1 else ''} {text.ranges(numbers)}"


def metric_sections(record: Record, draw: Callable[[str, Quantity], Block]) -> list[Section]:
    """A section for each metric of the run, whatever it is."""
    metrics = enumerate(record.metrics.items())
    return [Section(f"metric-{n}", text.capital(q.title), [draw(name, q)]) for n, (name, q) in metrics]


def metric_figure(record: Record, arm: ArmRecord, name: str, quantity: Quantity) -> Block:
    """One metric of one arm: a line for each layer, or a map of many."""
    log, x = arm.readings.get(name), axis_name(record)
    curves = {layer: log.curve(layer) for layer in log.names} if log is not None else {}
    curves = {layer: curve for layer, curve in curves.items() if curve.known}
    if not curves or log is None:
        return Text("No layer has a finite value." if log is not None and log.names else "No layer has this number.")
    lost = [layer for layer in curves if log.missing(layer)]
    notes = [f"{text.some([_layer(layer) for layer in lost], 6)}: not finite at some measurements."] if lost else []
    values = [y for curve in curves.values() for _, y in curve.known]
    scale = figure.scale_of(values, log=quantity.log, ideal=quantity.ideal, unit=quantity.unit)
    caption = f"{quantity.about} " + meaning(quantity, scale) + _unrelated(quantity, log.last)
    y = quantity.title + text.unit(quantity)

    def told(value: float | None) -> str:
        return text.measured(value, quantity)

    if len(curves) <= LINES:
        shown = {_layer(layer): (curve, figure.look(n)) for n, (layer, curve) in enumerate(curves.items())}
        caption += f" One line per layer against {x}, with the last value."
        return overview(f"metric-{name}", quantity.title, shown, scale, caption, x=x, y=y, format=told, notes=notes)
    ends = [value for curve in curves.values() if (value := curve.last) is not None]
    first, last = next(iter(curves)), list(curves)[-1]
    label = f"{quantity.title} of {len(curves)} layers against {x}. First layer: {course(curves[first], x, told)}. "
    label += f"Last layer: {course(curves[last], x, told)}. "
    if ends:
        label += f"At the end: {told(min(ends))} to {told(max(ends))}, median {told(statistics.median(ends))}."
    rows = [curve.y for curve in curves.values()]
    named = [Panel(f"{n} {_layer(layer)}", Markup(""), told(c.last)) for n, (layer, c) in enumerate(curves.items(), 1)]
    caption += f" A row per layer against {x}, the first on top; a blank has no finite value."
    return Figure(
        caption + (" Numbers by layer stand below, under Rules." if len(curves) > NAMED else ""),
        overview=figure.heat(f"metric-{name}", label, curves[first].x, rows, scale, x=x, y="layer"),
        key=named if len(named) <= NAMED else [],
        notes=notes,
    )


def meaning(quantity: Quantity, scale: figure.Scale) -> str:
    """How to read the numbers of a metric."""
    words = []
    if quantity.unit == "degrees":
        words.append("90° is where unrelated directions lie.")
    if quantity.ideal is not None:
        ideal = text.plain(quantity.ideal) + ("°" if quantity.unit == "degrees" else "")
        words.append(f"With W’s own transpose on the way back it would be {ideal}.")
    return " ".join([*words, *(["Logarithmic scale."] if scale.log else [])])


def _unrelated(quantity: Quantity, last: ByLayer) -> str:
    """The layers that stood at a right angle when a metric in degrees was last measured."""
    if quantity.unit != "degrees":
        return ""
    found = [_layer(layer) for layer, angle in last.items() if angle is not None and angle >= RIGHT_ANGLE]
    many = f"{len(found)} of {text.counted(len(last), 'layer')}"
    return f" At {RIGHT_ANGLE:.0f}° or more when last measured: {many}: {text.some(found, NAMED)}." if found else ""


def _layer(name: str) -> str:
    return name or "the whole network"
