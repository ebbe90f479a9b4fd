"""What lifetimes see: some tasks, the stream of their examples, and a query."""

from __future__ import annotations

import abc
import dataclasses
from typing import Literal

import torch
from torch import Tensor

Split = Literal["train", "validation", "test"]
Order = Literal["iid", "continual"]
SPLITS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}


@dataclasses.dataclass(frozen=True)
class Episodes:
    """What E lifetimes see: T steps of m examples each, and a query of Q examples to test them on at the end.

    Each input is there once, so that a front that does not change in lifetimes computes it once.

    Attributes:
        inputs: (K, ...).
        support: what is seen, (E, T, m), and query: (E, Q), both indices of inputs.
        y: targets (E, T, m, n_out) or labels (E, T, m).
        y_query: (E, Q, n_out) or (E, Q).
        task: (E, T), position of the task that a step belongs to, 0 to N - 1.
        task_query: (E, Q).
        classes_query: (E, Q), the number of the class in its split, for pretraining; None for regression.
    """

    inputs: Tensor
    support: Tensor
    y: Tensor
    query: Tensor
    y_query: Tensor
    task: Tensor
    task_query: Tensor
    classes_query: Tensor | None = None

    @property
    def count(self) -> int:
        """E."""
        return len(self.support)

    def to(self, device: torch.device) -> Episodes:
        """The same, on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(self, **moved)

    def part(self, rank: int, world: int) -> Episodes:
        """Those of one of ``world`` processes: neighbours, with the inputs that they alone need."""
        own = slice(self.count * rank // world, self.count * (rank + 1) // world)
        cut = {name: value[own] for name, value in vars(self).items() if name != "inputs" and value is not None}
        seen = torch.cat([cut["support"].flatten(), cut["query"].flatten()])
        used, places = seen.unique(return_inverse=True)
        support, query = places.split([cut["support"].numel(), cut["query"].numel()])
        cut |= {"support": support.view_as(cut["support"]), "query": query.view_as(cut["query"])}
        return dataclasses.replace(self, inputs=self.inputs[used], **cut)

    def first_steps(self, steps: int) -> Episodes:
        """Only the first steps; the query stays."""
        return dataclasses.replace(
            self, support=self.support[:, :steps], y=self.y[:, :steps], task=self.task[:, :steps]
        )

    def in_one_step(self) -> Episodes:
        """All examples of a lifetime in a single step."""
        return dataclasses.replace(
            self, support=self.support.flatten(1)[:, None], y=self.y.flatten(1, 2)[:, None], task=self.task[:, :1]
        )


class Tasks(abc.ABC):
    """Where episodes come from: a pure function of a split, a number and the sizes asked for.

    Attributes:
        shape: of one input.
    """

    shape: tuple[int, ...]

    @abc.abstractmethod
    def episodes(self, split: Split, number: int, count: int, *, tasks: int | None = None) -> Episodes:
        """Episodes of a split: always the same for the same number.

        Args:
            split: whose tasks.
            number: which draw.
            count: how many episodes.
            tasks: N; None: the settings'.

        Raises:
            ConfigError: if the split cannot fill them.
        """

    @abc.abstractmethod
    def check(self, split: Split, tasks: int) -> None:
        """Raises ConfigError if the split cannot fill an episode of so many tasks."""


def seeded(*numbers: int) -> torch.Generator:
    """A generator of its own for each sequence of numbers."""
    state = 0
    for number in numbers:  # the mixer of splitmix64: neighbours get unrelated seeds
        state = (state * 6364136223846793005 + number + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return torch.Generator().manual_seed(state % 2**63)


def ordered(task: Tensor, order: Order, generator: torch.Generator) -> Tensor:
    """A permutation of the steps whose tasks are given, (T,): mixed, or as they are."""
    return torch.randperm(len(task), generator=generator) if order == "iid" else torch.arange(len(task))
