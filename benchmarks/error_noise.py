"""Is noise on W filtered out of the errors that a slowly taught B sends back?

    python benchmarks/error_noise.py --data folder:PATH --runs PATH [--jobs 2]

ResNet-8 learns at a constant rate, and after each step noise is added to W, times the rate. At the end, with the noise
of the last k steps taken out of W again, the error B^T dy of each layer is compared with W^T dy: the angle, mean over
layers and batches; k = 0 is W as it is. Backpropagation has B = W. Symmetric alignment sets B to W at once, or follows
it slowly with the coefficients of the reference (decay = self = 2e-3, moved at the rate of W with its momentum).

Beside it: loss and accuracy of training, mean over the last steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from grid import Arm, markdown, parser, rows_of, run_grid
from torch import Tensor

import backroads as br
from backroads.data import load_dataset
from backroads.metrics.probe import Probe
from backroads.models import build_model
from backroads.runs.statistics import estimate

RULES: dict[str, dict[str, Any]] = {
    "backprop": {"rule": "backprop"},
    "symmetric alignment": {"rule": "symmetric_alignment", "rate_B": 1.0, "momentum_B": 0.0},
    "symmetric alignment, slow": {
        "rule": "symmetric_alignment",
        "options": {"decay": 2e-3, "self_": 2e-3},
        "rate_B": 0.1,
        "momentum_B": 0.9,
    },
}
VARIANCES = [0.0, 1e-3, 1e-2]
TAKEN_OUT = [0, 1, 10, 100, 1000]  # steps whose noise is taken out of W
SETTINGS: dict[str, Any] = {
    "steps": 2000,
    "batch": 128,
    "width": 8,
    "rate_W": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
}
WARM_UP, LAST, BATCHES = 200, 200, 5


def train(arm: Arm, seed: int, folder: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """One run: angles by the number of steps whose noise is taken out; loss and accuracy of the last steps."""
    own, variance = arm.settings, arm.labels["variance"]
    data = load_dataset(machine["data"], root=machine.get("root"))
    torch.manual_seed(seed)
    model = build_model("resnet8", classes=data.classes, shape=data.shape, options={"width": own["width"]})
    rule = getattr(br.rules, own["rule"])(**own.get("options", {}))
    model = br.convert(model.to(memory_format=torch.channels_last), rule)
    layers = dict(br.aligned_layers(model))
    of_W = torch.optim.SGD(
        br.forward_parameters(model), own["rate_W"], own["momentum"], weight_decay=own["weight_decay"], nesterov=True
    )
    Bs = br.backward_parameters(model)
    of_B = torch.optim.SGD(Bs, own["rate_B"], own["momentum_B"], nesterov=own["momentum_B"] > 0) if Bs else None

    # The noise is what a step adds to W after these hooks, which were registered first, have seen it.
    before: dict[str, Tensor] = {}
    of_W.register_step_post_hook(
        lambda *_: before.update({name: layer.W.detach().clone() for name, layer in layers.items()})
    )
    br.noisy(of_W, math.sqrt(variance), seed=seed)
    recent = {k: {name: torch.zeros_like(layer.W) for name, layer in layers.items()} for k in TAKEN_OUT}

    def batches(epoch: int) -> Iterable[tuple[Tensor, Tensor]]:
        return data.train.train_batches(own["batch"], seed=seed, epoch=epoch)

    losses: list[float] = []
    hits: list[float] = []
    step, epoch = 0, 0
    while step < own["steps"]:
        epoch += 1
        for x, labels in batches(epoch):
            if step == own["steps"]:
                break
            of_W.param_groups[0]["lr"] = own["rate_W"] * min(1.0, (step + 1) / WARM_UP)
            with torch.autocast("cpu", torch.bfloat16):
                outputs = model(x.contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(outputs, labels)
            model.zero_grad()
            loss.backward()
            of_W.step()
            if of_B is not None:
                of_B.step()
            step += 1
            for k, noise in recent.items():
                if step > own["steps"] - k:
                    for name, layer in layers.items():
                        noise[name] += layer.W.detach() - before[name]
            losses.append(float(loss.detach()))
            hits.append(float((outputs.argmax(1) == labels).float().mean()))

    angles = [of_batch(model, x, labels, recent) for x, labels in itertools.islice(batches(epoch + 1), BATCHES)]
    return {
        "angle": {str(k): sum(of[k] for of in angles) / BATCHES for k in TAKEN_OUT},
        "loss": sum(losses[-LAST:]) / LAST,
        "accuracy": sum(hits[-LAST:]) / LAST,
    }


def of_batch(
    model: torch.nn.Module, x: Tensor, labels: Tensor, recent: dict[int, dict[str, Tensor]]
) -> dict[int, float]:
    """By k: the angle of B^T dy to W^T dy, with the noise of the last k steps taken out of W; mean over layers."""
    probe = Probe(model, lambda: F.cross_entropy(model(x), labels))
    found: dict[int, list[float]] = {k: [] for k in recent}
    for name, uses in probe.signals.items():
        (W, B), op = probe.weights[name], probe.layers[name].operator
        sent = [op.pullback(dy, B, z) for z, dy in uses]
        for k, noise in recent.items():
            found[k].append(br.metrics.angle(sent, [op.pullback(dy, W - noise[name], z) for z, dy in uses]))
    return {k: sum(angles) / len(angles) for k, angles in found.items()}


def summary(seeds: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """Means and deviations over seeds."""
    found = {key: estimate(run[key] for run in seeds.values()) for key in ("loss", "accuracy")}
    found |= {f"angle_{k}": estimate(run["angle"][str(k)] for run in seeds.values()) for k in TAKEN_OUT}
    return {f"{key}_{part}": getattr(of, part) for key, of in found.items() for part in ("mean", "std")}


def table(results: dict[str, Any]) -> str:
    """A row for each rule and variance: angles, then loss and accuracy."""
    cells = [
        [
            row["rule"],
            f"{row['variance']:g}",
            str(row["n"]),
            *(f"{row[f'angle_{k}_mean']:.1f} ± {row[f'angle_{k}_std'] or 0:.1f}°" for k in TAKEN_OUT),
            f"{row['loss_mean']:.3f} ± {row['loss_std'] or 0:.3f}",
            f"{100 * row['accuracy_mean']:.1f} ± {100 * (row['accuracy_std'] or 0):.1f}",
        ]
        for row in rows_of(results)
    ]
    steps = [f"{k} steps" for k in TAKEN_OUT]
    return markdown(["rule", "variance", "n", *steps, "training loss", "training accuracy, %"], cells)


def main() -> None:
    given = parser(__doc__, "error_noise").parse_args()
    arms = [
        Arm({"rule": name, "variance": variance}, {**SETTINGS, **own})
        for name, own in RULES.items()
        for variance in VARIANCES
    ]
    print(table(run_grid(arms, given, train, summary)))


if __name__ == "__main__":
    main()
