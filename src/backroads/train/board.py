"""TensorBoard's files, for those who look at runs there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backroads.errors import MissingDependencyError


def open_board(path: Path, step: int) -> Any:
    """A writer; what an interrupted run wrote after ``step`` is hidden. Raises MissingDependencyError."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError(
            "tensorboard: the package is needed and not installed; install the extra with "
            'pip install "backroads[tensorboard]"'
        ) from error
    return SummaryWriter(str(path), purge_step=step)
