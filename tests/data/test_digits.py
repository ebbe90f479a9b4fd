"""The digits: honest splits and a reproducible order."""

from __future__ import annotations

import pytest
import torch

from backroads.data import batches, epoch_order, load_digits
from backroads.errors import ConfigError


def _rows(x: torch.Tensor, y: torch.Tensor) -> set[tuple[float, ...]]:
    return {(*image.flatten().tolist(), float(label)) for image, label in zip(x, y, strict=True)}


def test_sizes_and_balance() -> None:
    train, validation, test = load_digits("test").divided("test")
    assert validation is None
    assert test is not None
    assert train.x.shape == (1437, 1, 8, 8)
    assert test.x.shape == (360, 1, 8, 8)
    # By class: each digit has its share of the test split to within one image of a fifth of its images.
    everything = torch.bincount(torch.cat([train.y, test.y]), minlength=10)
    assert (torch.bincount(test.y, minlength=10) - everything / 5).abs().max() <= 1


def test_images_are_centred_by_the_training_split() -> None:
    x = load_digits("test").train.x
    torch.testing.assert_close(x.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(), torch.tensor(1.0), atol=1e-5, rtol=0)


def test_validation_is_cut_from_the_training_split_and_never_from_the_test_split() -> None:
    whole, (*parts, test) = load_digits("test").train, load_digits("both").divided("both")
    assert sum(len(part.y) for part in parts) == len(whole.y) == 1437
    assert load_digits("validation").test is None

    rows = [_rows(part.x, part.y) for part in (*parts, test)]
    assert not rows[0] & rows[1]
    assert not rows[2] & (rows[0] | rows[1])
    # The test split is the same, but for the scaling: pixels are whole numbers from 0 to 16.
    pixels = [((x - x.min()) / (x.max() - x.min()) * 16).round() for x in (test.x, load_digits("test").test.x)]
    assert torch.equal(*pixels)


def test_splits_do_not_change_between_calls() -> None:
    (train, held, _), (again, held_again, _) = (load_digits("validation").divided("validation") for _ in range(2))
    assert torch.equal(train.x, again.x)
    assert torch.equal(held.y, held_again.y)


def test_unknown_split() -> None:
    with pytest.raises(ConfigError, match="one of both, test, validation, got 'training'"):
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
