"""``backroads train``: one training, from the start or from where it stopped."""

from __future__ import annotations

import sys
from typing import Any

from backroads.cli.flags import with_flags
from backroads.cli.progress import progress
from backroads.cli.shared import (
    FAILED,
    Config,
    Out,
    Restart,
    Resume,
    Trust,
    folder_of,
    is_first_process,
    leave,
    print_report,
    run_settings,
)
from backroads.runs.schema import Stopped, TrainingResults
from backroads.train.settings import TrainSettings, resolve


@with_flags(TrainSettings)
def train(
    *,
    settings: dict[str, Any],
    config: Config = None,
    out: Out = None,
    resume: Resume = False,
    restart: Restart = False,
    trust: Trust = False,
) -> None:
    """Train a model by a feedback rule or another method, on one machine or, started by torchrun, on many.

    Writes a run folder: config.toml, environment.json, events.jsonl, system.jsonl, checkpoints, results.json and
    report.html. SIGTERM and Ctrl-C save a checkpoint and leave with status 128 + signal; the same command with
    --resume goes on, bit for bit.
    """
    folder = folder_of(out, "train", again=resume or restart)
    resolved = run_settings(resolve, folder, settings, resume=resume or restart, config=config, trust=trust)

    # After the settings are known to be right: torch takes seconds to import.
    with progress(silent=not is_first_process()) as report:
        from backroads.train.trainer import train as run

        results = run(resolved, folder, report, resume=resume, restart=restart)
    if isinstance(results, Stopped):
        leave(results, "train", folder)
    (arm,) = results.arms
    if is_first_process():
        print(summary(results))
        print_report(folder)
    if arm.status != "finished":
        sys.exit(FAILED)


def summary(results: TrainingResults) -> str:
    """The end of a training in a few lines."""
    (arm,), corrupt = results.arms, results.corrupt_examples
    lines = []
    if arm.status == "finished":
        lines.append(f"{results.split} accuracy {100 * (arm.accuracy or 0):.2f} % after {arm.epochs:.4g} epochs")
    else:
        lines.append(f"diverged: {arm.reason}" + ("; the last good checkpoint is kept" if arm.epochs else ""))
    if arm.best_accuracy is not None:
        lines.append(f"best validation accuracy {100 * arm.best_accuracy:.2f} %, after epoch {arm.best_epoch}")
    if arm.collapsed:
        lines.append(f"collapsed (B at a right angle to W): {', '.join(arm.collapsed)}")
    if arm.dead:
        lines.append(f"dead (no gradient): {', '.join(arm.dead)}")
    if corrupt:
        lines.append(f"{len(corrupt)} unreadable images were skipped")
    return "\n".join(lines)
