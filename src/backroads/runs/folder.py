"""The run folder: what a run writes, and how, so that a crash loses at most the line being written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import tomli_w

from backroads.errors import ConfigError
from backroads.runs.files import folder_within, free_name, make_folder, open_plain, write_atomically, write_json
from backroads.runs.lock import LOCK, locked
from backroads.runs.schema import Event, Saved, as_data

CONFIG, EVENTS, SYSTEM, RESULTS, ENVIRONMENT = (
    "config.toml",
    "events.jsonl",
    "system.jsonl",
    "results.json",
    "environment.json",
)
RESTART = "--restart-from-scratch sets what is there aside, in the same folder, and begins anew"
_SET_ASIDE = "set-aside"


class RunFolder:
    """A folder with ``config.toml``, ``environment.json``, ``events.jsonl`` and, at the end, ``results.json``.

    ``events.jsonl`` holds what follows from the settings, so that two runs of the same settings write the same bytes;
    what depends on the clock or on interruptions goes to ``system.jsonl``. Nothing that is there is ever deleted or
    overwritten by another run; see :meth:`set_aside`. From here to :meth:`close`, no other process writes into it.

    Args:
        path: where; it is made, and may be a link.

    Raises:
        ConfigError: the folder cannot be made. RunError: another process writes into it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = contextlib.ExitStack()
        make_folder(path)
        self._open.enter_context(locked(path))

    # -- a new run ------------------------------------------------------------------------------------------------

    def begin(self, config: dict[str, Any], environment: dict[str, Any]) -> None:
        """Start a run here.

        Args:
            config: the settings. environment: see :func:`backroads.runs.environment.environment`.

        Raises:
            ConfigError: there is something in the folder, but for what was set aside.
        """
        if self._content():
            raise ConfigError(
                f"out: {self.path} exists and is not empty; choose another folder, nothing was overwritten"
            )
        write_json(self.path / ENVIRONMENT, environment)
        self.configure(config)  # last: a folder with settings is a run
        self._open_events(0)

    def configure(self, config: dict[str, Any]) -> None:
        """Write the settings."""
        write_atomically(self.path / CONFIG, tomli_w.dumps(config))

    # -- a run that is there --------------------------------------------------------------------------------------

    @property
    def has_run(self) -> bool:
        """Whether a run has written here."""
        return any(os.path.lexists(self.path / name) for name in (CONFIG, ENVIRONMENT, EVENTS, "checkpoints"))

    def has_saved(self) -> bool:
        """Whether the log tells of a checkpoint: a line says so, or a step was taken, before which one is written."""
        for name in (EVENTS, SYSTEM):
            with contextlib.suppress(FileNotFoundError), (self.path / name).open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # cut off
                    try:
                        event = json.loads(line)
                        if event.get("event") == Saved.kind or event.get("step", 0) > 0:
                            return True
                    except (ValueError, AttributeError, TypeError):
                        return True  # not what a run writes that has just begun
        return False

    def check_events(self, size: int, sha256: str) -> None:
        """Refuse a log whose first ``size`` bytes are not those of this checksum; raises ConfigError."""
        path = self.path / EVENTS
        found, read = hashlib.sha256(), 0
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            found, read = _checksum(file, size)
        if read < size:
            wrong = f"{path} has {read} bytes, fewer than the {size} that the checkpoint records"
        elif found.hexdigest() != sha256:
            wrong = f"{path} is not what the run wrote: the checksum of its first {size} bytes is not the checkpoint's"
        else:
            return
        raise ConfigError(f"resume: {wrong}; put the file back as it was, or {RESTART}")

    def resume(self, config: dict[str, Any], size: int) -> None:
        """Go on with the run: write its settings, and cut the log back to its first ``size`` bytes."""
        open_plain(self.path / SYSTEM).close()  # a link is refused before anything is changed
        self._open_events(size)
        self.configure(config)

    def set_aside(self) -> Path:
        """Move all that is there into a new folder within, and return that.

        Nothing is lost. What was set aside earlier stays where it is.
        """
        aside = free_name(self.path / _SET_ASIDE)
        aside.mkdir()
        # The checkpoints first: after a kill in between, a log without them is left, with which no run goes on.
        for path in sorted(self._content(), key=lambda path: path.name != "checkpoints"):
            os.rename(path, aside / path.name)
        return aside

    def _content(self) -> list[Path]:
        return [path for path in self.path.iterdir() if path.name != LOCK and not path.name.startswith(_SET_ASIDE)]

    # -- what is written ------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints; raises ConfigError if it is a link that leads out of the run's folder."""
        return folder_within(self.path, "checkpoints")

    def _open_events(self, size: int) -> None:
        """Open ``events.jsonl`` to go on after its first ``size`` bytes, which the running checksum takes in."""
        self._events: BinaryIO = self._open.enter_context(open_plain(self.path / EVENTS))
        self._sum = _checksum(self._events, size)[0]
        self._events.truncate(size)
        self._events.seek(size)

    def events_state(self) -> dict[str, Any]:
        """Bytes and SHA-256 of the events written so far, once they are on the disk; see :meth:`check_events`."""
        self._events.flush()
        os.fsync(self._events.fileno())
        return {"size": self._events.tell(), "sha256": self._sum.hexdigest()}

    def event(self, event: Event) -> None:
        """Append one line to ``events.jsonl``."""
        self._events.write(_line(event))
        self._events.flush()
        self._sum.update(_line(event))

    def system(self, event: Event) -> None:
        """Append one line to ``system.jsonl``: what differs between two runs of the same settings, such as speed."""
        with open_plain(self.path / SYSTEM) as file:
            end = file.seek(0, os.SEEK_END)
            if end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                file.write(b"\n")  # the line before was cut off
            file.write(_line(event))

    def results(self, results: Any) -> None:
        """Write the results, a dataclass of the schema or plain data, all or nothing."""
        write_json(self.path / RESULTS, results)

    def close(self) -> None:
        """Close the events, and let the folder go."""
        self._open.close()


def _checksum(file: BinaryIO, size: int) -> tuple[Any, int]:
    """The running SHA-256 of the first ``size`` bytes of a file, and how many of them there are."""
    found, read = hashlib.sha256(), 0
    while read < size and (part := file.read(min(size - read, 1 << 20))):
        found.update(part)
        read += len(part)
    return found, read


def _line(event: Event) -> bytes:
    return (json.dumps({"event": event.kind, **as_data(event)}) + "\n").encode()
