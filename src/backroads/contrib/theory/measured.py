"""Short trainings of a small network, one for each point of the phase diagram, and what becomes of its weights.

They have a loop of their own: plain SGD whose weights are measured at every step, with nothing to log or to resume.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from backroads.data import batches, load_digits
from backroads.feedback.conversion import aligned_layers, backward_parameters, convert, forward_parameters
from backroads.feedback.nn.layer import AlignedLayer
from backroads.feedback.rules import Alignment
from backroads.metrics import weight_angles
from backroads.models import digits_conv
from backroads.runs.results import Fate, Outcome

WIDTH, BATCH = 4, 64
GROWN, FAR, VANISHED = 3.0, 100.0, 0.3  # times the length at the start; up to FAR it must be growing still


class Digits:
    """A small network on handwritten digits, with the same initial weights and order of images for every rule."""

    def __init__(self, seed: int) -> None:
        train = load_digits("validation").train
        self.x, self.y, self.seed = train.x, train.y, seed

    def model(self, rule: Alignment) -> torch.nn.Module:
        """The network, converted to a rule."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return convert(digits_conv(width=WIDTH), rule, generator=self.seed + 1)

    def train(self, rule: Alignment, steps: int, rate: float) -> Outcome:
        """Train with plain SGD, the rule teaching W and B at one learning rate, and say what became of the weights."""
        model = self.model(dataclasses.replace(rule, update_forward=True))
        optimizer = torch.optim.SGD([*forward_parameters(model), *backward_parameters(model)], lr=rate)
        layers = [layer for _, layer in aligned_layers(model)]
        start = late = _sizes(layers)
        accuracy = 0.0
        epochs = (batches(len(self.x), BATCH, self.seed, epoch) for epoch in itertools.count(1))
        for step, picks in enumerate(itertools.islice(itertools.chain.from_iterable(epochs), steps), 1):
            optimizer.zero_grad()
            logits = model(self.x[picks])
            loss = F.cross_entropy(logits, self.y[picks])
            if not math.isfinite(float(loss.detach())) or not bool((_sizes(layers) < 1e6 * start).all()):
                return Outcome("explodes", None, None, None)
            loss.backward()
            optimizer.step()
            accuracy = float((logits.argmax(1) == self.y[picks]).double().mean())
            if step == steps - max(1, steps // 10):
                late = _sizes(layers)
        end = _sizes(layers)
        ratio, recent = end / start, end / late
        grows, shrinks = (ratio > FAR) | (ratio > GROWN) & (recent > 1.01), ratio < VANISHED
        fate: Fate = "explodes" if bool(grows.any()) else "collapses" if bool(shrinks.all()) else "settles"
        angles = weight_angles(model)
        return Outcome(fate, float(ratio.max()), sum(angles.values()) / len(angles), accuracy)

    def strengths(self, rule: Alignment, steps: int = 30) -> dict[str, float]:
        """By layer, the largest eigenvalue of its input's second moment, as the rule's reduction measures it.

        By power iteration with the library's own gradients: the gradient of sparse alone is B C.
        """
        model = self.model(Alignment(sparse=1.0, reduction=rule.reduction, operations=rule.operations))
        picks = next(iter(batches(len(self.x), 4 * BATCH, self.seed, 1)))
        found: dict[str, float] = {}
        for _ in range(steps):
            model.zero_grad()
            F.cross_entropy(model(self.x[picks]), self.y[: len(picks)]).backward()
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
    """sqrt(|W| |B|) by layer."""
    with torch.no_grad():
        pairs = [(layer.weight, layer.backward_weight) for layer in layers]
        return torch.stack([(W.norm() * B.norm()).sqrt() for W, B in pairs if B is not None])
