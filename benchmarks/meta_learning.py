"""FLP beside OML: meta-trained with the same budget of episodes on the same streams, tested on unseen tasks.

    python benchmarks/meta_learning.py --runs PATH --root OMNIGLOT [--only experiment=sinusoid-iid learner=oml]

Every run is measured on ``--lifetimes`` lifetimes of the test split (sinusoids never seen; unseen drawings of unseen
classes) at the checkpoint that was best on validation tasks. The recipes' settings were chosen on validation tasks,
seed 0; "flp, reference's rates" has those of the reference's example scripts with the same network, tasks and budget.
"""

from __future__ import annotations

import functools
import math
import statistics
import sys
from pathlib import Path

from grid import Arm, Data, commits_of, markdown, parser, rows_of, run_grid, show, spread

from backroads.plasticity.evaluate import measure
from backroads.plasticity.settings import resolve
from backroads.plasticity.trainer import load_run, meta_train
from backroads.runs.schema import Stopped, as_data
from backroads.runs.settings import read_settings

# name: (recipe, what differs from it, numbers of tasks to test on; none: as many as in meta-training)
EXPERIMENTS: dict[str, tuple[str, Data, list[int]]] = {
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
# Name: (learner, what differs from its settings by kind of task). The reference's rates, at the same network, tasks and
# budget; labels of all outputs, where the reference meta-trains the first N only.
RATES = {"lr_forward": 1e-4, "lr_feedback": 1e-4, "initial_plasticity": 0.0}
LEARNERS: dict[str, tuple[str, dict[str, Data]]] = {
    "flp": ("flp", {"sinusoid": {}, "omniglot": {}}),
    "oml": ("oml", {"sinusoid": {}, "omniglot": {}}),
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


def meta_training(arm: Arm, seed: int, folder: Path, machine: Data, *, lifetimes: int) -> Data:
    """Meta-train, and measure on the test split; leaves with status 128 + signal if it is stopped."""
    given = dict(arm.settings)
    tables = {**read_settings(given.pop("recipe"), "meta"), "learner": given.pop("learner")}
    config = resolve(tables, {**given, **machine, "seed": seed})
    results = meta_train(config, folder, show, resume=True)
    if isinstance(results, Stopped):
        sys.exit(128 + results.signal)
    network, tasks, found = load_run(folder, "best")
    step = found.manifest.step
    ways = {}
    for n in EXPERIMENTS[arm.labels["experiment"]][2] or [config.task.tasks]:
        # Long lifetimes of many classes one at a time: their weights at many moments are kept for the course.
        measured = measure(network, tasks, "test", lifetimes, ways=n, batch=8 if n <= 20 else 1)
        ways[str(n)] = {**as_data(measured.summary(step)), "scores": measured.scores}
        print(f"    {n} tasks: {ways[str(n)]['measure']} {ways[str(n)]['mean']}", flush=True)
    episodes = config.meta.meta_steps * config.meta.meta_batch_size
    return {"status": results.status, "step": step, "episodes": episodes, "ways": ways}


def summary(seeds: dict[str, Data], baseline: dict[str, Data]) -> Data:
    """A row for each number of tasks, over all lifetimes of all seeds."""
    runs = list(seeds.values())
    found_rows = []
    for ways in runs[0]["ways"]:
        found = [run["ways"][ways] for run in runs]
        scores = [s for one in found for s in one["scores"] if s is not None and math.isfinite(s)]
        means = [one["mean"] for one in found if one["mean"] is not None]
        deviation = statistics.stdev(scores) if len(scores) > 1 else None
        found_rows.append(
            {
                "tasks": int(ways),
                "measure": found[0]["measure"],
                "lifetimes": len(scores),
                "not_finite": sum(one["skipped"] for one in found),
                "mean": statistics.fmean(scores) if scores else None,
                "interval_95": None if deviation is None else 1.96 * deviation / math.sqrt(len(scores)),
                "means_by_seed": means,
                "std_over_seeds": statistics.stdev(means) if len(means) > 1 else None,
                "so_far": [statistics.fmean(column) for column in zip(*(o["so_far"] for o in found), strict=True)],
                "episodes": runs[0]["episodes"],
            }
        )
    return {"rows": found_rows}


def rows(results: Data, name: str = "learner") -> list[Data]:
    """A row for each experiment, learner (or other label ``name``) and number of tasks."""
    return [
        {key: arm[key] for key in ("experiment", name, "n")} | {"commits": commits_of({"arms": [raw]})} | row
        for arm, raw in zip(rows_of(results), results["arms"], strict=True)
        for row in arm["rows"]
    ]


def table(results: Data, kind: str, name: str = "learner") -> str:
    """The rows of "sinusoid" or "omniglot" (of both for ""), with the label ``name``, as the docs show them."""
    cells = []
    for row in rows(results, name):
        if row["experiment"].startswith(kind):
            factor, digits = (100, 1) if row["measure"] == "accuracy" else (1, 3)
            score = "not finite" if row["mean"] is None else spread(row["mean"], row["interval_95"], factor, digits)
            by_seed = ", ".join(f"{factor * mean:.{digits}f}" for mean in row["means_by_seed"])
            score += f" (n = {row['lifetimes']})"
            cells.append([row["experiment"], row[name], str(row["tasks"]), score, by_seed, str(row["episodes"])])
    return markdown(
        ["experiment", name, "tasks", "at the end of a lifetime, 95 % interval", "by seed", "episodes"], cells
    )


def main() -> None:
    parse = parser(__doc__, "meta_learning", data=False)
    parse.add_argument("--root", help="folder of Omniglot")
    parse.add_argument("--meta-steps", type=int, help="instead of the experiment's own")
    parse.add_argument("--lifetimes", type=int, default=200)
    given = parse.parse_args()
    arms = []
    for experiment, (recipe, differs, _) in EXPERIMENTS.items():
        for name, (learner, by_kind) in LEARNERS.items():
            if (rates := by_kind.get(experiment.partition("-")[0])) is not None:
                settings = {"recipe": recipe, "learner": learner, **differs, **rates}
                settings |= {} if given.meta_steps is None else {"meta_steps": given.meta_steps}
                arms.append(Arm({"experiment": experiment, "learner": name}, settings))
    one = functools.partial(meta_training, lifetimes=given.lifetimes)
    print(table(run_grid(arms, given, one, summary), ""))


if __name__ == "__main__":
    main()
