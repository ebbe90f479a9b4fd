"""Images with labels, as arrays or as files, and the part of them that is held out."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backroads.errors import ConfigError

HELD_OUT = 0.1  # of each class of the training split
SPLIT_SEED = 0  # one split for everybody: results of different runs compare


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Decoded images: x (N, C, H, W), uint8 or float32, and y (N,) int64."""

    x: Tensor
    y: Tensor

    def take(self, picks: Tensor) -> Labelled:
        return Labelled(self.x[picks], self.y[picks])


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files below a folder: names (N,) bytes, relative to ``folder``, and y (N,) int64.

    The names are one array, not a list of strings: worker processes then share its memory.
    """

    folder: Path
    names: NDArray[np.bytes_]
    y: Tensor

    def take(self, picks: Tensor) -> Files:
        return Files(self.folder, self.names[picks.numpy()], self.y[picks])

    def path(self, index: int) -> str:
        return os.path.join(self.folder, os.fsdecode(bytes(self.names[index])))


P = TypeVar("P", Labelled, Files)


@dataclasses.dataclass(frozen=True)
class Found(Generic[P]):
    """What a reader returns.

    Attributes:
        train: the training split. evaluate: the other one; None: hold it out from ``train``.
        class_names: in the order of the labels.
    """

    train: P
    evaluate: P | None
    class_names: tuple[str, ...]

    def divided(self) -> tuple[P, P]:
        """Images to train and to evaluate on; raises ConfigError if there is nothing to hold out."""
        if self.evaluate is not None:
            return self.train, self.evaluate
        kept, held = hold_out(self.train.y)
        return self.train.take(kept), self.train.take(held)


def hold_out(y: Tensor) -> tuple[Tensor, Tensor]:
    """A tenth of each class, always the same for the same labels.

    Of two images or more of a class at least one is held out and one kept; a single one is kept.

    Args:
        y: (N,) int64.

    Returns:
        Indices of what is kept and of what is held out, both ascending.

    Raises:
        ConfigError: if nothing can be held out.
    """
    shuffled = torch.randperm(len(y), generator=torch.Generator().manual_seed(SPLIT_SEED))
    by_class = shuffled[torch.argsort(y[shuffled], stable=True)]
    held = torch.zeros(len(y), dtype=torch.bool)
    for members in by_class.split(torch.bincount(y).tolist()):
        if len(members) > 1:
            held[members[: max(1, round(HELD_OUT * len(members)))]] = True
    if not bool(held.any()):
        raise ConfigError("split: 'validation' needs a class with two training images; use split 'test'")
    return (~held).nonzero().flatten(), held.nonzero().flatten()
