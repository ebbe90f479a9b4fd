"""Reads the folder of a run, at any moment of its life, into the types of :mod:`backroads.runs.schema`.

Nothing is guessed: the first event or the results say what kind of run it is. A file that is damaged is an error that
names file, line and field. A last line that was cut off, as a killed run leaves it, is left out and counted.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from backroads.errors import ConfigError
from backroads.report.curve import Thinned
from backroads.runs.quantity import Quantity
from backroads.runs.results import MetaAnalysis, MetaEvaluation, Promotion, SearchResults, TheoryResults, Transfer
from backroads.runs.schema import (
    EVENTS,
    VERSION,
    Arm,
    Diverged,
    Evaluation,
    Lifetimes,
    MetaResults,
    Readings,
    Resumed,
    Saved,
    Speed,
    Start,
    Step,
    Stopped,
    TrainingResults,
)

T = TypeVar("T")
RESULTS: Mapping[str, Any] = {
    "train": TrainingResults,
    "trial": TrainingResults,
    "compare": TrainingResults,
    "meta": MetaResults,
    "search": SearchResults,
    "theory": TheoryResults,
}
# Files that some runs have beside their results.
BESIDE: Mapping[str, Any] = {
    "promote.json": Promotion,
    "transfer.json": Transfer,
    "evaluation.json": MetaEvaluation,
    "analysis.json": MetaAnalysis,
}
_HEAD = b'{"event": "'  # of a line, as it is written; others are parsed to find their kind
_RATES = ("learning_rate", "backward_rate", "gradient_norm")


@dataclass
class ArmRecord:
    """What one arm of a run has written.

    Attributes:
        steps: loss, rates and coefficients (``coefficient NAME``) by step.
        losses: loss by epoch.
        readings: by metric, the numbers of each layer by epoch (by step where a run has no epochs).
        evaluations: by epoch.
        skipped: steps so far whose gradient was not finite.
    """

    arm: Arm
    steps: Thinned = field(default_factory=Thinned)
    losses: Thinned = field(default_factory=lambda: Thinned(60))  # a dashed line with more points looks solid
    readings: dict[str, Thinned] = field(default_factory=dict)
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    diverged: Diverged | None = None
    step: int = 0
    skipped: int = 0

    def add(self, event: Any) -> None:
        """Take in one event."""
        self.step = max(self.step, event.step)
        if isinstance(event, Step):
            named = {name: getattr(event, name) for name in _RATES if getattr(event, name) is not None}
            coefficients = {f"coefficient {name}": value for name, value in event.coefficients.items()}
            self.steps.add(event.step, {"loss": event.loss, **named, **coefficients})
            self.losses.add(event.step if event.epoch is None else event.epoch, {"loss": event.loss})
            self.skipped = event.skipped
        elif isinstance(event, Readings):
            for metric, by_layer in event.values.items():
                log = self.readings.setdefault(metric, Thinned(60))
                log.add(event.step if event.epoch is None else event.epoch, by_layer)
        elif isinstance(event, Evaluation):
            self.evaluations[event.epoch] = event
        elif isinstance(event, Diverged):
            self.diverged = event


@dataclass
class Record:
    """A run's folder.

    Attributes:
        name: of the folder.
        files: those that are there.
        results: None until the run has ended.
        beside: contents of the files of ``BESIDE`` that are there.
        speeds: examples a second, by step.
        corrupt: examples that could not be read so far.
        cut_off: whether the last line of the events is left out.
        unreadable: lines of ``system.jsonl`` that are left out.
    """

    name: str
    kind: str
    files: Sequence[str]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    results: Any = None
    beside: dict[str, Any] = field(default_factory=dict)
    start: Start | None = None
    arms: list[ArmRecord] = field(default_factory=list)
    lifetimes: list[Lifetimes] = field(default_factory=list)
    speeds: Thinned = field(default_factory=Thinned)
    memory_mb: float = 0.0
    corrupt: int = 0
    resumes: list[Resumed] = field(default_factory=list)
    last_saved: int | None = None
    last_system: Any = None
    cut_off: bool = False
    unreadable: int = 0

    @property
    def step(self) -> int:
        """The last step that any arm, or the stop, is known of."""
        steps = [arm.step for arm in self.arms] + [found.step for found in self.lifetimes]
        return max([*steps, self.last_system.step if isinstance(self.last_system, Stopped) else 0])

    @property
    def ended(self) -> Any:
        """The results, unless the run went on since they were written."""
        if not self.arms or self.results is None:
            return self.results
        steps = [arm.step for arm in self.results.arms] if hasattr(self.results, "arms") else [self.results.step]
        own = [arm.diverged is not None for arm in self.arms]
        said = [arm.status == "diverged" for arm in self.results.arms] if hasattr(self.results, "arms") else own
        return self.results if max(steps, default=0) == self.step and said == own else None

    @property
    def stopped(self) -> Stopped | None:
        """The stop by a signal, if nothing has happened since."""
        last = self.last_system
        return last if isinstance(last, Stopped) and last.step >= self.step else None

    @property
    def status(self) -> str:
        """ "finished", "diverged", "stopped" or "unfinished". One that was killed looks like one that is running."""
        ended = self.ended
        alone = any(arm.diverged for arm in self.arms) or getattr(ended, "status", "") == "diverged"
        if self.kind != "compare" and alone:
            return "diverged"
        return "finished" if ended is not None else "stopped" if self.stopped is not None else "unfinished"

    @property
    def metrics(self) -> dict[str, Quantity]:
        """What every metric of the readings is, by name; one that was not declared is named as it is."""
        declared = dict(self.start.metrics) if self.start is not None else {}
        found = dict.fromkeys(metric for arm in self.arms for metric in arm.readings)
        return {name: declared.get(name, Quantity(name.replace("_", " "))) for name in found}

    def setting(self, name: str) -> Any:
        """A setting: a plain one at the top or in any group, or "name" in the group called ``name``; else None."""
        config = getattr(self.results, "settings", self.config)
        groups = [config, *(group for group in config.values() if isinstance(group, Mapping))]
        found = [group[name] for group in groups if name in group]
        plain = [value for value in found if not isinstance(value, Mapping)]
        return plain[0] if plain else found[0].get("name") if found else None


def read_record(folder: Path) -> Record:
    """Read a run's folder.

    Raises:
        ConfigError: the folder or a file that every run has is missing, a file is damaged, or was written by another
            version of this package.
    """
    if not folder.is_dir():
        raise ConfigError(f"expected a run folder, but {folder} is not a folder; give the folder of a run")
    names = ["config.toml", "environment.json", "events.jsonl", "system.jsonl", "results.json", *BESIDE]
    files = [name for name in names if (folder / name).exists()]
    if not files:
        raise ConfigError(f"expected a run folder, but {folder} holds none of a run's files; give the folder of a run")
    results = _read_results(folder / "results.json") if "results.json" in files else None
    config = folder / "config.toml"
    plain = results is not None and results.kind in ("search", "theory")  # these have results alone
    record = Record(
        name=folder.resolve().name,
        kind=results.kind if results is not None else "",
        files=files,
        config={} if plain and "config.toml" not in files else _read_toml(config),
        environment=_parsed(_read(folder / "environment.json"), folder / "environment.json"),
        results=results,
    )
    if not plain:
        _read_events(record, folder / "events.jsonl")
        if record.start is None:
            if results is not None:
                raise _damaged(folder / "events.jsonl", "a first line that is the start of a run", "none")
            raise ConfigError(f"{folder}: the run has not begun, so there is nothing to report; try again later")
        arms = getattr(results, "arms", record.arms)
        if len(arms) != len(record.arms):
            raise _damaged(folder / "results.json", f"as many arms as began, {len(record.arms)}", str(len(arms)))
    if "system.jsonl" in files:
        _read_system(record, folder / "system.jsonl")
    for name, kind in BESIDE.items():
        if name in files:
            record.beside[name] = _validated(TypeAdapter(kind), _read(folder / name), folder / name)
    return record


def _read_events(record: Record, path: Path) -> None:
    """Take in ``events.jsonl``; only its last line may be cut off."""
    for where, line in _lines(path):
        try:
            event = _event(line, where)
        except ConfigError:
            if line.endswith(b"\n"):
                raise
            record.cut_off = True
            return
        if isinstance(event, Start):
            if event.run not in RESULTS:
                raise _damaged(f"{where}, field run", f"one of {', '.join(RESULTS)}", repr(event.run))
            record.start, record.kind, record.arms = event, event.run, [ArmRecord(arm) for arm in event.arms]
        elif record.start is None and event is not None:
            raise _damaged(where, "the start of a run as the first event", repr(event.kind))
        elif isinstance(event, Lifetimes):
            record.lifetimes.append(event)
        elif isinstance(event, Step | Readings | Evaluation | Diverged):
            if not 0 <= event.arm < len(record.arms):
                raise _damaged(f"{where}, field arm", f"one of the {len(record.arms)} arms", str(event.arm))
            record.arms[event.arm].add(event)


def _read_system(record: Record, path: Path) -> None:
    """Take in what can be read of ``system.jsonl``; every interruption may leave a line that was cut off."""
    for where, line in _lines(path):
        try:
            event = _event(line, where)
        except ConfigError:
            record.unreadable += 1
            continue
        record.last_system = event or record.last_system
        if isinstance(event, Speed):
            record.speeds.add(event.step, {"speed": event.examples_per_second})
            record.memory_mb = max(record.memory_mb, event.memory_mb or 0.0)
            record.corrupt = max(record.corrupt, event.corrupt_examples)
        elif isinstance(event, Resumed):
            record.resumes.append(event)
        elif isinstance(event, Saved):
            record.last_saved = event.step


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Where each line is, for messages, and the line; without empty ones."""
    try:
        with path.open("rb") as file:
            yield from ((f"{path}, line {number}", line) for number, line in enumerate(file, 1) if line.strip())
    except OSError as error:
        raise _missing(path, error) from error


