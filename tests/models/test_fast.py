"""The fast network for CIFAR-10: its size, its first layer, and that its recipe trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import backroads as br
from backroads.errors import ConfigError
from backroads.models import fast_cnn
from backroads.models.fast import Whitening
from backroads.runs.settings import read_settings
from backroads.train.settings import resolve
from backroads.train.step import of_six_views
from backroads.train.trainer import train


def test_it_has_the_published_size() -> None:
    """1.97 million parameters (arXiv 2404.00498), the kernels and scales that do not learn apart."""
    net = fast_cnn()
    learned = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert learned == 24 + 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 2 * (64 + 256 + 256) + 2560
    assert round(learned / 1e6, 2) == 1.97


def test_the_first_layer_whitens_patches_with_both_signs() -> None:
    generator = torch.Generator().manual_seed(0)
    x = F.avg_pool2d(torch.randn(300, 3, 12, 12, generator=generator), 3, stride=1)  # neighbours are alike
    layer = Whitening(3)
    layer.fit(x)
    with torch.no_grad():
        y = layer(x).transpose(0, 1).flatten(1).double()
    half = len(y) // 2
    assert torch.equal(y[:half], -y[half:])
    square = y[:half] @ y[:half].T / y.shape[1]
    patches = F.unfold(x, 2).transpose(1, 2).reshape(-1, half).double()
    values = torch.linalg.eigvalsh(patches.T @ patches / len(patches)).flip(0)
    torch.testing.assert_close(square, torch.diag(values / (values + 5e-4)), rtol=1e-4, atol=1e-4)


def test_no_rule_and_no_optimiser_touches_its_kernels() -> None:
    net = br.convert(fast_cnn(), br.rules.kolen_pollack(), strict=True)
    assert "0" not in dict(br.aligned_layers(net))
    assert "0.kernels" in dict(net.named_buffers())


def test_images_that_are_too_small_are_refused() -> None:
    assert fast_cnn(shape=(3, 25, 40))(torch.zeros(2, 3, 25, 40)).shape == (2, 10)
    with pytest.raises(ConfigError, match="at least 25x25"):
        fast_cnn(shape=(3, 24, 24))


def test_its_recipe_trains_from_whitened_patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a few images of one colour each, at the start as well as at the end; six views at the end only."""
    colours = torch.randint(0, 255, (4, 3, 1, 1), generator=torch.Generator().manual_seed(0))
    noise = torch.randint(0, 60, (96, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    y = torch.arange(96) % 4
    x = (colours[y] * 0.7 + noise).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "few.npz", train_x=x[:64], train_y=y[:64].numpy(), test_x=x[64:], test_y=y[64:].numpy())
    recipe = read_settings("cifar10-fast")
    few = {"data": f"npz:{tmp_path / 'few.npz'}", "batch_size": 16, "learning_rate": 0.1, "threads": 1}
    few |= {"model_options": {"width": 16}}
    splits: list[int] = []

    def six_views(predict: Any, x: Tensor) -> Tensor:
        splits.append(len(x))
        return of_six_views(predict, x)

    monkeypatch.setattr("backroads.train.arm.of_six_views", six_views)
    train(resolve(recipe, few), tmp_path / "run", lambda _: None)
    assert sum(splits) == 32  # the test images, once
    (arm,) = json.loads((tmp_path / "run" / "results.json").read_text())["arms"]
    assert arm["accuracy"] > 0.9
    assert arm["readings"]["weight_angle"]
