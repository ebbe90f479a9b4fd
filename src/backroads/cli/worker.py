"""``backroads worker``: one more worker for a study, on any machine that reaches its storage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def worker(
    storage: Annotated[str, Parameter(help="postgresql://USER@HOST/DATABASE, sqlite:///FILE or journal:FILE.")],
    study: Annotated[str, Parameter(help="Name of the study in the storage.")],
    /,
    *,
    number: Annotated[int | None, Parameter(help="Seeds what it proposes; drawn if not given.")] = None,
    folder: Annotated[Path | None, Parameter(help="Shared folder for checkpoints; the study's if not given.")] = None,
    trials: Annotated[int | None, Parameter(help="Leave after so many.")] = None,
    parent: Annotated[int | None, Parameter(help="Leave when this process, which started it, is gone.")] = None,
) -> None:
    """Take trials of a study until all planned ones are settled.

    Under torchrun, its processes train one trial together. A PostgreSQL password is best kept in PGPASSWORD or
    ~/.pgpass. SIGTERM frees the trial for another worker and leaves.
    """
    from backroads.search.storage import hide_password
    from backroads.search.worker import work

    how = work(
        hide_password(storage),
        study,
        number=number,
        folder=folder,
        most=trials,
        parent=parent,
        say=lambda line: print(line, flush=True),
    )
    if how == "stopped":
        sys.exit(130)
