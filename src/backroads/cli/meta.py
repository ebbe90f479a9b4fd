"""``backroads meta``: networks that learn to learn, from settings to a report."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter
from cyclopts.validators import Number

from backroads.cli.flags import with_flags
from backroads.cli.progress import progress
from backroads.cli.shared import (
    FAILED,
    Config,
    Out,
    Restart,
    Resume,
    Root,
    folder_of,
    is_first_process,
    leave,
    print_passed_over,
    print_report,
    writing,
)
from backroads.plasticity.settings import MetaConfig, resolve
from backroads.runs.groups import merged
from backroads.runs.settings import read_settings, settings_in

Runs = Annotated[list[Path], Parameter(help="Folders of meta-trainings.")]
Which = Annotated[
    Literal["best", "newest"],
    Parameter(help="Which saved weights: those that were best on validation tasks, or the newest."),
]
SplitName = Annotated[Literal["test", "validation"], Parameter(help="The split whose tasks the lifetimes learn.")]
Lifetimes = Annotated[int, Parameter(help="How many lifetimes to measure.", validator=Number(gte=1))]

meta = cyclopts.App(
    name="meta",
    help="Learn to learn with feedback and local plasticity.",
    help_format="plaintext",
)


@meta.command
@with_flags(MetaConfig)
def train(
    *,
    settings: dict[str, Any],
    config: Config = None,
    out: Out = None,
    resume: Resume = False,
    restart: Restart = False,
) -> None:
    """Meta-train a learner on a kind of task.

    Writes a run folder: config.toml, environment.json, events.jsonl, system.jsonl, checkpoints, results.json and
    report.html. SIGTERM and Ctrl-C save a checkpoint and leave with status 128 + signal; the same command with
    --resume goes on, bit for bit.
    """
    recipe = read_settings(config, "meta") if config is not None else {}
    folder = folder_of(out, "meta", again=resume or restart)
    if (resume or restart) and (old := settings_in(folder)) is not None:
        recipe = merged(MetaConfig, resolve(old).model_dump(exclude_none=True), recipe)
    resolved = resolve(recipe, settings)

    # After the settings are known to be right: torch takes seconds to import.
    from backroads.plasticity.trainer import meta_train
    from backroads.runs.schema import Stopped

    with progress(silent=not is_first_process()) as report:
        results = meta_train(resolved, folder, report, resume=resume, restart=restart)
    if isinstance(results, Stopped):
        leave(results, "meta train", folder)

    if is_first_process():
        if results.skipped:
            print(f"{results.skipped} meta-steps were skipped, since their gradients were not finite")
        if results.reason is not None:
            print(f"stopped: {results.reason}")
        print_report(folder)
    if results.status != "finished":
        sys.exit(FAILED)


@meta.command(name="eval")
def evaluate(
    runs: Runs,
    /,
    *,
    checkpoint: Which = "best",
    split: SplitName = "test",
    lifetimes: Lifetimes = 200,
    root: Root = None,
    ways: Annotated[
        list[int] | None,
        Parameter(
            help="Numbers of tasks of a lifetime, as in --ways 5 20 50. Default: the run's.", validator=Number(gte=1)
        ),
    ] = None,
    batch: Annotated[
        int,
        Parameter(
            help="How many lifetimes to compute at once; those of another number are other ones.",
            validator=Number(gte=1),
        ),
    ] = 8,
    rates: Annotated[
        list[float] | None,
        Parameter(help="Step sizes of rule 'gradient' to try; the best one on validation tasks is measured."),
    ] = None,
) -> None:
    """Measure runs on lifetimes they have not seen, and write RUN/evaluation.json and RUN/report.html."""
    from backroads.plasticity.evaluate import choose_rate, measure
    from backroads.runs.environment import environment
    from backroads.runs.results import MetaEvaluation

    for run in runs:
        network, tasks, found = _loaded(run, checkpoint, root)
        step = found.manifest.step
        if rates:
            chosen = choose_rate(network, tasks, rates, min(lifetimes, 50))
            print(f"inner rate {chosen:g}, the best of {', '.join(f'{rate:g}' for rate in rates)} on validation tasks")
        counts = ways or [network.config.task.tasks]
        for n in counts:
            tasks.check(split, n)
        with progress() as report:
            rows = [measure(network, tasks, split, lifetimes, ways=n, batch=batch, report=report) for n in counts]
        lifetimes_of = {str(n): row.summary(step) for n, row in zip(counts, rows, strict=True)}
        for name, row in lifetimes_of.items():
            unit, percent = (100, " %") if row.measure == "accuracy" else (1, "")
            shown = "not finite" if row.mean is None else f"{unit * row.mean:.4g}"
            shown += "" if row.interval_95 is None else f" +- {unit * row.interval_95:.2g}"
            print(
                f"{run.name}: {name} tasks, {network.config.task.order}, {row.measure}{percent} {shown} "
                f"(n = {row.lifetimes} lifetimes of {split}, 95 % interval)"
            )
        rate = network.rule.inner_lr if network.rule.is_gradient else None
        _write(
            run, "evaluation.json", MetaEvaluation(split, step, lifetimes_of, rate, environment(), found.passed_over)
        )


@meta.command
def analyse(
    runs: Runs,
    /,
    *,
    checkpoint: Which = "best",
    split: SplitName = "test",
    lifetimes: Lifetimes = 10,
    root: Root = None,
    probes: Annotated[
        int,
        Parameter(help="Steps of each lifetime at which updates and gradients are compared.", validator=Number(gte=1)),
    ] = 20,
) -> None:
    """Compare updates with gradients, feedback with forward weights, and what a task does to the others.

    Writes RUN/analysis.json and RUN/report.html.
    """
    from backroads.plasticity import analysis
    from backroads.plasticity.network import MetaNetwork
    from backroads.runs.environment import environment

    for run in runs:
        network, tasks, used = _loaded(run, checkpoint, root)
        untrained = MetaNetwork(network.config, tasks.shape)
        about: dict[str, Any] = {"probes": probes, "step": used.manifest.step, "environment": environment()}
        with progress() as report:
            found = analysis.analyse(network, untrained, tasks, split, lifetimes, report=report, **about)
        print(f"{run.name}: {_interference(found.interference)}")
        _write(run, "analysis.json", found)


@meta.command
def report(
    runs: Runs,
    /,
    *,
    out: Annotated[Path | None, Parameter(help="File to write. Default: report.html of the first run.")] = None,
) -> None:
    """Write one page about several runs, side by side, from what they have written so far."""
    from backroads.report import write_meta_report

    target = out if out is not None else runs[0] / "report.html"
    with writing(target):
        write_meta_report(runs, target)
    print(target)


def _interference(found: Mapping[str, float | None]) -> str:
    """What a step does to losses, in words."""
    own, others, down, down_others = (
        "-" if (change := found.get(name)) is None else f"{change:+.3g}"
        for name in ("own", "others", "gradient_own", "gradient_others")
    )
    return (
        f"a step changes the loss of its own task by {own} and that of others by {others}, as long a one down the "
        f"gradient by {down} and {down_others}"
    )


def _loaded(run: Path, which: Literal["best", "newest"], root: str | None) -> Any:
    """Network, tasks and checkpoint of a run; prints which weights these are."""
    from backroads.plasticity.trainer import load_run

    network, tasks, found = load_run(run, which, root)
    print_passed_over(found.passed_over)
    print(f"{run.name}: {which} weights, of meta-step {found.manifest.step} of {network.config.meta.meta_steps}")
    return network, tasks, found


def _write(run: Path, name: str, found: Any) -> None:
    """Write a file of results, and the report that shows it."""
    from backroads.report import write_report
    from backroads.runs.files import write_json

    with writing(run / name):
        write_json(run / name, found)
        written = write_report(run)
    print(f"report: {written}")
