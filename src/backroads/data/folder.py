"""Folders of images: which files there are, and what they look like. Pixels are read in ``decode.py``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from backroads.data.decode import describe, pillow
from backroads.data.parts import Files, Found
from backroads.errors import ConfigError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
SAMPLE = 256  # images whose size is looked at before a folder is read


def list_folder(folder: Path, split: str, evaluation: Sequence[str] = ("test", "val")) -> Found[Files]:
    """The images of ``train/CLASS`` and of the first of ``evaluation`` that is there.

    Args:
        folder: holds ``train`` and one of ``evaluation``. split: with "validation", only ``train`` is looked at.

    Raises:
        ConfigError: for what is missing: a folder, classes, images of a class, a class in one of the splits.
    """
    if not folder.is_dir():
        raise ConfigError(f"data: expected a folder of images, and {folder} is none; check the path")
    if not (folder / "train").is_dir():
        raise ConfigError(f"data: expected {folder / 'train'} with a folder for each class, and there is none")
    train, classes = _list_split(folder / "train")
    if len(classes) < 2:
        raise ConfigError(f"data: expected at least two classes in {folder / 'train'}, got {classes[0]!r} only")
    if split == "validation":
        return Found(train, None, tuple(classes))
    there = [name for name in evaluation if (folder / name).is_dir()]
    if not there:
        raise ConfigError(
            f"data: expected {' or '.join(str(folder / name) for name in evaluation)} to evaluate on, and there is "
            "none; add it, or hold out a part of the training split with split 'validation'"
        )
    evaluate, others = _list_split(folder / there[0])
    if others != classes:
        differing = sorted(set(classes) ^ set(others))
        raise ConfigError(
            f"data: expected the same classes in {folder / 'train'} and {folder / there[0]}, and only one of them has "
            f"{', '.join(differing[:10])}{', ...' if len(differing) > 10 else ''}; make the two agree"
        )
    return Found(train, evaluate, tuple(classes))


def _list_split(folder: Path) -> tuple[Files, list[str]]:
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
    """Paths relative to ``folder`` of all images below ``folder/name``. Hidden files are none, whatever their name."""
    found = []
    for where, _, files in os.walk(folder / name, followlinks=True):
        below = os.path.relpath(where, folder)
        found += [
            os.path.join(below, file)
            for file in files
            if file.lower().endswith(EXTENSIONS) and not file.startswith(".")
        ]
    return found


@dataclasses.dataclass(frozen=True)
class Look:
    """What a sample of images looks like.

    Attributes:
        size: (H, W) of all of them, or None if they differ. grey: whether all have one channel.
    """

    size: tuple[int, int] | None
    grey: bool


def look(files: Sequence[Files]) -> Look:
    """Look at the headers of up to 256 images of each split.

    Raises:
        ConfigError: if none can be read, or for more than 8 bits a channel. MissingDependencyError: without pillow.
    """
    pillow()  # a missing package is not a fault of the images
    sizes: set[tuple[int, int]] = set()
    grey, reason = True, ""
    for part in files:
        for index in range(0, len(part.y), -(-len(part.y) // SAMPLE)):
            try:
                header = describe(part.path(index))
            except Exception as error:
                reason = f"{part.path(index)}: {error}"
                continue
            if header.wide:
                raise ConfigError(
                    f"data: expected 8 bits a channel, and {part.path(index)} has more; convert the images, or save "
                    "them as float arrays for npz:PATH"
                )
            sizes.add(header.size)
            grey = grey and header.grey
    if not sizes:
        raise ConfigError(f"data: expected images, and none of the sampled ones can be read; {reason}")
    return Look(sizes.pop() if len(sizes) == 1 else None, grey)
