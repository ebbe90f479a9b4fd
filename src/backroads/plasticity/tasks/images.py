"""Classes of images: episodes of N classes that the network has to tell apart, of a few images each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from backroads.errors import ConfigError
from backroads.plasticity.tasks.episode import SPLITS, Episodes, Order, Split, Tasks, ordered, seeded


@dataclasses.dataclass(frozen=True)
class Classes:
    """The images of one split.

    Attributes:
        x: (n, C, H, W) uint8. members: indices of the images of each class, in a fixed order.
    """

    x: Tensor
    members: tuple[Tensor, ...]

    def take(self, first: int, last: int) -> Classes:
        """Classes from number ``first`` to before ``last``."""
        return Classes(self.x, self.members[first:last])


class ImageClasses(Tasks):
    """Episodes of N classes. In meta-training, ``shots`` images of each are seen one a step, and as many, drawn anew
    from the same classes, are the query; labels are a random permutation of 0 to N - 1, or any N outputs of the head.
    In validation and test the first ``shots`` images of a class are seen, and ``test`` others, after the first
    ``learn``, are the query; labels are positions in a random choice of classes.

    Args:
        splits: by name; loaded when first asked for. tasks: N. shots: images of a class in a lifetime.
        batch: samples a step. learn, test: images of a class to learn from and to test on, in evaluations.
        order: of the steps. seed: of everything. shape: (C, H, W). mean, std: by channel, of pixels in 0 to 1.
        head: outputs of the network, at least N. labels: of meta-training, "first": 0 to N - 1, or "any" of the head,
            so that each output is meta-trained and lifetimes of more than N classes make sense.

    Raises:
        ConfigError: if there are fewer classes than N, or fewer images than asked for; at once, for meta-training.

    Source: Lindsey and Litwin-Kumar's code (labels permuted, query of new drawings: train_on_new).
    """

    def __init__(
        self,
        splits: Callable[[Split], Classes],
        *,
        tasks: int,
        shots: int,
        batch: int = 1,
        learn: int,
        test: int,
        order: Order,
        seed: int,
        head: int,
        labels: Literal["first", "any"] = "first",
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        self._splits, self._loaded = splits, dict[Split, Classes]()
        self.tasks, self.shots, self.batch, self.learn, self.test = tasks, shots, batch, learn, test
        self.order, self.seed, self.head, self.labels = order, seed, head, labels
        self.mean, self.std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
        self.shape = tuple(self.split("train").x.shape[1:])
        self.check("train", tasks)

    def split(self, split: Split) -> Classes:
        """The classes of a split."""
        if split not in self._loaded:
            self._loaded[split] = self._splits(split)
        return self._loaded[split]

    def check(self, split: Split, tasks: int) -> None:
        members = self.split(split).members
        if tasks > self.head:
            raise ConfigError(f"tasks: expected at most {self.head}, the outputs of the head, got {tasks}")
        if tasks > len(members):
            raise ConfigError(f"tasks: expected at most {len(members)}, the classes of {split}, got {tasks}")
        if (tasks * self.shots) % self.batch:
            raise ConfigError(f"batch: expected a divisor of the {tasks * self.shots} samples, got {self.batch}")
        fewest = min(range(len(members)), key=lambda number: len(members[number]))
        if split == "train":
            needed, what = self.shots, f"steps_per_task {self.shots}"
        else:
            needed, what = self.learn + self.test, f"eval_learn {self.learn} and eval_test {self.test}"
            if self.shots > self.learn:
                raise ConfigError(
                    f"steps_per_task: expected at most {self.learn}, the images of a class to learn from in "
                    f"evaluations (eval_learn), got {self.shots}"
                )
        if len(members[fewest]) < needed:
            raise ConfigError(
                f"data: expected {needed} images of every class of {split} for {what}, and class {fewest} has "
                f"{len(members[fewest])}; ask for fewer, or remove the class"
            )

    def episodes(self, split: Split, number: int, count: int, *, tasks: int | None = None) -> Episodes:
        tasks = self.tasks if tasks is None else tasks
        self.check(split, tasks)
        source = self.split(split)
        rows = [self._draw(source, split, tasks, seeded(self.seed, 9, SPLITS[split], number, e)) for e in range(count)]
        columns = [torch.stack(column) for column in zip(*rows, strict=True)]
        seen, labels, asked, labels_asked, task, task_asked, classes = columns
        distinct, where = torch.cat([seen, asked], 1).unique(return_inverse=True)
        x = (source.x[distinct].float() / 255 - self.mean) / self.std
        steps = (count, seen.shape[1] // self.batch, self.batch)
        return Episodes(
            inputs=x,
            support=where[:, : seen.shape[1]].reshape(steps),
            y=labels.reshape(steps),
            query=where[:, seen.shape[1] :],
            y_query=labels_asked,
            task=task[:, :: self.batch],
            task_query=task_asked,
            classes_query=classes,
        )

    def _draw(self, source: Classes, split: Split, tasks: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Images and labels of one episode: what is seen (T,), what is asked (Q,), and of which task they are."""
        chosen = torch.randperm(len(source.members), generator=generator)[:tasks]
        outputs = self.head if self.labels == "any" else tasks
        names = torch.randperm(outputs, generator=generator)[:tasks] if split == "train" else torch.arange(tasks)
        seen, asked = [], []
        for number in chosen.tolist():
            members = source.members[number]
            if split == "train":
                seen.append(members[torch.randperm(len(members), generator=generator)[: self.shots]])
                asked.append(members[torch.randperm(len(members), generator=generator)[: self.shots]])
            else:
                seen.append(members[: self.shots])
                asked.append(members[self.learn : self.learn + self.test])
        task = torch.arange(tasks).repeat_interleave(self.shots)
        order = ordered(task, self.order, generator)
        task_asked = torch.arange(tasks).repeat_interleave(len(asked[0]))
        images = torch.cat(seen)[order], torch.cat(asked)
        return images[0], names[task[order]], images[1], names[task_asked], task[order], task_asked, chosen[task_asked]
