"""A seeded, realistic comparison run folder: the files that ``backroads compare`` writes, without any training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LAYERS = ("conv1", "conv2", "fc1", "fc2")
COMMAND = "backroads compare --data digits --model digits_conv --epochs 15 --seeds 0 1 2"


@dataclass(frozen=True)
class Rule:
    """How a rule behaves: final accuracy, learning speed, final angle (None: no comparable B), step ratio."""

    name: str
    accuracy: float
    speed: float
    angle: float | None
    ratio: float
    formula: str
    label: str | None = None


RULES = (
    Rule("backprop", 0.981, 0.9, None, 1.0, "backprop()"),
    Rule("symmetric_alignment", 0.979, 0.85, 5.0, 1.34, "symmetric_alignment(mix=0.1, decay=0.01)"),
    Rule("kolen_pollack", 0.978, 0.8, 3.0, 1.12, "kolen_pollack(decay=0.001)"),
    Rule("weight_mirror", 0.972, 0.7, 14.0, 1.61, "weight_mirror(noise=0.1, rate=0.05, decay=0.01)"),
    Rule("information_alignment", 0.968, 0.6, 24.0, 1.48, "information_alignment(rate=0.02)"),
    Rule("sign_symmetry", 0.962, 0.6, 37.0, 1.08, "sign_symmetry(scale=1.0)"),
    Rule("feedback_alignment", 0.931, 0.35, 68.0, 1.01, "feedback_alignment()"),
    Rule("direct_feedback_alignment", 0.912, 0.4, None, 0.83, "direct_feedback_alignment()"),
)


def write_run(
    folder: Path,
    rules: tuple[Rule, ...] = RULES,
    *,
    seeds: int = 3,
    epochs: int = 15,
    layers: tuple[str, ...] = LAYERS,
    diverged: dict[tuple[str, int], int] | None = None,
) -> Path:
    """Writes a run folder. ``diverged`` maps (rule, seed) to the first epoch without finite numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    diverged = diverged or {}
    events = [
        {"event": "epoch", "rule": rule.name, "seed": seed, "epoch": epoch}
        | (
            _measured(rule, seed, epoch, layers)
            if epoch < diverged.get((rule.name, seed), epochs + 1)
            else _lost(rule, layers)
        )
        for rule in rules
        for seed in range(seeds)
        for epoch in range(epochs + 1)
    ]
    lines = [{"event": "start", "rules": len(rules)}, *events, {"event": "end", "seconds": 65.2}]
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(folder / "results.json", _results(rules, events, seeds, epochs, diverged))
    write_json(folder / "environment.json", environment())
    (folder / "config.toml").write_text(_config(rules, seeds, epochs))
    return folder


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as JSON."""
    path.write_text(json.dumps(value, indent=1) + "\n")


def change_json(path: Path, **changes: Any) -> None:
    """Replaces top-level keys of a JSON file."""
    write_json(path, json.loads(path.read_text()) | changes)


def _measured(rule: Rule, seed: int, epoch: int, layers: tuple[str, ...]) -> dict[str, Any]:
    noise = np.random.default_rng([seed, epoch, *rule.name.encode()])
    learned = 1 - float(np.exp(-rule.speed * epoch))
    accuracy = 0.1 + (rule.accuracy - 0.1) * learned + float(noise.normal(0, 0.004 if epoch else 0.02))
    eval_loss = 0.05 + (1 - rule.accuracy) * 3 + 2.25 * float(np.exp(-rule.speed * epoch))
    train_loss = eval_loss * float(np.exp(-0.12 * epoch))
    return {
        "train_loss": train_loss * float(noise.lognormal(0, 0.1)) if epoch else None,
        "train_accuracy": min(1.0, accuracy + 0.01) if epoch else None,
        "eval_loss": eval_loss * float(noise.lognormal(0, 0.08)),
        "eval_accuracy": min(max(accuracy, 0.0), 1.0),
        "weight_angle": _angles(rule, epoch, layers, noise),
    }


def _angles(rule: Rule, epoch: int, layers: tuple[str, ...], noise: np.random.Generator) -> dict[str, float | None]:
    angles: dict[str, float | None] = dict.fromkeys(layers)
    if rule.angle is None:
        return angles
    last = rule.angle
    for number, layer in enumerate(layers):
        depth = number / len(layers)
        angle = last + (90 - last) * float(np.exp(-0.4 * epoch / (1 + 2 * depth)))
        angles[layer] = angle + (10 * depth if last > 5 else 0) + float(noise.normal(0, 0.6))
    return angles


def _lost(rule: Rule, layers: tuple[str, ...]) -> dict[str, Any]:
    numbers = dict.fromkeys(("train_loss", "train_accuracy", "eval_loss", "eval_accuracy"))
    return numbers | {"weight_angle": dict.fromkeys(layers)}


def _results(
    rules: tuple[Rule, ...],
    events: list[dict[str, Any]],
    seeds: int,
    epochs: int,
    diverged: dict[tuple[str, int], int],
) -> dict[str, Any]:
    last = {(event["rule"], event["seed"]): event for event in events if event["epoch"] == epochs}
    accuracies = {rule.name: [last[rule.name, s]["eval_accuracy"] for s in range(seeds)] for rule in rules}
    rows = []
    for rule in rules:
        pairs = zip(accuracies[rule.name], accuracies.get("backprop", [None] * seeds), strict=True)
        gaps = [own - reference for own, reference in pairs if own is not None and reference is not None]
        finite = [accuracy for accuracy in accuracies[rule.name] if accuracy is not None]
        angles = last[rule.name, 0]["weight_angle"]
        finite_angles = [angle for angle in angles.values() if angle is not None]
        rows.append(
            {
                "rule": rule.name,
                "label": rule.label or rule.name,
                "repr": rule.formula,
                "accuracy_mean": _mean(finite),
                "accuracy_std": _std(finite),
                "accuracies": accuracies[rule.name],
                "gap_mean": _mean(gaps),
                "gap_std": _std(gaps),
                "weight_angle_mean": _mean(finite_angles),
                "weight_angles": angles,
                "step_ms": 3.2 * rule.ratio,
                "step_ratio": rule.ratio,
                "step_ratio_spread": [rule.ratio * 0.97, rule.ratio * 1.03],
                "diverged": sum(name == rule.name for name, _ in diverged),
            }
        )
    return {"kind": "compare", "split": "test", "n_seeds": seeds, "rows": rows, "seconds": 65.2}


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _std(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def environment(command: str = COMMAND) -> dict[str, Any]:
    """What is recorded about the machine and the versions."""
    return {
        "backroads": "0.1.0",
        "python": "3.11.7",
        "torch": "2.7.0+cpu",
        "platform": "Linux-6.1.0-x86_64-with-glibc2.36",
        "cpu": "Intel(R) Xeon(R) CPU @ 2.80GHz",
        "cores": 2,
        "threads": 2,
        "device": "cpu",
        "commit": "0f3c9a1e5b7d2468ace013579bdf02468ace1357",
        "uncommitted_changes": False,
        "command": command,
        "started": "2026-03-01T12:00:00+00:00",
    }


def _config(rules: tuple[Rule, ...], seeds: int, epochs: int) -> str:
    lines = [
        'data = "digits"',
        'model = "digits_conv"',
        f"rules = {json.dumps([rule.name for rule in rules])}",
        f"seeds = {list(range(seeds))}",
        f"epochs = {epochs}",
        "batch_size = 64",
        "learning_rate = 0.1",
        "momentum = 0.9",
        "deterministic = true",
        "",
        "[rule_settings]",
        *(f"{json.dumps(rule.name)} = {json.dumps(rule.formula)}" for rule in rules),
    ]
    return "\n".join(lines) + "\n"
