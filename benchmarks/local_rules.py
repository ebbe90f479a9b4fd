"""One unchanged setting per rule on many networks: does it carry over from one to another?

    python benchmarks/local_rules.py --data folder:PATH --runs PATH [--only network=resnet8 rule='normalised*']
    python benchmarks/local_rules.py --data digits --runs PATH --epochs 1 --only network=mlp --augment none   # a trial
    python benchmarks/local_rules.py --data folder:PATH --runs PATH --choose   # the defaults, on a validation part

The networks differ in depth, width, activation, normalisation and kind; each has a recipe for W that is the same for
all rules. What teaches B is never touched: every rule has its defaults; weight mirror and information alignment also
the coefficients of the reference (Kunin et al. 2020).

With ``--choose`` the candidates for the defaults of the mirrors on noise and of exact probing train ResNet-8 and are
judged on a tenth of the training split, which they do not see; the test split is not read.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from grid import RECIPE, RESULTS, Arm, gap_of, markdown, parser, rows_of, run_grid, spread

from backroads.runs.statistics import estimate


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and its recipe.

    Attributes:
        model: its name.
        options: its options.
        epochs: without ``--epochs``; what two cores do in an evening.
        recipe: what differs from RECIPE.
    """

    model: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    epochs: int = 1
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)


