"""Checks of a data set, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from backroads.data.parts import Arrays, Images
from backroads.errors import ConfigError, DataError

SHOWN = 10  # names in a message


class UnreadableImages:
    """Images that could not be read: skipped up to a limit, and all named.

    Args:
        limit: how many different images may be unreadable.

    Attributes:
        reasons: why each could not be read, by path.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reasons: dict[str, str] = {}

    def add(self, bad: list[tuple[str, str]]) -> None:
        """Count (path, reason), each path once; raises DataError beyond the limit."""
        self.reasons.update(bad)
        if len(self.reasons) > self.limit:
            names = "\n  ".join(f"{name} ({why})" for name, why in list(self.reasons.items())[:SHOWN])
            more = f"\n  and {len(self.reasons) - SHOWN} more" if len(self.reasons) > SHOWN else ""
            raise DataError(
                f"expected at most {self.limit} unreadable images (corrupt_limit), got {len(self.reasons)}; mend or "
                f"remove them, or raise the limit:\n  {names}{more}"
            )


def check_rank(batch_size: int, rank: int, world: int) -> None:
    """Check the arguments that all batches have in common; raises ConfigError."""
    if batch_size < 1:
        raise ConfigError(f"batch_size: expected 1 or more, got {batch_size}")
    if not 0 <= rank < world:
        raise ConfigError(f"rank: expected 0 to world - 1 = {world - 1}, got {rank}")


def check_steps(n: int, batch_size: int, start_step: int, rank: int, world: int, *, last_batch: bool) -> int:
    """The number of whole batches in ``n`` images; raises ConfigError if these arguments make no epoch.

    ``last_batch``: whether a smaller one of the images that are left comes after them.
    """
    check_rank(batch_size, rank, world)
    if batch_size > n:
        raise ConfigError(f"batch_size: expected at most {n}, the images of the training split, got {batch_size}")
    if batch_size % world:
        raise ConfigError(f"batch_size: expected a multiple of the {world} processes, got {batch_size}")
    steps = n // batch_size
    if not 0 <= start_step <= steps:
        raise ConfigError(f"start_step: expected 0 to {steps}, the batches of an epoch, got {start_step}")
    if last_batch and (left := n % batch_size) and world > 1:
        raise ConfigError(
            f"last_batch: expected one process, got {world}, which cannot share the {left} images of the last batch; "
            "switch it off"
        )
    return steps


def check_labels(y: Tensor, classes: int, what: str) -> None:
    """Labels must be 0 to classes - 1; raises ConfigError naming the first one that is not."""
    wrong = ((y < 0) | (y >= classes)).nonzero().flatten()
    if len(wrong):
        first = int(wrong[0])
        raise ConfigError(
            f"{what}: expected labels from 0 to {classes - 1}, got {int(y[first])} (index {first}); number the classes "
            "of the training split 0, 1, 2, ... without gaps, and use no others"
        )


def check_dataset(images: Images[Any]) -> tuple[str, ...]:
    """Check arrays and labels of all splits, and return the names of the classes; raises ConfigError."""
    for field in ("train", "test", "validation"):
        part = getattr(images, field)
        if isinstance(part, Arrays):
            check_images(part, field)
    names = images.class_names or tuple(str(label) for label in range(count_classes(images.train.y)))
    for field in ("train", "test", "validation"):
        if (part := getattr(images, field)) is not None:
            check_labels(part.y, len(names), f"labels of {field}")
    return names


def count_classes(y: Tensor) -> int:
    """The number of classes in training labels, (N,) int64, which must be 0, 1, 2, ...; raises ConfigError."""
    present = y.unique()
    classes = int(present[-1]) + 1
    check_labels(y, classes, "labels of train")
    if len(present) < classes:
        missing = int((present != torch.arange(len(present))).nonzero()[0])
        raise ConfigError(
            f"labels of train: expected every label from 0 to {classes - 1} at least once, and {missing} is missing; "
            "number the classes 0, 1, 2, ... without gaps"
        )
    if classes < 2:
        raise ConfigError(f"labels of train: expected at least two classes, got {classes}")
    return classes


def check_images(part: Arrays, what: str) -> None:
    """Images of one split must have the right shape and dtype, and labels; raises ConfigError."""
    for name, array, dimensions, dtypes in (
        ("x", part.x, 4, (torch.uint8, torch.float32)),
        ("y", part.y, 1, (torch.int64,)),
    ):
        if not isinstance(array, Tensor) or array.dim() != dimensions or array.dtype not in dtypes:
            expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            shape = "(N, C, H, W)" if dimensions == 4 else "(N,)"
            got = f"{array.dtype} {tuple(array.shape)}" if isinstance(array, Tensor) else type(array).__name__
            raise ConfigError(f"{what}.{name}: expected a tensor, {expected} {shape}, got {got}")
    n, channels = part.x.shape[:2]
    if n == 0:
        raise ConfigError(f"{what}: expected images, got none")
    if n != len(part.y):
        raise ConfigError(f"{what}: expected one label for each of {n} images, got {len(part.y)} labels")
    if channels not in (1, 3):
        raise ConfigError(f"{what}: expected 1 or 3 channels, got {channels}")
    if part.x.is_floating_point():
        bad = (~part.x.flatten(1).isfinite().all(1)).nonzero().flatten()
        if len(bad):
            raise ConfigError(
                f"{what}: expected finite numbers, got NaN or infinity in {len(bad)} images, the first of index "
                f"{int(bad[0])}; remove or repair them"
            )


def check_same(parts: Sequence[Arrays]) -> tuple[int, int, int]:
    """(C, H, W) of the images of all splits; raises ConfigError unless all have images, of one shape and dtype."""
    train = parts[0]
    for other in parts[1:]:
        for what, ours, theirs in (
            ("(C, H, W)", tuple(train.x.shape[1:]), tuple(other.x.shape[1:])),
            ("dtype", train.x.dtype, other.x.dtype),
        ):
            if ours != theirs:
                raise ConfigError(
                    f"data: expected images of one {what} in all splits, got {ours} to train and {theirs} to evaluate "
                    "on; save both in the same way"
                )
    if not all(len(part.y) for part in parts):
        raise ConfigError(f"data: expected images in all splits, got {' and '.join(str(len(p.y)) for p in parts)}")
    channels, height, width = train.x.shape[1:]
    return channels, height, width
