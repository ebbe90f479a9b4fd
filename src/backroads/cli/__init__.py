"""The command line. Imports no torch: ``--help`` and mistakes are answered at once."""

from __future__ import annotations

import sys

import cyclopts

from backroads import __version__
from backroads.cli.compare import compare
from backroads.errors import BackroadsError

app = cyclopts.App(
    name="backroads",
    help="Train neural networks without weight symmetry.",
    version=__version__,
    default_parameter=cyclopts.Parameter(consume_multiple=True, negative=()),
)
app.command(compare)


def main() -> None:
    """Entry point of the ``backroads`` command. Exit status: 0 done, 2 bad input, 130 interrupted."""
    try:
        app(exit_on_error=False, print_error=False)
    except (BackroadsError, cyclopts.CycloptsError) as error:
        print(f"backroads: {_message(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("backroads: interrupted; what was written so far is in the run folder", file=sys.stderr)
        sys.exit(130)


def _message(error: Exception) -> str:
    """What to say: for a wrong value, pydantic's findings as ours."""
    from pydantic import ValidationError

    from backroads.train.config import CompareConfig, explain

    cause = error.__cause__
    if isinstance(cause, ValidationError):
        return explain(cause, CompareConfig)
    return str(error)
