"""How well a network learns in lifetimes it has not seen: at the end, on the way, and what it forgets."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from backroads.errors import ConfigError
from backroads.plasticity.lifetime import Weights, predict, sample_losses
from backroads.plasticity.network import MetaNetwork
from backroads.plasticity.tasks.episode import Episodes, Split, Tasks, seeded
from backroads.runs.progress import Progress, Report
from backroads.runs.schema import Lifetimes
from backroads.runs.statistics import estimate


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came of some lifetimes. A score is an accuracy (labels) or a mean squared error (regression).

    Attributes:
        scores: of each lifetime at its end, over all tasks; NaN where it was not finite.
        course: (R, N), the score on each task after a part of the lifetime: row r after steps (r + 1) T / R, in the
            continual order after task r. Mean over lifetimes whose numbers are finite.
        accuracy: whether scores are accuracies.
    """

    scores: list[float]
    course: list[list[float]]
    accuracy: bool

    @property
    def quality(self) -> float:
        """The mean score, the higher the better, by which weights and rates are chosen.

        A lifetime that was not finite has the accuracy 0, or an infinite error: left out, it would make what is fragile
        look better.
        """
        if not self.scores:
            return -math.inf
        worst = 0.0 if self.accuracy else math.inf
        mean = statistics.fmean(score if math.isfinite(score) else worst for score in self.scores)
        return mean if self.accuracy else -mean

    def summary(self, step: int) -> Lifetimes:
        """The mean and its 95 % interval over lifetimes, of a network after ``step`` meta-steps."""
        finite = [score for score in self.scores if math.isfinite(score)]
        found = estimate(finite)
        return Lifetimes(
            measure="accuracy" if self.accuracy else "mean squared error",
            lifetimes=len(self.scores),
            step=step,
            skipped=len(self.scores) - len(finite),
            mean=found.mean,
            interval_95=found.half,
            so_far=[statistics.mean(row[: number + 1]) for number, row in enumerate(self.course)],
            course=[list(row) for row in self.course],
        )


@torch.no_grad()
def measure(
    network: MetaNetwork,
    tasks: Tasks,
    split: Split,
    lifetimes: int,
    *,
    ways: int | None = None,
    batch: int = 1,
    report: Report = lambda progress: None,
) -> Measured:
    """Live through lifetimes of a split, always the same ones.

    Args:
        network: what learns.
        tasks, split: what it learns.
        lifetimes: how many.
        ways: tasks of each; None: the settings'.
        batch: lifetimes computed at once.
        report: called with the progress after each batch.

    Raises:
        ConfigError: if the split cannot fill the episodes.
    """
    device = next(network.parameters()).device
    scores: list[float] = []
    courses: list[Tensor] = []
    accuracy = False
    for number in range(math.ceil(lifetimes / batch)):
        count = min(batch, lifetimes - len(scores))
        episodes = tasks.episodes(split, number, count, tasks=ways).to(device)
        if network.config.meta.batch_learning:
            episodes = episodes.in_one_step()
        accuracy = not episodes.y_query.is_floating_point()
        N = int(episodes.task_query.max()) + 1
        found = _during_lifetimes(network, episodes, min(N, episodes.support.shape[1]), number)
        scores += found[-1].mean(1).tolist()
        courses.append(torch.stack([by_task(score, episodes, N) for score in found], 1))
        report(Progress(len(scores), lifetimes))
    course = torch.cat(courses).nan_to_num(nan=torch.nan, posinf=torch.nan, neginf=torch.nan).nanmean(0)
    return Measured(scores, course.tolist(), accuracy)


def choose_rate(network: MetaNetwork, tasks: Tasks, rates: Sequence[float], lifetimes: int) -> float:
    """Give the network the step size of rule "gradient" that is best on validation tasks, and return it.

    Args:
        network: its rule is replaced.
        tasks: what it learns.
        rates: to choose from.
        lifetimes: to measure each on.

    Raises:
        ConfigError: for another rule, or where step sizes are meta-learned.
    """
    if not network.rule.is_gradient or network.config.network.learned_rates:
        raise ConfigError("rates: expected a run of rule 'gradient' whose rate is not learned; leave --rates out")
    results = {}
    for rate in rates:
        network.rule = network.rule.model_copy(update={"inner_lr": rate})
        results[rate] = measure(network, tasks, "validation", lifetimes).quality
    best = max(rates, key=lambda rate: results[rate])
    network.rule = network.rule.model_copy(update={"inner_lr": best})
    return best


def _during_lifetimes(network: MetaNetwork, episodes: Episodes, parts: int, number: int) -> list[Tensor]:
    """The score of each query sample, (E, Q), after each of the equal parts of a lifetime."""
    T, found = episodes.support.shape[1], list[Tensor]()
    ends = {T * (part + 1) // parts - 1 for part in range(parts)}
    inputs = network.features(episodes.inputs)
    meta = network.initial_weights(episodes.count, seeded(network.config.run.seed, 11, number))

    def note(k: int, weights: Weights) -> None:
        if k in ends:
            found.append(_scores(predict(meta, weights, inputs[episodes.query]), episodes))

    network.lifetimes(episodes, meta, inputs, note)
    return found


def _scores(yhat: Tensor, episodes: Episodes) -> Tensor:
    """The score of each query sample, (E, Q): right or not, or the squared error; NaN where outputs are not finite."""
    y = episodes.y_query
    score = sample_losses(yhat, y) if y.is_floating_point() else (yhat.argmax(-1) == y).to(yhat.dtype)
    return torch.where(yhat.isfinite().all(-1), score, torch.nan)


def by_task(score: Tensor, episodes: Episodes, tasks: int) -> Tensor:
    """Means by task, (E, Q) -> (E, N)."""
    one_hot = torch.nn.functional.one_hot(episodes.task_query, tasks).to(score.dtype)
    return torch.einsum("eq,eqn->en", score, one_hot) / one_hot.sum(1)
