"""What a training loop sees of data: batches, in an order that is a function of (seed, epoch) alone."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from backroads.data.check import check_rank, check_steps
from backroads.data.order import epoch_order

Batches = Iterator[tuple[Tensor, Tensor]]


class Source(abc.ABC):
    """The images of one split, with their labels.

    Batches are pairs of x, (N, C, H, W) float32, normalised, and y, (N,) int64, both on the source's device.

    Attributes:
        corrupt: the unreadable images that were skipped so far, path -> reason; of the whole data set, so that those
            of the evaluation are named too.
    """

    corrupt: dict[str, str]

    @abc.abstractmethod
    def __len__(self) -> int:
        """Images in this split; for a folder that is streamed, unreadable ones included."""

    @abc.abstractmethod
    def train_batches(
        self, batch_size: int, *, seed: int, epoch: int, start_step: int = 0, rank: int = 0, world: int = 1
    ) -> Batches:
        """One epoch of augmented batches, whole ones only: ``len(self) // batch_size`` of them.

        Order and augmentation are a pure function of (seed, epoch, position): the same for any number of workers and
        processes, and wherever an epoch is taken up again.

        Args:
            batch_size: images of a batch, over all processes together. seed, epoch: what the order depends on.
            start_step: batches to leave out at the start; they are not decoded.
            rank, world: this process, of so many. It gets the positions from ``rank * batch_size // world`` on of each
                batch, ``batch_size // world`` of them.

        Raises:
            ConfigError: at the call, for a batch larger than the split or not divisible by ``world``.
            DataError: while iterating, when too many images are unreadable.
        """

    @abc.abstractmethod
    def eval_batches(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Batches:
        """Every image once over all processes, in the split's own order and not augmented; the last batch is smaller.

        Args:
            batch_size: images of a batch, over all processes together. rank, world: this process, of so many. It gets
                a contiguous part of the split.

        Raises:
            ConfigError: at the call, for numbers that make no sense.
            DataError: while iterating, when too many images are unreadable.
        """


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images to train and to evaluate on.

    Attributes:
        name: as it was asked for. classes: how many. shape: (C, H, W) of an image as the network sees it.
        train, evaluate: the two splits. class_names: one for each class, in the order of the labels.
    """

    name: str
    classes: int
    shape: tuple[int, int, int]
    train: Source
    evaluate: Source
    class_names: tuple[str, ...]


class IndexedSource(Source):
    """A source that can fetch any image by its index: which images make up which batch is decided here."""

    def train_batches(
        self, batch_size: int, *, seed: int, epoch: int, start_step: int = 0, rank: int = 0, world: int = 1
    ) -> Batches:
        steps = check_steps(len(self), batch_size, start_step, rank, world)
        share = torch.arange(rank * batch_size // world, (rank + 1) * batch_size // world)
        positions = torch.arange(start_step, steps)[:, None] * batch_size + share
        return self._varied(epoch_order(len(self), seed, epoch)[positions], positions, seed, epoch)

    def eval_batches(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Batches:
        check_rank(batch_size, rank, world)
        n = len(self)
        mine = torch.arange(n * rank // world, n * (rank + 1) // world)
        return self._plain(mine.split(max(1, batch_size // world)) if len(mine) else ())

    @abc.abstractmethod
    def _varied(self, picks: Tensor, positions: Tensor, seed: int, epoch: int) -> Batches:
        """Augmented batches of the images ``picks``, (steps, N) int64, at ``positions`` of the epoch, of that shape."""

    @abc.abstractmethod
    def _plain(self, picks: Sequence[Tensor]) -> Batches:
        """Batches of the images ``picks``, each (N,) int64, as they are."""
