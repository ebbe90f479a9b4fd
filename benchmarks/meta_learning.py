"""FLP beside OML: meta-trained with the same budget of episodes on the same streams, tested on unseen tasks.

    python benchmarks/meta_learning.py --runs PATH --root OMNIGLOT [--only experiment=sinusoid-iid learner=oml]
    python benchmarks/meta_learning.py --runs PATH --choose               # the rates of the long trainings, first
    python benchmarks/meta_learning.py --runs PATH --long [--seeds 1 2 3]  # then these

Every run is measured on ``--lifetimes`` lifetimes of the test split (sinusoids never seen; unseen drawings of unseen
classes) at the checkpoint that was best on validation tasks. The recipes' settings were chosen on validation tasks,
seed 0; "flp, reference's rates" has those of the reference's example scripts with the same network, tasks and budget.

The long trainings have 20,000 episodes, as the reference, of 10 sinusoids of 40 steps, in a network of nine layers of
64. ``--choose`` meta-trains FLP and OML for a tenth of them, seed 0, with every pair of two rates from the same list of
factors on their own; the pair is taken that is best on validation tasks. Other learners have the rates of the one that
they are a variant of.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Literal

from grid import RESULTS, Arm, Data, commits_of, markdown, parser, rows_of, run_grid, show, spread

from backroads.plasticity.evaluate import measure
from backroads.plasticity.settings import resolve
from backroads.plasticity.trainer import load_run, meta_train
from backroads.report.read import read_record
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

# The long trainings: name of an experiment -> what differs from the recipe sinusoid-small.
LONG: dict[str, Data] = {
    f"sinusoid-64-{order}{words}": {"order": order, "steps_per_task": 40, "checkpoint_segments": 20, **more}
    for words, more in (("", {}), ("-all-plastic", {"frozen_layers": 0}))
    for order in ("iid", "continual")
}
VARIANTS = {
    "flp": ("flp", "flp_no_feedback", "flp_fixed_feedback", "flp_output_only", "flp_fixed_plasticity"),
    "oml": ("oml", "oml_first_order", "sgd_pretrained"),
}
# What is searched: two rates of each, every pair of factors on what the recipe has.
RATES_OF = {
    "flp": {"initial_plasticity": 1.0, "lr_forward": 3e-4},
    "oml": {"inner_lr": 3e-3, "lr_forward": 3e-4},
}
FACTORS = (0.3, 1.0, 3.0)
SHORT = 500  # meta-steps of a trial, of the recipe's 5,000


def trials() -> list[Arm]:
    """Every pair of rates for both learners, in both orders, with six layers frozen and none."""
    arms = []
    for experiment, differs in LONG.items():
        for learner, rates in RATES_OF.items():
            for factors in itertools.product(FACTORS, repeat=len(rates)):
                own = {name: rate * factor for (name, rate), factor in zip(rates.items(), factors, strict=True)}
                labels = {"experiment": experiment, "learner": learner, "factors": "{:g} {:g}".format(*factors)}
                settings = {"recipe": "sinusoid-small", "learner": learner, "meta_steps": SHORT, "drop_steps": []}
                arms.append(Arm(labels, {**settings, **differs, **own}))
    return arms


def chosen_rates(results: Data) -> dict[tuple[str, str], Data]:
    """The rates by (experiment, learner) that were best on validation tasks; of equal ones, the first."""
    best: dict[tuple[str, str], tuple[float, Data]] = {}
    for arm in results["arms"]:
        labels, (row,) = arm["labels"], arm["rows"]
        error = math.inf if row["mean"] is None else row["mean"]
        key = labels["experiment"], labels["learner"]
        if key not in best or error < best[key][0]:
            best[key] = error, {name: arm["settings"][name] for name in RATES_OF[labels["learner"]]}
    return {key: rates for key, (_, rates) in best.items()}


def long_arms(rates: dict[tuple[str, str], Data]) -> list[Arm]:
    """The long trainings for which rates were chosen; variants with six layers frozen alone."""
    return [
        Arm(
            {"experiment": experiment, "learner": variant},
            {"recipe": "sinusoid-small", "learner": variant, **differs, **rates[experiment, learner]},
        )
        for experiment, differs in LONG.items()
        for learner, variants in VARIANTS.items()
        if (experiment, learner) in rates
        for variant in (variants if "all-plastic" not in experiment else variants[:1])
    ]


def meta_training(
    arm: Arm, seed: int, folder: Path, machine: Data, *, lifetimes: int, split: Literal["validation", "test"] = "test"
) -> Data:
    """Meta-train, and measure on a split; leaves with status 128 + signal if it is stopped."""
    given = dict(arm.settings)
    tables = {**read_settings(given.pop("recipe"), "meta"), "learner": given.pop("learner")}
    config = resolve(tables, {**given, **machine, "seed": seed})
    results = meta_train(config, folder, show, resume=True)
    if isinstance(results, Stopped):
        sys.exit(128 + results.signal)
    network, tasks, found = load_run(folder, "best")
    step = found.manifest.step
    ways = {}
    _, _, numbers = EXPERIMENTS.get(arm.labels["experiment"], ("", {}, []))
    for n in numbers or [config.task.tasks]:
        # Long lifetimes of many classes one at a time: their weights at many moments are kept for the course.
        measured = measure(network, tasks, split, lifetimes, ways=n, batch=8 if n <= 20 else 1)
        ways[str(n)] = {**as_data(measured.summary(step)), "scores": measured.scores}
        print(f"    {n} tasks: {ways[str(n)]['measure']} {ways[str(n)]['mean']}", flush=True)
    episodes = config.meta.meta_steps * config.meta.meta_batch_size
    # What became of the error on validation tasks, to see whether it had stopped to fall.
    curve = [[line.step, line.mean] for line in read_record(folder).lifetimes]
    return {"status": results.status, "step": step, "episodes": episodes, "ways": ways, "curve": curve}


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
    parse.add_argument("--choose", action="store_true", help="try rates of the long trainings, on validation tasks")
    parse.add_argument("--long", action="store_true", help="the long trainings, with the rates that were chosen")
    given = parse.parse_args()
    rates = RESULTS / "meta_learning_rates.json"
    if given.choose:
        given.out, given.seeds = rates, [0]  # no seed of the trainings
        one = functools.partial(meta_training, lifetimes=given.lifetimes, split="validation")
        print(table(run_grid(trials(), given, one, summary), "", "factors"))
        return
    if given.long:
        if not rates.exists():
            sys.exit(f"expected rates in {rates}; run with --choose first")
        given.out = RESULTS / "meta_learning_long.json"
        given.seeds = [1, 2, 3] if given.seeds == parse.get_default("seeds") else given.seeds
        arms = long_arms(chosen_rates(json.loads(rates.read_text(encoding="utf-8"))))
        one = functools.partial(meta_training, lifetimes=given.lifetimes)
        print(table(run_grid(arms, given, one, summary), ""))
        return
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