PLAIN: dict[str, Any] = {"learning_rate": 0.02, "clip_norm": 5.0}  # of W; unnormalised, a higher rate is not stable
HALF: dict[str, Any] = {"precision": "bf16"}  # on convolutions and attention two to three times as fast
NETWORKS = {
    "mlp": Network("mlp", {"hidden": [512, 512, 512]}, epochs=10, recipe=PLAIN),
    "resnet8": Network("resnet8", epochs=6, recipe=HALF),
    "vgg": Network("vgg", epochs=4, recipe=PLAIN | HALF),
    "lstm": Network("row_lstm", {"width": 128}, epochs=4, recipe={"learning_rate": 0.1, "clip_norm": 1.0}),
    "mlp-tanh": Network("mlp", {"hidden": [512, 512, 512], "activation": "tanh"}, epochs=10, recipe=PLAIN),
    "mlp-wide": Network("mlp", {"hidden": [1024, 1024, 1024]}, epochs=10, recipe=PLAIN),
    "resnet20": Network("resnet20", epochs=3, recipe=HALF),
    "mlp, Adam": Network(
        "mlp", {"hidden": [512, 512, 512]}, epochs=4, recipe={**PLAIN, "optimizer": "adam", "learning_rate": 5e-4}
    ),
    "mlp, AdamW": Network(
        "mlp",
        {"hidden": [512, 512, 512]},
        epochs=4,
        recipe={**PLAIN, "optimizer": "adamw", "learning_rate": 5e-4, "weight_decay": 0.05},
    ),
    "mlp, batch 1,024": Network(
        "mlp", {"hidden": [512, 512, 512]}, epochs=10, recipe={**PLAIN, "batch_size": 1024, "learning_rate": 0.1}
    ),
    "resnet8-wide": Network("resnet8", {"width": 32}, epochs=1, recipe=HALF),
    "resnet56": Network("resnet56", epochs=1, recipe=HALF),
    "vgg-wide": Network("vgg", {"width": 64}, epochs=1, recipe=PLAIN | HALF),
    "vgg-tanh": Network("vgg", {"activation": "tanh"}, epochs=2, recipe=PLAIN | HALF),
    "vit": Network(
        "vit",
        {"width": 96, "depth": 4},
        epochs=2,
        recipe={"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "clip_norm": 1.0} | HALF,
    ),
}
# The reference has no normalisation and no 1/2: its numbers in our convention, sums over positions, no operations.
_REFERENCE: dict[str, Any] = {"reduction": "sum", "operations": {}, "cadence": {"fraction": 1.0}}
RULES: dict[str, dict[str, Any]] = {
    "backprop": {"rule": "backprop"},
    "symmetric alignment": {"rule": "symmetric_alignment"},
    "mirrored Kolen-Pollack": {"rule": "mirrored_kolen_pollack"},
    "one phase, then Kolen-Pollack": {"rule": "kolen_pollack", "mirror_rows": 131.0},
    "Kolen-Pollack": {"rule": "kolen_pollack"},
    "white-noise mirror": {"rule": "white_noise_mirror"},
    "error-correcting mirror": {"rule": "error_correcting_mirror"},
    "exact probing": {"rule": "exact_probing"},  # reads W entry by entry: an upper bound
    "weight mirror, reference": {
        "rule": "weight_mirror",
        "rule_options": {"amp": 1e-3, "decay": 2e-3, **_REFERENCE},
    },
    "information alignment, reference": {
        "rule": "information_alignment",
        "rule_options": {"amp": 2e-3, "null": 2e-3, "decay": 2e-3, **_REFERENCE},
    },
    "weight mirror": {"rule": "weight_mirror"},
    "information alignment": {"rule": "information_alignment"},
    "feedback alignment": {"rule": "feedback_alignment"},
}

CLAIMS = ("backprop", "symmetric alignment", "mirrored Kolen-Pollack", "one phase, then Kolen-Pollack")


def _arm(rule: str, **options: Any) -> dict[str, Any]:
    return {"rule": rule, "rule_options": options}


# For the defaults of the mirrors on noise and of exact probing.
CANDIDATES: dict[str, dict[str, Any]] = {
    "backprop": {"rule": "backprop"},
    "impulses, rate 1, 1 row": _arm("exact_probing", rate=1.0, rows_per_input=1.0),
    "impulses, rate 1, 2 rows": _arm("exact_probing", rate=1.0, rows_per_input=2.0),
    "impulses, rate 1, 4 rows": _arm("exact_probing", rate=1.0, rows_per_input=4.0),
    "impulses, rate 0.3, 1 row": _arm("exact_probing", rate=0.3, rows_per_input=1.0),
    "white noise, rate 0.05, 8 rows": _arm("white_noise_mirror", rate=0.05, rows_per_input=8.0),
    "white noise, rate 0.1, 2 rows": _arm("white_noise_mirror", rate=0.1, rows_per_input=2.0),
    "white noise, rate 0.1, 8 rows": _arm("white_noise_mirror", rate=0.1, rows_per_input=8.0),
    "white noise, rate 0.2, 8 rows": _arm("white_noise_mirror", rate=0.2, rows_per_input=8.0),
    "error-correcting, rate 0.1, 1 row": _arm("error_correcting_mirror", rate=0.1, rows_per_input=1.0),
    "error-correcting, rate 0.3, 1 row": _arm("error_correcting_mirror", rate=0.3, rows_per_input=1.0),
    "error-correcting, rate 0.3, 4 rows": _arm("error_correcting_mirror", rate=0.3, rows_per_input=4.0),
}


def details(results: dict[str, Any]) -> str:
    """A row for each arm: accuracy with its spread over seeds, gap with its paired interval, angles, n."""
    cells = [
        [
            row["network"],
            row["rule"],
            str(row["n"]),
            "diverged" if row["accuracy_mean"] is None else spread(row["accuracy_mean"], row["accuracy_std"]),
            gap_of(row) if row["rule"] != "backprop" else "",
            "" if row["angle_mean"] is None else f"{row['angle_mean']:.1f}° ({row['angle_max']:.1f}°)",
        ]
        for row in rows_of(results)
    ]
    return markdown(["network", "rule", "n", "accuracy, %", "gap, points", "mean angle (largest)"], cells)


def means(results: dict[str, Any]) -> str:
    """The gap of each rule over networks, with the interval over them: of rules that ran on at least five.

    Networks on which a rule diverged are counted, and are not in the mean.
    """
    gaps: dict[str, list[float]] = {}
    diverged: dict[str, int] = {}
    for row in rows_of(results):
        if row["rule"] != "backprop" and row["gap_points"] is not None:
            gaps.setdefault(row["rule"], []).append(row["gap_points"])
        diverged[row["rule"]] = diverged.get(row["rule"], 0) + bool(row["diverged"])
    cells = []
    for rule, found in gaps.items():
        mean = estimate(found)
        if mean.mean is not None and mean.half is not None and mean.n >= 5:
            interval = f"[{mean.mean - mean.half:+.2f}, {mean.mean + mean.half:+.2f}]"
            extremes = f"{min(found):+.2f} to {max(found):+.2f}"
            cells.append([rule, str(mean.n), str(diverged[rule]), f"{mean.mean:+.2f} {interval}", extremes])
    return markdown(["rule", "networks", "diverged on", "mean gap, points", "lowest to highest"], cells)


def table(results: dict[str, Any]) -> str:
    """Gaps to backprop by network and rule, in points, with the mean angle: networks and rules of which one ran."""
    rows = rows_of(results)
    epochs = {row["network"]: row.get("epochs") or row["settings"]["epochs"] for row in rows}
    names = {network: f"{network}, {n} epoch{'s' if n > 1 else ''}" for network, n in epochs.items()}
    present = list(dict.fromkeys(row["rule"] for row in rows))
    shown = [rule for rule in RULES if rule in present] + [rule for rule in present if rule not in RULES]
    found = {(row["network"], row["rule"]): row for row in rows}
    cells = [[name, *(_cell(found.get((network, rule))) for rule in shown)] for network, name in names.items()]
    return markdown(["network", *shown], cells)


def claims(results: dict[str, Any]) -> str:
    """The table of backpropagation, symmetric alignment, and both forms of the mirrored rule."""
    return table({"arms": [arm for arm in results["arms"] if arm["labels"]["rule"] in CLAIMS]})


def controls(results: dict[str, Any]) -> str:
    """The table of the other rules."""
    return table({"arms": [arm for arm in results["arms"] if arm["labels"]["rule"] not in CLAIMS]})


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["diverged"]:
        return f"diverged ({row['diverged']} of {row['n']})"
    if row["rule"] == "backprop":
        return spread(row["accuracy_mean"], row["accuracy_std"]) + " %"
    return gap_of(row) + ("" if row["angle_mean"] is None else f" ({row['angle_mean']:.0f}°)")


def main() -> None:
    parse = parser(__doc__, "local_rules")
    parse.set_defaults(seeds=[0])
    parse.add_argument("--choose", action="store_true", help="candidates for the defaults, on a validation part")
    parse.add_argument("--epochs", type=int, help="in place of each network's own")
    parse.add_argument("--augment", default=RECIPE["augment"])
    given = parse.parse_args()
    if given.choose and given.out == parse.get_default("out"):
        given.out = RESULTS / "normalised_mirror_choice.json"
    arms = []
    for name, network in NETWORKS.items():
        if given.choose and name != "resnet8":
            continue
        epochs = given.epochs or network.epochs
        shared = {
            **RECIPE,
            "augment": given.augment,
            **network.recipe,
            "epochs": epochs,
            "warmup_epochs": min(1.0, epochs / 2),
        }
        shared |= {"model": network.model, "model_options": network.options}
        shared |= {"split": "validation" if given.choose else "test"}
        for rule, settings in (CANDIDATES if given.choose else RULES).items():
            arms.append(Arm({"network": name, "rule": rule}, {**shared, **settings}))
    print((details if given.choose else table)(run_grid(arms, given)))


if __name__ == "__main__":
    main()
