"""Folders of images, class by folder: read into memory if small, streamed through decoding processes if large."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backroads.data.source import Batches, Source
from backroads.errors import ConfigError, DataError, MissingDependencyError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}


def list_images(root: Path) -> tuple[list[Path], list[int], list[str]]:
    """(paths, labels, class names) of ``root/CLASS/**/image``, in the order of their names.

    Raises:
        ConfigError: no such folder, no class folders, or a class without images.
    """
    if not root.is_dir():
        raise ConfigError(f"data: expected a folder {root}, which is not there; give the folder that holds train/")
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    if not names:
        raise ConfigError(f"data: expected a folder for each class in {root}, found none")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise ConfigError(
                f"data: the class {name!r} in {root} has no images ({', '.join(sorted(SUFFIXES))}); "
                f"remove the folder or fill it"
            )
        paths += found
        labels += [label] * len(found)
    return paths, labels, names


def open_image(path: Path, mode: str = "RGB") -> Any:
    """A decoded PIL image; raises OSError and its kin for one that cannot be read."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError(
            "images: the package 'pillow' is needed and not installed; install the extra with "
            'pip install "backroads[vision]"'
        ) from error
    with Image.open(path) as image:
        return image.convert(mode)


class Corrupt:
    """Counts images that cannot be read, by name; too many end the run.

    Args:
        found: path -> reason, filled here. limit: how many may be.
    """

    def __init__(self, found: dict[str, str], limit: int) -> None:
        self.found, self.limit = found, limit

    def add(self, path: str, reason: str) -> None:
        """Note one; raises DataError over the limit."""
        self.found[path] = reason
        if len(self.found) > self.limit:
            shown = "; ".join(f"{p}: {r}" for p, r in list(self.found.items())[:5])
            raise DataError(
                f"{len(self.found)} unreadable images, {self.limit} allowed (corrupt_limit): {shown}; "
                f"mend or remove them, or allow more"
            )


def read_all(paths: list[Path], labels: list[int], mode: str, corrupt: Corrupt) -> tuple[Tensor, Tensor]:
    """All images, (N, C, H, W) uint8, and labels, without those that cannot be read; they must be of one size."""
    images: list[Any] = []
    kept: list[int] = []
    for path, label in zip(paths, labels, strict=True):
        try:
            image = np.asarray(open_image(path, mode))
        except MissingDependencyError:
            raise
        except Exception as error:  # decoders raise anything
            corrupt.add(str(path), f"{type(error).__name__}: {error}")
            continue
        if images and image.shape != images[0].shape:
            raise ConfigError(
                f"data: expected images of one size, as {paths[0]} of {images[0].shape}, got {path} of {image.shape}; "
                f"give --image-size"
            )
        images.append(image)
        kept.append(label)
    stacked = torch.from_numpy(np.stack(images))
    stacked = stacked.unsqueeze(1) if stacked.dim() == 3 else stacked.permute(0, 3, 1, 2)
    return stacked.contiguous(), torch.tensor(kept)


