"""How the defaults of the rules were chosen: every candidate on digits, on a validation part of the training split.

    python benchmarks/choose_defaults.py --runs PATH [--only rule=weight_mirror] [--jobs 2]

The test split is never read. ``results/digits_defaults.json`` is of the same candidates, trained side by side.
"""

from __future__ import annotations

from typing import Any

from grid import Arm, markdown, parser, rows_of, run_grid, spread

SETTINGS: dict[str, Any] = {
    "data": "digits",
    "split": "validation",
    "model": "digits_conv",
    "epochs": 10,
    "batch_size": 32,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-3,
    "decay_vectors": True,
    "backward_momentum": 0.0,
    "schedule": "linear",
    "keep": 1,
}
ALL: dict[str, Any] = {"cadence": {"fraction": 1.0}}  # all activities
BOUNDED: dict[str, Any] = {"reduction": "overlap", "operations": {"normalize_input": True}}
CENTRED: dict[str, Any] = {"reduction": "unit_power", "operations": {"batch_center_backward_input": True}}


def candidates() -> list[tuple[str, str, dict[str, Any]]]:
    """Rule, what is varied, and the rule's options."""
    found: list[tuple[str, str, dict[str, Any]]] = [
        (rule, "", {}) for rule in ("backprop", "feedback_alignment", "sign_symmetry")
    ]
    found.append(("kolen_pollack", "", {"decay": SETTINGS["weight_decay"]}))
    found += [("symmetric_alignment", f"{c}", {"self_": c, "decay": c}) for c in (0.1, 0.3, 1.0)]
    for c in (0.003, 0.01, 0.03):
        for gain in (1.0, 0.3):
            found.append(("weight_mirror", f"{c}, amp x{gain:g}", {"amp": gain * c, "decay": c, **ALL}))
            found.append(
                ("information_alignment", f"{c}, amp x{gain:g}", {"amp": gain * c, "null": c, "decay": c, **ALL})
            )
    for part in (0.5, 0.125):
        options: dict[str, Any] = {"amp": 0.003, "decay": 0.003, "cadence": {"fraction": part}}
        found.append(("weight_mirror", f"0.003, fraction {part}", options))
        options = {"amp": 0.003, "null": 0.01, "decay": 0.01, "cadence": {"fraction": part}}
        found.append(("information_alignment", f"0.01, amp x0.3, fraction {part}", options))
    for c in (0.25, 0.5, 1.0):
        for part in (1.0, 0.5, 0.125):
            options = {"amp": c, "sparse": c, "cadence": {"fraction": part}}
            found.append(("activation_alignment", f"{c}, fraction {part}", options))
    options = {"amp": 1.0, "sparse": 1.0, **ALL, **BOUNDED}
    found.append(("activation_alignment", "1, overlap", options))
    for c in (0.003, 0.01, 0.03):
        found.append(("activation_alignment", f"{c}, power", {"amp": c, "sparse": c, **ALL, **CENTRED}))
    for rule, kind, pairs in (
        ("white_noise_mirror", "", [(rate, rows) for rate in (0.05, 0.1, 0.2) for rows in (2.0, 8.0)]),
        ("error_correcting_mirror", "correcting ", [(0.1, 1.0), (0.3, 1.0), (0.3, 4.0)]),
        ("exact_probing", "impulses ", [(rate, rows) for rate in (0.3, 1.0) for rows in (1.0, 2.0)]),
    ):
        for rate, rows in pairs:
            options = {"rate": rate, "rows_per_input": rows}
            found.append((rule, f"{kind}{rate}, {rows:g} rows", options))
    plain: dict[str, Any] = {"decay": 0.01, "amp": 0.01, "operations": {}, **ALL}
    found.append(("weight_mirror", "0.01 not centred", plain))
    found.append(("information_alignment", "0.01 not centred", {**plain, "null": 0.01}))
    return found


def table(results: dict[str, Any]) -> str:
    """Accuracy, gap and angle of each candidate."""
    cells = [
        [
            f"{row['rule']} {row['candidate']}",
            spread(row["accuracy_mean"], row["accuracy_std"]),
            spread(row["gap_points"], row["gap_std"], 1, sign="+"),
            "" if row["angle_mean"] is None else f"{row['angle_mean']:.1f}°",
        ]
        for row in rows_of(results)
    ]
    return markdown(["candidate", "accuracy, %", "gap to backprop, points", "weight angle"], cells)


def main() -> None:
    """Train all candidates and print what came of them."""
    given = parser(__doc__, "digits_candidates", data=False).parse_args()
    arms = [
        Arm({"rule": rule, "candidate": what}, {**SETTINGS, "rule": rule, "rule_options": options})
        for rule, what, options in candidates()
    ]
    print(table(run_grid(arms, given, baseline={"rule": "backprop", "candidate": ""})))


if __name__ == "__main__":
    main()