def _event(line: bytes, where: str) -> Any:
    """The event in a line; None for a kind that is not known here."""
    kind = line[len(_HEAD) : line.find(b'"', len(_HEAD))].decode(errors="replace") if line.startswith(_HEAD) else None
    kind = _parsed(line, where).get("event") if kind is None else kind
    if not isinstance(kind, str):
        raise _damaged(where, 'an object with a text "event"', line.decode(errors="replace").strip())
    if kind not in EVENTS:
        _parsed(line, where)
        return None
    if kind == Start.kind:
        _check_version(_parsed(line, where), where)
    return _validated(EVENTS[kind], line, where)


def _read_results(path: Path) -> Any:
    content = _read(path)
    data = _parsed(content, path)
    _check_version(data, path)
    kind = str(data.get("kind"))
    if kind not in RESULTS:
        raise _damaged(f"{path}, field kind", f"one of {', '.join(RESULTS)}", repr(kind))
    results = _validated(TypeAdapter(RESULTS[kind]), content, path)
    if isinstance(results, SearchResults):
        names = [group.group for group in results.groups]
        if not names or len(set(names)) < len(names):
            raise _damaged(path, "at least one group and each once", f"the groups {names}")
    return results


def _check_version(data: Mapping[str, Any], where: object) -> None:
    if data.get("version") != VERSION:
        came = f"of version {data['version']}" if "version" in data else "without a version, from backroads 0.1"
        raise ConfigError(
            f"{where}: expected a file of version {VERSION}, but it is {came}: make its report with the version of "
            f"backroads that wrote it, or run its command again"
        )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_read(path).decode())
    except ValueError as error:
        raise _damaged(path, "TOML", str(error)) from error


def _parsed(content: bytes, where: object) -> dict[str, Any]:
    """The JSON object in ``content``."""
    try:
        value = json.loads(content)
    except ValueError as error:
        raise _damaged(where, "a JSON object", str(error)) from error
    if not isinstance(value, dict):
        raise _damaged(where, "a JSON object", repr(value))
    return value


def _validated(adapter: TypeAdapter[T], content: bytes, where: object) -> T:
    """The JSON in ``content`` as a value of the adapter's type; strict: a number written as text is damage."""
    try:
        return adapter.validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise _damaged(where, f"the field {name}", "none") from error
        at = f"{where}, field {name}" if name else str(where)
        raise _damaged(at, first["msg"].removeprefix("Input should be "), repr(first["input"])) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _missing(path, error) from error


def _missing(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"expected the file {path}, but it cannot be read ({error.strerror}); the run may have stopped before its end: "
        f"run its command again"
    )


def _damaged(where: object, expected: str, came: str) -> ConfigError:
    came = came if len(came) <= 200 else f"{came[:200]}…"
    return ConfigError(
        f"{where}: expected {expected}, but found {came}; the run folder is damaged: run its command again"
    )
