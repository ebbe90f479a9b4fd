"""One unchanged setting per rule on many networks: does it carry over from one to another?

    python benchmarks/local_rules.py --data folder:PATH --runs PATH [--networks resnet8 mlp] [--rules ...]
    python benchmarks/local_rules.py --data digits --runs PATH --epochs 1 --networks mlp --augment none   # a trial
    python benchmarks/local_rules.py --data folder:PATH --runs PATH --choose   # the defaults, on a validation part

The networks differ in depth, width, activation, normalisation and kind; each has a recipe for W that is the same for
all rules. What teaches B is never touched: the three forms of the normalised mirror as they are, weight mirror and
information alignment with the coefficients of the reference (Kunin et al. 2020) and, beside them, this library's
defaults. A run is a folder under ``--runs``; a run that was interrupted goes on when the command is given again, and a
finished one is not repeated. After each run all finished ones are collected into ``--out``.

With ``--choose`` the candidates for the normalised mirror's defaults train ResNet-8 and are judged on a tenth of the
training split, which they do not see; the test split is not read.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

import backroads
from backroads.runs.environment import environment
from backroads.runs.folder import write_json
from backroads.runs.progress import Progress
from backroads.runs.schema import Stopped
from backroads.train.settings import resolve
from backroads.train.trainer import train


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and its recipe.

    Attributes:
        model, options: its name and options. epochs: without ``--epochs``, what two cores do in an evening. recipe:
            what differs from RECIPE.
    """

    model: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    epochs: int = 1
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)


