"""``backroads theory``: fixed points and stability of a weighted sum of the primitives, with a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from backroads.cli.flags import with_flags
from backroads.cli.shared import Out, folder_of
from backroads.contrib.theory.settings import TheoryConfig, resolve
from backroads.runs.settings import read_toml

if TYPE_CHECKING:
    from backroads.runs.results import TheoryResults


@with_flags(TheoryConfig)
def theory(
    *,
    settings: dict[str, Any],
    config: Annotated[Path | None, Parameter(help="Read settings from this TOML file; flags override it.")] = None,
    out: Out = None,
) -> None:
    """Fixed points, stability and a phase diagram of any weighted sum of the primitives, beside a small network.

    Writes a folder (config.toml, environment.json, results.json, report.html) and prints what it found.
    """
    resolved = resolve({**(read_toml(config) if config is not None else {}), **settings})
    folder = folder_of(out, "theory")

    # After the settings are known to be right: torch takes seconds to import.
    from backroads.cli.progress import progress
    from backroads.contrib.theory.run import theory as run
    from backroads.report import write_report
    from backroads.runs.environment import environment
    from backroads.runs.folder import RunFolder
    from backroads.runs.progress import Progress

    run_folder = RunFolder(folder)
    try:
        run_folder.begin(resolved.model_dump(), environment())
        with progress() as report:
            results = run(resolved, lambda what, done, total: report(Progress(done, total, _line(what, done, total))))
        run_folder.results(results)
    finally:
        run_folder.close()
    print(_summary(results))
    print(f"report: {write_report(folder)}")


def _line(what: str, done: int, total: int) -> str | None:
    """What to print: at a fifth of the points, and at the last."""
    return f"{what}: {done} of {total}" if done == total or done % max(1, total // 5) == 0 else None


def _summary(results: TheoryResults) -> str:
    moving, held, diagram = results.moving, results.held, results.diagram
    fate = "stands on a border" if moving.matrix_fate == "undecided" else moving.matrix_fate
    lines = [f"{results.rule}: both weights moving, it {fate}"]
    for point in moving.points:
        values = ", ".join(f"{value:.4g}" for value in point.eigenvalues)
        lines.append(f"  w = {point.w:.4g}, b = {point.b:.4g}: {point.stability}, eigenvalues {values}")
    if held.finite:
        lines.append(f"W held: B goes to {held.gain:.4g} times |W|, at {held.angle:.1f} deg to W")
    else:
        lines.append("W held: B grows without end")
    lines.append(f"diagram: simulation and closed form agree at {diagram.agreed} of {diagram.of} points")
    return "\n".join(lines)
