"""What plasticity of hidden layers adds, and how much a step interferes, with one thing changed in FLP at a time.

    python benchmarks/plasticity_variations.py --runs PATH --root OMNIGLOT [--jobs 2]

The claims L1 and L5 are about FLP with the settings of the recipes ``sinusoid-small`` and ``omniglot-small``. Here its
signal, strength, plasticity and depth, the order of the tasks and the front are others; each is meta-trained with
plasticity in all layers that the recipe does not freeze and with plasticity in the output layer alone, and tested on
the test split. Meta-trainings are shorter than those of the claims: half as long on Omniglot, a quarter on sinusoids.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from grid import Arm, Data, gap_of, markdown, parser, run_grid, spread
from meta_rates import meta_training, summary

from backroads.plasticity.analysis import analyse
from backroads.plasticity.network import MetaNetwork
from backroads.plasticity.trainer import load_run
from backroads.reproduce.outcome import of_analysis, of_lifetimes
from backroads.runs.schema import Lifetimes
from backroads.runs.statistics import estimate, paired

LEARNERS = ("flp", "flp_output_only")
TASKS: dict[str, Data] = {
    "omniglot 5": {"recipe": "omniglot-small", "order": "iid", "meta_steps": 2500, "drop_steps": [2000]},
    "sinusoid": {"recipe": "sinusoid-small", "order": "iid", "meta_steps": 1250, "drop_steps": [1000]},
}
AS_IT_IS = "as in L1"
VARIATIONS: dict[str, dict[str, Data]] = {
    "omniglot 5": {
        AS_IT_IS: {},
        "one class after another": {"order": "continual"},
        "no convolutions": {"front": "none"},
        "two hidden layers": {"hidden": [128, 128]},
        "the error as signal": {"signal": "error"},
        "strength 0.5": {"initial_strength": 0.5},
        "plasticity x 3.3": {"initial_plasticity": 0.01},
        "hidden plasticity x 10": {"hidden_multiplier": 10.0},
        "hidden plasticity / 10": {"hidden_multiplier": 0.1},
    },
    "sinusoid": {
        AS_IT_IS: {},
        "one sinusoid after another": {"order": "continual"},
        "two plastic layers": {"frozen_layers": 7},
        "nine plastic layers": {"frozen_layers": 0},
        "strength 0.3": {"initial_strength": 0.3},
        "plasticity / 3": {"initial_plasticity": 1.0},
        "hidden plasticity x 10": {"hidden_multiplier": 1.0},
        "hidden plasticity / 10": {"hidden_multiplier": 0.01},
    },
}
# What these change is in hidden layers that do not change where the output layer alone does.
OF_HIDDEN_LAYERS = {
    "two plastic layers",
    "nine plastic layers",
    "strength 0.5",
    "strength 0.3",
    "hidden plasticity x 10",
    "hidden plasticity / 10",
}


def arms_of_all() -> list[Arm]:
    """Every variation, with each learner that it changes."""
    return [
        Arm({"experiment": task, "variation": variation, "learner": learner}, {**base, **own, "learner": learner})
        for task, base in TASKS.items()
        for variation, own in VARIATIONS[task].items()
        for learner in (LEARNERS[:1] if variation in OF_HIDDEN_LAYERS else LEARNERS)
    ]


def measured(arm: Arm, seed: int, folder: Path, machine: Data, *, lifetimes: int, analysed: int) -> Data:
    """Meta-train and measure; with degrees between updates and gradients, and what a step does to losses."""
    outcome = meta_training(arm, seed, folder, machine, lifetimes=lifetimes)
    network, tasks, found = load_run(folder, "best")
    untrained = MetaNetwork(network.config, tasks.shape)
    compared = analyse(network, untrained, tasks, "test", analysed, step=found.manifest.step)
    return {**outcome, **of_analysis(compared), "interference": compared.interference}


def score(run: Data) -> float | None:
    """As in the claims: points of accuracy, or minus the logarithm of the mean squared error."""
    known = {field.name for field in dataclasses.fields(Lifetimes)}
    found = of_lifetimes(Lifetimes(**{name: value for name, value in run.items() if name in known}))["score"]
    return found if found is None or run["measure"] != "accuracy" else 100 * found


def table(results: Data) -> str:
    """A row for each variation: scores, their difference, and what a step of FLP does to losses."""
    found: dict[tuple[str, str], dict[str, Data]] = {}
    for arm in results["arms"]:
        labels = arm["labels"]
        found.setdefault((labels["experiment"], labels["variation"]), {})[labels["learner"]] = arm["seeds"]
    cells = []
    for (task, variation), by_learner in found.items():
        flp = by_learner.get("flp", {})
        alone = (found[task, AS_IT_IS] if variation in OF_HIDDEN_LAYERS else by_learner).get("flp_output_only", {})
        seeds = sorted(flp.keys() & alone.keys(), key=int)
        if seeds:
            gap = paired([score(flp[seed]) for seed in seeds], [score(alone[seed]) for seed in seeds])
            means = [spread(estimate(score(runs[seed]) for seed in seeds).mean, None, 1) for runs in (flp, alone)]
            shown = gap_of({"gap_points": gap.mean, "gap_half": gap.half})
            steps = [
                spread(estimate(flp[seed]["interference"].get(name) for seed in seeds).mean, None, 1, sign="+")
                for name in ("own", "others", "gradient_own", "gradient_others")
            ]
            cells.append([task, variation, *means, shown, *steps, str(len(seeds))])
    head = ["task", "variation", "FLP", "output alone", "difference", "own", "others", "own, gradient"]
    return markdown([*head, "others, gradient", "seeds"], cells)


def main() -> None:
    parse = parser(__doc__, "plasticity_variations", data=False)
    parse.add_argument("--root", help="folder of Omniglot")
    parse.add_argument("--lifetimes", type=int, default=200)
    parse.add_argument("--analysed", type=int, default=10, help="lifetimes in which steps are looked at")
    given = parse.parse_args()
    one = functools.partial(measured, lifetimes=given.lifetimes, analysed=given.analysed)
    print(table(run_grid(arms_of_all(), given, one, summary)))


if __name__ == "__main__":
    main()
