"""``backroads search``: many short trainings for one question; and what can be asked of a study."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter

from backroads.errors import ConfigError
from backroads.search.settings import SearchConfig, resolve

Study = Annotated[Path, Parameter(help="Folder of the study.")]
INTERRUPTED = 130

app = cyclopts.App(
    name="search",
    help="Search coefficients, operations and rates of rules, or of all 32 subsets of the primitives.",
    help_format="plaintext",
    default_parameter=cyclopts.Parameter(consume_multiple=True, negative_iterable=(), negative_none=()),
)


@app.default
def search(
    *,
    settings: Annotated[SearchConfig | None, Parameter(name="*")] = None,
    config: Annotated[str | None, Parameter(help="TOML file, or name of a recipe; flags override it.")] = None,
    out: Annotated[Path | None, Parameter(help="Folder of the study; runs/NAME if not given.")] = None,
) -> None:
    """Search coefficients, operations and rates of rules, or of all 32 subsets of the primitives.

    Each trial is a short training, judged by its accuracy on a part of the training split; the test split is not read.
    Ctrl-C leaves a study that the same command goes on with. `backroads worker` joins from other machines.
    """
    from backroads.train.settings import read_settings

    given = {
        **(read_settings(config, "search") if config is not None else {}),
        **(settings.model_dump(include=settings.model_fields_set) if settings is not None else {}),
    }
    resolved = resolve(given)
    folder = out if out is not None else Path("runs") / resolved.name

    from backroads.cli.watching import watching
    from backroads.search.results import write_best
    from backroads.search.run import search as run
    from backroads.search.run import study_in

    with watching() as show:
        status = run(resolved, folder, show)
    if status == "stopped":
        print(f"backroads: stopped; the same command goes on with {folder}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    with study_in(folder) as (storage, config_):
        print(_table(storage, config_))
        try:
            path, line = write_best(storage, config_, folder)
            print(f"{line}: {path}")
        finally:
            print(f"report: {_report(storage, config_, folder)}")


@app.command
def status(study: Study, /) -> None:
    """Say how a study stands: how many trials ended how, and the best of each rule or subset."""
    from backroads.search.run import study_in

    with study_in(study) as (storage, config):
        print(_table(storage, config))


@app.command
def report(study: Study, /) -> None:
    """Write STUDY/results.json and STUDY/report.html from what has been finished so far."""
    from backroads.search.run import study_in

    # A folder with results only, such as a published one, makes its page again.
    if not (study / "config.toml").is_file() and (study / "results.json").is_file():
        from backroads.report import write_report

        print(write_report(study))
        return
    with study_in(study) as (storage, config):
        print(_report(storage, config, study))


@app.command
def best(
    study: Study,
    /,
    *,
    group: Annotated[str | None, Parameter(help="The best of this rule or subset, such as decay+self.")] = None,
) -> None:
    """Write the best configuration as TOML that `backroads train --config` runs."""
    from backroads.search.results import write_best
    from backroads.search.run import study_in

    with study_in(study) as (storage, config):
        path, line = write_best(storage, config, study, group)
        print(f"{line}\n{path}")


@app.command
def promote(
    study: Study,
    /,
    *,
    top: Annotated[int, Parameter(help="How many of the best trials.")] = 5,
    seeds: Annotated[int, Parameter(help="Fresh seeds for each.")] = 5,
    each: Annotated[bool, Parameter(help="The best trial of each of the best rules or subsets.")] = False,
    workers: Annotated[int, Parameter(help="Processes.")] = 1,
) -> None:
    """Train the best again with fresh seeds on the whole training split, and test each once."""
    from backroads.search.promote import promote as run
    from backroads.search.run import study_in

    _positive(top=top, seeds=seeds, workers=workers)
    with study_in(study) as (storage, config):
        rows = run(storage, config, study, top=top, seeds=seeds, each=each, workers=workers, say=_say)
        lines = [("trial", "group", "validation, %", "test, % (95 % interval)", "n")]
        lines += [
            (str(r["slot"]), r["group"], f"{100 * r['validation']:.2f}", _interval(r), str(len(r["accuracies"])))
            for r in rows
        ]
        print(_aligned(lines))
        print(f"report: {_report(storage, config, study)}")


@app.command
def reap(
    study: Study,
    /,
    *,
    host: Annotated[str | None, Parameter(help="A machine whose workers are all gone.")] = None,
    all_: Annotated[bool, Parameter(name="--all", help="No worker is alive anywhere.")] = False,
) -> None:
    """Free trials whose worker has died, for storages that do not notice (a journal file).

    Without a flag: those of processes of this machine that are no more.
    """
    from backroads.search.ledger import ABOUT, Ledger
    from backroads.search.process import is_gone
    from backroads.search.run import study_in

    with study_in(study) as (storage, config):

        def dead(trial: Any) -> bool:
            worker = trial.user_attrs[ABOUT]["worker"]
            return all_ or worker.split(":")[0] == host or is_gone(worker) is True

        freed = Ledger(storage, config.name, config.trials, retries=config.retries).reap(dead)
        print(f"freed {len(freed)} of the running trials; workers take them up again from their last checkpoint")


def _say(line: str) -> None:
    print(line, flush=True)


def _positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name}: expected 1 or more, got {value}")


def _report(storage: Any, config: SearchConfig, folder: Path) -> Path:
    from backroads.report import write_report
    from backroads.runs.folder import write_json
    from backroads.search.results import gather

    write_json(folder / "results.json", gather(storage, config), indent=None)
    return write_report(folder)


def _table(storage: Any, config: SearchConfig) -> str:
    """How a study stands, as text."""
    from backroads.search.results import gather

    found = gather(storage, config)
    lines = [("rule or subset", "best, %", "median, %", "complete", "pruned", "failed", "of")]
    for row in sorted(found["groups"], key=lambda row: -(row["best"] or -1.0)):
        ended = row["ended"]
        failed = ended["diverged"] + ended["error"] + ended["lost"]
        lines.append(
            (
                row["group"],
                "-" if row["best"] is None else f"{100 * row['best']:.2f}",
                "-" if row["quartiles"] is None else f"{100 * row['quartiles'][1]:.2f}",
                *(str(n) for n in (ended["complete"], ended["pruned"], failed, row["planned"])),
            )
        )
    seconds = "" if found["seconds"] is None else f" in {found['seconds']:.0f} s"
    note = f"{found['settled']} of {found['planned']} trials settled{seconds}, {found['running']} running"
    if found["lost_attempts"]:
        note += f"; {found['lost_attempts']} attempts lost their worker"
    return f"{_aligned(lines)}\n{note}; validation accuracy"


def _interval(row: dict[str, Any]) -> str:
    if row["mean"] is None:
        return "-"
    half = row["interval"]
    return f"{100 * row['mean']:.2f}" + ("" if half is None else f" ± {100 * half:.2f}")


def _aligned(lines: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)
