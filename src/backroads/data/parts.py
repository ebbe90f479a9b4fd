"""What a data set consists of: images with labels, as arrays or as files, and how they are usually treated."""

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
SPLITS = ("both", "test", "validation")
SPLIT_SEED = 0  # the same split for every run, so that their results compare


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Decoded images.

    Attributes:
        x: (N, C, H, W), uint8 or float32, with one or three channels.
        y: (N,) int64, the classes, numbered from 0 without gaps.
    """

    x: Tensor
    y: Tensor

    def take(self, indices: Tensor) -> Arrays:
        """The images at ``indices``, (n,) int64."""
        return Arrays(self.x[indices], self.y[indices])


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files in a folder.

    Attributes:
        folder: where the names start.
        names: (N,) bytes, paths below ``folder``. One array, not a list, so that worker processes share its memory.
        y: (N,) int64, the classes.
    """

    folder: Path
    names: NDArray[np.bytes_]
    y: Tensor

    def take(self, indices: Tensor) -> Files:
        """The files at ``indices``, (n,) int64."""
        return Files(self.folder, self.names[indices.numpy()], self.y[indices])

    def path(self, index: int) -> str:
        """The path of one file."""
        return os.path.join(self.folder, os.fsdecode(bytes(self.names[index])))


Part = TypeVar("Part", Arrays, Files)


@dataclasses.dataclass(frozen=True)
class Images(Generic[Part]):
    """What the function of a data set returns: its images, and how they are usually treated.

    Attributes:
        train: images to train on.
        test: the test split; None if there is none, or if it was not asked for.
        validation: a validation split; None: a tenth of each class of ``train`` is held out when one is asked for.
        class_names: in the order of the labels; None: the labels themselves.
        augment: how training images are varied unless the user says otherwise: "none", "flip", "crop_flip" or
            "random_resized".
        mirror: whether a mirrored image is of the same class; if not, images are never flipped.
        mean: by channel, to normalise by, for pixels from 0 to 1; None: taken from the training images.
        std: standard deviation by channel, as ``mean``.
        normalised: whether the arrays are normalised already.
        image_size: pixels that images are resized to unless the user says otherwise; None: their own size.
        large: whether files are decoded in every epoch even if they would fit into memory.
    """

    train: Part
    test: Part | None = None
    validation: Part | None = None
    class_names: tuple[str, ...] | None = None
    augment: str = "none"
    mirror: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    normalised: bool = False
    image_size: int | None = None
    large: bool = False

    def divided(self, split: str) -> tuple[Part, Part | None, Part | None]:
        """Images to train on, to validate on and to test on, for split "both", "test" or "validation".

        What was not asked for is None. Raises ConfigError if there are none of what was.
        """
        if split != "validation" and self.test is None:
            raise ConfigError("split: this data set has no test split; use split 'validation'")
        if split == "test":
            return self.train, None, self.test
        test = self.test if split == "both" else None
        if self.validation is not None:
            return self.train, self.validation, test
        kept, held = hold_out(self.train.y)
        return self.train.take(kept), self.train.take(held), test


def hold_out(y: Tensor) -> tuple[Tensor, Tensor]:
    """Choose a tenth of each class, always the same for the same labels.

    Of two images or more of a class at least one is held out and one kept; a single one is kept.

    Args:
        y: (N,) int64, the classes.

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
        raise ConfigError("split: a validation part needs a class with two training images; use split 'test'")
    return (~held).nonzero().flatten(), held.nonzero().flatten()
