"""FLP beside OML: meta-trained with the same budget of episodes on the same streams, tested on unseen tasks.

    python benchmarks/meta_learning.py --runs PATH --root OMNIGLOT [--experiments sinusoid-iid ...] [--seeds 0 1 2]

A run is a folder under ``--runs``; one that was interrupted goes on from its last checkpoint when the command is given
again, a finished one is not repeated. Every finished run is measured on ``--lifetimes`` lifetimes of the test split
(sinusoids never seen; unseen drawings of unseen classes) at the checkpoint that was best on validation tasks, and
``--out`` collects all. The recipes' settings were chosen on validation tasks, seed 0; "flp, reference's rates" has
those of the reference's example scripts with the same network, tasks and budget.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tomllib
from pathlib import Path
from typing import Any

import torch

from backroads.plasticity.evaluate import measure
from backroads.plasticity.settings import MetaConfig, resolve
from backroads.plasticity.trainer import load_run, meta_train
from backroads.runs.environment import environment
from backroads.runs.folder import write_json
from backroads.runs.groups import merged
from backroads.runs.progress import Progress
from backroads.runs.schema import Stopped, as_data
from backroads.runs.settings import read_settings

# name: (recipe, what differs from it, numbers of tasks to test on; none: as many as in meta-training)
EXPERIMENTS: dict[str, tuple[str, dict[str, Any], list[int]]] = {
    "sinusoid-iid": ("sinusoid-quick", {"order": "iid"}, []),
    "sinusoid-continual": ("sinusoid-quick", {"order": "continual"}, []),
    "omniglot-5-iid": ("omniglot-quick", {"order": "iid"}, []),
    "omniglot-5-continual": ("omniglot-quick", {"order": "continual"}, []),
    "omniglot-20-continual": (
        "omniglot-quick",
        {"order": "continual", "tasks": 20, "meta_batch_size": 2},
        [2, 5, 10, 20, 50, 100],
    ),
}
# A learner with other settings than the recipe's, at the same network, tasks and budget: the reference's rates; labels
# of all outputs, where the reference meta-trains the first N only.
RATES = {"lr_forward": 1e-4, "lr_feedback": 1e-4, "initial_plasticity": 0.0}
VARIANTS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "flp, reference's rates": (
        "flp",
        {
            "sinusoid": RATES
            | {"reduction": "sum", "output_shift": "feedback", "linear_feedback": False, "initial_strength": 0.5}
            | {"hidden_multiplier": 1.0, "lr_plasticity": 1e-8},
            "omniglot": RATES | {"hidden_multiplier": 100.0, "lr_plasticity": 1e-5},
        },
    ),
    "flp, any labels": ("flp", {"omniglot": {"labels": "any"}}),
}


def settings(arguments: argparse.Namespace, experiment: str, learner: str, seed: int) -> dict[str, Any]:
    """Of one run."""
    recipe, differs, _ = EXPERIMENTS[experiment]
    kind = experiment.partition("-")[0]
    learner, rates = VARIANTS.get(learner, (learner, {}))
    given = {**differs, **rates.get(kind, {}), "learner": learner, "seed": seed, "threads": arguments.threads}
    if kind == "omniglot":
        given["root"] = str(arguments.root)
    if arguments.meta_steps is not None:
        given["meta_steps"] = arguments.meta_steps
    return merged(MetaConfig, read_settings(recipe, "meta"), given)


def test(folder: Path, ways: list[int], lifetimes: int) -> None:
    """Measure a finished run on the test split, once."""
    done = folder / "test.json"
    if done.exists() and json.loads(done.read_text())["lifetimes"] >= lifetimes:
        return
    network, tasks, step = load_run(folder, "best")
    rows = {}
    for n in ways or [network.config.task.tasks]:
        # Long lifetimes of many classes one at a time: their weights at many moments are kept for the course.
        measured = measure(network, tasks, "test", lifetimes, ways=n, batch=8 if n <= 20 else 1)
        row = measured.summary(step)
        rows[str(n)] = {**as_data(row), "scores": measured.scores}
        print(f"    {n} tasks: {row.measure} {row.mean}", flush=True)
    write_json(done, {"lifetimes": lifetimes, "step": step, "ways": rows, "environment": environment()})


def collect(runs: Path) -> dict[str, Any]:
    """All finished and tested runs, a row an experiment, learner and number of tasks."""
    found: dict[tuple[str, str], dict[int, Path]] = {}
    by_name = {learner.replace(" ", "-"): learner for learner in VARIANTS}
    for done in sorted(runs.glob("*/test.json")):
        experiment, learner, seed = done.parent.name.split("_")[0], *done.parent.name.partition("_")[2].rsplit("_", 1)
        learner = by_name.get(learner, learner)
        found.setdefault((experiment, learner), {})[int(seed)] = done.parent
    rows = []
    for experiment, learner in sorted(found, key=lambda key: (list(EXPERIMENTS).index(key[0]), key[1])):
        seeds = found[experiment, learner]
        tested = {seed: json.loads((folder / "test.json").read_text()) for seed, folder in seeds.items()}
        results = [json.loads((folder / "results.json").read_text()) for folder in seeds.values()]
        config = tomllib.loads((next(iter(seeds.values())) / "config.toml").read_text())
        meta = config["meta"]
        for table, key in (("task", "root"), ("run", "seed"), ("run", "threads"), ("run", "device")):
            config[table].pop(key, None)
        config.pop("kind", None)
        for ways in next(iter(tested.values()))["ways"]:
            by_seed = {seed: one["ways"][ways] for seed, one in tested.items()}
            scores = [s for one in by_seed.values() for s in one["scores"] if s is not None and math.isfinite(s)]
            means = [one["mean"] for one in by_seed.values() if one["mean"] is not None]
            spread = statistics.stdev(scores) if len(scores) > 1 else None
            rows.append(
                {
                    "experiment": experiment,
                    "learner": learner,
                    "tasks": int(ways),
                    "measure": next(iter(by_seed.values()))["measure"],
                    "n": len(by_seed),
                    "seeds": sorted(by_seed),
                    "lifetimes": len(scores),
                    "not_finite": sum(one["skipped"] for one in by_seed.values()),
                    "mean": statistics.fmean(scores) if scores else None,
                    "interval_95": None if spread is None else 1.96 * spread / math.sqrt(len(scores)),
                    "means_by_seed": means,
                    "std_over_seeds": statistics.stdev(means) if len(means) > 1 else None,
                    "so_far": [
                        statistics.fmean(column)
                        for column in zip(*(o["so_far"] for o in by_seed.values()), strict=True)
                    ],
                    "best_steps": [tested[seed]["step"] for seed in sorted(tested)],
                    "meta_steps": meta["meta_steps"],
                    "episodes": meta["meta_steps"] * meta["meta_batch_size"],
                    "status": sorted({one["status"] for one in results}),
                    "settings": config,
                    "commits": sorted({one["environment"]["commit"] or "unknown" for one in tested.values()}),
                }
            )
    # The runs say what was run, when and at which commit; where they lie on one machine says nothing to another.
    where = {key: value for key, value in environment().items() if key not in ("command", "started")}
    return {
        "command": "python benchmarks/meta_learning.py --runs PATH --root OMNIGLOT",
        "environment": where,
        "rows": rows,
    }


def table(results: dict[str, Any], kind: str) -> str:
    """The rows of "sinusoid" or "omniglot" as the docs show them."""
    lines = [
        "| experiment | learner | tasks | at the end of a lifetime, 95 % interval | by seed | episodes |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        if not row["experiment"].startswith(kind):
            continue
        unit, digits = (100, 1) if row["measure"] == "accuracy" else (1, 3)
        shown = "not finite" if row["mean"] is None else f"{unit * row['mean']:.{digits}f}"
        if row["interval_95"] is not None:
            shown += f" ± {unit * row['interval_95']:.{digits}f}"
        by_seed = ", ".join(f"{unit * mean:.{digits}f}" for mean in row["means_by_seed"])
        lines.append(
            f"| {row['experiment']} | {row['learner']} | {row['tasks']} | {shown} (n = {row['lifetimes']}) | {by_seed} "
            f"| {row['episodes']} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--root", type=Path, help="folder of Omniglot")
    parser.add_argument("--experiments", nargs="*", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--learners", nargs="+", default=["flp", "oml"], help=f"also {', '.join(map(repr, VARIANTS))}")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--meta-steps", type=int, help="instead of the experiment's own; more go on from the last")
    parser.add_argument("--lifetimes", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "meta_learning.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    def report(progress: Progress) -> None:
        if progress.line:
            print(f"    {progress.line}", flush=True)

    arguments.runs.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for experiment in arguments.experiments:
            for learner in arguments.learners:
                folder = arguments.runs / f"{experiment}_{learner}_{seed}".replace(" ", "-")
                config = resolve(settings(arguments, experiment, learner, seed))
                done = folder / "results.json"
                before = json.loads(done.read_text()) if done.exists() else {"status": "", "step": -1}
                if before["status"] != "diverged" and before["step"] < config.meta.meta_steps:
                    print(f"{experiment}, {learner}, seed {seed}", flush=True)
                    (folder / "test.json").unlink(missing_ok=True)
                    results = meta_train(config, folder, report, resume=folder.exists())
                    if isinstance(results, Stopped):
                        sys.exit(128 + results.signal)
                test(folder, EXPERIMENTS[experiment][2], arguments.lifetimes)
    results = collect(arguments.runs)
    write_json(arguments.out, results)
    print(table(results, ""))


if __name__ == "__main__":
    main()
