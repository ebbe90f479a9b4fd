"""What a checkpoint says of itself, in ``manifest.json``. Imports no torch: settings are read before torch is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from backroads.errors import StateError

MANIFEST, PREFIX = "manifest.json", "step-"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself.

    Attributes:
        step: steps done. score: of the evaluation at this step, higher is better; None if there was none.
        sha256: file name -> checksum. settings: of the run, as plain data.
    """

    step: int
    score: float | None
    sha256: dict[str, str]
    settings: dict[str, Any]

    def as_json(self) -> str:
        """The content of the file: the fields, and a checksum of them."""
        data = dataclasses.asdict(self)
        return json.dumps({**data, "manifest_sha256": _checksum(data)}, indent=2) + "\n"


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest in the folder of a checkpoint; raises StateError if it is missing or not what was written."""
    try:
        data = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        written = data.pop("manifest_sha256")
        if written != _checksum(data):
            raise StateError(f"{checkpoint}: {MANIFEST} is not what was written (its checksum differs)")
        return Manifest(**data)
    except OSError as error:
        raise StateError(f"{checkpoint}: cannot read {MANIFEST}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StateError(f"{checkpoint}: {MANIFEST} is damaged") from None


def steps_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder of checkpoints, whole or damaged, the one of the fewest steps first."""
    found = [path for path in folder.glob(f"{PREFIX}*") if re.fullmatch(r"[0-9]+", path.name.removeprefix(PREFIX))]
    return sorted(found, key=lambda path: int(path.name.removeprefix(PREFIX)))


def newest_settings(folder: Path) -> dict[str, Any] | None:
    """The settings in the newest checkpoint whose manifest is as it was written; None if there is none."""
    for path in reversed(steps_in(folder)):
        try:
            return read_manifest(path).settings
        except StateError:
            continue
    return None


def _checksum(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
