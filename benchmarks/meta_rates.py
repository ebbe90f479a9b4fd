"""The rates of FLP and OML for long meta-trainings, by one search on validation tasks.

    python benchmarks/meta_rates.py --runs PATH --root OMNIGLOT [--jobs 2] [--only learner=flp]

Both learners are meta-trained for a tenth of the long trainings' episodes (recipes ``sinusoid-small`` and
``omniglot-small``), seed 0, with every pair of two rates: factors from one list on what is given here, a plasticity at
the start and a rate of the weights for FLP, an inner and an outer rate for OML. The pair is taken that is best on
validation tasks, in the i.i.d. order. What it is stands in the claims L1 to L5, for both orders; variants have the
rates of what they are variants of.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
import sys
from pathlib import Path
from typing import Literal

from grid import Arm, Data, markdown, parser, run_grid, show, spread

from backroads.plasticity.evaluate import measure
from backroads.plasticity.settings import resolve
from backroads.plasticity.trainer import load_run, meta_train
from backroads.report.read import read_record
from backroads.runs.schema import Stopped, as_data
from backroads.runs.settings import read_settings

# What is learned in lifetimes: its recipe, and by learner the two rates that the factors go on.
SEARCHED: dict[str, tuple[str, dict[str, dict[str, float]]]] = {
    "sinusoid": (
        "sinusoid-small",
        {
            "flp": {"initial_plasticity": 1.0, "lr_forward": 3e-4},
            "oml": {"inner_lr": 3e-3, "lr_forward": 3e-4},
        },
    ),
    "omniglot 5": (
        "omniglot-small",
        {
            "flp": {"initial_plasticity": 0.01, "lr_forward": 3e-4},
            "oml": {"inner_lr": 0.03, "lr_forward": 3e-4},
        },
    ),
}
FACTORS = ((0.3, 1.0, 3.0, 10.0), (3.0, 10.0, 30.0))  # of the first of the two, and of the rate of the weights
# Where the best pair was at an edge of that list, the list goes on beyond it.
WIDER = {("omniglot 5", "flp"): ((0.1, *FACTORS[0]), (1.0, *FACTORS[1]))}
SHORT = 500  # meta-steps, of 5,000


def trials() -> list[Arm]:
    """Every pair of rates, for each task and learner."""
    arms = []
    for task, (recipe, learners) in SEARCHED.items():
        for learner, rates in learners.items():
            for factors in itertools.product(*WIDER.get((task, learner), FACTORS)):
                own = {name: rate * factor for (name, rate), factor in zip(rates.items(), factors, strict=True)}
                labels = {"experiment": f"{task} iid", "learner": learner, "factors": "{:g} {:g}".format(*factors)}
                settings = {"recipe": recipe, "order": "iid", "learner": learner}
                arms.append(Arm(labels, {**settings, "meta_steps": SHORT, "drop_steps": [], **own}))
    return arms


def chosen_rates(results: Data) -> dict[tuple[str, str], Data]:
    """The rates by (experiment, learner) that were best on validation tasks; of equal ones, the first."""
    best: dict[tuple[str, str], tuple[float, Data]] = {}
    for arm in results["arms"]:
        labels, (row,) = arm["labels"], arm["rows"]
        sign = 1 if row["measure"] == "accuracy" else -1
        score = -math.inf if row["mean"] is None else sign * row["mean"]
        task, key = labels["experiment"].rpartition(" ")[0], (labels["experiment"], labels["learner"])
        if key not in best or score > best[key][0]:
            best[key] = score, {name: arm["settings"][name] for name in SEARCHED[task][1][labels["learner"]]}
    return {key: rates for key, (_, rates) in best.items()}


def meta_training(
    arm: Arm, seed: int, folder: Path, machine: Data, *, lifetimes: int, split: Literal["validation", "test"] = "test"
) -> Data:
    """Meta-train, and measure on a split; leaves with status 128 + signal if it is stopped."""
    given = dict(arm.settings)
    config = resolve(read_settings(given.pop("recipe"), "meta"), {**given, **machine, "seed": seed})
    results = meta_train(config, folder, show, resume=True)
    if isinstance(results, Stopped):
        sys.exit(128 + results.signal)
    network, tasks, found = load_run(folder, "best")
    step, n = found.manifest.step, config.task.tasks
    measured = measure(network, tasks, split, lifetimes, batch=8 if n <= 20 else 1)
    row = {**as_data(measured.summary(step)), "scores": measured.scores, "tasks": n}
    episodes = config.meta.meta_steps * config.meta.meta_batch_size
    # What became of the score on validation tasks, to see whether it had stopped to change.
    curve = [[line.step, line.mean] for line in read_record(folder).lifetimes]
    return {"status": results.status, "step": step, "episodes": episodes, "curve": curve, **row}


def summary(seeds: dict[str, Data], baseline: dict[str, Data]) -> Data:
    """One row, over all lifetimes of all seeds."""
    found = list(seeds.values())
    scores = [s for one in found for s in one["scores"] if s is not None and math.isfinite(s)]
    means = [one["mean"] for one in found if one["mean"] is not None]
    deviation = statistics.stdev(scores) if len(scores) > 1 else None
    row = {
        **{name: found[0][name] for name in ("tasks", "measure", "episodes")},
        "lifetimes": len(scores),
        "not_finite": sum(one["skipped"] for one in found),
        "mean": statistics.fmean(scores) if scores else None,
        "interval_95": None if deviation is None else 1.96 * deviation / math.sqrt(len(scores)),
        "means_by_seed": means,
    }
    return {"rows": [row]}


def table(results: Data) -> str:
    """A row for each arm and number of tasks of a lifetime, as the docs show them."""
    cells = []
    for arm in results["arms"]:
        for row in arm["rows"]:
            factor, digits = (100, 1) if row["measure"] == "accuracy" else (1, 3)
            score = "not finite" if row["mean"] is None else spread(row["mean"], row["interval_95"], factor, digits)
            score += f" (n = {row['lifetimes']})"
            by_seed = ", ".join(f"{factor * mean:.{digits}f}" for mean in row["means_by_seed"])
            cells.append([*arm["labels"].values(), str(row["tasks"]), score, by_seed, str(row["episodes"])])
    head = [*results["arms"][0]["labels"], "tasks", "at the end of a lifetime, 95 % interval", "by seed", "episodes"]
    return markdown(head, cells)


def main() -> None:
    parse = parser(__doc__, "meta_rates", data=False)
    parse.add_argument("--root", help="folder of Omniglot")
    parse.add_argument("--lifetimes", type=int, default=200)
    given = parse.parse_args()
    given.seeds = [0]
    one = functools.partial(meta_training, lifetimes=given.lifetimes, split="validation")
    results = run_grid(trials(), given, one, summary)
    print(table(results))
    for (experiment, learner), rates in chosen_rates(results).items():
        print(experiment, learner, rates)


if __name__ == "__main__":
    main()
