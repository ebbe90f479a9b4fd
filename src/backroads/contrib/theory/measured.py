"""The same diagram on a real network: two coefficients, a short training at each point, and what becomes of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from backroads.data import batches, load_digits
from backroads.feedback.conversion import aligned_layers, backward_parameters, convert, forward_parameters
from backroads.feedback.nn.layers import AlignedLayer
from backroads.feedback.rules import Alignment
from backroads.metrics import weight_angles
from backroads.models import MODELS
from backroads.runs.results import Fate, Outcome

WIDTH, BATCH = 4, 64
GROWN, FAR, VANISHED = 3.0, 100.0, 0.3  # times the length at the start; up to FAR it must be growing still


class Digits:
    """A small network on handwritten digits, made anew, the same, for every point."""

    def __init__(self, seed: int) -> None:
        split = load_digits("validation")
        self.x, self.y, self.seed = split.train_x, split.train_y, seed

    def model(self, rule: Alignment) -> torch.nn.Module:
        """The network under a rule."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return convert(MODELS.get("digits_conv")(width=WIDTH), rule, generator=self.seed + 1)

    def train(self, rule: Alignment, steps: int, rate: float) -> Outcome:
        """Train for some steps of plain SGD, one rate for W and B, and say what became of the weights."""
        model = self.model(dataclasses.replace(rule, update_forward=True))
        optimizer = torch.optim.SGD([*forward_parameters(model), *backward_parameters(model)], lr=rate)
        layers = [layer for _, layer in aligned_layers(model)]
        start, late, accuracy = _sizes(layers), None, 0.0
        done = 0
        for epoch in range(1, steps + 1):
            for picks in batches(len(self.x), BATCH, self.seed, epoch):
                if done >= steps:
                    break
                optimizer.zero_grad()
                logits = model(self.x[picks])
                loss = F.cross_entropy(logits, self.y[picks])
                if not math.isfinite(float(loss.detach())) or not bool((_sizes(layers) < 1e6 * start).all()):
                    return Outcome("explodes", None, None, None)
                loss.backward()
                optimizer.step()
                accuracy = float((logits.argmax(1) == self.y[picks]).double().mean())
                done += 1
                if done == steps - max(1, steps // 10):
                    late = _sizes(layers)
            if done >= steps:
                break
        end = _sizes(layers)
        assert late is not None
        ratio, recent = end / start, end / late
        grows, shrinks = (ratio > FAR) | (ratio > GROWN) & (recent > 1.01), ratio < VANISHED
        fate: Fate = "explodes" if bool(grows.any()) else "collapses" if bool(shrinks.all()) else "settles"
        angles = weight_angles(model)
        return Outcome(fate, float(ratio.max()), sum(angles.values()) / len(angles), accuracy)

    def strengths(self, rule: Alignment, steps: int = 30) -> dict[str, float]:
        """By layer, the strongest axis of its input as the rule's reduction measures it: the largest gamma.

        By power iteration with the library's own gradients: that of sparse alone is B C.
        """
        probe = Alignment(sparse=1.0, reduction=rule.reduction, operations=rule.operations)
        model = self.model(probe)
        x = self.x[next(iter(batches(len(self.x), 4 * BATCH, self.seed, 1)))]
        found: dict[str, float] = {}
        for _ in range(steps):
            for _, layer in aligned_layers(model):
                layer.zero_grad()
            F.cross_entropy(model(x), self.y[: len(x)]).backward()
            for name, layer in aligned_layers(model):
                B = layer.backward_weight
                assert B is not None
                assert B.grad is not None
                size = float(B.grad.norm())
                found[name] = size / float(B.detach().norm())
                with torch.no_grad():
                    B.copy_(B.grad / max(size, 1e-30))
        return found


def _sizes(layers: list[AlignedLayer]) -> Tensor:
    """|W| |B| by layer, as a length: the root of their product."""
    with torch.no_grad():
        pairs = [(layer.weight, layer.backward_weight) for layer in layers]
        return torch.stack([(W.norm() * B.norm()).sqrt() for W, B in pairs if B is not None])


def measure(
    digits: Digits,
    make: Callable[[float, float], Alignment],
    xs: list[float],
    ys: list[float],
    *,
    steps: int,
    rate: float,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[Outcome]]:
    """Outcomes by row (y) and column (x); ``make(x, y)`` is the rule at a point."""
    found: list[list[Outcome]] = []
    for row, y in enumerate(ys):
        found.append([])
        for column, x in enumerate(xs):
            found[-1].append(digits.train(make(x, y), steps, rate))
            report(row * len(xs) + column + 1, len(xs) * len(ys))
    return found
