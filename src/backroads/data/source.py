"""What a training loop sees of a data set: batches, in an order that is a function of (seed, epoch) alone."""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from backroads.data.check import check_rank, check_steps

Batches = Iterator[tuple[Tensor, Tensor]]


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """A permutation of 0..n-1, (n,) int64; the same for the same (n, seed, epoch)."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(n, generator=generator)


def batches(n: int, batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Index batches of one epoch; the last one may be smaller."""
    yield from epoch_order(n, seed, epoch).split(batch_size)


class Source(abc.ABC):
    """The images of one split, with their labels, any of which can be fetched by its index.

    Batches are pairs of x, (N, C, H, W) float32, normalised, and y, (N,) int64, both on the source's device.

    Attributes:
        corrupt: path -> reason of the unreadable images that were skipped so far, in both splits.
    """

    corrupt: dict[str, str]

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of images, with the unreadable ones of a folder that is decoded in every epoch."""

    def train_batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        start_step: int = 0,
        rank: int = 0,
        world: int = 1,
        last_batch: bool = False,
    ) -> Batches:
        """One epoch of augmented batches: ``len(self) // batch_size`` of them, or one more with ``last_batch``.

        Order and augmentation are a pure function of (seed, epoch, position): the same for any number of workers and
        processes, and wherever an epoch is resumed.

        Args:
            batch_size: images of a batch, over all processes together.
            seed: what order and augmentation depend on.
            epoch: as ``seed``.
            start_step: number of batches to leave out at the start; they are not decoded.
            rank: number of this process. It gets the ``batch_size // world`` images of each batch from position
                ``rank * batch_size // world`` on.
            world: number of processes.
            last_batch: whether to end with a smaller batch of the images that are left; for one process only.

        Raises:
            ConfigError: at the call, for a batch larger than the split or not divisible by ``world``, and
                for ``last_batch`` with several processes.
            DataError: while iterating, when too many images are unreadable.
        """
        order = epoch_order(len(self), seed, epoch)
        steps = check_steps(len(self), batch_size, start_step, rank, world, last_batch=last_batch)
        left = len(self) % batch_size if last_batch else 0
        share = torch.arange(rank * batch_size // world, (rank + 1) * batch_size // world)
        positions = torch.arange(start_step, steps)[:, None] * batch_size + share
        whole = self._varied(order[positions], positions, seed, epoch) if len(positions) else iter(())
        if not left:
            return whole
        last = torch.arange(len(self) - left, len(self))[None]
        return itertools.chain(whole, self._varied(order[last], last, seed, epoch))

    def eval_batches(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Batches:
        """Every image once over all processes, in the split's own order and not augmented; the last batch is smaller.

        Args:
            batch_size: images of a batch, over all processes together.
            rank: number of this process; it gets a contiguous part of the split.
            world: number of processes.

        Raises:
            ConfigError: at the call, for numbers that make no sense.
            DataError: while iterating, when too many images are unreadable.
        """
        check_rank(batch_size, rank, world)
        n = len(self)
        share = torch.arange(n * rank // world, n * (rank + 1) // world)
        return self._plain(share.split(max(1, batch_size // world)) if len(share) else ())

    @abc.abstractmethod
    def _varied(self, picks: Tensor, positions: Tensor, seed: int, epoch: int) -> Batches:
        """Augmented batches of the images ``picks``, (steps, N) int64, at ``positions``, (steps, N), of the epoch."""

    @abc.abstractmethod
    def _plain(self, picks: Sequence[Tensor]) -> Batches:
        """Batches of the images ``picks``, each (N,) int64, not augmented."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images to train on, to validate on and to test on.

    Attributes:
        name: as it was asked for.
        classes: number of classes.
        shape: (C, H, W) of an image as the network sees it.
        train: the images to train on.
        validation: a part of the training split that is not trained on; None if none was asked for.
        test: the test split; None if it is not read.
        class_names: in the order of the labels.
    """

    name: str
    classes: int
    shape: tuple[int, int, int]
    train: Source
    validation: Source | None
    test: Source | None
    class_names: tuple[str, ...]

    @property
    def evaluate(self) -> Source:
        """The test split if it is read, else the validation part."""
        found = self.validation if self.test is None else self.test
        assert found is not None
        return found


class Subset(Source):
    """Some of the images of a source, always the same ones.

    Args:
        source: whose. n: how many, chosen at random.
    """

    def __init__(self, source: Source, n: int) -> None:
        self.source, self.chosen = source, epoch_order(len(source), 0, 0)[:n]
        self.corrupt = source.corrupt

    def __len__(self) -> int:
        return len(self.chosen)

    def _varied(self, picks: Tensor, positions: Tensor, seed: int, epoch: int) -> Batches:
        return self.source._varied(self.chosen[picks], positions, seed, epoch)

    def _plain(self, picks: Sequence[Tensor]) -> Batches:
        return self.source._plain([self.chosen[batch] for batch in picks])


def limited(dataset: Dataset, n: int) -> Dataset:
    """At most ``n`` images of each split of a data set."""
    parts = (dataset.train, dataset.validation, dataset.test)
    train, validation, test = (None if part is None else Subset(part, n) for part in parts)
    assert train is not None
    return dataclasses.replace(dataset, train=train, validation=validation, test=test)
