"""``backroads compare``: rules and methods side by side, with a table and a report at the end."""

from __future__ import annotations

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
from backroads.runs.schema import Stopped, TrainingResults
from backroads.runs.statistics import Estimate, summarise
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
    folder = folder_of(out, "compare", again=resume or restart)
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
    for row in summarise(results):
        angle = row.readings["weight_angle"].mean if "weight_angle" in row.readings else None
        lines.append(
            (
                row.name.replace("_", " ") + (f" ({row.diverged} diverged)" if row.diverged else ""),
                _mean(row.accuracy, ".2f"),
                _mean(row.gap, "+.2f"),
                "-" if angle is None else f"{angle:.1f} deg",
                "-" if row.step_ratio is None else "{1:.2f} [{0:.2f}, {2:.2f}]".format(*row.step_ratio),
            )
        )
    rows = aligned(lines)
    rows.insert(1, "-" * max(map(len, rows)))
    note = (
        f"n = {len({arm.seed for arm in results.arms})} seeds; +- sample standard deviation; step time as a ratio to "
        f"{results.baseline}'s, measured interleaved: median [quartiles]"
    )
    return "\n".join(["", *rows, note])


def _mean(found: Estimate | None, form: str) -> str:
    if found is None or found.mean is None:
        return "-"
    return f"{100 * found.mean:{form}}" + ("" if found.std is None else f" +- {100 * found.std:.2f}")
