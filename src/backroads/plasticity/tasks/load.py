"""Tasks by name: where the images are, and how their classes are split."""

from __future__ import annotations

import csv
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backroads.data.check import UnreadableImages, check_images
from backroads.data.decode import Reading, pillow
from backroads.data.folder import list_classes
from backroads.data.memory import fit
from backroads.data.npz import open_npz, read_part
from backroads.data.parts import Arrays, Files
from backroads.data.stream import read_all
from backroads.errors import ConfigError
from backroads.extras import import_torchvision
from backroads.plasticity.settings import MetaConfig, TaskSettings
from backroads.plasticity.tasks.episode import Split, Tasks
from backroads.plasticity.tasks.images import Classes, ImageClasses
from backroads.plasticity.tasks.sinusoids import Sinusoids

LEFT_OUT = 1  # the reference leaves the last class of a set out: 963 of 964 to train on, 650 of 659 to test
TESTED = 650
NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}
Reader = Callable[[str], Classes | None]
"""The classes of a split by one of its names, above; None where there is no such split."""


def load_tasks(config: MetaConfig) -> Tasks:
    """The tasks of the settings.

    Raises:
        ConfigError: naming what is missing or does not fit, before anything is trained.
        DataError: for images that cannot be read.
        MissingDependencyError: without pillow or torchvision, where files need them.
    """
    settings = config.task
    if not settings.is_images:
        return Sinusoids(settings, config.run.seed)
    kind, _, place = settings.task.partition(":")
    if kind == "omniglot" and not place:
        read = omniglot(settings)
    elif kind == "folder" and place:
        read = folder(Path(place), settings.image_size)
    elif kind == "npz" and place:
        read = functools.partial(npz, Path(place), settings.image_size)
    else:
        raise ConfigError(f"task: expected sinusoid, omniglot, folder:PATH or npz:PATH, got {settings.task!r}")
    tasks = ImageClasses(_splits(read, settings), settings, config.network.head, config.run.seed)
    n, head = len(tasks.split("train").members), config.network.head
    if config.meta.pretrain and n > head:
        raise ConfigError(f"head: expected at least {n} outputs to pretrain on as many classes, got {head}")
    return tasks


def _splits(read: Reader, settings: TaskSettings) -> Callable[[Split], Classes]:
    """The classes of a split. Where there is none for validation, the last classes of the training split are held out:
    neighbours, such as letters of one alphabet, stay together."""

    @functools.cache
    def found(split: Split) -> Classes | None:
        return next((classes for name in NAMES[split] if (classes := read(name)) is not None), None)

    @functools.cache
    def splits(split: Split) -> Classes:
        classes = found(split) or (found("train") if split == "validation" else None)
        if classes is None:
            raise ConfigError(
                f"task: expected a split {split!r} of classes in {settings.task}, and there is none; add it"
            )
        if split == "test" or found("validation") is not None:
            return classes
        n, held = len(classes.members), settings.validation_classes
        if held >= n:
            raise ConfigError(f"validation_classes: expected fewer than the {n} classes to train on, got {held}")
        return classes.take(0, n - held) if split == "train" else classes.take(n - held, n)

    return splits


