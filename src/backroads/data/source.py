"""What a training reads its images from."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from backroads.data.order import epoch_order
from backroads.errors import ConfigError

Batches = Iterator[tuple[Tensor, Tensor]]


class Source(abc.ABC):
    """Labelled images in an order, and with variations, that are functions of (seed, epoch, position) alone.

    Batches are (x, y): x (N, C, H, W) float32, normalised; y (N,) int64; both on the source's device.

    Attributes:
        corrupt: images that could not be read and were skipped so far: path -> reason.
    """

    def __init__(self) -> None:
        self.corrupt: dict[str, str] = {}

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abc.abstractmethod
    def batches_of(self, picks: list[Tensor], first: list[int], seed: int | None, epoch: int) -> Batches:
        """Batches of these images; ``first`` has the position of each batch's first one in the epoch.

        Args:
            seed: of the variations; None for none of them (evaluation).
        """

    def train_batches(
        self, batch_size: int, *, seed: int, epoch: int, start_step: int = 0, rank: int = 0, world: int = 1
    ) -> Batches:
        """Varied images of one epoch, in whole batches, of each the part that process ``rank`` of ``world`` works on.

        Args:
            batch_size: over all processes. start_step: batches to leave out at the start, without reading them.

        Raises:
            ConfigError: a batch that is larger than the split or cannot be shared between the processes.
        """
        n = len(self)
        if not 1 <= batch_size <= n:
            raise ConfigError(f"batch_size: expected 1 to {n}, the images of the training split, got {batch_size}")
        if batch_size % world:
            raise ConfigError(f"batch_size: expected a multiple of the {world} processes, got {batch_size}")
        order = epoch_order(n, seed, epoch)
        share = batch_size // world
        first = [step * batch_size + rank * share for step in range(start_step, n // batch_size)]
        return self.batches_of([order[i : i + share] for i in first], first, seed, epoch)

    def eval_batches(self, batch_size: int, *, rank: int = 0, world: int = 1) -> Batches:
        """Every image once over all processes, unvaried, in the order of the data; the last batch may be smaller."""
        picks = list(torch.arange(len(self))[rank::world].split(batch_size)) if len(self) > rank else []
        return self.batches_of(picks, [0] * len(picks), None, 0)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images to train and to evaluate on.

    Attributes:
        name: as it was asked for. classes: how many. shape: (C, H, W) of an image as the network sees it.
        train, evaluate: where they come from. class_names: in the order of the labels.
    """

    name: str
    classes: int
    shape: tuple[int, int, int]
    train: Source
    evaluate: Source
    class_names: tuple[str, ...]
