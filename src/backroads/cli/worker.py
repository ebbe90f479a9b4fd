"""``backroads worker``: one more worker for a search, on any machine that reaches its storage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from backroads.cli.shared import Trust


def worker(
    storage: Annotated[str, Parameter(help="postgresql://USER@HOST/DATABASE, sqlite:///FILE or journal:FILE.")],
    study: Annotated[str, Parameter(help="Name of the study in the storage.")],
    /,
    *,
    folder: Annotated[
        Path | None,
        Parameter(help="Shared folder for checkpoints; by default the study's, if it is on this machine."),
    ] = None,
    trials: Annotated[int | None, Parameter(help="Stop after so many trials.", validator=Number(gte=1))] = None,
    parent: Annotated[
        int | None, Parameter(help="Stop when this process, which started the worker, has ended.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Take trials of a study until all planned ones are settled.

    Under torchrun, its processes train one trial together. A PostgreSQL password is best kept in PGPASSWORD or
    ~/.pgpass. SIGTERM gives the trial back for another worker and leaves.
    """
    from backroads.cli.shared import print_line
    from backroads.search.worker import work

    how = work(storage, study, folder=folder, most=trials, parent=parent, trust=trust, log=print_line)
    if how == "stopped":
        sys.exit(130)
