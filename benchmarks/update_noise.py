"""Accuracy against the variance of noisy updates: does symmetric alignment withstand more noise than backprop?

    python benchmarks/update_noise.py --data folder:PATH --runs PATH [--variances 0 1e-4 1e-2] [--seeds 0 1 2]
    python benchmarks/update_noise.py --data digits --model digits_conv --runs PATH --epochs 1   # a trial

After every step ``weight += rate epsilon`` with epsilon normal, of the variance of the row, on all weights (W at its
rate, B at its own) or on those that ``--on`` names: the experiment of Kunin et al., ICML 2020. Runs are folders under
``--runs``; finished ones are not repeated, interrupted ones go on. The curves go to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from local_rules import RECIPE

import backroads
from backroads.runs.environment import environment
from backroads.runs.folder import write_json
from backroads.runs.progress import Progress
from backroads.runs.schema import Stopped
from backroads.train.settings import resolve
from backroads.train.trainer import train

RULES: dict[str, dict[str, Any]] = {
    "backprop": {"rule": "backprop"},
    "symmetric alignment": {"rule": "symmetric_alignment"},
    "activation alignment": {"rule": "activation_alignment"},
    "Kolen-Pollack": {"rule": "kolen_pollack"},
    "normalised mirror": {"rule": "normalised_mirror"},  # on impulses
    "normalised mirror, white noise": {"rule": "normalised_mirror", "rule_options": {"noise": "normal"}},
    "normalised mirror, error-correcting": {"rule": "normalised_mirror", "rule_options": {"error_correcting": True}},
}
VARIANCES = [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]


def folder_name(arguments: argparse.Namespace, rule: str, variance: float, seed: int) -> str:
    """Where a run is, under ``--runs``."""
    model = arguments.model if arguments.width is None else f"{arguments.model}-{arguments.width}"
    words = [model, str(arguments.epochs), rule.replace(", ", "-").replace(" ", "_"), arguments.on]
    return "-".join([*words, f"{variance:g}", str(seed)])


def settings(arguments: argparse.Namespace, rule: str, variance: float, seed: int) -> dict[str, Any]:
    """Of one run."""
    recipe = {**RECIPE, "augment": "crop_flip" if arguments.model != "digits_conv" else "none"}
    return {
        **recipe,
        **RULES[rule],
        "data": arguments.data,
        "model": arguments.model,
        "model_options": {} if arguments.width is None else {"width": arguments.width},
        "epochs": arguments.epochs,
        "warmup_epochs": min(1.0, arguments.epochs / 2),
        "update_noise": variance**0.5,
        "update_noise_on": arguments.on,
        "seed": seed,
        "device": arguments.device,
        "threads": arguments.threads,
        "precision": arguments.precision,
    }


def collect(arguments: argparse.Namespace) -> dict[str, Any]:
    """A curve for each rule: accuracies of all seeds at each variance; runs that diverged are counted apart."""
    curves: dict[str, Any] = {}
    commits = set()
    width = "" if arguments.width is None else f" --width {arguments.width}"
    for rule in RULES:
        points = []
        for variance in arguments.variances:
            accuracies, angles, diverged = {}, [], 0
            for seed in arguments.seeds:
                folder = arguments.runs / folder_name(arguments, rule, variance, seed)
                if not (folder / "results.json").exists():
                    continue
                (results,) = json.loads((folder / "results.json").read_text())["arms"]
                commits.add(json.loads((folder / "environment.json").read_text())["commit"])
                diverged += results["status"] == "diverged"
                accuracies[str(seed)] = results["accuracy"]
                angles += [a for a in results["readings"].get("weight_angle", {}).values() if a is not None]
            if not accuracies:
                continue
            good = [a for a in accuracies.values() if a is not None]
            points.append(
                {
                    "variance": variance,
                    "n": len(accuracies),
                    "accuracies": accuracies,
                    "accuracy_mean": statistics.fmean(good) if good else None,
                    "accuracy_std": statistics.stdev(good) if len(good) > 1 else None,
                    "angle_mean": statistics.fmean(angles) if angles else None,
                    "diverged": diverged,
                }
            )
        if points:
            curves[rule] = points
    return {
        "command": f"python benchmarks/update_noise.py --model {arguments.model}{width} --epochs {arguments.epochs} "
        f"--on {arguments.on} --data folder:PATH --runs PATH",
        "data": arguments.data.partition(":")[0],
        "recipe": RECIPE,
        "settings_of_rules": RULES,
        "environment": {key: value for key, value in environment().items() if key not in ("command", "started")},
        "commits": sorted(commits),
        "backroads": backroads.__version__,
        "curves": curves,
    }


def table(results: dict[str, Any]) -> str:
    """Accuracy in percent by rule and variance, with the spread over seeds."""
    variances = sorted({point["variance"] for points in results["curves"].values() for point in points})
    lines = ["| rule | " + " | ".join(f"{v:g}" for v in variances) + " |", "|---" * (len(variances) + 1) + "|"]
    for rule, points in results["curves"].items():
        cells = {}
        for point in points:
            cell = "-" if point["accuracy_mean"] is None else f"{100 * point['accuracy_mean']:.2f}"
            if point["accuracy_std"] is not None:
                cell += f" ± {100 * point['accuracy_std']:.2f}"
            if point["diverged"]:
                cell += f" ({point['diverged']} of {point['n']} diverged)"
            cells[point["variance"]] = cell
        lines.append(f"| {rule} | " + " | ".join(cells.get(v, "") for v in variances) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--width", type=int, help="of the model, in place of its own")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rules", nargs="*", default=list(RULES), choices=list(RULES))
    parser.add_argument("--variances", nargs="*", type=float, default=VARIANCES)
    parser.add_argument("--on", default="all", choices=["all", "forward", "backward"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "update_noise.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    def report(progress: Progress) -> None:
        if progress.line:
            print(f"  {progress.line}", flush=True)

    arguments.runs.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for variance in arguments.variances:
            for rule in arguments.rules:
                folder = arguments.runs / folder_name(arguments, rule, variance, seed)
                if (folder / "results.json").exists():
                    continue
                print(f"{rule}, variance {variance:g}, seed {seed}", flush=True)
                results = train(resolve(settings(arguments, rule, variance, seed)), folder, report, resume=True)
                if isinstance(results, Stopped):
                    sys.exit(128 + results.signal)
                write_json(arguments.out, collect(arguments))
    results = collect(arguments)
    write_json(arguments.out, results)
    print(table(results))


if __name__ == "__main__":
    main()
