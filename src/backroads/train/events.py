"""The run folder: what a run writes, and how, so that a crash loses at most the line being written."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import tomli_w

from backroads.errors import ConfigError


class RunFolder:
    """A new folder with ``config.toml``, ``environment.json``, ``events.jsonl`` and, at the end, ``results.json``.

    Args:
        path: where; it is created, and must not exist with anything in it.

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
        write_atomically(path / "config.toml", tomli_w.dumps(config))
        write_json(path / "environment.json", environment)
        self._events = (path / "events.jsonl").open("a", encoding="utf-8")

    def event(self, kind: str, **fields: Any) -> None:
        """Append one line to the events; numbers that are not finite become null."""
        self._events.write(json.dumps({"event": kind, **_finite(fields)}) + "\n")
        self._events.flush()

    def results(self, results: dict[str, Any]) -> None:
        """Write the results, all or nothing."""
        write_json(self.path / "results.json", results)

    def close(self) -> None:
        """Close the events."""
        self._events.close()


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write ``data`` as JSON, all or nothing; numbers that are not finite become null."""
    write_atomically(path, json.dumps(_finite(data), indent=2) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a file aside and rename it, so that a reader sees the old content or the new."""
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
