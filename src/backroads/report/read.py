"""Reads the folder of a run, at any moment of its life, into the types of :mod:`backroads.runs.schema`.

Nothing is guessed: the first event or the results say what kind of run it is. A file that is damaged is an error that
names file, line and field. A last line that was cut off, as a killed run leaves it, is left out and counted.
"""

from __future__ import annotations

import errno
import json
import re
import reprlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import TypeAdapter, ValidationError

from backroads.errors import ConfigError
from backroads.report.curve import Log
from backroads.runs import results, schema, verdicts
from backroads.runs.quantity import Quantity

T = TypeVar("T")
RESULTS: Mapping[str, Any] = {
    **dict.fromkeys(("train", "compare"), schema.TrainingResults),
    "meta": schema.MetaResults,
    "search": results.SearchResults,
    "theory": results.TheoryResults,
    "reproduce": verdicts.Reproduction,
}
# Files that some runs have beside their results.
BESIDE: Mapping[str, Any] = {
    "promote.json": results.Promotion,
    "transfer.json": results.Transfer,
    "evaluation.json": results.MetaEvaluation,
    "analysis.json": results.MetaAnalysis,
}
_EVALUATED = (
    "step",
    *("train_loss", "train_accuracy"),
    *("eval_loss", "eval_accuracy", "eval_top5"),
    *("test_loss", "test_accuracy", "test_top5"),
)
_KIND = re.compile(rb'\s*\{"event": "(\w+)"')  # as a run writes a line
_AT_ONCE = {kind.encode(): adapter for kind, adapter in schema.EVENTS.items() if kind != schema.Start.kind}


@dataclass
class ArmRecord:
    """What one arm of a run has written.

    Attributes:
        steps: loss, rates and coefficients (``coefficient NAME``) by step, and "place": the epoch, or else the step.
        readings: by metric, the numbers of each layer by epoch (by step where a run has no epochs).
        evaluations: the numbers of :class:`backroads.runs.schema.Evaluation`, and "step", by epoch.
        skipped: steps so far whose gradient was not finite.
    """

    arm: schema.Arm
    steps: Log = field(default_factory=Log)
    readings: dict[str, Log] = field(default_factory=dict)
    evaluations: Log = field(default_factory=Log)
    diverged: schema.Diverged | None = None
    step: int = 0
    skipped: int = 0

    def add(self, event: Any) -> None:
        """Take in one event."""
        self.step = max(self.step, event.step)
        if isinstance(event, schema.Step):
            values = {
                "place": event.step if event.epoch is None else event.epoch,
                "loss": event.loss,
                "learning_rate": event.learning_rate,
                "backward_rate": event.backward_rate,
                "gradient_norm": event.gradient_norm,
            }
            for name, value in event.coefficients.items():
                values[f"coefficient {name}"] = value
            self.steps.add(event.step, values)
            self.skipped = event.skipped
        elif isinstance(event, schema.Readings):
            for metric, by_layer in event.values.items():
                log = self.readings.setdefault(metric, Log())
                log.add(event.step if event.epoch is None else event.epoch, by_layer)
        elif isinstance(event, schema.Evaluation):
            if self.evaluations.x and self.evaluations.x[-1] == event.epoch:
                self.evaluations.undo()  # a run that ended within an epoch and then went on to its end
            self.evaluations.add(event.epoch, {name: getattr(event, name) for name in _EVALUATED})
        elif isinstance(event, schema.Diverged):
            self.diverged = event


