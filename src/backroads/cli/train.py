"""``backroads train``: one training, from the start or from where it stopped."""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from backroads.cli.progress import progress
from backroads.cli.runs import print_report
from backroads.runs.schema import ArmResult
from backroads.runs.settings import read_settings, read_toml
from backroads.train.settings import TrainConfig, resolve

INTERRUPTED, FAILED = 128, 1  # exit status: 128 + signal; 1


def train(
    *,
    settings: Annotated[TrainConfig | None, Parameter(name="*")] = None,
    config: Annotated[str | None, Parameter(help="TOML file, or name of a recipe; flags override it.")] = None,
    out: Annotated[Path | None, Parameter(help="Folder of the run; runs/train-TIME if not given.")] = None,
    resume: Annotated[bool, Parameter(help="Go on from the last checkpoint in --out; start if there is none.")] = False,
) -> None:
    """Train a model under a rule, on one machine or, started by torchrun, on many.

    Writes a run folder: config.toml, environment.json, events.jsonl, system.jsonl, checkpoints, results.json and
    report.html. SIGTERM and Ctrl-C save a checkpoint and leave with status 128 + signal; the same command with
    --resume goes on, bit for bit.
    """
    given = {
        **(read_settings(config) if config is not None else {}),
        **(settings.model_dump(include=settings.model_fields_set) if settings is not None else {}),
    }
    folder = out if out is not None else Path("runs") / f"train-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    old = resolve(read_toml(folder / "config.toml")) if resume and (folder / "config.toml").exists() else None
    resolved = resolve(given if old is None else {**old.model_dump(exclude_none=True), **given})

    # After the settings are known to be right: torch takes seconds to import.
    from backroads.runs.schema import Stopped
    from backroads.train.trainer import train as run

    leads = os.environ.get("RANK", "0") == "0"
    with progress(lines=True, silent=not leads) as report:
        results = run(resolved, folder, report, resume=resume)
    if isinstance(results, Stopped):
        if leads:
            print(
                f"backroads: stopped by signal {results.signal} after step {results.step}; "
                f"saved, go on with: backroads train --resume --out {folder}",
                file=sys.stderr,
            )
        sys.exit(INTERRUPTED + results.signal)
    (arm,) = results.arms
    if not leads:
        sys.exit(0 if arm.status == "finished" else FAILED)

    print(summary(arm, results.corrupt_examples))
    print_report(folder)
    if arm.status != "finished":
        sys.exit(FAILED)


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
