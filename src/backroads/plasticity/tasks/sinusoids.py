"""Regression of sinusoids: y = A sin(x + phi)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backroads.errors import ConfigError
from backroads.plasticity.tasks.episode import SPLITS, Episodes, Order, Split, Tasks, ordered, seeded

HELD_OUT = 1000  # sinusoids for validation, and as many others for the test


class Sinusoids(Tasks):
    """Amplitude A = 5 (r + 0.02), r in [0, 1), phase in [0, pi), x in [-5, 5), without noise.

    An input is the one-hot of the task's position in the episode, of capacity N, and x: (N + 1,). An inner step sees
    a batch of one sinusoid.

    Args:
        tasks: N, sinusoids of an episode. steps: inner steps a task. batch: samples a step. pool: sinusoids to
            meta-train on; those for validation and test are others. order: of the steps. seed: of everything.

    Source: Javed and White 2019; numbers of Lindsey and Litwin-Kumar's code.
    """

    def __init__(self, tasks: int, steps: int, batch: int, pool: int, order: Order, seed: int) -> None:
        self.tasks, self.steps, self.batch, self.order, self.seed = tasks, steps, batch, order, seed
        self.shape = (tasks + 1,)
        self.pools = {
            split: _pool(pool if split == "train" else HELD_OUT, seeded(seed, 7, number))
            for split, number in SPLITS.items()
        }
        self.check("train", tasks)

    def check(self, split: Split, tasks: int) -> None:
        if tasks > self.tasks:
            raise ConfigError(f"tasks: expected at most {self.tasks}, the capacity of the input, got {tasks}")
        if tasks > len(self.pools[split]):
            raise ConfigError(
                f"tasks: expected at most {len(self.pools[split])}, the sinusoids of {split}, got {tasks}"
            )

    def episodes(self, split: Split, number: int, count: int, *, tasks: int | None = None) -> Episodes:
        tasks = self.tasks if tasks is None else tasks
        self.check(split, tasks)
        x, y, steps = [], [], []
        for e in range(count):
            generator = seeded(self.seed, 8, SPLITS[split], number, e)
            chosen = self.pools[split][torch.randperm(len(self.pools[split]), generator=generator)[:tasks]]
            task = torch.arange(tasks).repeat_interleave(self.steps)
            task = task[ordered(task, self.order, generator)]
            position = torch.cat(
                [task.repeat_interleave(self.batch), torch.arange(tasks).repeat_interleave(self.batch)]
            )
            value = 10 * torch.rand(len(position), generator=generator) - 5
            x.append(torch.cat([torch.nn.functional.one_hot(position, self.tasks).float(), value[:, None]], 1))
            y.append(chosen[position, 0] * torch.sin(value + chosen[position, 1]))
            steps.append(task)
        return self._packed(torch.stack(x), torch.stack(y)[..., None], torch.stack(steps), tasks)

    def _packed(self, x: Tensor, y: Tensor, task: Tensor, tasks: int) -> Episodes:
        count, T = task.shape
        index = torch.arange(x.shape[0] * x.shape[1]).view(count, -1)
        seen = T * self.batch
        return Episodes(
            inputs=x.flatten(0, 1),
            support=index[:, :seen].reshape(count, T, self.batch),
            y=y[:, :seen].reshape(count, T, self.batch, 1),
            query=index[:, seen:],
            y_query=y[:, seen:],
            task=task,
            task_query=torch.arange(tasks).repeat_interleave(self.batch).expand(count, -1),
        )


def _pool(size: int, generator: torch.Generator) -> Tensor:
    """Amplitudes and phases, (size, 2)."""
    r = torch.rand(size, 2, generator=generator)
    return torch.stack([5 * (r[:, 0] + 0.02), math.pi * r[:, 1]], 1)
