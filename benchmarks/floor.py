"""Where a floor of the mirrored Kolen-Pollack rule's gain matters, beside the walk of B that its filter learns.

    python benchmarks/floor.py --runs PATH [--jobs 2]

One linear layer of 64 inputs, whose B gets normal noise of variance v |W|^2 before each view by white noise, as
imprecise increments would give it. Four filters: a gain that only falls, one that falls to the floor (0.001), one that
learns the variance of the walk, and the rule's, which does both. With 1/16 row for each input in a view, as a layer of
2,048 inputs has at batch 128, and with 8, as convolutions have. What the filter that knows v would do follows from its
equation: ``P <- v + P R / (P + R)`` from 2 |W|^2 on, R = |W|^2 / q.
"""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import torch
from grid import Arm, markdown, parser, rows_of, run_grid

import backroads as br
from backroads.runs.statistics import estimate

# The module; its function of the same name hides it in the package.
mirrored_kolen_pollack = importlib.import_module("backroads.feedback.rules.mirrored_kolen_pollack")
# Name of a filter -> the least gain, and the rate at which it learns the variance of the walk.
FILTERS = {
    "falls": (1e-9, 0.0),
    "falls to the floor": (1e-3, 0.0),
    "learns the walk": (1e-9, mirrored_kolen_pollack.RATE),
    "both": (1e-3, mirrored_kolen_pollack.RATE),
}
VARIANCES = [0.0, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2]
ROWS = [1 / 16, 8.0]
INPUTS, OUTPUTS, VIEWS = 64, 64, 5_000


def best(v: float, q: float) -> float:
    """Angle in degrees that the filter which knows v leaves, the mean over the second half of the views."""
    P, R, angles = 2.0, 1 / q, []  # in |W|^2
    for _ in range(VIEWS):
        P = P * R / (P + R)
        angles.append(math.degrees(math.acos(1 - P / 2)))
        P += v
    return sum(angles[VIEWS // 2 :]) / (VIEWS - VIEWS // 2)


def walk(arm: Arm, seed: int, folder: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """One run: the mean angle between B and W in the second half of the views."""
    q, v = arm.labels["rows"], arm.labels["variance"]
    floor, mirrored_kolen_pollack.RATE = FILTERS[arm.labels["filter"]]
    torch.manual_seed(seed)
    rule = br.rules.mirrored_kolen_pollack(rows=q, every=1, first=0, floor=floor)
    layer = br.nn.Linear(INPUTS, OUTPUTS, rule=rule)
    optimiser = torch.optim.SGD(br.param_groups(layer, lr=1e-30, momentum=0.0))
    x = torch.randn(max(1, round(q * INPUTS)), INPUTS)
    std = math.sqrt(v / layer.weight.numel()) * float(layer.weight.detach().norm())
    angles = []
    for view in range(VIEWS):
        optimiser.zero_grad()
        layer(x).sum().backward()
        optimiser.step()
        if view >= VIEWS // 2 and view % 50 == 0:
            angles.append(float(br.metrics.angle(layer.feedback_weight(), layer.weight)))
        with torch.no_grad():
            layer.backward_weight.add_(torch.randn_like(layer.weight), alpha=std)
    return {"angle": sum(angles) / len(angles)}


def summary(seeds: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """Mean and deviation over seeds."""
    found = estimate(run["angle"] for run in seeds.values())
    return {"angle_mean": found.mean, "angle_std": found.std}


def table(results: dict[str, Any]) -> str:
    """A row for each variance and number of rows, a column for each filter, in degrees."""
    found = {(row["rows"], row["variance"], row["filter"]): row for row in rows_of(results)}
    cells = []
    for q, v in dict.fromkeys((q, v) for q, v, _ in found):
        own = [found[q, v, name] for name in FILTERS]
        angles = [f"{row['angle_mean']:.1f} ± {row['angle_std'] or 0:.1f}" for row in own]
        cells.append([f"{q:g}", f"{v:g}", *angles, f"{best(v, q):.1f}"])
    return markdown(["rows per input in a view", "v", *FILTERS, "knows v"], cells)


def main() -> None:
    given = parser(__doc__, "floor", data=False).parse_args()
    arms = [
        Arm({"rows": q, "variance": v, "filter": name}, {"views": VIEWS, "inputs": INPUTS, "outputs": OUTPUTS})
        for q in ROWS
        for v in VARIANCES
        for name in FILTERS
    ]
    print(table(run_grid(arms, given, walk, summary, {"filter": "both"})))


if __name__ == "__main__":
    main()
