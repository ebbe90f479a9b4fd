"""Folders of images: which files there are, and what their headers say."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backroads.data.decode import FORMATS, is_deep, pillow
from backroads.data.parts import Files, Images
from backroads.errors import ConfigError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
SAMPLE = 256  # images of each split whose headers are read before a folder is


def list_folder(path: Path, split: str, evaluation: Sequence[str] = ("test", "val"), **usual: Any) -> Images[Files]:
    """List the images of ``train/CLASS`` and of the first of ``evaluation`` that is there.

    Args:
        path: a folder that holds ``train`` and one of ``evaluation``.
        split: with "validation", only ``train`` is looked at.
        evaluation: names of the folder of the test split, the preferred one first.
        usual: further fields of the result, by name.

    Raises:
        ConfigError: for what is missing: a folder, classes, images of a class, a class in one of the splits.
    """
    if not path.is_dir():
        raise ConfigError(f"data: expected a folder of images, and {path} is none; check the path")
    if not (path / "train").is_dir():
        raise ConfigError(f"data: expected {path / 'train'} with a folder for each class, and there is none")
    train, classes = list_classes(path / "train")
    if len(classes) < 2:
        raise ConfigError(f"data: expected at least two classes in {path / 'train'}, got {classes[0]!r} only")
    if split == "validation":
        return Images(train, class_names=tuple(classes), **usual)
    there = [name for name in evaluation if (path / name).is_dir()]
    if not there:
        raise ConfigError(
            f"data: expected {' or '.join(str(path / name) for name in evaluation)} to evaluate on, and there is "
            "none; add it, or hold out a part of the training split with split 'validation'"
        )
    evaluate, others = list_classes(path / there[0])
    if others != classes:
        differing = sorted(set(classes) ^ set(others))
        raise ConfigError(
            f"data: expected the same classes in {path / 'train'} and {path / there[0]}, and only one of them has "
            f"{', '.join(differing[:10])}{', ...' if len(differing) > 10 else ''}; make the two agree"
        )
    return Images(train, evaluate, class_names=tuple(classes), **usual)


def list_classes(folder: Path) -> tuple[Files, list[str]]:
    """List the images of ``folder/CLASS``, and the names of the classes; ConfigError for a class without images."""
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise ConfigError(f"data: expected a folder for each class in {folder}, and there are none")
    names: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(_images(folder, name))
        if not found:
            raise ConfigError(
                f"data: expected images in {folder / name}, and there are none ({', '.join(EXTENSIONS)}); add some, "
                "or remove the folder"
            )
        names += map(os.fsencode, found)
        labels += [label] * len(found)
    return Files(folder, np.array(names), torch.tensor(labels)), classes


def _images(folder: Path, name: str) -> list[str]:
    """Paths, relative to ``folder``, of all images below ``folder/name``, hidden files excepted."""
    found = []
    for where, _, files in os.walk(folder / name, followlinks=True):
        below = os.path.relpath(where, folder)
        found += [
            os.path.join(below, file)
            for file in files
            if file.lower().endswith(EXTENSIONS) and not file.startswith(".")
        ]
    return found


def sample(files: Sequence[Files]) -> tuple[tuple[int, int] | None, bool]:
    """Read the headers of up to 256 images of each split.

    Returns:
        (H, W) of all of them, or None if they differ; and whether all have one channel.

    Raises:
        ConfigError: if none can be read, or for more than 8 bits a channel.
        MissingDependencyError: without pillow.
    """
    pillow()  # a missing package is not a fault of the images
    sizes: set[tuple[int, int]] = set()
    grey, reason = True, ""
    for part in files:
        for index in range(0, len(part.y), -(-len(part.y) // SAMPLE)):
            try:
                with pillow().open(part.path(index), formats=FORMATS) as image:
                    deep, size, mode = is_deep(image), (image.height, image.width), image.mode
            except Exception as error:
                reason = f"{part.path(index)}: {error}"
                continue
            if deep:
                raise ConfigError(
                    f"data: expected 8 bits a channel, and {part.path(index)} has more; convert the images, or save "
                    "them as float arrays for npz:PATH"
                )
            sizes.add(size)
            grey = grey and mode in ("1", "L")
    if not sizes:
        raise ConfigError(f"data: expected images, and none of the sampled ones can be read; {reason}")
    return sizes.pop() if len(sizes) == 1 else None, grey
