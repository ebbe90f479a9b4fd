"""The weights of the layer that sees the images, as bytes: which layer that is, and what a byte means."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import backroads as br
from backroads.models import build_model
from backroads.runs.schema import Fields, TrainingResults
from backroads.train.comparison import resolve_comparison
from backroads.train.fields import fields, first_layer
from backroads.train.load import load_model
from backroads.train.settings import resolve
from backroads.train.trainer import compare, train


def weights(found: Fields) -> np.ndarray:
    """The stored bytes as numbers from -1 to 1, (units, height, width, channels)."""
    stored = np.frombuffer(base64.b64decode(found.values), np.uint8)
    return (stored.reshape(found.shape).astype(float) - 128) / 127


def test_every_unit_is_over_its_largest_weight() -> None:
    W = torch.randn(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    W[2] = 0.0
    found = fields(W)
    assert (found.units, found.shape) == (5, (5, 4, 6, 3))
    expected = (W / W.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-30)).movedim(1, -1).numpy()
    np.testing.assert_allclose(weights(found), expected, atol=0.51 / 127)


def test_many_or_large_units_are_cut_to_what_fits_on_a_page() -> None:
    assert fields(torch.ones(96, 3, 5, 5)).shape == (64, 5, 5, 3)
    assert fields(torch.ones(500, 3, 32, 32)).shape == (10, 32, 32, 3)
    for shape in ((4, 2, 3, 3), (4, 9), (4, 3, 224, 224)):
        with pytest.raises(ValueError, match="W: expected"):
            fields(torch.ones(shape))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_convolution_of_images_is_shown_under_every_method(channels: int) -> None:
    shape = (channels, 16, 16)
    for method in ("feedback", "local_errors", "softhebb"):
        model = build_model("vgg8b", classes=4, shape=shape, options={"width": 0.05})
        W = model[0].weight.detach().clone()
        br.get_method(method).prepare(model, torch.zeros(2, *shape), 0)
        found = first_layer(model, shape)
        assert found is not None
        assert (found.layer, found.units, found.shape) == ("0", len(W), (len(W), 3, 3, channels))
        expected = (W / W.abs().amax((1, 2, 3), keepdim=True)).movedim(1, -1).numpy()
        np.testing.assert_allclose(weights(found), expected, atol=0.51 / 127)


def test_a_linear_layer_of_all_pixels_is_shown() -> None:
    model = build_model("mlp", classes=4, shape=(1, 8, 6), options={"hidden": [7]})
    W = next(m for m in model if isinstance(m, nn.Linear)).weight.detach()
    found = first_layer(model, (1, 8, 6))
    assert found is not None
    assert found.shape == (7, 8, 6, 1)
    expected = (W / W.abs().amax(1, keepdim=True)).unflatten(1, (8, 6)).unsqueeze(-1).numpy()
    np.testing.assert_allclose(weights(found), expected, atol=0.51 / 127)


def test_parameters_of_the_network_itself_are_no_layer() -> None:
    """A transformer's place codes are registered before its patches' convolution."""
    found = first_layer(build_model("vit", classes=4, shape=(3, 32, 32), options={"patch": 4}), (3, 32, 32))
    assert found is not None
    assert found.shape[1:] == (4, 4, 3)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Conv2d(2, 4, 3), (2, 8, 8)),  # no picture
        (nn.Conv2d(3, 4, 1), (3, 8, 8)),  # a pixel
        (nn.Conv2d(3, 3, 3, groups=3), (3, 8, 8)),
        (nn.Linear(8, 4), (1, 8, 8)),  # rows
        (nn.Linear(3 * 224 * 224, 2), (3, 224, 224)),  # too large
        (nn.Conv1d(1, 4, 3), (1, 8, 8)),
        (nn.ReLU(), (1, 8, 8)),
    ],
)
def test_other_layers_are_not(model: nn.Module, shape: tuple[int, int, int]) -> None:
    assert first_layer(nn.Sequential(nn.Flatten(), model), shape) is None


def test_a_training_ends_with_what_its_last_checkpoint_holds(tmp_path: Path) -> None:
    quick = {"data": "digits", "limit": 64, "model": "digits_conv", "epochs": 1, "batch_size": 32, "threads": 1}
    for name, more in (("plain", {}), ("mean", {"ema": 0.5})):
        config = resolve({**quick, **more})
        results = train(config, tmp_path / name, lambda _: None)
        assert isinstance(results, TrainingResults)
        model = load_model(tmp_path / name, config, "last")[0]
        assert results.arms[0].fields == fields(model.get_parameter("block1.conv.weight"), "block1.conv")


def test_a_comparison_keeps_no_weights(tmp_path: Path) -> None:
    config = resolve_comparison({"rules": ["backprop"], "limit": 64, "epochs": 1, "seeds": [0, 1], "threads": 1})
    results = compare(config, tmp_path, lambda _: None)
    assert isinstance(results, TrainingResults)
    assert [arm.fields for arm in results.arms] == [None, None]
