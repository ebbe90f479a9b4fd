"""Does decorrelating the activities make the weight mirror a rule without tuning? Apart from the library.

    python benchmarks/decorrelation.py --data mnist --root FOLDER --runs PATH   # of MNIST, as torchvision reads it

An MLP 784-256-256-10 learns MNIST with plain matrices. Every B follows ``B <- B + rate (g M[y z^T] - B)``, y = W x;
the contestants differ in z, what the synapse takes for its input: the activity as it is, centred, or decorrelated by a
matrix that is learned while the network is. With z = D x and C = M[x x^T] of the centred x the fixed point of B is
g W C D^T: along W if D is the inverse of C. The gain g gives every estimate the length that B had at first: without it
(g = 1, or 1 / mean square of x) the mirror of activities diverged here under every contestant.

- full lateral: D <- D - eta offdiagonal(M[z z^T]) D, variances brought to 1 (N. Ahmad, E. Schrader, M. van Gerven,
  "Constrained parameter inference as a principle for learning", TMLR 2023), applied twice, D^T D: that is C^-1.
- sparse lateral: the same with a synapse from so many random neighbours only.
- sparse random projection: z = P (P^T C P)^-1 P^T x, P of random signs, a few in each column: C inverted in a random
  subspace of half the dimension, from running averages.
- inverse: D = (C + 0.01 p)^-1 from running averages: what no lateral synapse could do better.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from grid import Arm, markdown, parser, rows_of, run_grid, spread
from torch import Tensor

import backroads as br
from backroads.data import load_dataset
from backroads.runs.statistics import estimate

HIDDEN = (256, 256)
RATE, FORGET = 0.03, 0.02  # of B, and of running averages, a step

Estimate = Callable[[Tensor, Tensor], Tensor]  # (x, y) -> what B is drawn to


def plain(x: Tensor, y: Tensor) -> Tensor:
    return y.T @ x / x.square().mean() / len(x)


def centred(x: Tensor, y: Tensor) -> Tensor:
    return plain(x - x.mean(0), y)


class Running:
    """Mean and second moment of the centred input, as running averages."""

    def __init__(self, n: int) -> None:
        self.m, self.C, self.steps = torch.zeros(n), torch.zeros(n, n), 0

    def see(self, x: Tensor) -> Tensor:
        self.steps += 1
        forget = max(FORGET, 1 / self.steps)
        self.m += forget * (x.mean(0) - self.m)
        x = x - self.m
        self.C += forget * (x.T @ x / len(x) - self.C)
        return x


class Lateral:
    """D learned by lateral synapses, all or so many for each neuron."""

    def __init__(self, n: int, neighbours: int | None = None, eta: float = 1e-3) -> None:
        self.m, self.D, self.eta, self.steps = torch.zeros(n), torch.eye(n), eta, 0
        self.mask: Tensor | float = 1.0 - torch.eye(n)
        if neighbours is not None:
            chosen = torch.rand(n, n).fill_diagonal_(2).argsort(1)[:, :neighbours]
            self.mask = torch.zeros(n, n).scatter_(1, chosen, 1.0)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        self.steps += 1
        self.m += max(FORGET, 1 / self.steps) * (x.mean(0) - self.m)
        x = x - self.m
        z = x @ self.D.T
        second = z.T @ z / len(z)
        # Lateral synapses take away what is shared; gains bring each variance towards 1.
        gain = torch.diag((second.diagonal() - 1).clamp(max=1.0))
        step = (second * self.mask + gain) @ self.D
        allowed = self.mask + torch.eye(len(step))
        self.D -= self.eta * step * allowed / max(1.0, float(second.diagonal().max()))
        return y.T @ (z @ self.D) / len(x)


class Projected:
    """C inverted in a subspace of sparse random directions."""

    def __init__(self, n: int, share: float = 0.5, signs: int = 8) -> None:
        self.running, k = Running(n), int(n * share)
        chosen = torch.rand(n, k).argsort(0)[:signs]
        self.P = torch.zeros(n, k).scatter_(0, chosen, torch.randint(0, 2, (signs, k)) * 2.0 - 1.0)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.running.see(x)
        G = self.P.T @ self.running.C @ self.P
        G += 0.01 * G.diagonal().mean() * torch.eye(len(G))
        return (y.T @ x / len(x)) @ self.P @ torch.linalg.solve(G, self.P.T)


class Inverse:
    """C inverted."""

    def __init__(self, n: int) -> None:
        self.running = Running(n)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.running.see(x)
        C = self.running.C
        C = C + 0.01 * C.diagonal().mean() * torch.eye(len(C))
        return torch.linalg.solve(C, x.T @ y / len(x)).T


CONTESTANTS: dict[str, Callable[[int], Estimate] | None] = {
    "backprop": None,
    "feedback alignment": None,
    "as it is": lambda n: plain,
    "centred": lambda n: centred,
    "full lateral": Lateral,
    "sparse lateral, 32": lambda n: Lateral(n, 32),
    "sparse random projection": Projected,
    "inverse": Inverse,
}


@torch.no_grad()
def train(arm: Arm, seed: int, folder: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """One run: accuracy, angles and lengths at the end."""
    name, epochs = arm.labels["contestant"], arm.settings["epochs"]
    data = load_dataset(machine["data"], root=machine.get("root"))
    sizes = (math.prod(data.shape), *HIDDEN, data.classes)
    torch.manual_seed(seed)
    W = [torch.randn(o, i) * (2 / i) ** 0.5 for i, o in itertools.pairwise(sizes)]
    b = [torch.zeros(o) for o in sizes[1:]]
    B = [torch.randn_like(w) * w.std() for w in W]
    first = [back.norm() for back in B]
    make = CONTESTANTS[name]
    estimates = [] if make is None else [make(n) for n in sizes[:-1]]
    transported = name == "backprop"
    velocity = [torch.zeros_like(p) for p in W + b]
    for epoch in range(1, epochs + 1):
        for x, labels in data.train.train_batches(128, seed=seed, epoch=epoch):
            inputs, ys = [x.flatten(1)], []
            for w, c in zip(W, b, strict=True):
                ys.append(inputs[-1] @ w.T)
                inputs.append((ys[-1] + c).relu())
            error = ((ys[-1] + b[-1]).softmax(1) - F.one_hot(labels, 10)) / len(x)
            gradients: list[Tensor] = [torch.empty(0)] * len(velocity)
            for layer in (2, 1, 0):
                gradients[layer], gradients[3 + layer] = error.T @ inputs[layer], error.sum(0)
                back = W[layer] if transported else B[layer]
                error = (error @ back) * (inputs[layer] > 0)
            for layer, teach in enumerate(estimates):
                target = teach(inputs[layer], ys[layer])
                B[layer] += RATE * (target * (first[layer] / target.norm()) - B[layer])
            for p, v, g in zip(W + b, velocity, gradients, strict=True):
                v.mul_(0.9).add_(g)
                p.sub_(v, alpha=0.02)
    hits = []
    for x, labels in data.evaluate.eval_batches(1000):
        x = x.flatten(1)
        for layer, (w, c) in enumerate(zip(W, b, strict=True)):
            x = x @ w.T + c
            x = x.relu() if layer < 2 else x
        hits.append((x.argmax(1) == labels).double())
    angles = [0.0 if transported else br.metrics.angle(back, w) for back, w in zip(B, W, strict=True)]
    lengths = [1.0 if transported else float(back.norm() / w.norm()) for back, w in zip(B, W, strict=True)]
    return {"test_accuracy": float(torch.cat(hits).mean()), "weight_angles": angles, "lengths": lengths}


def summary(seeds: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """Means over seeds."""
    runs = list(seeds.values())
    accuracy = estimate(run["test_accuracy"] for run in runs)
    means = {
        f"{key}_mean": [statistics.fmean(column) for column in zip(*(run[of] for run in runs), strict=True)]
        for key, of in (("angles", "weight_angles"), ("lengths", "lengths"))
    }
    return {"accuracy_mean": accuracy.mean, "accuracy_std": accuracy.std, **means}


def table(results: dict[str, Any]) -> str:
    """Accuracy and angles by contestant, as Markdown."""
    cells = [
        [
            row["contestant"],
            spread(row["accuracy_mean"], row["accuracy_std"], digits=1) + " %",
            ", ".join(f"{value:.0f}°" for value in row["angles_mean"]),
            str(row["n"]),
        ]
        for row in rows_of(results)
    ]
    return markdown(["contestant", "test accuracy", "angles by layer", "n"], cells)


def main() -> None:
    parse = parser(__doc__, "decorrelation")
    parse.add_argument("--epochs", type=int, default=1)
    given = parse.parse_args()
    settings = {"epochs": given.epochs, "batch": 128, "rate_W": 0.02, "momentum_W": 0.9, "rate_B": RATE}
    arms = [Arm({"contestant": name}, settings) for name in CONTESTANTS]
    print(table(run_grid(arms, given, train, summary, {"contestant": "backprop"})))


if __name__ == "__main__":
    main()
