"""Tasks by name: where the images are, and how their classes are split."""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backroads.data.decode import pillow
from backroads.data.folder import EXTENSIONS
from backroads.data.memory import fit
from backroads.errors import ConfigError
from backroads.extras import import_torchvision
from backroads.plasticity.settings import MetaConfig
from backroads.plasticity.tasks.episode import Split, Tasks
from backroads.plasticity.tasks.images import Classes, ImageClasses
from backroads.plasticity.tasks.sinusoids import Sinusoids

LEFT_OUT = 1  # the reference leaves the last class of a set out: 963 of 964 to train on, 650 of 659 to test
TESTED = 650
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
Splits = Callable[[Split], Classes]


def load_tasks(config: MetaConfig) -> Tasks:
    """The tasks of the settings.

    Raises:
        ConfigError: naming what is missing or does not fit, before anything is trained.
        MissingDependencyError: without pillow or torchvision, where files need them.
    """
    if not config.is_images:
        return Sinusoids(config.tasks, config.steps_per_task, config.batch, config.pool, config.order, config.seed)
    kind, _, place = config.task.partition(":")
    if kind == "omniglot" and not place:
        splits = omniglot(config)
    elif kind == "folder" and place:
        splits = folder(Path(place), config)
    elif kind == "npz" and place:
        splits = npz(Path(place), config)
    else:
        raise ConfigError(f"task: expected sinusoid, omniglot, folder:PATH or npz:PATH, got {config.task!r}")
    colours = splits("train").x.shape[1] == 3
    mean, std = IMAGENET if colours else ((0.0,), (1.0,))
    return ImageClasses(
        functools.cache(splits),
        tasks=config.tasks,
        shots=config.steps_per_task,
        batch=config.batch,
        learn=config.eval_learn,
        test=config.eval_test,
        order=config.order,
        seed=config.seed,
        head=config.head,
        labels=config.labels,
        mean=mean,
        std=std,
    )


def omniglot(config: MetaConfig) -> Splits:
    """Drawings of letters: background classes to meta-train and validate on, evaluation classes to test.

    Read from ``images_background.npz`` and ``images_evaluation.npz`` in the root (``images``, (classes, drawings,
    H, W), True or 255: paper), or by torchvision.

    Source: Lake et al., "Human-level concept learning through probabilistic program induction", Science 2015.
    """
    if config.root is None:
        raise ConfigError(
            "root: expected the folder of Omniglot's files (images_background.npz and "
            "images_evaluation.npz, or torchvision's), got none"
        )
    root = Path(config.root)

    @functools.cache
    def part(name: str) -> Classes:
        path = root / f"images_{name}.npz"
        x = _arrays(path)["images"] if path.is_file() else _by_torchvision(root, name == "background", config.download)
        if x.ndim != 4 or x.dtype not in (np.bool_, np.uint8):
            raise ConfigError(
                f"{path}: expected images (classes, drawings, H, W) bool or uint8, got {x.dtype} {x.shape}"
            )
        pixels = torch.from_numpy(x.astype(np.uint8) * (255 if x.dtype == np.bool_ else 1))
        small = fit(pixels.flatten(0, 1)[:, None], config.image_size)
        return Classes(small, tuple(torch.arange(len(small)).view(pixels.shape[:2]).unbind()))

    def splits(split: Split) -> Classes:
        if split == "test":
            return part("evaluation").take(0, TESTED)
        background = part("background")
        return _held_out(background.take(0, len(background.members) - LEFT_OUT), config.validation_classes, split)

    return splits


def folder(path: Path, config: MetaConfig) -> Splits:
    """Image files: ``train/CLASS``, ``val/CLASS`` or ``validation/CLASS``, ``test/CLASS``, of different classes; or
    ``images`` and ``train.csv``, ``val.csv``, ``test.csv`` of filename and label, as mini-ImageNet comes. Without a
    validation split, classes are held out of the training one.
    """
    if not path.is_dir():
        raise ConfigError(f"task: expected a folder of images, and {path} is none; check the path")
    if not (path / "train").is_dir() and not (path / "train.csv").is_file():
        raise ConfigError(f"task: expected {path / 'train'} with a folder for each class, or {path / 'train.csv'}")

    def files(name: str) -> dict[str, list[Path]] | None:
        if (path / f"{name}.csv").is_file():
            found: dict[str, list[Path]] = {}
            with (path / f"{name}.csv").open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    if not {"filename", "label"} <= row.keys():
                        raise ConfigError(f"{path / name}.csv: expected columns filename and label, got {list(row)}")
                    found.setdefault(row["label"], []).append(path / "images" / row["filename"])
            return found
        if not (path / name).is_dir():
            return None
        return {
            folder.name: sorted(file for file in folder.rglob("*") if file.suffix.lower() in EXTENSIONS)
            for folder in sorted((path / name).iterdir())
            if folder.is_dir()
        }

    return _by_split(files, lambda found: _decoded(found, config.image_size), config, path)


