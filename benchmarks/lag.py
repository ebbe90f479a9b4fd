"""Is it the lag of one step that symmetric alignment falls to? The VGG-like network, with B set by hand.

    python benchmarks/lag.py --data folder:PATH --runs PATH [--jobs 2]

After each step of W's optimiser, B is set to W or to a matrix as far from it as W's last step is long: W of a step
before, W with that step taken twice (as far off in the opposite direction), or W and the step's entries in random
order. If only the distance mattered, all three would do the same. "Behind, momentum m" is W of a step before and m
times the step that led to it: what symmetric alignment at rate 1 has with Nesterov's momentum m. W's momentum being
0.9, the gradients that B lacks then have the weights 1.9, -0.9, 0, ..., the newest first; with m = 1 their sum is 0.
The recipe is that of ``benchmarks/local_rules.py``: its first epoch, in which the rate rises to 0.02.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from grid import Arm, markdown, parser, rows_of, run_grid
from torch import Tensor

import backroads as br
from backroads.data import load_dataset
from backroads.models import build_model
from backroads.runs.statistics import estimate

# B - W as a function of W's last step and the one before, and of a generator.
PLACES: dict[str, Callable[[Tensor, Tensor, torch.Generator], Tensor | float]] = {
    "B = W": lambda step, before, random: 0.0,
    "one step behind": lambda step, before, random: -step,
    "behind, momentum 0.9": lambda step, before, random: 0.9 * before - step,
    "behind, momentum 1": lambda step, before, random: before - step,
    "one step ahead": lambda step, before, random: step,
    "as far, at random": lambda step, before, random: step.flatten()[
        torch.randperm(step.numel(), generator=random)
    ].view_as(step),
}
SETTINGS = {"steps": 391, "batch": 128, "rate_W": 0.02, "momentum": 0.9, "weight_decay": 5e-4, "clip_norm": 5.0}
LAST = 50  # steps, of the 390 of an epoch, that a number is the mean of


def train(arm: Arm, seed: int, folder: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """One run: loss and size of the last hidden activities over the last steps, angle of B and W at the end."""
    own, place = arm.settings, PLACES[arm.labels["place"]]
    data = load_dataset(machine["data"], root=machine.get("root"))
    torch.manual_seed(seed)
    model = br.convert(build_model("vgg", classes=data.classes, shape=data.shape), br.rules.feedback_alignment())
    layers = [layer for _, layer in br.aligned_layers(model)]
    with torch.no_grad():
        for layer in layers:
            layer.backward_weight.copy_(layer.weight)
    optimiser = torch.optim.SGD(
        br.forward_parameters(model), own["rate_W"], own["momentum"], weight_decay=own["weight_decay"], nesterov=True
    )
    sizes: list[float] = []
    layers[-1].register_forward_pre_hook(lambda _, inputs: sizes.append(float(inputs[0].detach().float().norm())))
    random = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    steps = [torch.zeros_like(layer.weight) for layer in layers]
    batches = data.train.train_batches(own["batch"], seed=seed, epoch=1)
    for step, (x, labels) in zip(range(own["steps"]), batches, strict=False):
        optimiser.param_groups[0]["lr"] = own["rate_W"] * (step + 1) / own["steps"]
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(x), labels)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(br.forward_parameters(model), own["clip_norm"])
        old = [layer.weight.detach().clone() for layer in layers]
        optimiser.step()
        losses.append(float(loss.detach()))
        with torch.no_grad():
            for n, layer in enumerate(layers):
                taken = layer.weight - old[n]
                layer.backward_weight.copy_(layer.weight + place(taken, steps[n], random))
                steps[n] = taken
    angles = [br.metrics.angle(layer.backward_weight, layer.weight) for layer in layers]
    return {
        "loss": sum(losses[-LAST:]) / LAST,
        "size": sum(sizes[-LAST:]) / LAST / sizes[0],
        "angle": max(float(angle or 0.0) for angle in angles),
    }


def summary(seeds: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """Means and deviations over seeds."""
    found = {key: estimate(run[key] for run in seeds.values()) for key in ("loss", "size", "angle")}
    return {f"{key}_{part}": getattr(of, part) for key, of in found.items() for part in ("mean", "std")}


def table(results: dict[str, Any]) -> str:
    """A row for each place of B, as Markdown."""
    cells = [
        [
            row["place"],
            str(row["n"]),
            *(f"{row[f'{key}_mean']:.2f} ± {row[f'{key}_std'] or 0:.2f}" for key in ("loss", "size")),
            f"{row['angle_mean']:.2f}°",
        ]
        for row in rows_of(results)
    ]
    return markdown(["B", "n", "training loss", "last activities over those at first", "largest angle"], cells)


def main() -> None:
    given = parser(__doc__, "lag").parse_args()
    arms = [Arm({"place": name}, SETTINGS) for name in PLACES]
    print(table(run_grid(arms, given, train, summary, {"place": "B = W"})))


if __name__ == "__main__":
    main()
