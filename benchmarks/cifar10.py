"""Every rule with one recipe and the same seeds: the accuracies of the README, on CIFAR-10.

    python benchmarks/cifar10.py --data folder:PATH --runs PATH [--model resnet8 --epochs 10] [--only rule=backprop]
    python benchmarks/cifar10.py --data folder:PATH --runs PATH --options cadence.fraction=1 --only 'rule=weight*'

The rules are used with their defaults, unless ``--options`` changes them: such a variant is an arm of its own. What is
recorded in ``--out`` is not trained again, so the table can grow over days.
"""

from __future__ import annotations

from typing import Any

from grid import RECIPE, RESULTS, Arm, gap_of, markdown, parser, rows_of, run_grid, spread

RULES = [
    "backprop",
    "symmetric_alignment",
    "sign_symmetry",
    "kolen_pollack",
    "mirrored_kolen_pollack",
    "activation_alignment",
    "feedback_alignment",
    "information_alignment",
    "weight_mirror",
    "direct_feedback_alignment",
]


def table(results: dict[str, Any]) -> str:
    """As the README shows it."""
    cells = []
    for row in rows_of(results):
        options = f" ({row['options']})" if row["options"] else ""
        angle = "-" if row["angle_mean"] is None else f"{row['angle_mean']:.1f}°"
        gap = gap_of(row)
        accuracy = spread(row["accuracy_mean"], row["accuracy_std"])
        cells.append([row["rule"].replace("_", " ") + options, str(row["n"]), accuracy, gap, angle])
    return markdown(["rule", "n", "accuracy, %", "gap to backprop, points", "weight angle"], cells)


def main() -> None:
    parse = parser(__doc__, "cifar10")
    parse.add_argument("--model", default="resnet8")
    parse.add_argument("--epochs", type=int, default=10)
    parse.add_argument("--options", nargs="*", default=[], help="of the rules, as in cadence.fraction=1")
    given = parse.parse_args()
    if given.out == parse.get_default("out"):
        given.out = RESULTS / f"cifar10_{given.model}_{given.epochs}.json"
    options: dict[str, Any] = {}
    for option in given.options:
        (table_name, _, key), value = option.partition("=")[0].rpartition("."), option.partition("=")[2]
        (options.setdefault(table_name, {}) if table_name else options)[key] = value
    shared = {**RECIPE, "model": given.model, "epochs": given.epochs}
    arms = [
        Arm({"rule": rule, "options": text}, {**shared, "rule": rule, "rule_options": of})
        for rule in RULES
        for text, of in {"": {}, ", ".join(sorted(given.options)): options}.items()
    ]
    if given.options:
        given.only = [*given.only, f"options={', '.join(sorted(given.options))}"]
    print(table(run_grid(arms, given, baseline={"rule": "backprop", "options": ""})))


if __name__ == "__main__":
    main()
