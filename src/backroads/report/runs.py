"""Reads the run folder of a comparison into typed values, or says what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from backroads.report.files import (
    Measured,
    check_folder,
    damaged,
    event_kind,
    parsed,
    read_bytes,
    read_lines,
    read_object,
    read_toml,
    validated,
)


@dataclass(frozen=True)
class Epoch:
    """What was measured for one rule and one seed after one epoch; epoch 0 is before training."""

    rule: str
    seed: int
    epoch: int
    train_loss: Measured = None
    train_accuracy: Measured = None
    eval_loss: Measured = None
    eval_accuracy: Measured = None
    weight_angle: dict[str, Measured] | None = None


@dataclass(frozen=True)
class Row:
    """The final numbers of one rule, over all seeds. Accuracies and gaps are fractions, angles degrees."""

    rule: str
    label: str
    repr: str = ""
    accuracy_mean: Measured = None
    accuracy_std: Measured = None
    accuracies: tuple[Measured, ...] = ()
    gap_mean: Measured = None
    gap_std: Measured = None
    weight_angle_mean: Measured = None
    step_ms: Measured = None
    step_ratio: Measured = None
    step_ratio_spread: tuple[Measured, Measured] | None = None
    diverged: int = 0


@dataclass(frozen=True)
class Comparison:
    """``results.json`` of ``backroads compare``."""

    kind: Literal["compare"]
    split: str
    n_seeds: int
    rows: tuple[Row, ...]
    seconds: Measured = None


@dataclass(frozen=True)
class Run:
    """A run folder: its settings, where it ran, every epoch, and the results."""

    config: Mapping[str, object]
    environment: Mapping[str, object]
    epochs: tuple[Epoch, ...]
    cut_off: bool
    """Whether the last line of ``events.jsonl`` was cut off and is left out."""
    results: Comparison


_EPOCH = TypeAdapter(Epoch)
_COMPARISON = TypeAdapter(Comparison)


def read_run(folder: Path) -> Run:
    """Reads the run in ``folder``.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    check_folder(folder)
    epochs, cut_off = _read_epochs(folder / "events.jsonl")
    return Run(
        config=read_toml(folder / "config.toml"),
        environment=read_object(folder / "environment.json"),
        epochs=epochs,
        cut_off=cut_off,
        results=_read_results(folder / "results.json"),
    )


def setting_of(config: Mapping[str, object], key: str) -> object:
    """A setting, at the top or in one of the tables."""
    tables = [config, *(value for value in config.values() if isinstance(value, Mapping))]
    return next((table[key] for table in tables if key in table), None)


def _read_results(path: Path) -> Comparison:
    content = read_bytes(path)
    parsed(content, str(path))
    results = validated(_COMPARISON, content, str(path))
    names = [row.rule for row in results.rows]
    if not names or len(set(names)) < len(names):
        raise damaged(str(path), "at least one row and every rule once", f"the rules {names}")
    return results


def _read_epochs(path: Path) -> tuple[tuple[Epoch, ...], bool]:
    epochs, cut_off = read_lines(path, _read_event)
    # A run that was taken up again may have measured an epoch twice: the last one counts.
    latest = {(event.rule, event.seed, event.epoch): event for event in epochs}
    if not latest:
        raise damaged(str(path), 'at least one line with "event": "epoch"', "none")
    return tuple(latest.values()), cut_off


def _read_event(line: bytes, where: str) -> Epoch | None:
    """The epoch in ``line``, or None for another event."""
    return validated(_EPOCH, line, where) if event_kind(line, where) == "epoch" else None
