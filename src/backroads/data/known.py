"""Data sets with a name of their own: the digits, torchvision's, and ImageNet."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from backroads.data.digits import load_digits
from backroads.data.folder import list_folder
from backroads.data.parts import Files, Found, Labelled
from backroads.data.request import Request
from backroads.errors import ConfigError
from backroads.extras import import_torchvision


def read_digits(request: Request) -> Found[Labelled]:
    """scikit-learn's digits, centred and scaled already, in :func:`~backroads.data.load_digits`' splits."""
    split = load_digits(request.split)
    train, evaluate = Labelled(split.train_x, split.train_y), Labelled(split.eval_x, split.eval_y)
    return Found(train, evaluate, tuple(str(digit) for digit in range(10)))


def torchvision_reader(name: str) -> Callable[[Request], Found[Labelled]]:
    """A reader of ``torchvision.datasets.NAME``, for sets that torchvision keeps in arrays."""

    def read(request: Request) -> Found[Labelled]:
        if request.root is None:
            raise ConfigError(
                f"root: expected the folder that holds {request.name}, or that it shall be downloaded to with "
                "download, got none"
            )
        kind = getattr(import_torchvision().datasets, name)
        parts = []
        for train in (True, False) if request.split == "test" else (True,):
            try:
                made = kind(root=str(request.root), train=train, download=request.download)
            except (RuntimeError, OSError) as error:
                raise ConfigError(
                    f"data: {request.name} cannot be read from root {request.root} ({error}); give the folder that "
                    f"torchvision.datasets.{name}(root) reads, or fetch it with download"
                ) from error
            parts.append(Labelled(_planes(made.data), torch.as_tensor(made.targets, dtype=torch.int64)))
        return Found(parts[0], parts[1] if len(parts) > 1 else None, tuple(made.classes))

    return read


def _planes(data: Tensor | np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    """(N, H, W) or (N, H, W, C) -> (N, C, H, W)."""
    x = torch.as_tensor(data)
    return x[:, None] if x.dim() == 3 else x.permute(0, 3, 1, 2).contiguous()


def read_imagenet(request: Request) -> Found[Files]:
    """ImageNet as a folder: ``root/train/CLASS`` and ``root/val/CLASS``, which torchvision's own class makes too."""
    if request.root is None or not (request.root / "train").is_dir():
        raise ConfigError(
            f"root: expected the folder that holds imagenet's train/CLASS and val/CLASS, got {request.root}; unpack "
            "the archives there, for instance with torchvision.datasets.ImageNet(root). It cannot be downloaded"
        )
    return list_folder(request.root, request.split, evaluation=("val",))


def read_folder(request: Request) -> Found[Files]:
    """Any folder of images: ``train/CLASS`` and ``test/CLASS`` or ``val/CLASS``."""
    return list_folder(request.path, request.split)
