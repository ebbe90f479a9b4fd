"""What the report of a comparison says: its summary, its table, and its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backroads.report import text
from backroads.report.figures import is_stretched
from backroads.report.page import render
from backroads.report.panels import (
    BACKPROP,
    Curves,
    accuracy_figure,
    angle_figure,
    diverged,
    loss_figure,
)
from backroads.report.runs import Comparison, Row, Run, setting_of
from backroads.report.summary import summary


@dataclass(frozen=True)
class Cell:
    """A number of the table and its spread."""

    value: str
    spread: str = ""


@dataclass(frozen=True)
class Line:
    """One rule in the table."""

    label: str
    note: str
    cells: Sequence[Cell]


def comparison_page(run: Run) -> str:
    """The whole page."""
    curves = Curves(run)
    accuracy = accuracy_figure(curves)
    loss, limits = loss_figure(curves)
    angle, without_angle = angle_figure(curves)
    return render(
        "comparison.html.j2",
        title=_title(run.config),
        facts=_facts(run),
        summary=summary(run),
        results=run.results,
        lines=[_line(row, run.results) for row in run.results.rows],
        accuracy=accuracy,
        stretched=is_stretched(list(curves.of(lambda epoch: epoch.eval_accuracy).values())),
        loss=loss,
        limits=limits,
        angle=angle,
        without_angle=without_angle,
        unlisted=[rule for rule in curves.epochs if rule not in {row.rule for row in run.results.rows}],
        cut_off=run.cut_off,
        settings=text.settings(run.config, without=("rule_settings",)),
        formulas=[(row.label, row.repr) for row in run.results.rows],
        environment=[(key, text.setting(value)) for key, value in run.environment.items()],
        command=run.environment.get("command"),
        commit=run.environment.get("commit"),
        dirty=run.environment.get("uncommitted_changes") is True,
    )


def _line(row: Row, results: Comparison) -> Line:
    notes = [diverged(row, results.n_seeds)] if row.diverged else []
    finite = sum(accuracy is not None for accuracy in row.accuracies)
    if row.accuracies and 0 < finite < results.n_seeds:
        notes.append(f"accuracy over {text.counted(finite, 'seed')}")
    cells = (
        Cell(text.percent(row.accuracy_mean), _plus_minus(row, row.accuracy_std)),
        _gap(row),
        Cell(text.degrees(row.weight_angle_mean)),
        Cell(text.ratio(row.step_ratio), text.DASH.join(map(text.ratio, row.step_ratio_spread or ()))),
    )
    return Line(row.label, "; ".join(notes), cells)


def _gap(row: Row) -> Cell:
    if row.rule == BACKPROP and row.gap_mean == 0:
        return Cell("0")  # Exact, as a distance from itself.
    return Cell(text.points(row.gap_mean), _plus_minus(row, row.gap_std))


def _plus_minus(row: Row, spread: float | None) -> str:
    return "" if spread is None or len(row.accuracies) == 1 else f"± {text.percent(spread)}"


def _title(config: Mapping[str, object]) -> str:
    data = setting_of(config, "data")
    return f"Learning rules compared on {data}" if isinstance(data, str) else "Learning rules compared"


def _facts(run: Run) -> list[str]:
    results = run.results
    epochs = max(epoch.epoch for epoch in run.epochs)
    facts = [
        setting_of(run.config, "model"),
        text.counted(len(results.rows), "rule"),
        text.counted(results.n_seeds, "seed"),
        text.counted(epochs, "epoch"),
        None if results.seconds is None else text.duration(results.seconds),
        str(run.environment.get("started", ""))[:10],
    ]
    return [fact.replace(" ", text.NBSP) for fact in facts if isinstance(fact, str) and fact]