def npz(path: Path, config: MetaConfig) -> Splits:
    """Arrays ``train_x`` (n, H, W) or (n, H, W, C) uint8 and ``train_y`` (n,) integers; ``test_x``, ``test_y``; and
    ``val_x``, ``val_y`` if there are. The classes of the splits are different ones, whatever their numbers.
    """
    arrays = _arrays(path)

    def part(name: str) -> tuple[Any, Any] | None:
        if f"{name}_x" not in arrays or f"{name}_y" not in arrays:
            return None
        x, y = arrays[f"{name}_x"], arrays[f"{name}_y"]
        if x.dtype != np.uint8 or x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3)):
            raise ConfigError(
                f"{name}_x: expected uint8 images (n, H, W) or (n, H, W, 1 or 3), got {x.dtype} {x.shape}"
            )
        if y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
            raise ConfigError(f"{name}_y: expected {len(x)} integers, one for each image, got {y.dtype} {y.shape}")
        return x, y

    def made(found: tuple[Any, Any]) -> Classes:
        x = torch.from_numpy(np.ascontiguousarray(found[0]))
        x = x[:, None] if x.dim() == 3 else x.permute(0, 3, 1, 2).contiguous()
        members = tuple(torch.from_numpy(np.flatnonzero(found[1] == label)) for label in np.unique(found[1]))
        return Classes(fit(x, config.image_size), members)

    return _by_split(part, made, config, path)


def _by_split(read: Callable[[str], Any], make: Callable[[Any], Classes], config: MetaConfig, path: Path) -> Splits:
    @functools.cache
    def part(*names: str) -> Classes | None:
        found = next((found for found in map(read, names) if found is not None), None)
        if found is None:
            return None
        classes = make(found)
        if not classes.members:
            raise ConfigError(f"{path}: expected classes of images in {names[0]}, and there are none")
        return classes

    def splits(split: Split) -> Classes:
        found = part("val", "validation") if split == "validation" else part(split)
        if found is not None and (split != "train" or part("val", "validation") is not None):
            return found
        if split == "test":
            raise ConfigError(f"{path}: expected a split 'test' of classes, and there is none; add it")
        whole = part("train")
        if whole is None:
            raise ConfigError(f"{path}: expected a split 'train' of classes, and there is none; add it")
        return _held_out(whole, config.validation_classes, split)

    return splits


def _held_out(classes: Classes, held: int, split: Split) -> Classes:
    """The last classes are for validation: neighbours, such as letters of one alphabet, stay together."""
    n = len(classes.members)
    if held >= n:
        raise ConfigError(f"validation_classes: expected fewer than the {n} classes to train on, got {held}")
    return classes.take(0, n - held) if split == "train" else classes.take(n - held, n)


def _arrays(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ConfigError(f"task: expected a file that numpy.savez wrote, and {path} is none; check the path")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, AttributeError) as error:
        raise ConfigError(f"task: {path} cannot be read ({error}); write it again with numpy.savez") from error


def _decoded(found: dict[str, list[Path]], size: int) -> Classes:
    images, members, n = [], [], 0
    for name, files in found.items():
        if not files:
            raise ConfigError(f"data: expected images of class {name!r}, and there are none ({', '.join(EXTENSIONS)})")
        for file in files:
            try:
                with pillow().open(file) as image:
                    grey = image.mode in ("1", "L")
                    pixels = torch.from_numpy(np.array(image.convert("L" if grey else "RGB")))
            except OSError as error:
                raise ConfigError(f"data: {file} cannot be read ({error}); mend or remove it") from error
            images.append(fit(pixels[None, None] if grey else pixels.permute(2, 0, 1)[None].contiguous(), size))
        members.append(torch.arange(n, n + len(files)))
        n += len(files)
    if any(image.shape[1] == 3 for image in images):
        images = [image.expand(1, 3, size, size) for image in images]
    return Classes(torch.cat(images), tuple(members))


def _by_torchvision(root: Path, background: bool, download: bool) -> Any:
    datasets = import_torchvision().datasets
    try:
        found = datasets.Omniglot(str(root), background=background, download=download)
    except RuntimeError as error:
        raise ConfigError(
            f"root: expected images_background.npz and images_evaluation.npz or torchvision's folder omniglot-py in "
            f"{root}, and there are none; check the path, or give --download ({error})"
        ) from error
    by_class: dict[int, list[Tensor]] = {}
    for image, label in found:
        by_class.setdefault(label, []).append(torch.from_numpy(np.array(image.convert("L"))))
    return torch.stack([torch.stack(by_class[label]) for label in sorted(by_class)]).numpy()
