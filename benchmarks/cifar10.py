"""Every rule on CIFAR-10 with one recipe and the same seeds: the accuracies of the README.

    python benchmarks/cifar10.py --data folder:PATH --runs PATH [--model resnet8 --epochs 10] [--rules ...]
    python benchmarks/cifar10.py --data folder:PATH --runs PATH --rules activation_alignment --options fraction=1

A run is a folder under ``--runs``; a run that was interrupted goes on from its last checkpoint when the command is
given again, and a finished one is not repeated, so the table can grow over days. After each run the results of all
finished ones are collected into ``--out``. Defaults of the rules are used as they are, unless ``--options`` changes
them: such a variant has rows of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tomllib
from pathlib import Path
from typing import Any

import torch

import backroads
from backroads.runs.folder import write_json
from backroads.runs.progress import Progress
from backroads.runs.schema import Stopped
from backroads.train.settings import resolve
from backroads.train.trainer import train

RULES = [
    "backprop",
    "symmetric_alignment",
    "sign_symmetry",
    "kolen_pollack",
    "activation_alignment",
    "feedback_alignment",
    "information_alignment",
    "weight_mirror",
    "direct_feedback_alignment",
]
# BioTorch, Benchmarks.md: gap to its own backprop in points of accuracy, CIFAR-10, ResNet-20, SGD.
BIOTORCH_RESNET20 = {"feedback_alignment": -23.53, "direct_feedback_alignment": -37.31, "sign_symmetry": -1.42}
SHOWN = ("data", "model", "epochs", "batch_size", "learning_rate", "weight_decay", "schedule", "precision", "augment")


def settings(arguments: argparse.Namespace, rule: str, seed: int) -> dict[str, Any]:
    """The one recipe."""
    return {
        "data": arguments.data,
        "augment": "crop_flip",
        "model": arguments.model,
        "rule": rule,
        "rule_options": dict(option.split("=", 1) for option in arguments.options),
        "epochs": arguments.epochs,
        "batch_size": 128,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "warmup_epochs": 1.0,
        "seed": seed,
        "threads": arguments.threads,
        "precision": arguments.precision,
        "channels_last": True,
        "compile": arguments.compile,
        "keep": 1,
        "checkpoint_every": 100,
    }


def collect(runs: Path, model: str, epochs: int) -> dict[str, Any]:
    """The finished runs of one model and length, a row a rule."""
    found: dict[tuple[str, str], dict[int, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]] = {}
    for folder in sorted(runs.iterdir()):
        if not (folder / "results.json").exists():
            continue
        config = tomllib.loads((folder / "config.toml").read_text())
        if (config["model"], config["epochs"]) != (model, epochs):
            continue
        results, where = (json.loads((folder / f"{n}.json").read_text()) for n in ("results", "environment"))
        options = ", ".join(f"{k}={v}" for k, v in sorted(config.get("rule_options", {}).items()))
        found.setdefault((config["rule"], options), {})[config["seed"]] = (results["arms"][0], where, config)
    rows = []
    baseline = {seed: run[0]["accuracy"] for seed, run in found.get(("backprop", ""), {}).items()}
    for rule, options in sorted(found, key=lambda key: (RULES.index(key[0]), key[1])):
        by_seed = found[rule, options]
        accuracies = {seed: run[0]["accuracy"] for seed, run in by_seed.items()}
        good = [a for a in accuracies.values() if a is not None]
        gaps = [100 * (a - baseline[s]) for s, a in accuracies.items() if a is not None and baseline.get(s) is not None]
        angles = [
            a for run in by_seed.values() for a in run[0]["readings"].get("weight_angle", {}).values() if a is not None
        ]
        rows.append(
            {
                "rule": rule,
                "options": options,
                "n": len(by_seed),
                "seeds": sorted(by_seed),
                "accuracies": [accuracies[s] for s in sorted(by_seed)],
                "accuracy_mean": statistics.fmean(good) if good else None,
                "accuracy_std": statistics.stdev(good) if len(good) > 1 else None,
                "gap_points": statistics.fmean(gaps) if gaps else None,
                "gap_std": statistics.stdev(gaps) if len(gaps) > 1 else None,
                "gap_points_biotorch_resnet20": BIOTORCH_RESNET20.get(rule),
                "weight_angle_mean": statistics.fmean(angles) if angles else None,
                "diverged": sum(run[0]["status"] == "diverged" for run in by_seed.values()),
                "commits": sorted({run[1]["commit"] for run in by_seed.values()}),
            }
        )
    any_run = next((run for runs in found.values() for run in runs.values()), None)
    return {
        "settings": {}
        if any_run is None
        else {key: any_run[2].get(key) for key in SHOWN} | {"data": any_run[2]["data"].partition(":")[0]},
        "environment": {}
        if any_run is None
        else {k: v for k, v in any_run[1].items() if k not in ("command", "started")},
        "command": f"python benchmarks/cifar10.py --model {model} --epochs {epochs} --data folder:PATH --runs PATH",
        "backroads": backroads.__version__,
        "rows": rows,
    }


def table(results: dict[str, Any]) -> str:
    """As the README shows it."""
    lines = ["| rule | n | accuracy, % | gap to backprop, points | weight angle |", "|---|---|---|---|---|"]
    for row in results["rows"]:
        accuracy = "-" if row["accuracy_mean"] is None else f"{100 * row['accuracy_mean']:.2f}"
        if row["accuracy_std"] is not None:
            accuracy += f" ± {100 * row['accuracy_std']:.2f}"
        gap = "-" if row["gap_points"] is None else f"{row['gap_points']:+.2f}"
        angle = "-" if row["weight_angle_mean"] is None else f"{row['weight_angle_mean']:.1f}°"
        options = f" ({row['options']})" if row["options"] else ""
        lines.append(f"| {row['rule'].replace('_', ' ')}{options} | {row['n']} | {accuracy} | {gap} | {angle} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rules", nargs="*", default=RULES)
    parser.add_argument("--options", nargs="*", default=[], help="of the rules, as in fraction=1")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    out = arguments.out or Path(__file__).parent / "results" / f"cifar10_{arguments.model}.json"

    def report(progress: Progress) -> None:
        if progress.line:
            print(f"  {progress.line}", flush=True)

    arguments.runs.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for rule in arguments.rules:
            name = "-".join([arguments.model, str(arguments.epochs), rule, *sorted(arguments.options), str(seed)])
            folder = arguments.runs / name
            if (folder / "results.json").exists():
                continue
            print(f"{rule}, seed {seed}", flush=True)
            results = train(resolve(settings(arguments, rule, seed)), folder, report, resume=True)
            if isinstance(results, Stopped):
                sys.exit(128 + results.signal)
            write_json(out, collect(arguments.runs, arguments.model, arguments.epochs))
    results = collect(arguments.runs, arguments.model, arguments.epochs)
    write_json(out, results)
    print(table(results))


if __name__ == "__main__":
    main()