# Settings of W, for all rules.
RECIPE: dict[str, Any] = {
    "augment": "crop_flip",
    "batch_size": 128,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "channels_last": True,
    "keep": 1,
    "checkpoint_every": 100,
}
PLAIN = {"learning_rate": 0.02, "clip_norm": 5.0}  # of W; without normalisation a higher rate is not stable
NETWORKS = {
    "resnet8": Network("resnet8", epochs=3),
    "resnet8-wide": Network("resnet8", {"width": 32}, epochs=1),
    "resnet20": Network("resnet20", epochs=1),
    "resnet56": Network("resnet56", epochs=1),
    "vgg": Network("vgg", epochs=2, recipe=PLAIN),
    "vgg-wide": Network("vgg", {"width": 64}, epochs=1, recipe=PLAIN),
    "vgg-tanh": Network("vgg", {"activation": "tanh"}, epochs=2, recipe=PLAIN),
    "mlp": Network("mlp", {"hidden": [512, 512, 512]}, epochs=4, recipe=PLAIN),
    "mlp-wide": Network("mlp", {"hidden": [1024, 1024, 1024]}, epochs=4, recipe=PLAIN),
    "mlp-tanh": Network("mlp", {"hidden": [512, 512, 512], "activation": "tanh"}, epochs=4, recipe=PLAIN),
    "vit": Network(
        "vit",
        {"width": 96, "depth": 4},
        epochs=2,
        recipe={"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05, "clip_norm": 1.0},
    ),
}
# The reference has no normalisation and no 1/2: its numbers in our convention, sums over positions, no operations.
_REFERENCE: dict[str, Any] = {"reduction": "sum", "operations": {}, "fraction": 1.0}
RULES: dict[str, dict[str, Any]] = {
    "backprop": {"rule": "backprop"},
    "symmetric alignment": {"rule": "symmetric_alignment"},
    "normalised mirror": {"rule": "normalised_mirror"},  # on impulses
    "normalised mirror, white noise": {"rule": "normalised_mirror", "rule_options": {"noise": "normal"}},
    "normalised mirror, error-correcting": {
        "rule": "normalised_mirror",
        "rule_options": {"error_correcting": True},
    },
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


def _mirror(**options: Any) -> dict[str, Any]:
    return {"rule": "normalised_mirror", "rule_options": options}


# For the defaults of each form of the normalised mirror.
CANDIDATES: dict[str, dict[str, Any]] = {
    "backprop": {"rule": "backprop"},
    "impulses, rate 1, 1 row": _mirror(rate=1.0, rows_per_input=1.0),
    "impulses, rate 1, 2 rows": _mirror(rate=1.0, rows_per_input=2.0),
    "impulses, rate 1, 4 rows": _mirror(rate=1.0, rows_per_input=4.0),
    "impulses, rate 0.3, 1 row": _mirror(rate=0.3, rows_per_input=1.0),
    "white noise, rate 0.05, 8 rows": _mirror(noise="normal", rate=0.05, rows_per_input=8.0),
    "white noise, rate 0.1, 2 rows": _mirror(noise="normal", rate=0.1, rows_per_input=2.0),
    "white noise, rate 0.1, 8 rows": _mirror(noise="normal", rate=0.1, rows_per_input=8.0),
    "white noise, rate 0.2, 8 rows": _mirror(noise="normal", rate=0.2, rows_per_input=8.0),
    "error-correcting, rate 0.1, 1 row": _mirror(error_correcting=True, rate=0.1, rows_per_input=1.0),
    "error-correcting, rate 0.3, 1 row": _mirror(error_correcting=True, rate=0.3, rows_per_input=1.0),
    "error-correcting, rate 0.3, 4 rows": _mirror(error_correcting=True, rate=0.3, rows_per_input=4.0),
}


def settings(arguments: argparse.Namespace, network: str, rule: str, seed: int) -> dict[str, Any]:
    """Of one run."""
    net = NETWORKS[network]
    recipe = {**RECIPE, **net.recipe}
    if arguments.augment:
        recipe["augment"] = arguments.augment
    epochs = arguments.epochs or net.epochs
    return {
        **recipe,
        **arguments.known[rule],
        "data": arguments.data,
        "split": arguments.split,
        "model": net.model,
        "model_options": net.options,
        "epochs": epochs,
        "warmup_epochs": min(1.0, epochs / 2),
        "seed": seed,
        "device": arguments.device,
        "threads": arguments.threads,
        "precision": arguments.precision,
    }


def folder_name(network: str, rule: str, seed: int, epochs: int, split: str) -> str:
    """Where a run is, under ``--runs``."""
    judged = [] if split == "test" else [split]
    return "-".join([network, rule.replace(", ", "-").replace(" ", "_"), str(epochs), str(seed), *judged])


def row(folder: Path) -> dict[str, Any]:
    """What came of one run."""
    results, where = (json.loads((folder / f"{name}.json").read_text()) for name in ("results", "environment"))
    return {
        "status": results["arms"][0]["status"],
        "accuracy": results["arms"][0]["accuracy"],
        "angles": results["arms"][0]["readings"].get("weight_angle", {}),
        "seconds": results["seconds"],
        "commit": where["commit"],
        "hardware": {key: where.get(key) for key in ("cpu", "device", "threads", "python", "torch")},
    }


def collect(arguments: argparse.Namespace) -> dict[str, Any]:
    """All finished runs: networks, rules, seeds; accuracies beside backprop's of the same seeds, angles by layer."""
    networks: dict[str, Any] = {}
    for network, net in NETWORKS.items():
        epochs = arguments.epochs or net.epochs
        rules: dict[str, Any] = {}
        for rule in arguments.known:
            found = {}
            for seed in arguments.seeds:
                folder = arguments.runs / folder_name(network, rule, seed, epochs, arguments.split)
                if (folder / "results.json").exists():
                    found[seed] = row(folder)
            if found:
                rules[rule] = {"n": len(found), "seeds": {str(seed): run for seed, run in found.items()}}
        baseline = {s: run["accuracy"] for s, run in rules.get("backprop", {}).get("seeds", {}).items()}
        for result in rules.values():
            runs = result["seeds"]
            good = [run["accuracy"] for run in runs.values() if run["accuracy"] is not None]
            gaps = [
                100 * (run["accuracy"] - baseline[s])
                for s, run in runs.items()
                if run["accuracy"] is not None and baseline.get(s) is not None
            ]
            angles = [a for run in runs.values() for a in run["angles"].values() if a is not None]
            result["accuracy_mean"] = statistics.fmean(good) if good else None
            result["accuracy_std"] = statistics.stdev(good) if len(good) > 1 else None
            result["gap_points"] = statistics.fmean(gaps) if gaps else None
            result["gap_std"] = statistics.stdev(gaps) if len(gaps) > 1 else None
            result["angle_mean"] = statistics.fmean(angles) if angles else None
            result["angle_max"] = max(angles) if angles else None
            result["diverged"] = sum(run["status"] == "diverged" for run in runs.values())
        if rules:
            networks[network] = {
                "model": net.model,
                "options": net.options,
                "epochs": epochs,
                "recipe": {**RECIPE, **net.recipe, **({"augment": arguments.augment} if arguments.augment else {})},
                "rules": rules,
            }
    return {
        "command": "python benchmarks/local_rules.py --data folder:PATH --runs PATH"
        + (" --choose" if arguments.choose else "")
        + (f" --epochs {arguments.epochs}" if arguments.epochs else ""),
        "data": arguments.data.partition(":")[0],
        "split": arguments.split,
        "settings_of_rules": arguments.known,
        "environment": {key: value for key, value in environment().items() if key not in ("command", "started")},
        "backroads": backroads.__version__,
        "networks": networks,
    }


def table(results: dict[str, Any]) -> str:
    """Gaps to backprop by network and rule, in points, with the mean angle; candidates one in a row."""
    if results["split"] == "validation":
        return _table_of_candidates(results)
    networks = results["networks"]
    shown = [
        rule for rule in results["settings_of_rules"] if any(rule in network["rules"] for network in networks.values())
    ]
    lines = ["| network | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for name, network in networks.items():
        cells = []
        for rule in shown:
            found = network["rules"].get(rule)
            if found is None:
                cells.append("")
            elif found["diverged"]:
                cells.append(f"diverged ({found['diverged']} of {found['n']})")
            elif rule == "backprop":
                spread = "" if found["accuracy_std"] is None else f" ± {100 * found['accuracy_std']:.2f}"
                cells.append(f"{100 * found['accuracy_mean']:.2f}{spread} %")
            else:
                angle = "" if found["angle_mean"] is None else f" ({found['angle_mean']:.0f}°)"
                cells.append(_gap(found) + angle)
        lines.append(f"| {name}, {_epochs(network)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _table_of_candidates(results: dict[str, Any]) -> str:
    lines = ["| network | candidate | accuracy, % | gap to backprop, points | weight angle |", "|---|---|---|---|---|"]
    for name, network in results["networks"].items():
        for rule, found in network["rules"].items():
            accuracy = "diverged" if found["accuracy_mean"] is None else f"{100 * found['accuracy_mean']:.2f}"
            angle = "" if found["angle_mean"] is None else f"{found['angle_mean']:.1f}°"
            lines.append(f"| {name}, {_epochs(network)} | {rule} | {accuracy} | {_gap(found)} | {angle} |")
    return "\n".join(lines)


def _epochs(network: dict[str, Any]) -> str:
    return f"{network['epochs']} epoch{'s' if network['epochs'] > 1 else ''}"


def _gap(found: dict[str, Any]) -> str:
    """In points; of several seeds with the sample standard deviation and their number."""
    if found["gap_points"] is None:
        return "-"
    if found["gap_std"] is None:
        return f"{found['gap_points']:+.2f}"
    return f"{found['gap_points']:+.2f} ± {found['gap_std']:.2f}, n = {found['n']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--networks", nargs="*", choices=list(NETWORKS), help="default: all; ResNet-8 to choose")
    parser.add_argument("--rules", nargs="*", help=f"default: all of {'; '.join(RULES)}; or of the candidates")
    parser.add_argument("--choose", action="store_true", help="candidates for the defaults, on a validation part")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--epochs", type=int, help="in place of each network's own")
    parser.add_argument("--augment", help="in place of crop_flip, as in none")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--out", type=Path, help="default: in benchmarks/results")
    arguments = parser.parse_args()
    arguments.split = "validation" if arguments.choose else "test"
    arguments.known = CANDIDATES if arguments.choose else RULES
    if arguments.networks is None:
        arguments.networks = ["resnet8"] if arguments.choose else list(NETWORKS)
    if arguments.rules is None:
        arguments.rules = list(arguments.known)
    if unknown := [rule for rule in arguments.rules if rule not in arguments.known]:
        parser.error(f"argument --rules: expected some of {'; '.join(arguments.known)}; got {'; '.join(unknown)}")
    if arguments.out is None:
        name = "normalised_mirror_choice" if arguments.choose else "local_rules"
        arguments.out = Path(__file__).parent / "results" / f"{name}.json"
    torch.set_num_threads(arguments.threads)

    def report(progress: Progress) -> None:
        if progress.line:
            print(f"  {progress.line}", flush=True)

    arguments.runs.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for network in arguments.networks:
            for rule in arguments.rules:
                epochs = arguments.epochs or NETWORKS[network].epochs
                folder = arguments.runs / folder_name(network, rule, seed, epochs, arguments.split)
                if (folder / "results.json").exists():
                    continue
                print(f"{network}, {rule}, seed {seed}", flush=True)
                config = resolve(settings(arguments, network, rule, seed))
                results = train(config, folder, report, resume=True)
                if isinstance(results, Stopped):
                    sys.exit(128 + results.signal)
                write_json(arguments.out, collect(arguments))
    results = collect(arguments)
    write_json(arguments.out, results)
    print(table(results))


if __name__ == "__main__":
    main()
