"""``load_dataset``: from a name to batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import torch

from backroads.data.augment import AUGMENTS, Augment
from backroads.data.check import Ledger, check_images, check_labels, check_pair
from backroads.data.decode import Reading
from backroads.data.folder import Look, look
from backroads.data.memory import MemorySource, Normalise, fit, statistics
from backroads.data.names import IMAGENET, Entry, entry_of
from backroads.data.parts import Files, Found, Labelled
from backroads.data.request import Request
from backroads.data.source import Dataset
from backroads.data.stream import StreamSource, read_all
from backroads.errors import ConfigError

IN_MEMORY_BYTES = 2 * 1024**3  # folders up to this, decoded, are read once and kept
MARGIN = 256 / 224  # of the shorter side by what evaluation cuts out of it


def load_dataset(
    name: str,
    *,
    split: str = "test",
    root: str | Path | None = None,
    download: bool = False,
    image_size: int | None = None,
    augment: str = "default",
    device: str | torch.device = "cpu",
    workers: int = 0,
    corrupt_limit: int = 0,
    in_memory: bool | None = None,
) -> Dataset:
    """Images to train and to evaluate on, by name.

    Args:
        name: ``digits``, ``mnist``, ``fashion_mnist``, ``kmnist``, ``cifar10``, ``cifar100``, ``imagenet``,
            ``folder:PATH`` (``train/CLASS`` and ``test/CLASS`` or ``val/CLASS``; the test split is ``test`` if there
            are both) or ``npz:PATH`` (``train_x``, ``train_y``, ``test_x``, ``test_y``).
        split: "test": train on the training split, evaluate on the test split. "validation": hold out a tenth of each
            class of the training split (of digits, a fifth), always the same, and evaluate on that; the test split is
            not read. Choices are made on "validation".
        root: folder that holds the data set, as torchvision expects it; relative PATHs start there too.
        download: let torchvision fetch the set into ``root`` if it is not there.
        image_size: images are resized to squares of so many pixels; None keeps their own size (imagenet: 224).
        augment: how training images are varied: "none"; "crop_flip", a random crop of the image with 4 pixels of mean
            colour around it, and a random flip; "random_resized", a random part of the image resized to the whole, and
            a random flip; "default", what is usual for the set. Digits and characters are not flipped.
        device: where images are kept and batches made. workers: processes that decode files.
        corrupt_limit: how many different images may be unreadable, in each process; they are left out.
        in_memory: whether files are decoded once and kept, or anew in each epoch. None keeps those that are all of one
            size and of at most 2 GiB together, imagenet excepted.

    Raises:
        ConfigError: for an unknown name or option, and for missing or inconsistent data.
        DataError: when more than ``corrupt_limit`` images are unreadable.
        MissingDependencyError: without the package that the set needs.
    """
    entry, path = entry_of(name)
    here = None if root is None else Path(root).expanduser()
    request = Request(
        name=name,
        path=(here or Path()) / Path(path).expanduser(),
        split=split,
        root=here,
        download=download,
        image_size=entry.image_size if image_size is None else image_size,
        augment=augment,
        device=torch.device(device),
        workers=workers,
        corrupt_limit=corrupt_limit,
        in_memory=in_memory,
    )
    found = entry.read(request)
    if isinstance(found.train, Files):
        return _files(request, entry, found)
    if in_memory is False:
        raise ConfigError(f"in_memory: expected True or None for {name}, which is no folder of images, got False")
    train, evaluate = found.divided()
    if request.image_size is not None:
        train, evaluate = (Labelled(fit(part.x, request.image_size), part.y) for part in (train, evaluate))
    return _memory(request, entry, train, evaluate, found.class_names, {})


def _files(request: Request, entry: Entry, found: Found[Files]) -> Dataset:
    """Decide where the images are kept, and read them if that is the memory."""
    train, evaluate = found.divided()
    seen = look((train, evaluate))
    if request.image_size is None and seen.size is None:
        raise ConfigError(
            "image_size: expected a size, as the images are not all of one; give one, such as image_size 224"
        )
    size = seen.size if request.image_size is None else (request.image_size, request.image_size)
    size = cast("tuple[int, int]", size)
    ledger = Ledger(request.corrupt_limit)
    if _fits_in_memory(request, entry, seen, size, len(train.y) + len(evaluate.y)):
        reading = Reading(size, resize=request.image_size is not None, rgb=False)
        parts = [read_all(part, reading, seen.grey, request.workers, ledger) for part in (train, evaluate)]
        channels = max(part.x.shape[1] for part in parts)
        coloured = [Labelled(part.x.expand(-1, channels, -1, -1), part.y) for part in parts]
        return _memory(request, entry, coloured[0], coloured[1], found.class_names, ledger.images)
    reading = Reading(size, resize=request.image_size is not None, margin=1 if request.image_size is None else MARGIN)
    constants = entry.constants or IMAGENET
    mean, std = (255 * torch.tensor(values, dtype=torch.float64) for values in (constants.mean, constants.std))
    normalise = Normalise(mean, std, request.device)
    made = [
        StreamSource(part, reading, normalise, augment, request.device, request.workers, ledger)
        for part, augment in ((train, _augment(request, entry, "random_resized")), (evaluate, Augment()))
    ]
    return Dataset(request.name, len(found.class_names), (3, *size), made[0], made[1], found.class_names)


def _fits_in_memory(request: Request, entry: Entry, seen: Look, size: tuple[int, int], n: int) -> bool:
    if request.in_memory is not None:
        return request.in_memory
    estimate = n * (1 if seen.grey else 3) * size[0] * size[1]
    return not entry.large and seen.size is not None and estimate <= IN_MEMORY_BYTES


def _memory(
    request: Request,
    entry: Entry,
    train: Labelled,
    evaluate: Labelled,
    class_names: tuple[str, ...],
    corrupt: dict[str, str],
) -> Dataset:
    for part, what in ((train, "training split"), (evaluate, "evaluation split")):
        check_images(part, what)
        check_labels(part.y, len(class_names), f"labels of the {what}")
    check_pair(train, evaluate)
    normalise = Normalise(*_constants(entry, train), request.device)
    made = [
        MemorySource(part, normalise, augment, request.device, corrupt)
        for part, augment in ((train, _augment(request, entry, entry.augment)), (evaluate, Augment()))
    ]
    shape = (train.x.shape[1], train.x.shape[2], train.x.shape[3])
    return Dataset(request.name, len(class_names), shape, made[0], made[1], class_names)


def _constants(entry: Entry, train: Labelled) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation in the units of the stored pixels, (C,) each."""
    channels = train.x.shape[1]
    if entry.ready:
        return torch.zeros(channels), torch.ones(channels)
    if entry.constants is None:
        return statistics(train.x)
    mean, std = (255 * torch.tensor(v, dtype=torch.float64) for v in (entry.constants.mean, entry.constants.std))
    return mean, std


def _augment(request: Request, entry: Entry, default: str) -> Augment:
    chosen = AUGMENTS[default if request.augment == "default" else request.augment]
    return dataclasses.replace(chosen, flip=chosen.flip and entry.mirror)
