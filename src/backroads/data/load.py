"""``load_dataset``: from a name to batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backroads.data.augment import AUGMENTS, CHOICES, Augment
from backroads.data.check import UnreadableImages, check_dataset, check_same
from backroads.data.decode import Reading
from backroads.data.folder import sample
from backroads.data.known import IMAGENET_MEAN, IMAGENET_STD, read_images
from backroads.data.memory import MemorySource, Normalise, fit, statistics
from backroads.data.parts import SPLITS, Arrays, Files, Images
from backroads.data.source import Dataset, Source
from backroads.data.stream import StreamSource, read_all
from backroads.errors import ConfigError, nearest

IN_MEMORY_BYTES = 2 * 1024**3  # folders up to this, decoded, are read once and kept
LARGEST = 16_384  # pixels of a side that images may be resized to
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
            are both), ``npz:PATH`` (``train_x``, ``train_y``, ``test_x``, ``test_y``), a name of
            :func:`register_dataset`, or ``package.module:callable``, which gets and returns what is said there.
        split: "test": the whole training split, and the test split. "validation": hold out a tenth of each class of
            the training split (of digits, a fifth), always the same, to validate on; the test split is not read.
            "both": hold it out, and read the test split too. Choices are made on the validation part.
        root: folder that holds the data set, as torchvision expects it; relative PATHs start there too.
        download: whether torchvision may fetch the set into ``root`` if it is not there.
        image_size: images are resized to squares of so many pixels; None keeps their own size (imagenet: 224).
        augment: how training images are varied: "none"; "crop_flip", a random crop of the image with 4 pixels of mean
            colour around it, and a random flip; "random_resized", a random part of the image resized to the whole, and
            a random flip; "translate_alternate", moved by at most 2 pixels with a reflected border, and mirrored in
            every second epoch; "default", what is usual for the set. Digits and characters are not flipped.
        device: where images are kept and batches made.
        workers: number of processes that decode files.
        corrupt_limit: how many different images may be unreadable, in each process; they are left out.
        in_memory: whether files are decoded once and kept, or in each epoch again. None keeps those that are all of
            one size and of at most 2 GiB together, imagenet excepted.

    Raises:
        ConfigError: for an unknown name or option, and for missing or inconsistent data.
        DataError: when more than ``corrupt_limit`` images are unreadable.
        MissingDependencyError: without the package that the set needs.
    """
    for field, value, known in (("split", split, SPLITS), ("augment", augment, CHOICES)):
        if value not in known:
            raise ConfigError(
                f"{field}: expected {' or '.join(map(repr, known))}, got {value!r}.{nearest(value, known)}"
            )
    numbers = (("image_size", image_size, 1), ("workers", workers, 0), ("corrupt_limit", corrupt_limit, 0))
    for field, number, least in numbers:
        if number is not None and number < least:
            raise ConfigError(f"{field}: expected {least} or more, got {number}")
    if image_size is not None and image_size > LARGEST:
        raise ConfigError(f"image_size: expected at most {LARGEST}, got {image_size}")
    images = read_images(name, split, None if root is None else Path(root).expanduser(), download)
    names = check_dataset(images)
    train, *others = images.divided(split)
    parts = [train, *(part for part in others if part is not None)]
    device, unreadable = torch.device(device), UnreadableImages(corrupt_limit)
    image_size = images.image_size if image_size is None else image_size
    if isinstance(train, Files):
        common, grey = sample(parts)
        size = common if image_size is None else (image_size, image_size)
        if size is None:
            raise ConfigError(
                "image_size: expected a size, as the images are not all of one; give one, such as image_size 224"
            )
        reading = Reading(size, resize=image_size is not None, margin=1 if image_size is None else MARGIN)
        if in_memory is None:
            estimate = sum(len(part.y) for part in parts) * (1 if grey else 3) * size[0] * size[1]
            in_memory = not images.large and common is not None and estimate <= IN_MEMORY_BYTES
        if in_memory:
            reading = dataclasses.replace(reading, margin=1, rgb=False)
            read = [read_all(files, reading, grey, workers, unreadable) for files in parts]
            channels = max(part.x.shape[1] for part in read)
            parts = [Arrays(part.x.expand(-1, channels, -1, -1), part.y) for part in read]
    elif in_memory is False:
        raise ConfigError(f"in_memory: expected True or None for {name}, which is no folder of images, got False")
    elif image_size is not None:
        parts = [Arrays(fit(part.x, image_size), part.y) for part in parts]

    make: Callable[..., Source]
    train = parts[0]
    if isinstance(train, Files):
        usual, shape = "random_resized", (3, *reading.size)
        normalise = Normalise(_pixels(images.mean or IMAGENET_MEAN), _pixels(images.std or IMAGENET_STD), device)
        make = partial(StreamSource, reading=reading, workers=workers, unreadable=unreadable)
    else:
        usual, shape = images.augment, check_same(parts)
        normalise = Normalise(*_constants(images, train.x), device)
        make = partial(MemorySource, corrupt=unreadable.reasons)
    varied = AUGMENTS[usual if augment == "default" else augment]
    varied = dataclasses.replace(varied, flip=varied.flip and images.mirror)
    made = [make(part, normalise, Augment() if n else varied, device) for n, part in enumerate(parts)]
    validation, test = (made.pop(1) if part is not None else None for part in others)
    return Dataset(name, len(names), shape, made[0], validation, test, names)


def _constants(images: Images[Any], x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation to normalise x (N, C, H, W) by, (C,) each; raises ConfigError if they do not fit."""
    channels = x.shape[1]
    if images.normalised:
        return torch.zeros(channels), torch.ones(channels)
    if images.mean is None or images.std is None:
        return statistics(x)
    if not len(images.mean) == len(images.std) == channels:
        raise ConfigError(f"data: expected mean and std of {channels} channels, got {images.mean} and {images.std}")
    return _pixels(images.mean), _pixels(images.std)


def _pixels(values: tuple[float, ...]) -> Tensor:
    """Constants for pixels from 0 to 1, as those of pixels from 0 to 255."""
    return 255 * torch.tensor(values, dtype=torch.float64)
