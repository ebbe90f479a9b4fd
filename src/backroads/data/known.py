"""The data sets by name, and how to add one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backroads.data.digits import load_digits
from backroads.data.folder import list_folder
from backroads.data.npz import read_npz
from backroads.data.parts import Arrays, Files, Images
from backroads.errors import ConfigError
from backroads.extras import import_torchvision
from backroads.registry import Registry, call

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read_torchvision(kind: str, split: str, root: Path | None, download: bool, **usual: Any) -> Images[Arrays]:
    """``torchvision.datasets.KIND``, one of those that torchvision keeps in arrays; ``usual``: fields of Images."""
    if root is None:
        raise ConfigError(
            f"root: expected the folder that holds {kind}, or that it shall be downloaded to with download, got none"
        )
    dataset = getattr(import_torchvision().datasets, kind)
    parts = []
    for train in (True, False) if split != "validation" else (True,):
        try:
            made = dataset(root=str(root), train=train, download=download)
        except (RuntimeError, OSError) as error:
            raise ConfigError(
                f"data: {kind} cannot be read from root {root} ({error}); give the folder that "
                f"torchvision.datasets.{kind}(root) reads, or fetch it with download"
            ) from error
        parts.append(Arrays(_channels_first(made.data), torch.as_tensor(made.targets, dtype=torch.int64)))
    test = parts[1] if len(parts) > 1 else None
    return Images(parts[0], test, class_names=tuple(made.classes), **usual)


def _channels_first(data: Tensor | np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    """(N, H, W) or (N, H, W, C) -> (N, C, H, W)."""
    x = torch.as_tensor(data)
    return x[:, None] if x.dim() == 3 else x.permute(0, 3, 1, 2).contiguous()


def read_imagenet(split: str, root: Path | None) -> Images[Files]:
    """ImageNet as ``root/train/CLASS`` and ``root/val/CLASS``, the folders that torchvision's own class makes too."""
    if root is None or not (root / "train").is_dir():
        raise ConfigError(
            f"root: expected the folder that holds imagenet's train/CLASS and val/CLASS, got {root}; unpack the "
            "archives there, for instance with torchvision.datasets.ImageNet(root). It cannot be downloaded"
        )
    usual: dict[str, Any] = {"augment": "random_resized", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return list_folder(root, split, evaluation=("val",), image_size=224, large=True, **usual)


DATASETS: Registry[Callable[..., Images[Any]]] = Registry("data set", ConfigError)
DATASETS.add("digits", load_digits)
for _name, _kind, _usual in (
    ("mnist", "MNIST", {"mirror": False, "mean": (0.1307,), "std": (0.3081,)}),
    ("fashion_mnist", "FashionMNIST", {"augment": "flip", "mean": (0.2860,), "std": (0.3530,)}),
    ("kmnist", "KMNIST", {"mirror": False, "mean": (0.1918,), "std": (0.3483,)}),
    (
        "cifar10",
        "CIFAR10",
        {"augment": "crop_flip", "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)},
    ),
    (
        "cifar100",
        "CIFAR100",
        {"augment": "crop_flip", "mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762)},
    ),
):
    DATASETS.add(_name, partial(read_torchvision, _kind, **_usual))
DATASETS.add("imagenet", read_imagenet)
DATASETS.add("folder:PATH", partial(list_folder, augment="crop_flip"))
DATASETS.add("npz:PATH", read_npz)


def register_dataset(name: str, read: Callable[..., Images[Any]] | str) -> None:
    """Make a data set of your own known by name, to :func:`load_dataset` and to every command.

    Args:
        name: a new name; one that ends in ":PATH" stands for all names with a path in that place.
        read: a callable that returns :class:`Images`, or its import path ``package.module:callable``. It gets, by
            name, those of these that its signature has: ``split``, "validation" if the test split is not needed,
            else "test" or "both"; ``root``, the folder of
            data sets that the user gave, a Path or None; ``download``, whether it may fetch what is missing;
            ``path``, the path after ":" in the name, below ``root`` if that is given.

    Raises:
        ConfigError: if the name is taken.

    Example::

        def stripes():
            x = torch.rand(100, 1, 8, 8)
            return Images(train=Arrays(x[:80], y[:80]), test=Arrays(x[80:], y[80:]))

        br.register_dataset("stripes", stripes)
    """
    DATASETS.add(name, read)


def read_images(name: str, split: str, root: Path | None, download: bool) -> Images[Any]:
    """The images of a name, or of an import path; raises ConfigError with the nearest name."""
    DATASETS.check(name)
    kind, colon, rest = name.partition(":")
    family = f"{kind}:PATH"
    if family in DATASETS and colon and not rest:
        raise ConfigError(f"data: expected a path after {name!r}, as in {family}")
    read = DATASETS.get(family) if colon and family in DATASETS else DATASETS.resolve(name)
    path = (root or Path()) / Path(rest).expanduser()
    given = {"split": split, "root": root, "download": download, "path": path}
    images = call(read, given, {}, f"data set {name!r}")
    if not isinstance(images, Images):
        raise ConfigError(f"data set {name!r}: expected backroads.data.Images, got {type(images).__name__}")
    return images
