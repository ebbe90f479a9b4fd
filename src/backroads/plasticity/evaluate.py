"""How well a network learns in lifetimes it has not seen: at the end, on the way, and what it forgets."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backroads.plasticity.lifetime import Weights, loss_of, predict
from backroads.plasticity.network import MetaNetwork
from backroads.plasticity.tasks.episode import Episodes, Split, Tasks, seeded

Watch = Callable[[int, int], None]  # called with lifetimes done, and all


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came of some lifetimes. A score is an accuracy (labels) or a mean squared error (regression).

    Attributes:
        scores: of each lifetime at its end, over all tasks; NaN where it was not finite. losses: likewise.
        course: (R, N), the score on each task after a part of the lifetime: row r after steps (r + 1) T / R, in the
            continual order after task r. Mean over lifetimes whose numbers are finite.
        accuracy: whether scores are accuracies.
    """

    scores: list[float]
    losses: list[float]
    course: list[list[float]]
    accuracy: bool

    @property
    def finite(self) -> list[float]:
        return [score for score in self.scores if math.isfinite(score)]

    @property
    def so_far(self) -> list[float]:
        """After each part, the mean over as many tasks as parts: in the continual order, those presented so far."""
        return [statistics.mean(row[: number + 1]) for number, row in enumerate(self.course)]

    def summary(self) -> dict[str, Any]:
        """As plain data, with the mean and its 95 % interval over lifetimes."""
        finite = self.finite
        spread = statistics.stdev(finite) if len(finite) > 1 else None
        return {
            "measure": "accuracy" if self.accuracy else "mean squared error",
            "lifetimes": len(self.scores),
            "not_finite": len(self.scores) - len(finite),
            "mean": statistics.mean(finite) if finite else None,
            "std": spread,
            "interval_95": None if spread is None else 1.96 * spread / math.sqrt(len(finite)),
            "loss": statistics.mean(found) if (found := [x for x in self.losses if math.isfinite(x)]) else None,
            "so_far": self.so_far,
            "course": self.course,
            "scores": self.scores,
        }


@torch.no_grad()
def measure(
    network: MetaNetwork,
    tasks: Tasks,
    split: Split,
    lifetimes: int,
    *,
    ways: int | None = None,
    at_once: int = 1,
    watch: Watch | None = None,
) -> Measured:
    """Live through lifetimes of a split, always the same ones.

    Args:
        network: what learns. tasks, split: what. lifetimes: how many. ways: tasks of each, if not the settings'.
        at_once: lifetimes in a batch. watch: called after each batch.

    Raises:
        ConfigError: if the split cannot fill the episodes.
    """
    device = next(network.parameters()).device
    scores: list[float] = []
    losses: list[float] = []
    courses: list[Tensor] = []
    accuracy = False
    for number in range(math.ceil(lifetimes / at_once)):
        count = min(at_once, lifetimes - len(scores))
        episodes = tasks.episodes(split, number, count, tasks=ways).to(device)
        if network.config.batch_learning:
            episodes = episodes.at_once()
        accuracy = not episodes.y_query.is_floating_point()
        N, T = int(episodes.task_query.max()) + 1, episodes.support.shape[1]
        parts = min(N, T)
        ends = {T * (part + 1) // parts - 1 for part in range(parts)}
        inputs = network.features(episodes.inputs)
        meta = network.born(count, seeded(network.config.seed, 11, number))
        found: list[Tensor] = []

        def note(k: int, weights: Weights) -> None:
            if k in ends:  # noqa: B023 - called within this turn of the loop
                found.append(predict(meta, weights, inputs[episodes.query]))  # noqa: B023

        weights, _, _ = network.live(episodes, meta, note, inputs)
        last = predict(meta, weights, inputs[episodes.query])
        scores += by_sample(last, episodes).mean(1).tolist()
        losses += loss_of(last, episodes.y_query).tolist()
        courses.append(torch.stack([by_task(by_sample(yhat, episodes), episodes, N) for yhat in found], 1))
        if watch is not None:
            watch(len(scores), lifetimes)
    course = torch.cat(courses).nan_to_num(nan=torch.nan, posinf=torch.nan, neginf=torch.nan).nanmean(0)
    return Measured(scores, losses, course.tolist(), accuracy)


def by_sample(yhat: Tensor, episodes: Episodes) -> Tensor:
    """The score of each query sample, (E, Q): right or not, or the squared error; NaN where outputs are not finite."""
    finite = yhat.isfinite().all(-1)
    if episodes.y_query.is_floating_point():
        score = (yhat - episodes.y_query).square().mean(-1)
    else:
        score = (yhat.argmax(-1) == episodes.y_query).to(yhat.dtype)
    return torch.where(finite, score, torch.nan)


def by_task(score: Tensor, episodes: Episodes, tasks: int) -> Tensor:
    """Means by task, (E, Q) -> (E, N)."""
    one_hot = torch.nn.functional.one_hot(episodes.task_query, tasks).to(score.dtype)
    return torch.einsum("eq,eqn->en", score, one_hot) / one_hot.sum(1)
