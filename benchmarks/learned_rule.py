"""A local rule found by meta-learning: its coefficients on sinusoids, its formula, and what it does on Omniglot.

    python benchmarks/learned_rule.py --runs PATH --root OMNIGLOT [--jobs 2]

On sinusoids FLP with one plasticity a layer is meta-trained under Oja's rule and under a polynomial that begins there.
On Omniglot it is meta-trained under Oja's rule, a polynomial that is found there, and the one that sinusoids have
found with the same seed (the mean over hidden layers), which stays as it is. All are measured on the test split.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from grid import Arm, Data, markdown, parser, rows_of, run_grid
from meta_rates import meta_training, summary, table

from backroads.plasticity.polynomial import SHAPE, formula, oja
from backroads.plasticity.trainer import load_run

RULES: dict[str, Data] = {"Oja": {"learner": "flp_by_layer"}, "found here": {"learner": "flp_polynomial"}}
TASKS: dict[str, Data] = {
    # The mean over samples for both, since a polynomial has no power to be divided by.
    "sinusoid-iid": {
        "recipe": "sinusoid-small",
        "order": "iid",
        "reduction": "mean",
        "initial_plasticity": 0.03,  # at 0.1, or without the clip, lifetimes explode now and then
        "lr_plasticity": 3e-4,
        "lr_coefficients": 1e-4,  # at 1e-3 lifetimes explode, here and on Omniglot
        "meta_clip": 1.0,
        "meta_steps": 600,
        "drop_steps": [500],
    },
    "omniglot-5-iid": {
        "recipe": "omniglot-small",
        "order": "iid",
        "lr_coefficients": 1e-4,
        "meta_steps": 2500,
        "drop_steps": [2000],
    },
}
FIRST = Arm({"experiment": "sinusoid-iid", "rule": "found here"}, {})


def measured(arm: Arm, seed: int, folder: Path, machine: Data, *, lifetimes: int, found: Data) -> Data:
    """Meta-train and measure; with the coefficients at the checkpoint that was best, by layer."""
    settings = dict(arm.settings)
    if arm.labels["rule"] == "found on sinusoids":
        hidden = list(found[str(seed)]["theta"].values())[:-1]
        mean = torch.tensor(hidden).mean(0)
        settings |= {"initial_coefficients": mean.flatten().tolist(), "lr_coefficients": 0.0}
    outcome = meta_training(Arm(arm.labels, settings), seed, folder, machine, lifetimes=lifetimes)
    network, _, _ = load_run(folder, "best")
    theta = {name: value.tolist() for name, value in network.meta.items() if name[0] == "t"}
    return {**outcome, "theta": theta}


def formulas(results: Data) -> str:
    """What was found: the mean over seeds of the coefficients of each layer, terms above a fiftieth of the largest."""
    cells = []
    for arm in rows_of(results):
        if arm["rule"] == "found here":
            found = [run["theta"] for run in arm["seeds"].values()]
            for name in found[0]:
                theta = torch.tensor([run[name] for run in found])
                mean, apart = theta.mean(0).view(SHAPE), (theta.view(-1, *SHAPE) - oja(1.0)).abs().max()
                cells.append([arm["experiment"], name[1:], f"`{formula(mean, 0.02)}`", f"{apart:.3f}", str(len(found))])
    return markdown(
        ["experiment", "layer", "mean over seeds", "farthest of a seed's coefficients from Oja's", "n"], cells
    )


def main() -> None:
    parse = parser(__doc__, "learned_rule", data=False)
    parse.add_argument("--root", help="folder of Omniglot")
    parse.add_argument("--meta-steps", type=int, help="instead of the recipes' own")
    parse.add_argument("--lifetimes", type=int, default=200)
    given = parse.parse_args()
    more = {} if given.meta_steps is None else {"meta_steps": given.meta_steps}
    arms = [
        Arm({"experiment": task, "rule": rule}, {**of_task, **of_rule, **more})
        for task, of_task in TASKS.items()
        for rule, of_rule in RULES.items()
    ]
    one = functools.partial(measured, lifetimes=given.lifetimes)
    results = run_grid(arms, given, functools.partial(one, found={}), summary)
    seeds = next((arm["seeds"] for arm in results["arms"] if arm["labels"] == FIRST.labels), {})
    if all(str(seed) in seeds for seed in given.seeds):
        settings = {**TASKS["omniglot-5-iid"], "learner": "flp_polynomial", **more}
        arms.append(Arm({"experiment": "omniglot-5-iid", "rule": "found on sinusoids"}, settings))
        results = run_grid(arms, given, functools.partial(one, found=seeds), summary)
    print(table(results), formulas(results), sep="\n\n")


if __name__ == "__main__":
    main()
