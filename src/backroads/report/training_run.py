"""Reads the run folder of one training into typed values, at any time of its life, or says what is wrong with it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter

from backroads.errors import ConfigError
from backroads.report.files import (
    check_folder,
    event_kind,
    parsed,
    read_bytes,
    read_lines,
    read_object,
    read_toml,
    validated,
)
from backroads.report.training_events import (
    EVENTS,
    RESULTS,
    SYSTEM,
    Angles,
    Checkpoint,
    Divergence,
    Evaluation,
    LogLine,
    Results,
    Resume,
    Speed,
    Start,
    Stopped,
)

E = TypeVar("E")
Status = Literal["unfinished", "stopped", "diverged", "finished"]


@dataclass(frozen=True)
class Training:
    """The folder of a training: settings, where it ran, what it wrote so far, and its results where it has ended."""

    name: str
    files: Sequence[str]
    config: Mapping[str, object]
    environment: Mapping[str, object]
    events: Sequence[object]
    system: Sequence[object]
    last_results: Results | None
    cut_off: bool
    """Whether the last line of ``events.jsonl`` was cut off and is left out."""
    unreadable: int
    """Lines of ``system.jsonl`` that were cut off and are left out."""

    @cached_property
    def start(self) -> Start:
        """The first event, empty where it is not written yet."""
        return next(iter(_only(Start, self.events)), Start())

    @cached_property
    def angles(self) -> Sequence[Angles]:
        """Every measurement of angles."""
        return _only(Angles, self.events)

    @cached_property
    def evaluations(self) -> Sequence[Evaluation]:
        """Every evaluation."""
        return _only(Evaluation, self.events)

    @cached_property
    def log(self) -> Sequence[LogLine]:
        """Every line of loss and rates."""
        return _only(LogLine, self.events)

    @cached_property
    def speeds(self) -> Sequence[Speed]:
        """Every line of speed."""
        return _only(Speed, self.system)

    @cached_property
    def resumes(self) -> Sequence[Resume]:
        """Every time that the training was taken up again."""
        return _only(Resume, self.system)

    @cached_property
    def divergence(self) -> Divergence | None:
        """What ended it, if numbers were not finite."""
        return next(iter(_only(Divergence, self.events)), None)

    @cached_property
    def results(self) -> Results | None:
        """The results, unless the training went on since they were written."""
        found = self.last_results
        if found is None or found.step != self._last_event:
            return None
        return found if (found.status == "diverged") == (self.divergence is not None) else None

    @cached_property
    def stop(self) -> Stopped | None:
        """The stop, if it is the last thing that happened."""
        last = self.system[-1] if self.system else None
        return last if isinstance(last, Stopped) and last.step >= self._last_event else None

    @property
    def status(self) -> Status:
        """How the training stands. One that was killed looks like one that runs: both are unfinished."""
        if self.divergence is not None:
            return "diverged"
        if self.results is not None:
            return "finished"
        return "unfinished" if self.stop is None else "stopped"

    @property
    def step(self) -> int:
        """The last step that is known of."""
        return self._last_event if self.stop is None else self.stop.step

    @property
    def total(self) -> int | None:
        """All steps that the settings ask for; None where that is not known, or was extended."""
        per_epoch, epochs = self.start.steps_per_epoch, self.start.epochs
        if per_epoch is None or epochs is None or per_epoch * epochs < self.step:
            return None
        return per_epoch * epochs

    @property
    def checkpoint(self) -> int | None:
        """The step of the last checkpoint, where one is recorded."""
        steps = [saved.step for saved in _only(Checkpoint, self.system) if saved.step <= self.step]
        return steps[-1] if steps else None

    @property
    def layers(self) -> Sequence[str]:
        """All layers with a rule or an angle, in the order of the model."""
        return list(dict.fromkeys([*self.start.rules, *(name for found in self.angles for name in found.weight_angle)]))

    def last_angles(self) -> Mapping[str, float | None]:
        """The angles at the end, or the last that were measured."""
        if self.results is not None:
            return self.results.weight_angles
        return self.angles[-1].weight_angle if self.angles else {}

    @cached_property
    def _last_event(self) -> int:
        steps = [event.step for event in self.events if isinstance(event, Angles | Evaluation | LogLine | Divergence)]
        return max(steps, default=0)


def is_training(folder: Path) -> bool:
    """Whether the folder is that of a training, as far as can be told from files that may be missing or damaged."""
    try:
        kind = json.loads((folder / "results.json").read_bytes()).get("kind")
        if kind in ("train", "compare"):
            return bool(kind == "train")
    except (OSError, ValueError, AttributeError):
        pass
    try:
        return "rule" in tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        pass
    try:
        with (folder / "events.jsonl").open("rb") as events:
            return "train_images" in json.loads(events.readline())
    except (OSError, ValueError, TypeError):
        return False


def read_training(folder: Path) -> Training:
    """Reads the training in ``folder``, whether or not it has ended.

    Raises:
        ConfigError: a file that every training has is missing, or a file is damaged.
    """
    check_folder(folder)
    config = read_toml(folder / "config.toml")
    environment = read_object(folder / "environment.json")
    events, cut_off = read_lines(folder / "events.jsonl", lambda line, where: _event(EVENTS, line, where))
    system, unreadable = _read_system(folder / "system.jsonl")
    names = ["config.toml", "environment.json", "events.jsonl", "system.jsonl", "results.json"]
    return Training(
        name=folder.resolve().name,
        files=[name for name in names if (folder / name).exists()],
        config=config,
        environment=environment,
        events=events,
        system=system,
        last_results=_read_results(folder / "results.json"),
        cut_off=cut_off,
        unreadable=unreadable,
    )


def _only(kind: type[E], events: Sequence[object]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def _event(kinds: Mapping[str, TypeAdapter[Any]], line: bytes, where: str) -> object | None:
    """The event in ``line``, or None for one of another kind."""
    adapter = kinds.get(event_kind(line, where))
    return None if adapter is None else validated(adapter, line, where)


def _read_system(path: Path) -> tuple[list[object], int]:
    """What can be read of ``system.jsonl``: every interruption may leave a line that was cut off."""
    found, unreadable = [], 0
    for line in read_bytes(path).split(b"\n") if path.exists() else []:
        try:
            event = _event(SYSTEM, line, str(path)) if line.strip() else None
        except ConfigError:
            unreadable += 1
        else:
            found += [] if event is None else [event]
    return found, unreadable


def _read_results(path: Path) -> Results | None:
    if not path.exists():
        return None
    content = read_bytes(path)
    parsed(content, str(path))
    return validated(RESULTS, content, str(path))
