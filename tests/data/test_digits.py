"""The digits: honest splits and a reproducible order."""

from __future__ import annotations

import pytest
import torch

from backroads.data import batches, epoch_order, load_digits
from backroads.errors import ConfigError


def _rows(x: torch.Tensor, y: torch.Tensor) -> set[tuple[float, ...]]:
    return {(*image.flatten().tolist(), float(label)) for image, label in zip(x, y, strict=True)}


def test_sizes_and_balance() -> None:
    split = load_digits("test")
    assert split.train_x.shape == (1437, 1, 8, 8)
    assert split.eval_x.shape == (360, 1, 8, 8)
    # By class: each digit has its share of the test split to within one image of a fifth of its images.
    everything = torch.bincount(torch.cat([split.train_y, split.eval_y]), minlength=10)
    assert (torch.bincount(split.eval_y, minlength=10) - everything / 5).abs().max() <= 1


def test_images_are_centred_by_the_training_split() -> None:
    split = load_digits("test")
    torch.testing.assert_close(split.train_x.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(split.train_x.std(), torch.tensor(1.0), atol=1e-5, rtol=0)


def test_validation_is_cut_from_the_training_split_and_never_from_the_test_split() -> None:
    test, validation = load_digits("test"), load_digits("validation")
    assert len(validation.train_y) + len(validation.eval_y) == len(test.train_y)

    # Undo the scaling, which differs: pixels are whole numbers from 0 to 16.
    def pixels(x: torch.Tensor) -> torch.Tensor:
        return ((x - x.min()) / (x.max() - x.min()) * 16).round()

    held_out = _rows(pixels(test.eval_x), test.eval_y)
    choosing = _rows(
        pixels(torch.cat([validation.train_x, validation.eval_x])), torch.cat([validation.train_y, validation.eval_y])
    )
    assert not held_out & choosing


def test_splits_do_not_change_between_calls() -> None:
    first, again = load_digits("validation"), load_digits("validation")
    assert torch.equal(first.train_x, again.train_x)
    assert torch.equal(first.eval_y, again.eval_y)


def test_unknown_split() -> None:
    with pytest.raises(ConfigError, match="'test' or 'validation', got 'training'"):
        load_digits("training")


def test_order_is_a_permutation_and_a_function_of_seed_and_epoch() -> None:
    order = epoch_order(100, seed=3, epoch=5)
    assert sorted(order.tolist()) == list(range(100))
    state = torch.random.get_rng_state()
    assert torch.equal(order, epoch_order(100, seed=3, epoch=5))
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.equal(order, epoch_order(100, seed=3, epoch=6))
    assert not torch.equal(order, epoch_order(100, seed=4, epoch=5))


def test_batches_cover_every_example_once() -> None:
    picks = list(batches(10, 4, seed=0, epoch=1))
    assert [len(p) for p in picks] == [4, 4, 2]
    assert sorted(torch.cat(picks).tolist()) == list(range(10))
