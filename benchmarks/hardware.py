"""Which rules survive which imperfect devices: accuracy by rule, error, and the weight that has it.

    python benchmarks/hardware.py --data digits --runs PATH
    python benchmarks/hardware.py --task cifar10 --data folder:PATH --runs PATH --seeds 0

Either the forward weights W or the backward weights B are held in devices with one error; the others are perfect. So is
what is not a matrix. Backprop and sign symmetry have no B of their own: they read W twice.
"""

from __future__ import annotations

from typing import Any

from grid import RECIPE, RESULTS, Arm, markdown, parser, rows_of, run_grid, spread
from local_rules import PLAIN
from local_rules import RULES as LOCAL_RULES

RULES: dict[str, dict[str, Any]] = {
    "backprop": LOCAL_RULES["backprop"],
    "symmetric alignment": LOCAL_RULES["symmetric alignment"],
    "Kolen-Pollack": LOCAL_RULES["Kolen-Pollack"],
    "mirrored Kolen-Pollack": {"rule": "mirrored_kolen_pollack"},
    "feedback alignment": {"rule": "feedback_alignment"},
    "sign symmetry": {"rule": "sign_symmetry"},
}
WITHOUT_B = {"backprop", "sign symmetry"}
DEVICES: dict[str, dict[str, float]] = {
    "perfect": {},
    "3 bits read": {"bits": 3},
    "read noise 1": {"read_noise": 1.0},
    "4 bits written": {"update_bits": 4},
    "asymmetry 0.3": {"asymmetry": 0.3},
    "drift 0.01": {"drift": 0.01},
    "stuck 30 %": {"stuck": 0.3},
}
TASKS: dict[str, dict[str, Any]] = {
    "digits": {
        "model": "mlp",
        "model_options": {"hidden": [64, 64]},
        "augment": "none",
        "epochs": 8,
        "batch_size": 64,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-2,
        "schedule": "cosine",
        "keep": 1,
        "readings_every": 8,
    },
    "cifar10": {**RECIPE, **PLAIN, "model": "mlp", "model_options": {"hidden": [256, 256]}, "epochs": 3},
}


def arms(settings: dict[str, Any]) -> list[Arm]:
    """All trainings: perfect devices, then each error in W, then in B for the rules that have one."""
    found = []
    for device, errors in DEVICES.items():
        for weight in ("W", "B") if errors else ("none",):
            hardware = {"W": {"hardware_forward": errors}, "B": {"hardware_backward": errors}, "none": {}}[weight]
            rules = [rule for rule in RULES if weight != "B" or rule not in WITHOUT_B]
            found += [
                Arm({"device": device, "weight": weight, "rule": rule}, {**settings, **RULES[rule], **hardware})
                for rule in rules
            ]
    return found


def table(results: dict[str, Any]) -> str:
    """Accuracy in percent, with its standard deviation over seeds, by device, weight and rule."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows_of(results):
        diverged = f" ({row['diverged']} of {row['n']} diverged)" if row["diverged"] else ""
        shown = spread(row["accuracy_mean"], row["accuracy_std"], digits=1) + diverged
        lines.setdefault((row["device"], row["weight"]), {})[row["rule"]] = shown
    return markdown(["device", "of", *RULES], [[*key, *(row.get(r, "") for r in RULES)] for key, row in lines.items()])


def main() -> None:
    parse = parser(__doc__, "hardware")
    parse.add_argument("--task", default="digits", choices=list(TASKS))
    given = parse.parse_args()
    if given.task != "digits" and given.out == parse.get_default("out"):
        given.out = RESULTS / f"hardware_{given.task}.json"
    print(table(run_grid(arms(TASKS[given.task]), given)))


if __name__ == "__main__":
    main()
