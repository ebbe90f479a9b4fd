"""TensorBoard's files, for those who look at runs there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backroads.extras import extra_named


def open_board(path: Path, step: int) -> Any:
    """A writer; what an interrupted run wrote after ``step`` is hidden. Raises MissingDependencyError."""
    with extra_named("tensorboard"):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(str(path), purge_step=step)
