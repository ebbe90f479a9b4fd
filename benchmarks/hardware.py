"""Which rules survive which imperfect devices, on digits: accuracy by rule and error of the device.

    python benchmarks/hardware.py --data digits --runs PATH [--jobs 2]

Weights W and, where a rule has them, B are held in devices of the kind that the row names. Backprop and sign symmetry
have no B of their own: they read W twice.
"""

from __future__ import annotations

from typing import Any

from grid import Arm, markdown, parser, rows_of, run_grid, spread
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
    "4 bits read": {"bits": 4},
    "3 bits read": {"bits": 3},
    "read noise 0.3": {"read_noise": 0.3},
    "read noise 1": {"read_noise": 1.0},
    "6 bits written": {"update_bits": 6},
    "4 bits written": {"update_bits": 4},
    "asymmetry 0.3": {"asymmetry": 0.3},
    "drift 0.01": {"drift": 0.01},
    "stuck 30 %": {"stuck": 0.3},
}
SETTINGS: dict[str, Any] = {
    "model": "mlp",
    "augment": "none",
    "epochs": 15,
    "batch_size": 64,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-2,
    "schedule": "cosine",
    "keep": 1,
    "readings_every": 15,
}


def arm(rule: str, device: str) -> Arm:
    """A training under a rule on a device."""
    errors = DEVICES[device]
    hardware: dict[str, Any] = {"hardware_forward": errors} if errors else {}
    if errors and rule not in WITHOUT_B:
        hardware["hardware_backward"] = errors
    return Arm({"device": device, "rule": rule}, {**SETTINGS, **RULES[rule], **hardware})


def table(results: dict[str, Any]) -> str:
    """Accuracy in percent, with the spread over seeds, by device and rule."""
    cells: dict[str, dict[str, str]] = {}
    for row in rows_of(results):
        diverged = f" ({row['diverged']} of {row['n']} diverged)" if row["diverged"] else ""
        cells.setdefault(row["device"], {})[row["rule"]] = (
            spread(row["accuracy_mean"], row["accuracy_std"], digits=1) + diverged
        )
    rules = [rule for rule in RULES if any(rule in row for row in cells.values())]
    return markdown(["device", *rules], [[device, *(row.get(r, "") for r in rules)] for device, row in cells.items()])


def main() -> None:
    parse = parser(__doc__, "hardware")
    given = parse.parse_args()
    print(table(run_grid([arm(rule, device) for device in DEVICES for rule in RULES], given)))


if __name__ == "__main__":
    main()
