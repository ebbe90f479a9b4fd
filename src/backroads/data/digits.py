"""scikit-learn's digits: 1,797 real handwritten digits of 8x8 pixels, which ship with the package.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository (1998).
"""

from __future__ import annotations

import torch

from backroads.data.parts import SPLITS, Arrays, Images
from backroads.errors import ConfigError
from backroads.extras import extra_named

TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.2  # of the training split
SPLIT_SEED = 0  # one split for everybody: results of different runs compare


def load_digits(split: str = "test") -> Images[Arrays]:
    """The digits as arrays, divided by class and always in the same way.

    Images are (N, 1, 8, 8) float32, normalised by the mean and standard deviation of the training images.

    Args:
        split: "test": the training split (1,437 images) and the test split (360). "validation": four fifths of the
            training split and the rest of it; the test split is not read. "both": these two, and the test split.

    Raises:
        ConfigError: for another split.
        MissingDependencyError: without scikit-learn.
    """
    with extra_named("data set 'digits'"):
        from sklearn.datasets import load_digits as load
        from sklearn.model_selection import train_test_split
    if split not in SPLITS:
        raise ConfigError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    bunch = load()
    images, labels = bunch.images, bunch.target
    train, test = train_test_split(
        range(len(labels)), test_size=TEST_FRACTION, random_state=SPLIT_SEED, stratify=labels
    )
    held: list[int] = []
    if split != "test":
        train, held = train_test_split(
            train, test_size=VALIDATION_FRACTION, random_state=SPLIT_SEED, stratify=labels[train]
        )
    x = torch.as_tensor(images, dtype=torch.float32).unsqueeze(1)
    y = torch.as_tensor(labels, dtype=torch.int64)
    mean, std = x[train].mean(), x[train].std()
    x = (x - mean) / std
    tested = Arrays(x[test], y[test]) if split != "validation" else None
    validated = Arrays(x[held], y[held]) if held else None
    return Images(Arrays(x[train], y[train]), tested, validated, mirror=False, normalised=True)
