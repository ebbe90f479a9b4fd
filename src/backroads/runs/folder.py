"""The run folder: what a run writes, and how, so that a crash loses at most the line being written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import tomli_w

from backroads.errors import ConfigError
from backroads.runs.schema import Event, as_data


class RunFolder:
    """A new folder with ``config.toml``, ``environment.json``, ``events.jsonl`` and, at the end, ``results.json``.

    ``events.jsonl`` holds what follows from the settings, so that two runs of the same settings write the same bytes;
    what depends on the clock or on interruptions goes to ``system.jsonl``.

    Args:
        path: where; it is created, and must not exist with anything in it.
        config: the settings. environment: see :func:`backroads.runs.environment.environment`.

    Raises:
        ConfigError: if the folder has content already, or cannot be made.
    """

    def __init__(self, path: Path, config: dict[str, Any], environment: dict[str, Any]) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            taken = any(path.iterdir())
        except OSError as error:
            raise ConfigError(f"out: cannot make the folder {path}: {error.strerror}; choose another place") from None
        if taken:
            raise ConfigError(f"out: {path} exists and is not empty; choose another folder, nothing was overwritten")
        write_json(path / "environment.json", environment)
        self.configure(config)  # last: a folder with settings is a run
        self._events = (path / "events.jsonl").open("a", encoding="utf-8")

    def configure(self, config: dict[str, Any]) -> None:
        """Write the settings."""
        write_atomically(self.path / "config.toml", tomli_w.dumps(config))

    @classmethod
    def reopen(cls, path: Path, events_size: int) -> RunFolder:
        """A run's folder again, its events cut back to the first ``events_size`` bytes.

        Raises:
            ConfigError: if it has fewer: the events were altered.
        """
        self = cls.__new__(cls)
        self.path = path
        events = path / "events.jsonl"
        events.touch()
        if events.stat().st_size < events_size:
            raise ConfigError(
                f"resume: {events} has {events.stat().st_size} bytes, fewer than the {events_size} that the checkpoint "
                f"records; put the file back as it was, or start a new run"
            )
        os.truncate(events, events_size)
        self._events = events.open("a", encoding="utf-8")
        return self

    @staticmethod
    def clear(path: Path) -> None:
        """Remove what a run wrote before its first checkpoint, so that it can begin anew."""
        for name in ("config.toml", "environment.json", "events.jsonl", "system.jsonl"):
            (path / name).unlink(missing_ok=True)
        for leftover in path.glob("*.tmp"):
            leftover.unlink()
        checkpoints = path / "checkpoints"
        for leftover in checkpoints.glob(".writing-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if checkpoints.is_dir() and not any(checkpoints.iterdir()):
            checkpoints.rmdir()

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def events_size(self) -> int:
        """Bytes of events written so far, once they are on the disk."""
        self._events.flush()
        os.fsync(self._events.fileno())
        return os.fstat(self._events.fileno()).st_size

    def event(self, event: Event) -> None:
        """Append one line to ``events.jsonl``."""
        self._events.write(_line(event))
        self._events.flush()

    def system(self, event: Event) -> None:
        """Append one line to ``system.jsonl``: what differs between two runs of the same settings, such as speed."""
        with (self.path / "system.jsonl").open("ab+") as file:
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                file.write(b"\n")  # the line before was cut off
            file.write(_line(event).encode())

    def results(self, results: Any) -> None:
        """Write the results, a dataclass of the schema or plain data, all or nothing."""
        write_json(self.path / "results.json", results)

    def close(self) -> None:
        """Close the events."""
        self._events.close()


def _line(event: Event) -> str:
    return json.dumps({"event": event.kind, **as_data(event)}) + "\n"


def write_json(path: Path, data: Any, indent: int | None = 2) -> None:
    """Write ``data`` as JSON, all or nothing; numbers that are not finite become null."""
    write_atomically(path, json.dumps(as_data(data), indent=indent) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a file aside and rename it, so that a reader sees the old content or the new, whoever else writes it."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        write_flushed(aside, text.encode())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
