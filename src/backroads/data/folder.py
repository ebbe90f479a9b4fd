"""Folders of images: which files there are, and what their headers say."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backroads.data.decode import is_deep, open_image, pillow
from backroads.data.parts import Files, Images
from backroads.errors import ConfigError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
SAMPLE = 256  # images of each split whose headers are read before a folder is
DEPTH = 32  # folders within each other, below that of a class
ENTRIES = 50_000_000  # files and folders of a split


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
        raise ConfigError(f"data: expected a folder of images, and {path.absolute()} is none; check the path")
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
    """List the images of ``folder/CLASS``, and the names of the classes.

    Links are followed. What several names lead to is listed once, and belongs to one class.

    Raises:
        ConfigError: for a class without images; for a folder or an image that belongs to two classes; for an image that
            is no file, such as a pipe; for more than 32 folders within each other, or 50 million files and folders.
    """
    classes = sorted(entry.name for entry in _entries(folder) if _is_folder(entry) and not entry.name.startswith("."))
    if not classes:
        raise ConfigError(f"data: expected a folder for each class in {folder}, and there are none")
    listing = _Listing(folder, classes)
    for name in classes:
        listing.walk(name)
    listing.follow_links()
    names: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(listing.found[name])
        if not found:
            raise ConfigError(
                f"data: expected images in {folder / name}, and there are none ({', '.join(EXTENSIONS)}); add some, "
                "or remove the folder"
            )
        names += map(os.fsencode, found)
        labels += [label] * len(found)
    return Files(folder, np.array(names), torch.tensor(labels)), classes


class _Listing:
    """The images of each class of a folder: first the files, then those that links lead to and that are not among them.

    Attributes:
        found: by class, paths of images relative to the folder.
    """

    def __init__(self, folder: Path, classes: list[str]) -> None:
        self.folder = str(folder)
        self.found: dict[str, list[str]] = {name: [] for name in classes}
        self._links: list[tuple[str, str]] = []  # (class, path) of images that are links
        self._owners: dict[str, str] = {}  # class of each folder, and of what links lead to, by real path
        real = Path(os.path.realpath(folder))
        self._above = {str(real), *map(str, real.parents)}  # a link to one of them is a loop
        self._entries = 0
        for name in classes:
            if not self._claim(os.path.join(self.folder, name), name):
                raise ConfigError(
                    f"data: expected a folder of images, and {folder / name} leads back to a folder that holds it; "
                    "remove this link"
                )

    def walk(self, name: str) -> None:
        """List the folder of a class and those below it, each once."""
        waiting = [(name, 0)]
        while waiting:
            below, depth = waiting.pop()
            where = os.path.join(self.folder, below)
            if depth > DEPTH:
                raise ConfigError(
                    f"data: expected at most {DEPTH} folders within each other, and {where} is deeper; move its images "
                    "up"
                )
            for entry in _entries(where):
                self._entries += 1
                if self._entries > ENTRIES:
                    raise ConfigError(
                        f"data: expected at most {ENTRIES} files and folders in {self.folder}, and there are more; "
                        "remove what does not belong there"
                    )
                path = os.path.join(below, entry.name)
                if _is_folder(entry):
                    if self._claim(entry.path, name):
                        waiting.append((path, depth + 1))
                elif _is_image(entry.name):
                    _check_kind(entry)
                    if entry.is_symlink():
                        self._links.append((name, path))
                    else:
                        self.found[name].append(path)

    def follow_links(self) -> None:
        """Add the images that links lead to, each once. To be called when all classes have been walked."""
        for name, path in sorted(self._links):
            real = os.path.realpath(os.path.join(self.folder, path))
            holder, target = os.path.split(real)
            if not os.path.exists(real):  # it will be named with the unreadable images
                self.found[name].append(path)
            elif holder in self._owners and _is_image(target):  # listed there
                self._agree(path, name, real, self._owners[holder])
            elif self._claim(os.path.join(self.folder, path), name):
                self.found[name].append(path)

    def _claim(self, path: str, name: str) -> bool:
        """Note that a folder or an image belongs to a class; False where that is known, or it is one further up."""
        real = os.path.realpath(path)
        if real in self._above:
            return False
        if real in self._owners:
            self._agree(path, name, real, self._owners[real])
            return False
        self._owners[real] = name
        return True

    def _agree(self, path: str, name: str, real: str, owner: str) -> None:
        if owner != name:
            raise ConfigError(
                f"data: expected images of one class each, and {os.path.join(self.folder, path)} of class {name!r} "
                f"leads to {real}, which belongs to {owner!r}; remove one of the two"
            )


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What a folder holds, by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ConfigError(
            f"data: {folder} cannot be listed ({error.strerror}); make it readable, or remove it"
        ) from error


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _check_kind(entry: os.DirEntry[str]) -> None:
    """Refuse a pipe, a socket or a device: to open it could wait for ever."""
    try:
        if entry.is_file():
            return
        mode = entry.stat().st_mode
    except OSError:
        return  # a link that leads nowhere
    kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    raise ConfigError(f"data: expected image files, and {entry.path} is {kind}; remove it")


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
                with open_image(part.path(index)) as image:
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
