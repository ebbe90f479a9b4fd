"""How the defaults of the rules were chosen: every candidate on digits, on a validation part of the training split.

    python benchmarks/choose_defaults.py            # writes benchmarks/results/digits_defaults.json

The candidates run as `backroads compare` does, in lockstep, with the same seeds. The test split is never read.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from pathlib import Path
from typing import Any

import backroads as br
from backroads.runs.environment import environment
from backroads.runs.folder import RunFolder, write_json
from backroads.train.compare import compare
from backroads.train.config import resolve


def candidates() -> dict[str, br.Rule]:
    """Every candidate by a name that says what it is."""
    found: dict[str, br.Rule] = {}
    for c in (0.1, 0.3, 1.0):
        found[f"symmetric_alignment {c}"] = br.rules.symmetric_alignment(c, c)
    for c in (0.003, 0.01, 0.03):
        for gain in (1.0, 0.3):
            found[f"weight_mirror {c}, amp x{gain:g}"] = br.rules.weight_mirror(gain * c, c)
            found[f"information_alignment {c}, amp x{gain:g}"] = br.rules.information_alignment(gain * c, c, c)
    for fraction in (0.5, 0.125):
        found[f"weight_mirror 0.003, fraction {fraction}"] = br.rules.weight_mirror(0.003, 0.003, fraction=fraction)
        found[f"information_alignment 0.01, amp x0.3, fraction {fraction}"] = br.rules.information_alignment(
            0.003, 0.01, 0.01, fraction=fraction
        )
    for c in (0.25, 0.5, 1.0):
        for fraction in (1.0, 0.5, 0.125):
            found[f"activation_alignment {c}, fraction {fraction}"] = br.rules.activation_alignment(
                c, c, fraction=fraction
            )
    bounded: dict[str, Any] = {"reduction": "overlap", "operations": br.Operations(normalize_input=True)}
    centred: dict[str, Any] = {
        "reduction": "power",
        "operations": br.Operations(batch_center_backward_input=True),
    }
    found["activation_alignment 1, overlap"] = br.rules.activation_alignment(1.0, 1.0, fraction=1.0, **bounded)
    for c in (0.003, 0.01, 0.03):
        found[f"activation_alignment {c}, power"] = br.rules.activation_alignment(c, c, fraction=1.0, **centred)
    for rate in (0.05, 0.1, 0.2):
        for rows in (2.0, 8.0):
            found[f"normalised_mirror {rate}, {rows:g} rows"] = br.rules.normalised_mirror(
                rate, noise="normal", rows_per_input=rows
            )
    for rate, rows in ((0.1, 1.0), (0.3, 1.0), (0.3, 4.0)):
        found[f"normalised_mirror correcting {rate}, {rows:g} rows"] = br.rules.normalised_mirror(
            rate, error_correcting=True, rows_per_input=rows
        )
    for rate in (0.3, 1.0):
        for rows in (1.0, 2.0):
            found[f"normalised_mirror impulses {rate}, {rows:g} rows"] = br.rules.normalised_mirror(
                rate, rows_per_input=rows
            )
    plain: dict[str, Any] = {"operations": br.Operations()}
    found["weight_mirror 0.01 not centred"] = br.rules.weight_mirror(0.01, 0.01, **plain)
    found["information_alignment 0.01 not centred"] = br.rules.information_alignment(0.01, 0.01, 0.01, **plain)
    return found


def main() -> None:
    """Run all candidates and write what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/digits_defaults.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", default="", help="only candidates whose name contains this")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)

    chosen = {name: rule for name, rule in candidates().items() if arguments.only in name}
    for name, rule in chosen.items():
        br.register_rule(name, functools.partial(_same, rule))
    config = resolve(
        {
            "split": "validation",
            "seeds": arguments.seeds,
            "rules": ["backprop", "feedback_alignment", "sign_symmetry", "kolen_pollack", *chosen],
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        results = compare(config, RunFolder(Path(folder) / "run", {}, {}), lambda progress: _show(progress.line))
    keep = ("rule", "repr", "accuracy_mean", "accuracy_std", "accuracies", "gap_mean", "weight_angle_mean", "diverged")
    rows = [{key: row[key] for key in keep} for row in results["rows"]]
    write_json(arguments.out, {"environment": environment(), "config": config.model_dump(), "rows": rows})
    for row in rows:
        angle = row["weight_angle_mean"]
        print(
            f"{row['rule']:40s} {100 * row['accuracy_mean']:.2f} %  gap {100 * row['gap_mean']:+.2f}  angle {angle:.1f}"
        )


def _same(rule: br.Rule) -> br.Rule:
    return rule


def _show(line: str | None) -> None:
    if line is not None:
        print(line.partition(":")[0], flush=True)


if __name__ == "__main__":
    main()
