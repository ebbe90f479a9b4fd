"""What commands share: flags, folders, tables of text, and how a command ends."""

from __future__ import annotations

import contextlib
import datetime
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from cyclopts import Parameter

from backroads.errors import BackroadsError, ConfigError, RunError
from backroads.runs.groups import Group, merged
from backroads.runs.schema import Stopped
from backroads.runs.settings import read_settings, settings_in
from backroads.runs.trust import check_trusted, needs_consent

Schema = TypeVar("Schema", bound=Group)

INTERRUPTED, FAILED = 128, 1  # exit status: 128 + signal; 1

Config = Annotated[
    str | None, Parameter(help="Take settings from this TOML file, or from a recipe by its name; flags override it.")
]
Out = Annotated[
    Path | None, Parameter(help="Folder to write the run into; by default runs/COMMAND-TIME, with the present time.")
]
Resume = Annotated[
    bool, Parameter(help="Go on from the last checkpoint in the folder of --out, or start if there is no run.")
]
Restart = Annotated[
    bool,
    Parameter(
        name="--restart-from-scratch",
        negative=(),
        help="Set aside what is in the folder of --out, under a new name within it, and start anew with its settings.",
    ),
]
Root = Annotated[
    str | None,
    Parameter(help="Folder of the data, as --root of the training, if they no longer lie where that found them."),
]
Trust = Annotated[
    bool,
    Parameter(
        negative=(),
        help="Import and run the code (package.module:callable) that the settings in the folder or storage name. Give "
        "it only for what you, or people you trust, have written.",
    ),
]


def folder_of(out: Path | None, command: str, *, again: bool = False) -> Path:
    """The folder of a run: the one that was given, or a new name by the time; ``again``: it has to be given."""
    if out is None and again:
        raise ConfigError("out: expected the folder of the run to resume or restart, got none; give it by --out")
    return out if out is not None else Path("runs") / f"{command}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def run_settings(
    resolve: Callable[..., Schema],
    folder: Path,
    flags: dict[str, Any],
    *,
    resume: bool,
    config: str | None,
    trust: bool,
) -> Schema:
    """The settings of a run: those of the run that is resumed, below those of a TOML file or recipe, below the flags.

    Args:
        resolve: of the command; it checks settings and fills in defaults. folder: of the run.
        flags: settings that were given as flags. resume: whether the run goes on. config: a TOML file or recipe.
        trust: whether code that only the folder names may be run.

    Raises:
        ConfigError: wrong settings, or some that name code without consent.
    """
    old = settings_in(folder) if resume else None
    own = [*([read_settings(config)] if config is not None else []), flags]
    resolved = resolve(*([old] if old is not None else []), *own)
    check_trusted(resolved.model_dump(), folder, trust=trust, own=merged(type(resolved), *own))
    return resolved


def is_first_process() -> bool:
    """Whether this process is the one that prints."""
    return os.environ.get("RANK", "0") == "0"


def leave(stopped: Stopped, command: str, folder: Path) -> NoReturn:
    """Say how a run goes on that a signal has ended, and exit."""
    if is_first_process():
        trust = " --trust" if needs_consent(settings_in(folder) or {}) else ""
        print(
            f"backroads: stopped by signal {stopped.signal} after step {stopped.step}; "
            f"saved, go on with: backroads {command} --resume --out {shlex.quote(str(folder))}{trust}",
            file=sys.stderr,
        )
    sys.exit(INTERRUPTED + stopped.signal)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Answer a full disk, or a folder that may not be written, with a RunError that names ``path``."""
    try:
        yield
    except BrokenPipeError:  # of what was printed
        raise
    except OSError as error:
        raise RunError(
            f"{error.filename or path} cannot be written ({error.strerror or error}); make room, or choose a place "
            "that can be written"
        ) from error


def print_report(folder: Path) -> None:
    """Write the report of a run that has just ended, and say where it is; what goes wrong there is no failed run."""
    from backroads.report import write_report

    try:
        with writing(folder):
            written = write_report(folder)
    except (BackroadsError, ValueError) as error:
        print(f"backroads: the run is done, but its report was not written: {error}", file=sys.stderr)
    else:
        print(f"report: {written}")


def print_passed_over(problems: Sequence[str]) -> None:
    """Say which checkpoints were not used, as they are damaged."""
    for problem in problems:
        print(f"backroads: a damaged checkpoint was passed over: {problem}", file=sys.stderr)


def print_line(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)