@dataclass
class Record:
    """A run's folder.

    Attributes:
        name: of the folder.
        results: None until the run has ended.
        beside: contents of the files of ``BESIDE`` that are there.
        speeds: examples a second, by step.
        corrupt: examples that could not be read so far.
        cut_off: whether the last line of the events is left out.
        unreadable: lines of ``system.jsonl`` that are left out.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    results: Any = None
    beside: dict[str, Any] = field(default_factory=dict)
    start: schema.Start | None = None
    arms: list[ArmRecord] = field(default_factory=list)
    lifetimes: list[schema.Lifetimes] = field(default_factory=list)
    speeds: Log = field(default_factory=Log)
    memory_mb: float = 0.0
    corrupt: int = 0
    resumes: list[schema.Resumed] = field(default_factory=list)
    last_saved: int | None = None
    last_system: Any = None
    cut_off: bool = False
    unreadable: int = 0

    @property
    def step(self) -> int:
        """The last step that any arm, or the stop, is known of."""
        ends = [*self.arms, *self.lifetimes, *([self.last_system] if self.stop is not None else [])]
        return max((end.step for end in ends), default=0)

    @property
    def stop(self) -> schema.Stopped | None:
        """The stop by a signal, if nothing was written after it."""
        return self.last_system if isinstance(self.last_system, schema.Stopped) else None

    @property
    def ended(self) -> Any:
        """The results, unless the run went on since they were written."""
        arms = getattr(self.results, "arms", [self.results])
        if not self.arms or self.results is None:
            return self.results
        same = all(
            (arm.status == "diverged") == (own.diverged is not None) or self.kind == "meta"
            for arm, own in zip(arms, self.arms, strict=True)
        )
        return self.results if same and max(arm.step for arm in arms) == self.step else None

    @property
    def status(self) -> str:
        """ "finished", "diverged", "stopped" or "unfinished". One that was killed looks like one that is running."""
        ended = self.ended
        diverged = any(arm.diverged for arm in self.arms) or getattr(ended, "status", "") == "diverged"
        if diverged and self.kind != "compare":
            return "diverged"
        stopped = self.stop is not None and self.stop.step >= self.step
        return "finished" if ended is not None else "stopped" if stopped else "unfinished"

    @property
    def metrics(self) -> dict[str, Quantity]:
        """What every metric of the readings is, by name; one that was not declared is named as it is."""
        declared = self.start.metrics if self.start is not None else {}
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
    ended = _read_results(folder / "results.json") if "results.json" in files else None
    alone = ended is not None and ended.kind in ("search", "theory", "reproduce")  # these have results and no events
    record = Record(
        name=folder.resolve().name,
        kind=ended.kind if ended is not None else "",
        config={} if alone and "config.toml" not in files else _read_toml(folder / "config.toml"),
        environment=_parsed(_read(folder / "environment.json"), folder / "environment.json"),
        results=ended,
    )
    if not alone:
        _read_events(record, folder / "events.jsonl")
        if record.start is None and ended is not None:
            raise _damaged(folder / "events.jsonl", "a first line that is the start of a run", "none")
        if record.start is None:
            raise ConfigError(f"{folder}: the run has not begun, so there is nothing to report; try again later")
        arms = len(getattr(ended, "arms", record.arms))
        if arms != len(record.arms):
            raise _damaged(folder / "results.json", f"as many arms as began, {len(record.arms)}", str(arms))
    if "system.jsonl" in files:
        _read_system(record, folder / "system.jsonl")
    for name in files:
        if name in BESIDE:
            record.beside[name] = _validated(TypeAdapter(BESIDE[name]), _read(folder / name), folder / name)
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
        if isinstance(event, schema.Start):
            if event.run not in RESULTS:
                raise _damaged(f"{where}, field run", f"one of {', '.join(RESULTS)}", repr(event.run))
            record.start, record.kind, record.arms = event, event.run, [ArmRecord(arm) for arm in event.arms]
        elif record.start is None and event is not None:
            raise _damaged(where, "the start of a run as the first event", repr(event.kind))
        elif isinstance(event, schema.Lifetimes):
            record.lifetimes.append(event)
        elif hasattr(event, "arm"):
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
        if isinstance(event, schema.Speed):
            record.speeds.add(event.step, {"speed": event.examples_per_second})
            record.memory_mb = max(record.memory_mb, event.memory_mb or 0.0)
            record.corrupt = max(record.corrupt, event.corrupt_examples)
        elif isinstance(event, schema.Resumed):
            record.resumes.append(event)
        elif isinstance(event, schema.Saved):
            record.last_saved = event.step


@dataclass
class _Place:
    """Where something was read, for messages. One for a whole file: a text for each line would take its time."""

    path: Path
    line: int = 0

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}"


def _lines(path: Path) -> Iterator[tuple[_Place, bytes]]:
    """Where each line is, and the line; without empty ones."""
    place = _Place(path)
    try:
        with _opened(path) as file:
            for place.line, line in enumerate(file, 1):
                if not line.isspace():
                    yield place, line
    except OSError as error:
        raise _missing(path, error) from error


def _event(line: bytes, where: _Place) -> Any:
    """The event in a line; None for a kind that is not known here."""
    begins = _KIND.match(line)
    if begins is not None and begins[1] in _AT_ONCE:  # without parsing it twice: logs are long
        return _validated(_AT_ONCE[begins[1]], line, where)
    data = _parsed(line, where)
    kind = data.get("event")
    if not isinstance(kind, str):
        raise _damaged(where, 'an object with a text "event"', line.decode(errors="replace").strip())
    if kind == schema.Start.kind:
        _check_version(data, where)
    return _validated(schema.EVENTS[kind], line, where) if kind in schema.EVENTS else None


def _read_results(path: Path) -> Any:
    content = _read(path)
    data = _parsed(content, path)
    _check_version(data, path)
    kind = str(data.get("kind"))
    if kind not in RESULTS:
        raise _damaged(f"{path}, field kind", f"one of {', '.join(RESULTS)}", repr(kind))
    found = _validated(TypeAdapter(RESULTS[kind]), content, path)
    if isinstance(found, results.SearchResults) and not found.groups:
        raise _damaged(path, "at least one group", "none")
    return found


def _check_version(data: Mapping[str, Any], where: object) -> None:
    if data.get("version") != schema.VERSION:
        raise ConfigError(
            f"{where}: expected a file of version {schema.VERSION}, got {data.get('version')}: make its report with "
            "the version of backroads that wrote it, or run its command again"
        )


def _read_toml(path: Path) -> dict[str, Any]:
    content = _read(path)
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "TOML", str(error)) from error


def _parsed(content: bytes, where: object) -> dict[str, Any]:
    """The JSON object in ``content``."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
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
        if first["type"] == "json_invalid":
            raise _damaged(where, "a JSON object", first["msg"]) from error
        if first["type"] == "missing":
            raise _damaged(where, f"the field {name}", "none") from error
        place = f"{where}, field {name}" if name else str(where)
        expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        raise _damaged(place, expected, _short(first["input"])) from error


def _read(path: Path) -> bytes:
    try:
        with _opened(path) as file:
            return file.read()
    except OSError as error:
        raise _missing(path, error) from error


def _opened(path: Path) -> BinaryIO:
    """Open a file to be read; what is none, such as a pipe that nobody writes into, is not waited for."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file")
    return path.open("rb")


def _missing(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"expected the file {path}, but it cannot be read ({error.strerror}); the run may have stopped before its end: "
        "run its command again"
    )


def _short(value: Any) -> str:
    """A value in few characters, however long or deep it is."""
    return repr(value) if isinstance(value, str | int | float | None) else reprlib.repr(value)


def _damaged(where: object, expected: str, came: str) -> ConfigError:
    came = came if len(came) <= 200 else f"{came[:200]}…"
    return ConfigError(
        f"{where}: expected {expected}, but found {came}; the run folder is damaged: run its command again"
    )