def omniglot(settings: TaskSettings) -> Reader:
    """Drawings of letters: background classes to meta-train and validate on, evaluation classes to test.

    Read from ``images_background.npz`` and ``images_evaluation.npz`` in the root (``images``, (classes, drawings,
    H, W), True or 255: paper), or by torchvision.

    Source: Lake et al., "Human-level concept learning through probabilistic program induction", Science 2015.
    """
    if settings.root is None:
        raise ConfigError(
            "root: expected the folder of Omniglot's files (images_background.npz and "
            "images_evaluation.npz, or torchvision's), got none"
        )
    root = Path(settings.root)

    def part(name: str) -> Classes:
        path = root / f"images_{name}.npz"
        if not path.is_file():
            return _by_torchvision(root, name == "background", settings)
        with open_npz(path) as arrays:
            x: Any = arrays["images"] if "images" in arrays else np.empty(0)
        if x.ndim != 4 or x.dtype not in (np.bool_, np.uint8):
            raise ConfigError(
                f"{path}: expected images (classes, drawings, H, W) bool or uint8, got {x.dtype} {x.shape}"
            )
        pixels = torch.from_numpy(x.astype(np.uint8) * (255 if x.dtype == np.bool_ else 1)).flatten(0, 1)
        y = torch.arange(len(x)).repeat_interleave(x.shape[1])
        return Classes.of(Arrays(fit(pixels[:, None], settings.image_size), y))

    def read(name: str) -> Classes | None:
        if name == "train":
            return part("background").take(0, -LEFT_OUT)
        return part("evaluation").take(0, TESTED) if name == "test" else None

    return read


def _by_torchvision(root: Path, background: bool, settings: TaskSettings) -> Classes:
    kind = import_torchvision().datasets.Omniglot
    try:
        found = kind(str(root), background=background, download=settings.download)
    except RuntimeError as error:
        raise ConfigError(
            f"root: expected images_background.npz and images_evaluation.npz or torchvision's folder omniglot-py in "
            f"{root}, and there are none; check the path, or give --download ({error})"
        ) from error
    drawings = [(torch.from_numpy(np.array(image.convert("L"))), label) for image, label in found]
    pixels, labels = torch.stack([drawing for drawing, _ in drawings]), torch.tensor([label for _, label in drawings])
    return Classes.of(Arrays(fit(pixels[:, None], settings.image_size), labels))


def folder(path: Path, size: int) -> Reader:
    """Image files: ``train/CLASS``, ``val/CLASS`` or ``validation/CLASS``, ``test/CLASS``, of different classes; or
    ``images`` and ``train.csv``, ``val.csv``, ``test.csv`` of filename and label, as mini-ImageNet comes."""
    pillow()  # a missing package is not a fault of the images
    if not (path / "train").is_dir() and not (path / "train.csv").is_file():
        raise ConfigError(f"task: expected {path / 'train'} with a folder for each class, or {path / 'train.csv'}")

    def read(name: str) -> Classes | None:
        if (path / f"{name}.csv").is_file():
            files = _listed(path / f"{name}.csv", path / "images")
        elif (path / name).is_dir():
            files, _ = list_classes(path / name)
        else:
            return None
        reading = Reading((size, size), resize=True, rgb=False)
        return Classes.of(read_all(files, reading, grey=True, workers=0, unreadable=UnreadableImages(0)))

    return read


def _listed(table: Path, images: Path) -> Files:
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{table}: expected a csv file in UTF-8 ({error})") from None
    wrong = [i for i, row in enumerate(rows, 1) if not row.get("filename") or not row.get("label")]
    if not rows or wrong:
        got = f"{dict(rows[wrong[0] - 1])} in row {wrong[0]}" if rows else "none"
        raise ConfigError(f"{table}: expected rows of filename and label, got {got}")
    _, y = np.unique([row["label"] for row in rows], return_inverse=True)
    return Files(images, np.array([os.fsencode(row["filename"]) for row in rows]), torch.from_numpy(y))


def npz(path: Path, size: int, name: str) -> Classes | None:
    """Arrays ``train_x`` (n, H, W) or (n, H, W, C), uint8 or floating point, and ``train_y`` (n,) integers; ``test_x``,
    ``test_y``; and ``val_x``, ``val_y`` if there are. The classes of the splits are different ones, whatever their
    numbers."""
    with open_npz(path) as arrays:
        if f"{name}_x" not in arrays or f"{name}_y" not in arrays:
            return None
        part = read_part(arrays, name)
    check_images(part, f"{name}_x")
    return Classes.of(Arrays(fit(part.x, size), part.y))
