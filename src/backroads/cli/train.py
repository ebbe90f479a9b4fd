"""``backroads train``: one training, from the start or from where it stopped."""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

from cyclopts import Parameter

from backroads.cli.flags import with_flags
from backroads.cli.progress import progress
from backroads.cli.runs import print_report
from backroads.runs.schema import ArmResult, Stopped
from backroads.runs.settings import read_settings, read_toml
from backroads.train.settings import TrainSettings, resolve

INTERRUPTED, FAILED = 128, 1  # exit status: 128 + signal; 1


@with_flags(TrainSettings)
def train(
    *,
    settings: dict[str, Any],
    config: Annotated[
        str | None,
        Parameter(help="Take settings from this TOML file, or from a recipe by its name; flags override it."),
    ] = None,
    out: Annotated[
        Path | None, Parameter(help="Folder to write the run into; by default runs/train-TIME, with the present time.")
    ] = None,
    resume: Annotated[
        bool, Parameter(help="Go on from the last checkpoint in the folder of --out, or start if there is none.")
    ] = False,
) -> None:
    """Train a model by a feedback rule or another method, on one machine or, started by torchrun, on many.

    Writes a run folder: config.toml, environment.json, events.jsonl, system.jsonl, checkpoints, results.json and
    report.html. SIGTERM and Ctrl-C save a checkpoint and leave with status 128 + signal; the same command with
    --resume goes on, bit for bit.
    """
    folder = out if out is not None else Path("runs") / f"train-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    resolved = resolve(*base_settings(folder, resume=resume, config=config), settings)

    # After the settings are known to be right: torch takes seconds to import.
    with progress(silent=not is_first_process()) as report:
        from backroads.train.trainer import train as run

        results = run(resolved, folder, report, resume=resume)
    if isinstance(results, Stopped):
        leave(results, "train", folder)
    (arm,) = results.arms
    if is_first_process():
        print(summary(arm, results.corrupt_examples))
        print_report(folder)
    if arm.status != "finished":
        sys.exit(FAILED)


def base_settings(folder: Path, *, resume: bool, config: str | None) -> list[dict[str, object]]:
    """Settings below the flags: those of the run that is resumed, and those of a TOML file or recipe."""
    old = [read_toml(folder / "config.toml")] if resume and (folder / "config.toml").exists() else []
    return [*old, *([read_settings(config)] if config is not None else [])]


def is_first_process() -> bool:
    """Whether this process is the one that prints."""
    return os.environ.get("RANK", "0") == "0"


def leave(stopped: Stopped, verb: str, folder: Path) -> NoReturn:
    """Say how a run goes on that a signal has ended, and exit."""
    if is_first_process():
        print(
            f"backroads: stopped by signal {stopped.signal} after step {stopped.step}; "
            f"saved, go on with: backroads {verb} --resume --out {folder}",
            file=sys.stderr,
        )
    sys.exit(INTERRUPTED + stopped.signal)


def summary(arm: ArmResult, corrupt: dict[str, str]) -> str:
    """The end of a training in a few lines."""
    lines = []
    if arm.status == "finished":
        lines.append(f"accuracy {100 * (arm.accuracy or 0):.2f} % after {arm.epochs:.4g} epochs")
    else:
        lines.append(f"diverged: {arm.reason}; the last good checkpoint is kept")
    if arm.best_accuracy is not None:
        lines.append(f"best {100 * arm.best_accuracy:.2f} % in epoch {arm.best_epoch}")
    if arm.collapsed:
        lines.append(f"collapsed (B at a right angle to W): {', '.join(arm.collapsed)}")
    if arm.dead:
        lines.append(f"dead (no gradient): {', '.join(arm.dead)}")
    if corrupt:
        lines.append(f"{len(corrupt)} unreadable images were skipped")
    return "\n".join(lines)
