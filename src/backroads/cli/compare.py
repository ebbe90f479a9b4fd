"""``backroads compare``: rules side by side, with a table and a report at the end."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from backroads.cli.progress import progress
from backroads.runs.settings import read_toml
from backroads.train.config import CompareConfig, resolve


def compare(
    *,
    settings: Annotated[CompareConfig | None, Parameter(name="*")] = None,
    config: Annotated[Path | None, Parameter(help="TOML file of settings; flags override it.")] = None,
    out: Annotated[Path | None, Parameter(help="New folder for the run; runs/compare-TIME if not given.")] = None,
) -> None:
    """Train the same network under several rules, and compare them.

    Writes a run folder (config.toml, environment.json, events.jsonl, results.json, report.html) and prints a table.
    """
    given = settings.model_dump(include=settings.model_fields_set) if settings is not None else {}
    resolved = resolve({**(read_toml(config) if config is not None else {}), **given})
    folder = out if out is not None else Path("runs") / f"compare-{datetime.datetime.now():%Y%m%d-%H%M%S}"

    # After the settings are known to be right: torch takes seconds to import.
    import torch

    from backroads.report import write_report
    from backroads.runs.environment import environment
    from backroads.runs.folder import RunFolder
    from backroads.train.compare import compare as run
    from backroads.train.compare import rules_of

    rules_of(resolved)
    torch.set_num_threads(resolved.threads)
    run_folder = RunFolder(folder, resolved.model_dump(exclude_none=True), environment())
    try:
        with progress() as report:
            results = run(resolved, run_folder, report)
    finally:
        run_folder.close()
    print(_table(results))
    print(f"{results['seconds']:.0f} s; report: {write_report(folder)}")


def _table(results: dict[str, Any]) -> str:
    """The results as text: accuracy and gap in percent points, angle in degrees, time relative to backprop."""
    lines = [("rule", f"{results['split']} accuracy, %", "gap to backprop", "weight angle", "step time")]
    for row in results["rows"]:
        spread = row["step_ratio_spread"]
        lines.append(
            (
                row["label"] + (f" ({row['diverged']} diverged)" if row["diverged"] else ""),
                "-"
                if row["accuracy_mean"] is None
                else f"{100 * row['accuracy_mean']:.2f}" + _plus_minus(row["accuracy_std"]),
                "-" if row["gap_mean"] is None else f"{100 * row['gap_mean']:+.2f}" + _plus_minus(row["gap_std"]),
                "-" if row["weight_angle_mean"] is None else f"{row['weight_angle_mean']:.1f} deg",
                "-" if row["step_ratio"] is None else f"{row['step_ratio']:.2f} [{spread[0]:.2f}, {spread[1]:.2f}]",
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    table.insert(1, "-" * max(map(len, table)))
    note = (
        f"n = {results['n_seeds']} seeds; +- sample standard deviation; step time as a ratio to backprop's, "
        f"measured interleaved: median [quartiles]"
    )
    return "\n".join(["", *table, note])


def _plus_minus(spread: float | None) -> str:
    return "" if spread is None else f" +- {100 * spread:.2f}"
