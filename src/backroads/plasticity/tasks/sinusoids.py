"""Regression of sinusoids: y = A sin(x + phi)."""

from __future__ import annotations

import math

import torch

from backroads.errors import ConfigError
from backroads.plasticity.settings import TaskSettings
from backroads.plasticity.tasks.episode import SPLITS, Episodes, Split, Tasks, ordered, seeded

HELD_OUT = 1000  # sinusoids for validation, and as many others for the test


class Sinusoids(Tasks):
    """Amplitude A = 5 (r + 0.02), r in [0, 1), phase in [0, pi), x in [-5, 5), without noise.

    An input is (N + 1,): the one-hot of the task's position among the N of the episode, then x. Each step of a lifetime
    sees a batch of one sinusoid. Those to meta-train on, to validate on and to test on are different ones.

    Args:
        settings: sizes and order; at most as many tasks as sinusoids in the pool.
        seed: of everything that is drawn.

    Source: Javed and White 2019; numbers of Lindsey and Litwin-Kumar's code.
    """

    def __init__(self, settings: TaskSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.shape = (settings.tasks + 1,)
        sizes: dict[Split, int] = {"train": settings.pool, "validation": HELD_OUT, "test": HELD_OUT}
        self.pools = {split: _drawn(size, seeded(seed, 7, SPLITS[split])) for split, size in sizes.items()}

    def check(self, split: Split, tasks: int) -> None:
        if tasks > self.settings.tasks:
            raise ConfigError(f"tasks: expected at most {self.settings.tasks}, the capacity of the input, got {tasks}")

    def episodes(self, split: Split, number: int, count: int, *, tasks: int | None = None) -> Episodes:
        N, m, pool = self.settings.tasks if tasks is None else tasks, self.settings.batch_size, self.pools[split]
        self.check(split, N)
        T = N * self.settings.steps_per_task
        inputs, targets, steps = [], [], []
        for e in range(count):
            generator = seeded(self.seed, 8, SPLITS[split], number, e)
            A, phi = pool[torch.randperm(len(pool), generator=generator)[:N]].T
            task = torch.arange(N).repeat_interleave(self.settings.steps_per_task)
            task = task[ordered(task, self.settings.order, generator)]
            position = torch.cat([task, torch.arange(N)]).repeat_interleave(m)  # of what is seen, then of the query
            x = 10 * torch.rand(len(position), generator=generator) - 5
            one_hot = torch.nn.functional.one_hot(position, self.settings.tasks)
            inputs.append(torch.cat([one_hot.float(), x[:, None]], 1))
            targets.append(A[position] * torch.sin(x + phi[position]))
            steps.append(task)
        y, index = torch.stack(targets)[..., None], torch.arange(count * (T + N) * m).view(count, -1)
        return Episodes(
            inputs=torch.cat(inputs),
            support=index[:, : T * m].reshape(count, T, m),
            y=y[:, : T * m].reshape(count, T, m, 1),
            query=index[:, T * m :],
            y_query=y[:, T * m :],
            task=torch.stack(steps),
            task_query=torch.arange(N).repeat_interleave(m).expand(count, -1),
        )


def _drawn(size: int, generator: torch.Generator) -> torch.Tensor:
    """Amplitudes and phases, (size, 2)."""
    r = torch.rand(size, 2, generator=generator)
    return torch.stack([5 * (r[:, 0] + 0.02), math.pi * r[:, 1]], 1)
