"""``backroads meta``: networks that learn to learn, from settings to a report."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter

from backroads.cli.progress import progress
from backroads.errors import ConfigError
from backroads.plasticity.settings import MetaConfig, differences, layered, resolve
from backroads.runs.settings import read_settings, read_toml

INTERRUPTED, FAILED = 128, 1  # exit status: 128 + signal; 1

Which = Annotated[Literal["best", "last"], Parameter(help="Which checkpoint.")]
Runs = Annotated[list[Path], Parameter(help="Folders of runs.")]
SplitName = Annotated[Literal["test", "validation"], Parameter(help="Whose tasks.")]

meta = cyclopts.App(
    name="meta",
    help="Learn to learn with feedback and local plasticity.",
    help_format="plaintext",
    default_parameter=Parameter(consume_multiple=True, negative_iterable=(), negative_none=()),
)


@meta.command
def train(
    *,
    settings: Annotated[MetaConfig | None, Parameter(name="*")] = None,
    config: Annotated[str | None, Parameter(help="TOML file, or name of a recipe; flags override it.")] = None,
    out: Annotated[Path | None, Parameter(help="Folder of the run; runs/meta-TIME if not given.")] = None,
    resume: Annotated[bool, Parameter(help="Go on from the last checkpoint in --out; start if there is none.")] = False,
) -> None:
    """Meta-train a learner on a kind of task.

    Writes a run folder: config.toml, environment.json, events.jsonl, system.jsonl, checkpoints, results.json and
    report.html. SIGTERM and Ctrl-C save a checkpoint and leave with status 128 + signal; the same command with
    --resume goes on, bit for bit.
    """
    flags = settings.model_dump(include=settings.model_fields_set) if settings is not None else {}
    recipe = read_settings(config, "meta") if config is not None else {}
    recipe.pop("kind", None)  # of a run's own config.toml
    given = layered(recipe, flags)
    folder = out if out is not None else Path("runs") / f"meta-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    old = _config_of(folder) if resume and (folder / "config.toml").exists() else None
    resolved = resolve(given if old is None else {**old.model_dump(exclude_none=True), **given})
    if old is not None and (found := differences(old, resolved)):
        raise ConfigError(
            "resume: the settings differ from those of the run:\n  "
            + "\n  ".join(found)
            + "\nleave them out to go on, or start a new run with another --out"
        )

    # After the settings are known to be right: torch takes seconds to import.
    from backroads.plasticity.trainer import meta_train

    with progress(lines=True) as report:
        results = meta_train(resolved, folder, report, resume=resume)
    if results["status"] == "stopped":
        print(
            f"backroads: stopped by signal {results['signal']} after meta-step {results['step']}; "
            f"saved, go on with: backroads meta train --resume --out {folder}",
            file=sys.stderr,
        )
        sys.exit(INTERRUPTED + results["signal"])

    from backroads.report import write_report

    if results["not_finite"]:
        print(f"{results['not_finite']} meta-gradients were not finite and skipped")
    if results["status"] != "finished":
        print(f"stopped: {results['reason']}")
    print(f"report: {write_report(folder)}")
    if results["status"] != "finished":
        sys.exit(FAILED)


@meta.command(name="eval")
def evaluate(
    runs: Runs,
    /,
    *,
    checkpoint: Which = "best",
    split: SplitName = "test",
    lifetimes: Annotated[int, Parameter(help="How many.")] = 200,
    ways: Annotated[list[int] | None, Parameter(help="Tasks of a lifetime, as in --ways 5 20 50.")] = None,
    at_once: Annotated[int, Parameter(help="Lifetimes in a batch.")] = 8,
    rates: Annotated[
        list[float] | None, Parameter(help="Inner rates to choose from on the validation tasks ('gradient' only).")
    ] = None,
) -> None:
    """Measure runs on lifetimes they have not seen, and write RUN/evaluation.json and RUN/report.html."""
    from backroads.plasticity.evaluate import measure
    from backroads.plasticity.trainer import load_run
    from backroads.report import write_report
    from backroads.runs.environment import environment
    from backroads.runs.folder import write_json
    from backroads.runs.progress import Progress

    for run in runs:
        network, tasks, found = load_run(run, checkpoint)
        if rates:
            _choose_rate(network, tasks, rates, lifetimes)
        results: dict[str, Any] = {}
        for n in ways or [network.config.tasks]:
            tasks.check(split, n)
        with progress() as report:
            for n in ways or [network.config.tasks]:
                measured = measure(
                    network,
                    tasks,
                    split,
                    lifetimes,
                    ways=n,
                    at_once=at_once,
                    watch=lambda done, of: report(Progress(done, of)),
                )
                results[str(n)] = measured.summary()
        for name, row in results.items():
            mean, interval = row["mean"], row["interval_95"]
            unit = 100 if row["measure"] == "accuracy" else 1
            shown = "not finite" if mean is None else f"{unit * mean:.4g}"
            shown += "" if interval is None else f" +- {unit * interval:.2g}"
            print(
                f"{run.name}: {name} tasks, {network.config.order}, {row['measure']}{' %' if unit == 100 else ''} "
                f"{shown} (n = {row['lifetimes']} lifetimes of {split}, 95 % interval; step {found.manifest.step})"
            )
        write_json(
            run / "evaluation.json",
            {
                "split": split,
                "step": found.manifest.step,
                "inner_lr": network.rule.inner_lr,
                "ways": results,
                "environment": environment(),
            },
        )
        print(f"report: {write_report(run)}")


@meta.command
def analyse(
    runs: Runs,
    /,
    *,
    checkpoint: Which = "best",
    split: SplitName = "test",
    lifetimes: Annotated[int, Parameter(help="How many.")] = 10,
    probes: Annotated[int, Parameter(help="Steps of each that are looked at.")] = 20,
) -> None:
    """Hold updates against gradients, feedback against the way forward, and tasks against each other.

    Writes RUN/analysis.json and RUN/report.html.
    """
    from backroads.plasticity.analysis import analyse as look
    from backroads.plasticity.trainer import load_run, make_network
    from backroads.report import write_report
    from backroads.runs.environment import environment
    from backroads.runs.folder import write_json
    from backroads.runs.progress import Progress

    for run in runs:
        network, tasks, found = load_run(run, checkpoint)
        initial = make_network(network.config, tasks)
        with progress() as report:
            results = look(
                network,
                initial,
                tasks,
                split,
                lifetimes,
                probes=probes,
                watch=lambda done, of: report(Progress(done, of)),
            )
        about = {"split": split, "step": found.manifest.step, "environment": environment()}
        write_json(run / "analysis.json", {**results, **about})
        print(json.dumps(results["interference"]))
        print(f"report: {write_report(run)}")


@meta.command
def report(
    runs: Runs,
    /,
    *,
    out: Annotated[Path | None, Parameter(help="File to write; report.html of the first run if not given.")] = None,
) -> None:
    """Write one page about several runs, side by side, from what they have written so far."""
    from backroads.report import write_meta_report

    print(write_meta_report(runs, out if out is not None else runs[0] / "report.html"))


def _config_of(folder: Path) -> MetaConfig:
    given = read_toml(folder / "config.toml")
    if given.pop("kind", None) != "meta":
        raise ConfigError(f"out: expected the folder of a meta-training, and {folder} is another run's")
    return resolve(given)


def _choose_rate(network: Any, tasks: Any, rates: list[float], lifetimes: int) -> None:
    """Give the network the inner rate that is best on validation tasks."""
    import dataclasses

    from backroads.plasticity.evaluate import measure

    if not network.rule.is_gradient or network.config.learned_rates:
        raise ConfigError("rates: expected a run of rule 'gradient' whose rate is not learned; leave --rates out")
    scores = {}
    for rate in rates:
        network.rule = dataclasses.replace(network.rule, inner_lr=rate)
        found = measure(network, tasks, "validation", min(lifetimes, 50))
        mean = found.summary()["mean"]
        scores[rate] = float("-inf") if mean is None else mean if found.accuracy else -mean
    best = max(scores, key=lambda rate: scores[rate])
    network.rule = dataclasses.replace(network.rule, inner_lr=best)
    print(f"inner rate {best:g}, the best of {', '.join(f'{rate:g}' for rate in rates)} on validation tasks")
