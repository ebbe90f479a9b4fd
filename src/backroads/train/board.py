"""TensorBoard's files, for those who look at runs there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from backroads.extras import extra_named
from backroads.runs.files import folder_within
from backroads.runs.schema import Event


class Board:
    """Writes the numbers of events as TensorBoard's scalars.

    Args:
        path: the run's folder; the files go into its ``tensorboard``.
        arms: names of the run's arms; with several, each has a folder of its own.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
    """

    def __init__(self, path: Path, arms: list[str]) -> None:
        with extra_named("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        self._writer = SummaryWriter
        self._path, self._names = path, [f"tensorboard/{arm}" for arm in arms] if len(arms) > 1 else ["tensorboard"]
        self._open: dict[int, Any] = {}

    def __call__(self, arm: int, event: Event) -> None:
        """Write the numbers of an event of arm number ``arm``."""
        step = getattr(event, "step", 0)
        if arm not in self._open:
            # What an interrupted run wrote after this step is hidden.
            self._open[arm] = self._writer(str(folder_within(self._path, self._names[arm])), purge_step=step)
        for tag, value in _numbers(dataclasses.asdict(event), event.kind):
            self._open[arm].add_scalar(tag, value, step)

    def close(self) -> None:
        """Flush and close the files."""
        for writer in self._open.values():
            writer.close()


def _numbers(fields: dict[str, Any], prefix: str) -> list[tuple[str, float]]:
    found = []
    for name, value in fields.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}/{name}")
        elif isinstance(value, int | float) and name not in ("step", "epoch", "arm", "version"):
            found.append((f"{prefix}/{name}", float(value)))
    return found
