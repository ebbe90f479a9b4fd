"""Accuracy against the variance of noisy updates: does symmetric alignment withstand more noise than backprop?

    python benchmarks/update_noise.py --data folder:PATH --runs PATH [--only variance=0 variance=0.01]
    python benchmarks/update_noise.py --data digits --model digits_conv --runs PATH --epochs 1   # a trial

After every step ``weight += rate epsilon`` with epsilon normal, of the variance of the row, on all weights (W at its
rate, B at its own) or on those that ``--on`` names: the experiment of Kunin et al., ICML 2020.

    python benchmarks/update_noise.py --increments --data digits --model digits_conv --epochs 30 --runs PATH

With ``--increments`` the noise is on W or on B, of W's rate on either, and the results are a file of their own.
"""

from __future__ import annotations

from typing import Any

from grid import RECIPE, RESULTS, Arm, gap_of, markdown, parser, rows_of, run_grid, spread
from local_rules import RULES as LOCAL_RULES

RULES: dict[str, dict[str, Any]] = {
    **{name: LOCAL_RULES[name] for name in ("backprop", "symmetric alignment")},
    "activation alignment": {"rule": "activation_alignment"},
    **{name: LOCAL_RULES[name] for name in ("Kolen-Pollack", "one phase, then Kolen-Pollack")},
    **{name: settings for name, settings in LOCAL_RULES.items() if "mirror" in name and "weight" not in name},
}
VARIANCES = [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
INCREMENTS = [0.0, 1e-3, 1e-2, 1e-1, 1.0]


def table(results: dict[str, Any]) -> str:
    """Accuracy in percent by rule and variance, with the spread over seeds."""
    rows = rows_of(results)
    variances = sorted({row["variance"] for row in rows})
    cells: dict[str, dict[float, str]] = {}
    for row in rows:
        diverged = f" ({row['diverged']} of {row['n']} diverged)" if row["diverged"] else ""
        cell = spread(row["accuracy_mean"], row["accuracy_std"]) + diverged
        cells.setdefault(row["rule"], {})[row["variance"]] = cell
    head = ["rule", *(f"{variance:g}" for variance in variances)]
    return markdown(head, [[rule, *(of.get(variance, "") for variance in variances)] for rule, of in cells.items()])


def increments(results: dict[str, Any]) -> str:
    """Gap to backpropagation without noise and mean angle, a row for the noisy weight and rule, a column a variance."""
    rows = rows_of(results)
    variances = sorted({row["variance"] for row in rows})
    cells: dict[tuple[str, str], dict[float, str]] = {}
    for row in rows:
        angle = "" if row["rule"] == "backprop" else f" ({row['angle_mean']:.0f}°)"
        cells.setdefault(("W" if row["on"] == "forward" else "B", row["rule"]), {})[row["variance"]] = (
            gap_of(row) + angle
        )
    head = ["noise on", "rule", *(f"{variance:g}" for variance in variances)]
    return markdown(head, [[*key, *(of.get(variance, "") for variance in variances)] for key, of in cells.items()])


def main() -> None:
    parse = parser(__doc__, "update_noise")
    parse.set_defaults(seeds=[0])
    parse.add_argument("--model", default="resnet8")
    parse.add_argument("--width", type=int, help="of the model, in place of its own")
    parse.add_argument("--epochs", type=int, default=5)
    parse.add_argument("--on", default="all", choices=["all", "forward", "backward"])
    parse.add_argument("--increments", action="store_true", help="noise on W or on B, of W's rate on either")
    given = parse.parse_args()
    if given.increments and given.out == parse.get_default("out"):
        given.out = RESULTS / "increment_noise.json"
    shared = {
        **RECIPE,
        "augment": "crop_flip" if given.model != "digits_conv" else "none",
        "model": given.model,
        "model_options": {} if given.width is None else {"width": given.width},
        "epochs": given.epochs,
        "warmup_epochs": min(1.0, given.epochs / 2),
    }
    if given.increments:
        shared["update_noise_rate"] = "forward"
        arms = [
            _arm({"on": on, "rule": rule, "variance": variance}, {**shared, **settings, "update_noise_on": on})
            for on in ("forward", "backward")
            for rule, settings in RULES.items()
            for variance in INCREMENTS
            if on == "forward" or rule != "backprop"
        ]
        print(increments(run_grid(arms, given, baseline={"on": "forward", "rule": "backprop", "variance": 0.0})))
        return
    shared["update_noise_on"] = given.on
    arms = [
        _arm({"rule": rule, "variance": variance}, {**shared, **settings})
        for variance in VARIANCES
        for rule, settings in RULES.items()
    ]
    print(table(run_grid(arms, given)))


def _arm(labels: dict[str, Any], settings: dict[str, Any]) -> Arm:
    return Arm(labels, {**settings, "update_noise": labels["variance"] ** 0.5})


if __name__ == "__main__":
    main()
