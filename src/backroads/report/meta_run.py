"""Reads the folder of a meta-training: what was trained, and what was measured later, as far as it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from backroads.errors import ConfigError
from backroads.report.files import (
    Measured,
    check_folder,
    event_kind,
    read_bytes,
    read_lines,
    read_object,
    read_toml,
    validated,
)


class Step(BaseModel):
    """A line of the log."""

    step: int
    loss: Measured = None
    skipped: int = 0


class Lifetimes(BaseModel):
    """What came of some lifetimes."""

    measure: str
    lifetimes: int
    skipped: int = 0
    mean: Measured = None
    interval_95: Measured = None
    so_far: list[Measured] = []
    course: list[list[Measured]] = []


class Validation(Lifetimes):
    """Lifetimes on validation tasks while training."""

    step: int


class Evaluation(BaseModel):
    """``evaluation.json``: lifetimes by number of tasks."""

    split: str
    step: int
    ways: dict[str, Lifetimes]


class Analysis(BaseModel):
    """``analysis.json``."""

    split: str
    step: int
    lifetimes: int
    probes: list[int]
    update_angle: dict[str, dict[str, list[Measured]]]
    feedback_angle: dict[str, dict[str, Measured]]
    interference: dict[str, Measured]


@dataclass(frozen=True)
class MetaRun:
    """One folder."""

    name: str
    config: Mapping[str, object]
    environment: Mapping[str, object]
    steps: Sequence[Step]
    validations: Sequence[Validation]
    reason: str | None
    cut_off: bool
    evaluation: Evaluation | None = None
    analysis: Analysis | None = None
    bad: Mapping[str, int] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The learner and the order, and the seed."""
        return f"{self.config.get('learner')}, {self.config.get('order')}, seed {self.config.get('seed')}"


def is_meta(folder: Path) -> bool:
    """Whether ``folder`` holds a meta-training."""
    config = folder / "config.toml"
    return config.is_file() and read_toml(config).get("kind") == "meta"


def read_meta(folder: Path) -> MetaRun:
    """Reads ``folder``; raises ConfigError where a file is missing or damaged."""
    check_folder(folder)
    if not is_meta(folder):
        raise ConfigError(f"Expected the folder of a meta-training, but {folder} is none: give what --out named.")
    events, cut_off = read_lines(folder / "events.jsonl", _event)
    results = read_object(folder / "results.json") if (folder / "results.json").is_file() else {}
    reason = results.get("reason")
    return MetaRun(
        name=folder.resolve().name,
        config=_flat(read_toml(folder / "config.toml")),
        environment=read_object(folder / "environment.json"),
        steps=[event for event in events if isinstance(event, Step)],
        validations=[event for event in events if isinstance(event, Validation)],
        reason=reason if isinstance(reason, str) else None,
        cut_off=cut_off,
        evaluation=_there(folder / "evaluation.json", TypeAdapter(Evaluation)),
        analysis=_there(folder / "analysis.json", TypeAdapter(Analysis)),
        bad=_counts(results.get("skipped_by_parameter")),
    )


_STEP, _VALIDATION = TypeAdapter(Step), TypeAdapter(Validation)


def _event(line: bytes, where: str) -> Step | Validation | None:
    kind = event_kind(line, where)
    if kind == "step":
        return validated(_STEP, line, where)
    return validated(_VALIDATION, line, where) if kind == "lifetimes" else None


def _flat(config: Mapping[str, object]) -> dict[str, object]:
    """Settings by name, without their tables."""
    found: dict[str, object] = {}
    for name, value in config.items():
        found |= value if isinstance(value, dict) else {name: value}
    return found


def _there(path: Path, adapter: TypeAdapter[Any]) -> Any:
    return validated(adapter, read_bytes(path), str(path)) if path.is_file() else None


def _counts(found: object) -> dict[str, int]:
    return {str(name): int(n) for name, n in found.items()} if isinstance(found, dict) else {}
