"""Classes of images: episodes of N classes that the network has to tell apart, of a few images each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from backroads.data.known import IMAGENET_MEAN, IMAGENET_STD
from backroads.data.memory import Normalise
from backroads.data.parts import Arrays
from backroads.errors import ConfigError
from backroads.plasticity.settings import TaskSettings
from backroads.plasticity.tasks.episode import SPLITS, Episodes, Split, Tasks, ordered, seeded


@dataclasses.dataclass(frozen=True)
class Classes:
    """The images of one split.

    Attributes:
        x: (n, C, H, W), uint8 or float32.
        members: indices of the images of each class, in a fixed order.
    """

    x: Tensor
    members: tuple[Tensor, ...]

    @classmethod
    def of(cls, part: Arrays) -> Classes:
        """Images by their labels, whatever the numbers of these."""
        return cls(part.x, tuple((part.y == label).nonzero().flatten() for label in part.y.unique()))

    def take(self, first: int, last: int) -> Classes:
        """Classes from number ``first`` to before ``last``."""
        return Classes(self.x, self.members[first:last])


class ImageClasses(Tasks):
    """Episodes of N classes. In meta-training, ``steps_per_task`` images of each are seen, and as many, drawn anew from
    the same classes, are the query; labels are a random permutation of 0 to N - 1, or any N outputs of the head. In
    validation and test the first ``steps_per_task`` images of a class are seen, and ``eval_test`` others, after the
    first ``eval_learn``, are the query; labels are positions in a random choice of classes.

    Pixels are from 0 to 1; those of colour images are then normalised by ImageNet's mean and standard deviation.
    Images in floating point are taken as they are.

    Args:
        splits: the classes of a split, read when they are first asked for.
        settings: sizes, order and labels.
        head: outputs of the network.
        seed: of everything that is drawn.

    Raises:
        ConfigError: if there are fewer classes than N, or fewer images than asked for; at once, for meta-training.

    Source: Lindsey and Litwin-Kumar's code (labels permuted, query of new drawings: train_on_new).
    """

    def __init__(self, splits: Callable[[Split], Classes], settings: TaskSettings, head: int, seed: int) -> None:
        self.split, self.settings, self.head, self.seed = splits, settings, head, seed
        x = self.split("train").x
        self.shape = tuple(x.shape[1:])
        scale = 1.0 if x.is_floating_point() else 255.0
        means, stds = (IMAGENET_MEAN, IMAGENET_STD) if len(x[0]) == 3 and scale > 1 else ((0.0,), (1.0,))
        mean, std = (scale * torch.tensor(values, dtype=torch.float64) for values in (means, stds))
        self._normalise = Normalise(mean, std, torch.device("cpu"))
        self.check("train", settings.tasks)

    def check(self, split: Split, tasks: int) -> None:
        given, members = self.settings, self.split(split).members
        if tasks > self.head:
            raise ConfigError(f"tasks: expected at most {self.head}, the outputs of the head, got {tasks}")
        if tasks > len(members):
            raise ConfigError(f"tasks: expected at most {len(members)}, the classes of {split}, got {tasks}")
        if (n := tasks * given.steps_per_task) % given.batch_size:
            raise ConfigError(f"batch_size: expected a divisor of the {n} samples, got {given.batch_size}")
        needed, what = given.steps_per_task, f"steps_per_task {given.steps_per_task}"
        if split != "train":
            if needed > given.eval_learn:
                raise ConfigError(
                    f"steps_per_task: expected at most {given.eval_learn}, the images of a class to learn from in "
                    f"evaluations (eval_learn), got {needed}"
                )
            needed = given.eval_learn + given.eval_test
            what = f"eval_learn {given.eval_learn} and eval_test {given.eval_test}"
        fewest = min(range(len(members)), key=lambda number: len(members[number]))
        if len(members[fewest]) < needed:
            raise ConfigError(
                f"data: expected {needed} images of every class of {split} for {what}, and class {fewest} has "
                f"{len(members[fewest])}; ask for fewer, or remove the class"
            )

    def episodes(self, split: Split, number: int, count: int, *, tasks: int | None = None) -> Episodes:
        N, m = self.settings.tasks if tasks is None else tasks, self.settings.batch_size
        self.check(split, N)
        rows = [self._draw(split, N, seeded(self.seed, 9, SPLITS[split], number, e)) for e in range(count)]
        seen, labels, task, query, labels_query, task_query, classes_query = map(torch.stack, zip(*rows, strict=True))
        distinct, where = torch.cat([seen, query], 1).unique(return_inverse=True)
        steps = (count, seen.shape[1] // m, m)
        return Episodes(
            inputs=self._normalise(self.split(split).x[distinct]),
            support=where[:, : seen.shape[1]].reshape(steps),
            y=labels.reshape(steps),
            query=where[:, seen.shape[1] :],
            y_query=labels_query,
            task=task[:, ::m],
            task_query=task_query,
            classes_query=classes_query,
        )

    def _draw(self, split: Split, N: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """One episode: indices of images, labels and positions of tasks, of what is seen (T,) and of the query (Q,);
        and the numbers of the query's classes, (Q,)."""
        given, members = self.settings, self.split(split).members
        shots, training = given.steps_per_task, split == "train"
        chosen = torch.randperm(len(members), generator=generator)[:N]
        outputs = self.head if given.labels == "any" else N
        label = torch.randperm(outputs, generator=generator)[:N] if training else torch.arange(N)
        seen, query = [], []
        for one in (members[number] for number in chosen.tolist()):
            if training:
                seen.append(one[torch.randperm(len(one), generator=generator)[:shots]])
                query.append(one[torch.randperm(len(one), generator=generator)[:shots]])
            else:
                seen.append(one[:shots])
                query.append(one[given.eval_learn : given.eval_learn + given.eval_test])
        task, task_query = (torch.arange(N).repeat_interleave(len(images[0])) for images in (seen, query))
        order = ordered(task, given.order, generator)
        images, task = torch.cat(seen)[order], task[order]
        return images, label[task], task, torch.cat(query), label[task_query], task_query, chosen[task_query]
