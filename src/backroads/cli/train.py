"""``backroads train``: one training, from the start or from where it stopped."""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from backroads.cli.progress import progress
from backroads.train.config import read_toml
from backroads.train.settings import TrainConfig, read_settings, resolve

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
    from backroads.train.trainer import check_resume
    from backroads.train.trainer import train as run

    if old is not None:
        check_resume(old, resolved)
    leads = os.environ.get("RANK", "0") == "0"
    with progress(lines=True, silent=not leads) as report:
        results = run(resolved, folder, report, resume=resume)
    if not leads:
        sys.exit(0 if results["status"] == "finished" else FAILED)
    if results["status"] == "stopped":
        print(
            f"backroads: stopped by signal {results['signal']} after step {results['step']}; "
            f"saved, go on with: backroads train --resume --out {folder}",
            file=sys.stderr,
        )
        sys.exit(INTERRUPTED + results["signal"])

    from backroads.report import write_report

    print(summary(results))
    print(f"report: {write_report(folder)}")
    if results["status"] != "finished":
        sys.exit(FAILED)


def summary(results: dict[str, Any]) -> str:
    """The end of a run in a few lines."""
    lines = []
    if results["status"] == "finished":
        lines.append(f"accuracy {100 * results['eval_accuracy']:.2f} % after {results['epochs']:.0f} epochs")
    else:
        lines.append(f"diverged: {results['reason']}; the last good checkpoint is kept")
    if results["best_accuracy"] is not None:
        lines.append(f"best {100 * results['best_accuracy']:.2f} % in epoch {results['best_epoch']}")
    if results["collapsed"]:
        lines.append(f"collapsed (B at a right angle to W): {', '.join(results['collapsed'])}")
    if results["dead"]:
        lines.append(f"dead (no gradient): {', '.join(results['dead'])}")
    if results["corrupt_images"]:
        lines.append(f"{len(results['corrupt_images'])} unreadable images were skipped")
    return "\n".join(lines)
