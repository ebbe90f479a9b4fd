"""``backroads search``: many short trainings for one question; and what can be asked of a study."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import cyclopts
from cyclopts import Parameter
from cyclopts.validators import Number

from backroads.cli.flags import with_flags
from backroads.cli.shared import INTERRUPTED, Config, Trust, print_line
from backroads.runs.settings import read_settings
from backroads.runs.table import aligned
from backroads.search.settings import SearchSettings, resolve

if TYPE_CHECKING:
    from backroads.search.study import StudyClient

Study = Annotated[Path, Parameter(help="Folder of the study.")]
Storage = Annotated[
    str | None, Parameter(help="Where the trials are kept, if the study's settings name a place outside of its folder.")
]
POSITIVE = Number(gte=1)

app = cyclopts.App(
    name="search",
    help="Search coefficients, operations and rates of rules, or of all 32 subsets of the primitives.",
    help_format="plaintext",
)


@app.default
@with_flags(SearchSettings)
def search(
    *,
    settings: dict[str, Any],
    config: Config = None,
    out: Annotated[
        Path | None, Parameter(help="Folder of the study; by default runs/NAME, with the name of the study.")
    ] = None,
) -> None:
    """Search coefficients, operations and rates of rules, or of all 32 subsets of the primitives.

    Each trial is a short training, judged by its accuracy on a part of the training split; the test split is not read.
    After Ctrl-C, the same command goes on with the study. `backroads worker` joins it from other machines.
    """
    resolved = resolve(read_settings(config, "search") if config is not None else {}, settings)
    folder = out if out is not None else Path("runs") / resolved.study.name

    from backroads.cli.progress import progress
    from backroads.search.results import write_best
    from backroads.search.run import search as run
    from backroads.search.run import study_in

    with progress(unit="trial") as show:
        ended = run(resolved, folder, show)
    if ended:
        print(f"backroads: stopped; the same command resumes {folder}", file=sys.stderr)
        sys.exit(INTERRUPTED + ended)
    # What was written there are the settings of this very command.
    with study_in(folder, storage=resolved.study.storage, trust=True) as client:
        print(_table(client))
        try:
            path, line = write_best(client, folder)
            print(f"{line}: {path}")
        finally:
            print(f"report: {write_results(client, folder)}")


@app.command
def status(study: Study, /, *, storage: Storage = None, trust: Trust = False) -> None:
    """Print how many trials of a study are complete, pruned and failed, and the best of each rule or subset."""
    from backroads.search.run import study_in

    with study_in(study, storage=storage, trust=trust) as client:
        print(_table(client))


@app.command
def report(study: Study, /, *, storage: Storage = None, trust: Trust = False) -> None:
    """Write STUDY/results.json and STUDY/report.html from what has been finished so far."""
    from backroads.search.run import study_in

    # A folder with results only, such as a published one, makes its page again.
    if not (study / "config.toml").is_file() and (study / "results.json").is_file():
        from backroads.report import write_report

        print(write_report(study))
        return
    with study_in(study, storage=storage, trust=trust) as client:
        print(write_results(client, study))


@app.command
def best(
    study: Study,
    /,
    *,
    group: Annotated[str | None, Parameter(help="The best of this rule or subset, such as decay+self.")] = None,
    storage: Storage = None,
    trust: Trust = False,
) -> None:
    """Write the best configuration as TOML that `backroads train --config` runs."""
    from backroads.search.results import write_best
    from backroads.search.run import study_in

    with study_in(study, storage=storage, trust=trust) as client:
        path, line = write_best(client, study, group)
        print(f"{line}\n{path}")


@app.command
def promote(
    study: Study,
    /,
    *,
    top: Annotated[int, Parameter(help="How many of the best trials to train again.", validator=POSITIVE)] = 5,
    seeds: Annotated[int, Parameter(help="How many fresh seeds each is trained with.", validator=POSITIVE)] = 5,
    each: Annotated[bool, Parameter(help="Take the best trial of each of the best rules or subsets.")] = False,
    workers: Annotated[int, Parameter(help="How many processes train.", validator=POSITIVE)] = 1,
    storage: Storage = None,
    trust: Trust = False,
) -> None:
    """Train the best again with fresh seeds on the whole training split, and test each once."""
    from backroads.runs.lock import locked
    from backroads.search.promote import promote as run
    from backroads.search.run import study_in

    with study_in(study, storage=storage, trust=trust) as client, locked(study):
        done = run(client, study, top=top, seeds=seeds, each=each, workers=workers, log=print_line)
        lines = [("trial", "group", "validation, %", "test, % (95 % interval)", "n")]
        for row in done.rows:
            half = "" if row.interval is None else f" ± {100 * row.interval:.2f}"
            test = "-" if row.mean is None else f"{100 * row.mean:.2f}{half}"
            ended = len(row.accuracies) - row.accuracies.count(None)
            number = str(ended) if ended == len(row.accuracies) else f"{ended} of {len(row.accuracies)}"
            lines.append((str(row.number), row.group, f"{100 * (row.validation or 0.0):.2f}", test, number))
        print(*aligned(lines), sep="\n")
        print(f"report: {write_results(client, study)}")


@app.command
def reap(
    study: Study,
    /,
    *,
    host: Annotated[
        str | None, Parameter(help="Free the trials of workers on this machine, on which none runs any more.")
    ] = None,
    all_: Annotated[
        bool, Parameter(name="--all", help="Free all running trials; no worker of this search may run any more.")
    ] = False,
    storage: Storage = None,
    trust: Trust = False,
) -> None:
    """Give trials whose worker has died to other workers, for a journal file, which has no heartbeats.

    Without a flag, those are the trials of processes of this machine that have ended.
    """
    from backroads.search.run import study_in

    with study_in(study, storage=storage, trust=trust) as client:
        freed = [
            record
            for group in client.groups
            for record in client.release(
                group, lambda record: all_ or (record.process is not None and record.process.split(":")[0] == host)
            )
        ]
        print(f"freed {len(freed)} of the running trials; workers take them up again from their last checkpoint")


def write_results(client: StudyClient, folder: Path) -> Path:
    """Write results.json and the report; returns the report's path."""
    from backroads.report import write_report
    from backroads.runs.files import write_json
    from backroads.search.faults import writing
    from backroads.search.results import gather

    results = gather(client)
    with writing(folder):
        write_json(folder / "results.json", results, indent=None)
        return write_report(folder)


def _table(client: StudyClient) -> str:
    """The state of a search, as text."""
    from backroads.search.results import gather

    found = gather(client)
    lines = [("rule or subset", "best, %", "median, %", "complete", "pruned", "failed", "of")]
    for row in sorted(found.groups, key=lambda row: -(row.best or -1.0)):
        best = "-" if row.best is None else f"{100 * row.best:.2f}"
        median = "-" if row.quartiles is None else f"{100 * row.quartiles[1]:.2f}"
        counts = [str(n) for n in (row.ended["complete"], row.ended["pruned"], row.failed, row.planned)]
        lines.append((row.group, best, median, counts[0], counts[1], counts[2], counts[3]))
    seconds = "" if found.seconds is None else f" in {found.seconds:.0f} s"
    note = f"{found.settled} of {found.planned} trials settled{seconds}, {found.running} running"
    if found.lost_attempts:
        note += f"; {found.lost_attempts} attempts lost their worker"
    return "\n".join([*aligned(lines), f"{note}; validation accuracy"])
