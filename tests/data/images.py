"""Small synthetic folders and arrays for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pixels(size: tuple[int, ...], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def make_folder(
    root: Path,
    *,
    per_class: int = 6,
    classes: tuple[str, ...] = ("cat", "dog"),
    size: tuple[int, int] = (12, 12),
    grey: bool = False,
    uneven: bool = False,
    splits: tuple[str, ...] = ("train", "test"),
) -> Path:
    """PNG images (lossless, so that pixels can be compared), each with pixels of its own."""
    seed = 0
    for split in splits:
        for name in classes:
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(per_class):
                seed += 1
                h, w = (size[0] + seed % 5, size[1] + seed % 3) if uneven else size
                Image.fromarray(pixels((h, w) if grey else (h, w, 3), seed)).save(root / split / name / f"{i:03}.png")
    return root


def make_npz(path: Path, n: int = 20, classes: int = 2, shape: tuple[int, ...] = (8, 8), **changes: object) -> Path:
    """Arrays of ``npz:PATH``; ``changes`` replace them, and None leaves one out."""
    arrays: dict[str, object] = {
        "train_x": pixels((n, *shape), 1),
        "train_y": np.arange(n) % classes,
        "test_x": pixels((n // 2, *shape), 2),
        "test_y": np.arange(n // 2) % classes,
        **changes,
    }
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})  # type: ignore[arg-type]
    return path
