"""The figures of a training: which curve goes where, what each shows in words, and what is missing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from backroads.report import figures, text, training_figures
from backroads.report.curves import Curve, curve_through, thinned
from backroads.report.panels import FigureParts, Panel, course, epochs_named
from backroads.report.training_events import Resume, Speed
from backroads.report.training_figures import EVALUATED, LEVELS, RESUMED, RIGHT_ANGLE, TRAINED
from backroads.report.training_run import Training

LINES = 12
"""Up to so many layers, each has a line of its own; more become a map."""

_POINTS, _COLUMNS = 240, 60
_LOSSES = 120  # A dashed line: with more points its dashes are lost in the noise.


def accuracy_curves(training: Training) -> tuple[Curve, Curve]:
    """Accuracy of evaluation and of training after each epoch."""
    found = training.evaluations
    return (
        curve_through((one.epoch, one.eval_accuracy) for one in found),
        curve_through((one.epoch, one.train_accuracy) for one in found if one.epoch > 0),
    )


def accuracy_figure(training: Training, split: str) -> FigureParts | None:
    """Accuracy against epoch, or None where nothing was evaluated yet."""
    if not training.evaluations:
        return None
    evaluated, trained = accuracy_curves(training)
    shown = {f"{split} accuracy": (evaluated, EVALUATED)}
    if trained.epochs:
        shown["training accuracy"] = (trained, TRAINED)
    top5 = top5_accuracy(training)
    key = [
        Panel(name, figures.swatch(f"accuracy-{n}", look), text.percent(_last(curve)))
        for n, (name, (curve, look)) in enumerate(shown.items())
    ]
    return FigureParts(
        panels=[],
        overview=figures.accuracy_overview(
            "accuracy",
            ". ".join(_sentence(name, curve, "percent") for name, (curve, _) in shown.items())
            + ("" if top5 is None else f". Top-5 accuracy at the end {text.percent(top5)} %")
            + ".",
            [curve for curve, _ in shown.values()],
            [look for _, look in shown.values()],
        ),
        key=key,
        notes=[note for name, (curve, _) in shown.items() if (note := _epochs_without(name, curve))],
    )


def top5_accuracy(training: Training) -> float | None:
    """The last top-5 accuracy, or None with five classes or fewer, where it is 1 from the start."""
    values = [one.eval_top5 for one in training.evaluations]
    return values[-1] if any(value is not None and value < 1 for value in values) else None


def loss_figure(training: Training, split: str) -> tuple[FigureParts, figures.LossLimits, int] | None:
    """Losses against epoch, their axis, and how many log lines make a point; None where there are none yet."""
    log = curve_through((line.epoch, line.loss) for line in training.log if line.epoch is not None)
    evaluated = curve_through((one.epoch, one.eval_loss) for one in training.evaluations)
    if not log.epochs and not evaluated.epochs:
        return None
    shown = thinned(log, _LOSSES)
    shown_names = {f"{split} loss": (evaluated, EVALUATED), "training loss": (shown, TRAINED)}
    limits = figures.loss_limits([shown, evaluated])
    lost = len(log.epochs) - len(log.known)
    notes = [note for note in [_epochs_without(f"{split} loss", evaluated)] if note]
    if lost:
        notes.append(f"training loss: not finite in {text.counted(lost, 'line')} of the log.")
    parts = FigureParts(
        panels=[],
        overview=training_figures.loss_overview(
            "loss",
            ". ".join(_sentence(name, curve, "loss") for name, (curve, _) in shown_names.items()) + ".",
            train=shown,
            evaluated=evaluated,
            limits=limits,
        ),
        key=[
            Panel(name, figures.swatch(f"loss-{n}", look), text.loss(_last(curve)))
            for n, (name, (curve, look)) in enumerate(shown_names.items())
            if curve.epochs
        ],
        notes=notes,
    )
    return parts, limits, max(1, -(-len(log.epochs) // _LOSSES))


def angle_figure(training: Training) -> FigureParts | None:
    """Weight angles against epoch: a line per layer, or a map of many; None where there are none."""
    measured = [found for found in training.angles if found.epoch is not None]
    curves = {
        name: curve_through((found.epoch or 0.0, found.weight_angle.get(name)) for found in measured)
        for name in training.layers
    }
    if not any(curve.known for curve in curves.values()):
        return None
    lost = [name for name, curve in curves.items() if 0 < len(curve.known) < len(curve.epochs)]
    notes = [f"{text.some(lost, 6)}: no finite angle at some measurements."] if lost else []
    return _angle_map(curves, notes) if len(curves) > LINES else _angle_lines(curves, notes)


def unrelated(training: Training) -> str:
    """The layers that stood at a right angle when angles were last measured, in words; empty where there are none."""
    if not training.angles or not training.angles[-1].step:
        return ""
    angles = training.angles[-1].weight_angle
    found = [name for name, angle in angles.items() if angle is not None and angle >= RIGHT_ANGLE]
    return f"{len(found)} of {text.counted(len(angles), 'layer')}: {text.some(found, 12)}" if found else ""


def step_figure(training: Training) -> FigureParts | None:
    """Learning rates, scheduled coefficients and the norm of the gradient against step; None where there are none."""
    log = training.log
    names = dict.fromkeys(name for line in log for name in line.coefficients or {})
    curves = {
        "learning rate of W": curve_through((line.step, line.learning_rate) for line in log),
        "learning rate of B": curve_through((line.step, line.backward_rate) for line in log),
        **{
            f"coefficient {name}": curve_through((line.step, (line.coefficients or {}).get(name)) for line in log)
            for name in names
        },
        "norm of W’s gradient": curve_through((line.step, line.gradient_norm) for line in log),
    }
    panels = []
    for n, (name, curve) in enumerate((name, curve) for name, curve in curves.items() if curve.known):
        log_axis = training_figures.wants_log(curve)
        words = course(curve, text.loss).replace("epoch", "step")
        drawing = training_figures.step_panel(
            f"step-{n}", f"{name} against step: {words}.", thinned(curve, _POINTS), log=log_axis
        )
        panels.append(Panel(f"{name}, log" if log_axis else name, drawing))
    return FigureParts(panels, []) if panels else None


def speed_figure(training: Training) -> FigureParts | None:
    """Images a second against step, with a gap where the training was taken up again; None where there are none."""
    parts: list[list[Speed]] = [[]]
    resumed = []
    for event in training.system:
        if isinstance(event, Speed):
            parts[-1].append(event)
        elif isinstance(event, Resume):
            parts.append([])
            resumed.append(event.step)
    most = max(10, _POINTS // len(parts))
    curves = [curve_through((one.step, one.images_per_second) for one in part) for part in parts if part]
    median = median_speed(training)
    if median is None:
        return None
    key = [Panel("images a second, median", figures.swatch("speed", EVALUATED), text.whole(median))]
    if resumed:
        key.append(Panel("taken up again", figures.swatch("resumed", RESUMED), f"{len(resumed)}×"))
    again = f" Taken up again at step {text.listing([str(step) for step in resumed[:20]])}." if resumed else ""
    return FigureParts(
        panels=[],
        overview=training_figures.speed_overview(
            "speed",
            f"Images a second against step: median {text.whole(median)}.{again}",
            [thinned(curve, most) for curve in curves],
            resumed,
        ),
        key=key,
        notes=[],
    )


def median_speed(training: Training) -> float | None:
    """Median over the log of the images a second."""
    values = [one.images_per_second for one in training.speeds if one.images_per_second is not None]
    return statistics.median(values) if values else None


def _angle_lines(curves: Mapping[str, Curve], notes: Sequence[str]) -> FigureParts:
    shown = {name: curve for name, curve in curves.items() if curve.known}
    return FigureParts(
        panels=[],
        overview=training_figures.angle_overview(
            "angle",
            "Weight angle by layer against epoch. "
            + "; ".join(f"{name} {course(curve, text.degrees, '°')}" for name, curve in shown.items())
            + ".",
            [thinned(curve, _POINTS) for curve in shown.values()],
        ),
        key=[
            Panel(name, figures.swatch(f"angle-{n}", figures.look(n)), text.degrees(_last(curve)))
            for n, (name, curve) in enumerate(shown.items())
        ],
        notes=notes,
    )


def _angle_map(curves: Mapping[str, Curve], notes: Sequence[str]) -> FigureParts:
    ends = [f"{name} {course(curves[name], text.degrees, '°')}" for name in (next(iter(curves)), [*curves][-1])]
    return FigureParts(
        panels=[],
        overview=training_figures.angle_map(
            "angle",
            f"Weight angle of {len(curves)} layers against epoch. First layer: {ends[0]}. Last layer: {ends[1]}. "
            f"At the end: {_spread(list(curves.values()))}.",
            [thinned(curve, _COLUMNS) for curve in curves.values()],
        ),
        key=_shades(list(curves.values())),
        notes=notes,
    )


def _shades(curves: Sequence[Curve]) -> list[Panel]:
    """The key of a map: each shade with the number of layers that end in it."""
    ends = [training_figures.level_of(last) for curve in curves if (last := _last(curve)) is not None]
    return [
        Panel(name, training_figures.shade(f"shade-{level}", level), str(ends.count(level)))
        for level, name in enumerate(LEVELS)
    ]


def _spread(curves: Sequence[Curve]) -> str:
    ends = [last for curve in curves if (last := _last(curve)) is not None]
    if not ends:
        return "no finite angle"
    many = sum(end >= RIGHT_ANGLE for end in ends)
    return (
        f"{text.degrees(min(ends))}° to {text.degrees(max(ends))}°, median {text.degrees(statistics.median(ends))}°, "
        f"{text.counted(many, 'layer')} at {RIGHT_ANGLE}° or more"
    )


def _last(curve: Curve) -> float | None:
    """The value at the end; None where that is not finite."""
    return None if not curve.mean or curve.mean[-1] != curve.mean[-1] else curve.mean[-1]


def _sentence(name: str, curve: Curve, what: str) -> str:
    words = course(curve, text.percent, " %") if what == "percent" else course(curve, text.loss)
    return f"{name.capitalize()} {words}"


def _epochs_without(name: str, curve: Curve) -> str:
    """One sentence on the epochs at which a curve has no finite value."""
    known = {point[0] for point in curve.known}
    lost = [int(epoch) for epoch in curve.epochs if epoch not in known]
    return f"{name}: not finite at {epochs_named(lost)}." if lost else ""
