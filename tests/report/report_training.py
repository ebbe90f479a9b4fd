"""Seeded, realistic folders of one training: the files that ``backroads train`` writes, without any training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from report_run import environment, write_json

FEW = ("conv1", "block1.conv", "block2.conv", "readout")
MANY = ("conv1", *(f"stage{s}.{b}.conv{c}" for s in (1, 2, 3) for b in range(18) for c in (1, 2)), "fc")
PER_EPOCH = 40


@dataclass
class Folder:
    """What a training would write, to be changed before it is written; ``results`` None: it has not ended."""

    config: dict[str, Any]
    events: list[dict[str, Any]]
    system: list[dict[str, Any]]
    results: dict[str, Any] | None

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of this kind."""
        return [event for event in self.events if event["event"] == kind]

    def until(self, step: int) -> Folder:
        """The folder as it was after this step."""
        events = [event for event in self.events if event.get("step", 0) <= step]
        return Folder(self.config, events, [event for event in self.system if event["step"] <= step], None)

    def diverged(self, step: int, reason: str, layer: str) -> Folder:
        """The folder if numbers were not finite after this step."""
        assert self.results is not None
        found = self.until(step)
        found.events.append({"event": "diverged", "step": step, "reason": reason, "layer": layer})
        before = [event for event in found.of("epoch") if event["epoch"]]
        best = max(before, key=lambda event: event["eval_accuracy"], default={"eval_accuracy": None, "epoch": 0})
        found.results = self.results | {
            "status": "diverged",
            "reason": reason,
            "layer": layer,
            "step": step,
            "epochs": step / PER_EPOCH,
            "eval_accuracy": None,
            "best_accuracy": best["eval_accuracy"],
            "best_epoch": best["epoch"],
            "weight_angles": dict.fromkeys(self.results["weight_angles"]),
        }
        return found

    def write(self, folder: Path) -> Path:
        """Writes the files and returns the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "environment.json", environment("backroads train --data cifar10 --model resnet110"))
        (folder / "config.toml").write_text(toml(self.config), encoding="utf-8")
        for name, lines in (("events", self.events), ("system", self.system)):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if self.results is not None:
            write_json(folder / "results.json", self.results)
        return folder


def training(
    *,
    layers: Sequence[str] = FEW,
    epochs: int = 30,
    log_every: int = 10,
    angles: bool = True,
    coefficients: Callable[[int], dict[str, float]] | None = None,
    best: float = 0.93,
    classes: int = 10,
) -> Folder:
    """A training that finished, under symmetric alignment, or under a rule without angles."""
    total = epochs * PER_EPOCH
    noise = np.random.default_rng(0)
    start = {
        "event": "start",
        "rules": dict.fromkeys(layers, "R = 0.3 decay + 0.3 self" if angles else "direct feedback alignment"),
        "steps_per_epoch": PER_EPOCH,
        "epochs": epochs,
        "parameters": 1_730_714,
        "train_images": 50_000,
        "eval_images": 10_000,
    }
    events = [start, _angles(0, layers, angles, noise), _epoch(0, epochs, best, classes, noise)]
    system: list[dict[str, Any]] = [{"event": "checkpoint", "step": 0, "seconds": 0.1}]
    for step in range(1, total + 1):
        at_end = step % PER_EPOCH == 0
        if step % log_every == 0 or at_end:
            events.append(_log(step, total, coefficients, noise))
            system.append(_speed(step, noise))
        if at_end:
            events.append(_angles(step // PER_EPOCH, layers, angles, noise))
            events.append(_epoch(step // PER_EPOCH, epochs, best, classes, noise))
            system.append({"event": "checkpoint", "step": step, "seconds": 0.1})
    return Folder(_config(epochs), events, system, _results(events, epochs))


def toml(config: dict[str, Any]) -> str:
    """Settings as TOML: plain values first, then tables."""
    flat = {key: value for key, value in config.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in config.items() if isinstance(value, dict)}
    lines = _pairs(flat)
    for name, table in tables.items():
        lines += [f"[{json.dumps(name)}]", *_pairs(table)]
    return "\n".join(lines) + "\n"


def _pairs(table: dict[str, Any]) -> list[str]:
    return [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in table.items()]


def _log(
    step: int, total: int, coefficients: Callable[[int], dict[str, float]] | None, noise: np.random.Generator
) -> dict[str, Any]:
    progress = step / total
    rate = 0.5 * (1 + math.cos(math.pi * progress))
    line = {
        "event": "step",
        "step": step,
        "epoch": step / PER_EPOCH,
        "loss": (0.02 + 2.3 * math.exp(-6 * progress)) * float(noise.lognormal(0, 0.15)),
        "accuracy": 1 - 0.9 * math.exp(-6 * progress),
        "learning_rate": 0.1 * rate * min(1, step / PER_EPOCH),
        "backward_rate": rate,
    }
    return line if coefficients is None else line | {"gradient_norm": 2 * rate, "coefficients": coefficients(step)}


def _epoch(epoch: int, epochs: int, best: float, classes: int, noise: np.random.Generator) -> dict[str, Any]:
    left = math.exp(-6 * epoch / epochs)
    accuracy = best - (best - 1 / classes) * left + float(noise.normal(0, 0.004))
    return {
        "event": "epoch",
        "epoch": epoch,
        "step": epoch * PER_EPOCH,
        "train_loss": 0.02 + 2.2 * left if epoch else None,
        "train_accuracy": 0.998 - 0.9 * left if epoch else None,
        "eval_loss": 0.25 + 2.05 * left + float(noise.normal(0, 0.01)),
        "eval_accuracy": accuracy,
        "eval_top5": 1.0 if classes <= 5 else 0.997 - 0.5 * left,
    }


def _angles(epoch: int, layers: Sequence[str], angles: bool, noise: np.random.Generator) -> dict[str, Any]:
    found = {}
    for number, layer in enumerate(layers if angles else ()):
        depth = number / len(layers)
        end = 4 + 60 * depth**6
        found[layer] = end + (90 - end) * math.exp(-epoch / (1.5 + 9 * depth)) + float(noise.normal(0, 0.4))
    return {"event": "angles", "step": epoch * PER_EPOCH, "epoch": float(epoch), "weight_angle": found}


def _speed(step: int, noise: np.random.Generator) -> dict[str, Any]:
    speed = 2400 * float(noise.normal(1, 0.03))
    return {
        "event": "speed",
        "step": step,
        "images_per_second": speed,
        "step_ms": 1000 * 128 / speed,
        "memory_mb": 1800.0 + step / 10,
        "corrupt_images": 0,
    }


def _results(events: list[dict[str, Any]], epochs: int) -> dict[str, Any]:
    measured = [event for event in events if event["event"] == "epoch"]
    angles = [event for event in events if event["event"] == "angles"]
    best = max(measured[1:], key=lambda event: event["eval_accuracy"])
    return {
        "kind": "train",
        "status": "finished",
        "reason": None,
        "layer": None,
        "step": epochs * PER_EPOCH,
        "epochs": float(epochs),
        "eval_accuracy": measured[-1]["eval_accuracy"],
        "best_accuracy": best["eval_accuracy"],
        "best_epoch": best["epoch"],
        "weight_angles": angles[-1]["weight_angle"],
        "collapsed": [],
        "dead": [],
        "corrupt_images": {},
        "seconds": 5400.0,
    }


def _config(epochs: int) -> dict[str, Any]:
    return {
        "data": "cifar10",
        "split": "test",
        "model": "resnet110",
        "rule": "symmetric_alignment",
        "epochs": epochs,
        "batch_size": 128,
        "learning_rate": 0.1,
        "seed": 0,
        "rule_options": {},
    }
