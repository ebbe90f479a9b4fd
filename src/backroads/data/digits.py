"""scikit-learn's digits: 1,797 real handwritten digits of 8x8 pixels, which ship with the package.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository (1998).
"""

from __future__ import annotations

import torch

from backroads.data.parts import Arrays, Images
from backroads.errors import ConfigError
from backroads.extras import extra_named

TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.2  # of the training split
SPLIT_SEED = 0  # one split for everybody: results of different runs compare


def load_digits(split: str = "test") -> Images[Arrays]:
    """The digits as arrays, divided by class and always in the same way.

    Images are (N, 1, 8, 8) float32, normalised by the mean and standard deviation of the training images.

    Args:
        split: "test": train on the training split (1,437 images), evaluate on the test split (360). "validation":
            train on four fifths of the training split and evaluate on the rest of it; the test split is not read.
            Choices are made on "validation".

    Raises:
        ConfigError: for another split.
        MissingDependencyError: without scikit-learn.
    """
    with extra_named("data set 'digits'"):
        from sklearn.datasets import load_digits as load
        from sklearn.model_selection import train_test_split
    if split not in ("test", "validation"):
        raise ConfigError(f"split: expected 'test' or 'validation', got {split!r}")
    bunch = load()
    images, labels = bunch.images, bunch.target
    train, evaluate = train_test_split(
        range(len(labels)), test_size=TEST_FRACTION, random_state=SPLIT_SEED, stratify=labels
    )
    if split == "validation":
        train, evaluate = train_test_split(
            train, test_size=VALIDATION_FRACTION, random_state=SPLIT_SEED, stratify=labels[train]
        )
    x = torch.as_tensor(images, dtype=torch.float32).unsqueeze(1)
    y = torch.as_tensor(labels, dtype=torch.int64)
    mean, std = x[train].mean(), x[train].std()
    x = (x - mean) / std
    part = Arrays(x[evaluate], y[evaluate])
    test, validation = (part, None) if split == "test" else (None, part)
    return Images(Arrays(x[train], y[train]), test, validation, mirror=False, normalised=True)
