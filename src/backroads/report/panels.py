"""The figures of a comparison: which curve goes where, what each shows in words, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from markupsafe import Markup

from backroads.report import figures, text
from backroads.report.curves import Curve, Pick, curve, missing
from backroads.report.figures import Look
from backroads.report.runs import Epoch, Row, Run

BACKPROP = "backprop"


@dataclass(frozen=True)
class Panel:
    """One drawing with the name of what it shows."""

    title: str
    drawing: Markup
    value: str = ""


@dataclass(frozen=True)
class FigureParts:
    """A figure of the page: a key or an overview where there is one, the panels, and what is missing in them."""

    panels: Sequence[Panel]
    notes: Sequence[str]
    key: Sequence[Panel] = ()
    overview: Markup | None = None


@dataclass(frozen=True)
class Curves:
    """All curves of a run, by rule."""

    run: Run

    @property
    def rows(self) -> Sequence[Row]:
        """The rules, in the order of the run."""
        return self.run.results.rows

    @cached_property
    def epochs(self) -> Mapping[str, Sequence[Epoch]]:
        """What was measured for each rule."""
        found: dict[str, list[Epoch]] = {row.rule: [] for row in self.rows}
        for epoch in self.run.epochs:
            found.setdefault(epoch.rule, []).append(epoch)
        return found

    @cached_property
    def numbers(self) -> Sequence[int]:
        """The numbers of all epochs of the run, whichever rule has them."""
        return sorted({epoch.epoch for epoch in self.run.epochs})

    @cached_property
    def looks(self) -> Mapping[str, Look]:
        """The look of each rule."""
        others = [row.rule for row in self.rows if row.rule != BACKPROP]
        return {rule: figures.look(n) for n, rule in enumerate(others)} | {BACKPROP: figures.PLAIN}

    @cached_property
    def layers(self) -> Sequence[str]:
        """All layers with an angle, in the order of the run."""
        found = (layer for epoch in self.run.epochs for layer, angle in _angles(epoch) if angle is not None)
        return list(dict.fromkeys(found))

    def of(self, pick: Pick) -> dict[str, Curve]:
        """The curve of the picked value for each rule."""
        return {row.rule: curve(self.numbers, self.epochs[row.rule], pick) for row in self.rows}

    def notes(self, rows: Sequence[Row], pick: Pick, what: str) -> list[str]:
        """One sentence for each rule that diverged or of which values are missing."""
        seeds = {epoch.seed for epoch in self.run.epochs}
        notes = []
        for row in rows:
            gaps = missing(self.epochs[row.rule], pick, self.numbers, seeds)
            parts = [diverged(row, self.run.results.n_seeds)] if row.diverged else []
            if gaps:
                places = [f"seed {seed} at {epochs_named(gap)}" for seed, gap in gaps.items()]
                parts.append(f"no finite {what} for {text.listing(places)}")
            notes += [f"{row.label}: {'; '.join(parts)}."] if parts else []
        return notes


def diverged(row: Row, seeds: int) -> str:
    """How many seeds of a rule diverged."""
    return f"{row.diverged} of {text.counted(seeds, 'seed')} diverged"


def accuracy_figure(curves: Curves) -> FigureParts:
    """Accuracy against epoch: all rules at once, then each one with its band."""
    split = curves.run.results.split
    found = curves.of(_eval_accuracy)
    each, looks = list(found.values()), [curves.looks[rule] for rule in found]
    finals = text.listing([f"{row.label} {text.percent(row.accuracy_mean)} %" for row in curves.rows])
    by_final = sorted(curves.rows, key=lambda row: -(row.accuracy_mean or 0.0))
    return FigureParts(
        overview=figures.accuracy_overview(
            "accuracy",
            f"Mean {split} accuracy of each rule against epoch. At the end: {finals}.",
            each,
            looks,
        ),
        key=[
            Panel(
                row.label,
                figures.swatch(f"rule-{n}", curves.looks[row.rule]),
                text.percent(row.accuracy_mean),
            )
            for n, row in enumerate(by_final)
        ],
        panels=[
            Panel(
                row.label,
                figures.accuracy_panel(
                    f"accuracy-{n}",
                    f"{row.label}: mean {split} accuracy {course(found[row.rule], text.percent, ' %')}.",
                    each,
                    n,
                    looks[n],
                ),
            )
            for n, row in enumerate(curves.rows)
        ],
        notes=curves.notes(curves.rows, _eval_accuracy, f"{split} accuracy"),
    )


def loss_figure(curves: Curves) -> tuple[FigureParts, figures.LossLimits]:
    """Training and evaluation loss of each rule against epoch, and the axis that they share."""
    split = curves.run.results.split
    train, evaluated = curves.of(lambda epoch: epoch.train_loss), curves.of(lambda epoch: epoch.eval_loss)
    limits = figures.loss_limits([*train.values(), *evaluated.values()])
    panels = [
        Panel(
            row.label,
            figures.loss_panel(
                f"loss-{n}",
                f"{row.label}: mean {split} loss {course(evaluated[row.rule], text.loss)}; "
                f"training loss {course(train[row.rule], text.loss)}.",
                train=train[row.rule],
                evaluated=evaluated[row.rule],
                reference=evaluated.get(BACKPROP) if row.rule != BACKPROP else None,
                look=curves.looks[row.rule],
                limits=limits,
            ),
        )
        for n, row in enumerate(curves.rows)
    ]
    key = {f"{split} loss": figures.PLAIN, "training loss": figures.TRAIN}
    if BACKPROP in evaluated:
        key[f"{split} loss of {BACKPROP}"] = figures.BEHIND
    parts = FigureParts(
        panels=panels,
        notes=curves.notes(curves.rows, _losses, f"training or {split} loss"),
        key=[Panel(name, figures.swatch(f"line-{n}", look)) for n, (name, look) in enumerate(key.items())],
    )
    return parts, limits


def angle_figure(curves: Curves) -> tuple[FigureParts, Sequence[str]]:
    """Weight angles of each rule by layer, and the rules that have none."""
    by_layer = [curves.of(_angle_of(layer)) for layer in curves.layers]
    shown = [row for row in curves.rows if any(layer[row.rule].known for layer in by_layer)]
    highest = max((point[1] for layer in by_layer for line in layer.values() for point in line.known), default=90)
    panels = [
        Panel(
            row.label,
            figures.angle_panel(
                f"angle-{n}",
                f"{row.label}: mean weight angle by layer. "
                + "; ".join(
                    f"{name} {course(layer[row.rule], text.degrees, '°')}"
                    for name, layer in zip(curves.layers, by_layer, strict=True)
                ),
                [layer[row.rule] for layer in by_layer],
                highest,
            ),
        )
        for n, row in enumerate(shown)
    ]
    key = [Panel(name, figures.swatch(f"layer-{n}", figures.look(n))) for n, name in enumerate(curves.layers)]
    notes = curves.notes(shown, _any_angle, "weight angle")
    return FigureParts(panels, notes, key), [row.label for row in curves.rows if row not in shown]


def _eval_accuracy(epoch: Epoch) -> float | None:
    return epoch.eval_accuracy


def _losses(epoch: Epoch) -> float | None:
    """The evaluation loss, where the training loss is there too: before training there is none."""
    return epoch.eval_loss if epoch.epoch == 0 or epoch.train_loss is not None else None


def _angle_of(layer: str) -> Pick:
    return lambda epoch: dict(_angles(epoch)).get(layer)


def _any_angle(epoch: Epoch) -> float | None:
    return next((angle for _, angle in _angles(epoch) if angle is not None), None)


def _angles(epoch: Epoch) -> list[tuple[str, float | None]]:
    return list((epoch.weight_angle or {}).items())


def epochs_named(numbers: Sequence[int]) -> str:
    """``epoch 3`` or ``epochs 3, 6–15``."""
    return f"epoch{'s' if len(numbers) > 1 else ''} {text.ranges(numbers)}"


def course(curve: Curve, format: Callable[[float], str], unit: str = "") -> str:
    """Where a curve begins and ends, in words."""
    if not curve.known:
        return "has no finite value"
    (first, start, _), (last, end, _) = curve.known[0], curve.known[-1]
    return f"from {format(start)}{unit} at epoch {text.plain(first)} to {format(end)}{unit} at epoch {text.plain(last)}"