class StreamSource(Source):
    """Images that are decoded as they are needed, in other processes if ``workers``.

    Training: a crop of 8 to 100 % of the area and 3/4 to 4/3 in shape, resized, and mirrored half of the time
    (Szegedy et al., CVPR 2015). Evaluation: the shorter side resized to 256/224 of the size, and the middle.

    Args:
        size: pixels of the square that the network sees. vary: whether training images vary at all.
    """

    def __init__(
        self,
        paths: list[Path],
        labels: list[int],
        *,
        size: int,
        mode: str,
        mean: Tensor,
        std: Tensor,
        vary: str = "random_resized",
        workers: int = 0,
        corrupt_limit: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        self.paths, self.labels = [str(path) for path in paths], labels
        self.size, self.mode, self.vary, self.workers = size, mode, vary, workers
        self.device = torch.device(device)
        self._corrupt = Corrupt(self.corrupt, corrupt_limit)
        self._mean, self._std = mean.reshape(1, -1, 1, 1), std.reshape(1, -1, 1, 1)

    def __len__(self) -> int:
        return len(self.paths)

    def batches_of(self, picks: list[Tensor], first: list[int], seed: int | None, epoch: int) -> Batches:
        wanted = [
            [(int(i), start + offset) for offset, i in enumerate(picked)]
            for picked, start in zip(picks, first, strict=True)
        ]
        decoder = _Decoder(self.paths, self.size, self.mode, self.vary, seed, epoch)
        loader: Iterator[list[tuple[int, Any]]]
        if self.workers:
            loader = iter(
                torch.utils.data.DataLoader(
                    _Wanted(decoder, wanted),
                    batch_size=None,
                    num_workers=self.workers,
                    prefetch_factor=4,
                    pin_memory=False,
                )
            )
        else:
            loader = (decoder(batch) for batch in wanted)
        for decoded in loader:
            images, labels = [], []
            for index, image in decoded:
                if isinstance(image, str):
                    self._corrupt.add(self.paths[index], image)
                    continue
                images.append(image)
                labels.append(self.labels[index])
            if images:
                x = torch.stack(images).to(self.device).float() / 255
                x = (x - self._mean.to(self.device)) / self._std.to(self.device)
                yield x, torch.tensor(labels).to(self.device)


class _Wanted(torch.utils.data.Dataset[Any]):
    """The batches of an epoch, decoded by number."""

    def __init__(self, decoder: _Decoder, wanted: list[list[tuple[int, int]]]) -> None:
        self._decoder, self._wanted = decoder, wanted

    def __len__(self) -> int:
        return len(self._wanted)

    def __getitem__(self, i: int) -> list[tuple[int, Any]]:
        return self._decoder(self._wanted[i])


class _Decoder:
    """(index, position) of images -> (index, (C, size, size) uint8, or the reason why there is none)."""

    def __init__(self, paths: list[str], size: int, mode: str, vary: str, seed: int | None, epoch: int) -> None:
        self._paths, self._size, self._mode, self._vary = paths, size, mode, vary
        self._seed, self._epoch = seed, epoch

    def __call__(self, batch: list[tuple[int, int]]) -> list[tuple[int, Any]]:
        return [(index, self._decode(index, position)) for index, position in batch]

    def _decode(self, index: int, position: int) -> Tensor | str:
        try:
            image = open_image(Path(self._paths[index]), self._mode)
        except MissingDependencyError:
            raise
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        if self._seed is None or self._vary == "none":
            image = _middle(image, self._size)
        else:
            # SplitMix-like mixing: neighbouring positions must not give neighbouring streams.
            key = (self._seed * 1_000_003 + self._epoch) * 2_654_435_761 + position
            draws = np.random.default_rng(key % 2**63)
            image = _random_resized(image, self._size, draws)
            if draws.random() < 0.5:
                image = image.transpose(0)  # Image.Transpose.FLIP_LEFT_RIGHT
        array = torch.from_numpy(np.array(image))
        return array.unsqueeze(0) if array.dim() == 2 else array.permute(2, 0, 1).contiguous()


def _middle(image: Any, size: int) -> Any:
    width, height = image.size
    scale = size * 256 / 224 / min(width, height)
    image = image.resize((max(size, round(width * scale)), max(size, round(height * scale))), 2)  # bilinear
    left, top = (image.size[0] - size) // 2, (image.size[1] - size) // 2
    return image.crop((left, top, left + size, top + size))


def _random_resized(image: Any, size: int, draws: np.random.Generator) -> Any:
    width, height = image.size
    for _ in range(10):
        area = width * height * draws.uniform(0.08, 1)
        ratio = math.exp(draws.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draws.integers(width - w + 1)), int(draws.integers(height - h + 1))
            return image.resize((size, size), 2, box=(left, top, left + w, top + h))
    return _middle(image, size)
