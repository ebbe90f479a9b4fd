"""``backroads compare``: rules and methods side by side, with a table and a report at the end."""

from __future__ import annotations

import statistics
from typing import Any

from backroads.cli.flags import with_flags
from backroads.cli.progress import progress
from backroads.cli.shared import (
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
from backroads.runs.schema import ArmResult, Stopped, TrainingResults
from backroads.runs.table import aligned
from backroads.train.comparison import CompareSettings, resolve_comparison


@with_flags(CompareSettings)
def compare(
    *,
    settings: dict[str, Any],
    config: Config = None,
    out: Out = None,
    resume: Resume = False,
    restart: Restart = False,
    trust: Trust = False,
) -> None:
    """Train the same network under several feedback rules and other methods, and compare them.

    All take their steps side by side, on the same data from the same initial weights. Writes a run folder like that of
    `backroads train`, and prints a table. It can be interrupted and resumed like a training.
    """
    folder = folder_of(out, "compare")
    resolved = run_settings(resolve_comparison, folder, settings, resume=resume or restart, config=config, trust=trust)
    resolved.arms()  # says what is wrong with the names, if anything is

    # After the settings are known to be right: torch takes seconds to import.
    with progress(silent=not is_first_process()) as report:
        from backroads.train.trainer import compare as run

        results = run(resolved, folder, report, resume=resume, restart=restart)
    if isinstance(results, Stopped):
        leave(results, "compare", folder)
    if is_first_process():
        print(table(results))
        print(f"{results.seconds:.0f} s")
        print_report(folder)


def table(results: TrainingResults) -> str:
    """The results as text: accuracy and gap in percent points, angle in degrees, time relative to the baseline's."""
    lines = [("rule", f"{results.split} accuracy, %", f"gap to {results.baseline}", "weight angle", "step time")]
    baseline = {arm.seed: arm.accuracy for arm in results.arms if arm.name == results.baseline}
    for name in results.names:
        arms = [arm for arm in results.arms if arm.name == name]
        diverged = sum(arm.status == "diverged" for arm in arms)
        accuracies = [100 * arm.accuracy for arm in arms if arm.accuracy is not None]
        gaps = [
            100 * (arm.accuracy - other)
            for arm in arms
            if arm.accuracy is not None and (other := baseline.get(arm.seed)) is not None
        ]
        angles = [a for arm in arms for a in arm.readings.get("weight_angle", {}).values() if a is not None]
        lines.append(
            (
                name.replace("_", " ") + (f" ({diverged} diverged)" if diverged else ""),
                _mean(accuracies, ".2f"),
                _mean(gaps, "+.2f"),
                f"{statistics.fmean(angles):.1f} deg" if angles else "-",
                _times(arms),
            )
        )
    rows = aligned(lines)
    rows.insert(1, "-" * max(map(len, rows)))
    note = (
        f"n = {len({arm.seed for arm in results.arms})} seeds; +- sample standard deviation; step time as a ratio to "
        f"{results.baseline}'s, measured interleaved: median [quartiles]"
    )
    return "\n".join(["", *rows, note])


def _mean(values: list[float], form: str) -> str:
    if not values:
        return "-"
    spread = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{form}}{spread}"


def _times(arms: list[ArmResult]) -> str:
    """The middle of the seeds' medians and quartiles."""
    ratios = [arm.step_ratio for arm in arms if arm.step_ratio is not None]
    if not ratios:
        return "-"
    low, middle, high = (statistics.median(column) for column in zip(*ratios, strict=True))
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"
