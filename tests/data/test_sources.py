"""What every source must do, over a table of them: order, shares, resumption, evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data.images import make_folder, make_npz
from torch import Tensor

from backroads.data import Dataset, Source, epoch_order, load_dataset
from backroads.data.memory import CHUNK, statistics
from backroads.data.source import limited
from backroads.errors import ConfigError

Make = Callable[..., Dataset]


@pytest.fixture(params=["digits", "npz", "folder", "stream", "stream_own_size"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """``load_dataset`` of one kind of data, with further options."""
    kind = request.param
    if kind == "digits":
        return lambda **options: load_dataset("digits", **options)
    if kind == "npz":
        path = make_npz(tmp_path / "a.npz", n=24, shape=(8, 8, 3))
        return lambda **options: load_dataset(f"npz:{path}", **options)
    folder = make_folder(tmp_path / "f", per_class=11, uneven=kind == "stream")
    more = {"folder": {}, "stream": {"image_size": 10}, "stream_own_size": {"in_memory": False}}[kind]
    return lambda **options: load_dataset(f"folder:{folder}", **more, **options)


def joined(source: Source, batch_size: int = 8, world: int = 1, **options: int) -> list[tuple[Tensor, Tensor]]:
    """An epoch's batches with the parts of all processes put together again."""
    options = {"seed": 3, "epoch": 2, **options}
    ranks = [list(source.train_batches(batch_size, rank=r, world=world, **options)) for r in range(world)]
    parts = zip(*ranks, strict=True)
    return [(torch.cat([x for x, _ in part]), torch.cat([y for _, y in part])) for part in parts]


def same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def test_batches_are_normalised_floats_of_the_shape_that_is_promised(make: Make) -> None:
    data = make()
    n = 0
    for x, y in data.train.train_batches(8, seed=0, epoch=1):
        assert x.shape == (8, *data.shape)
        assert (x.dtype, y.dtype, y.shape) == (torch.float32, torch.int64, (8,))
        assert 0 <= int(y.min()) <= int(y.max()) < data.classes == len(data.class_names)
        n += 1
    assert n == len(data.train) // 8
    assert data.train.corrupt == {}


def test_every_seed_and_epoch_has_an_order_of_its_own() -> None:
    orders = {(seed, epoch): tuple(epoch_order(50, seed, epoch).tolist()) for seed in range(6) for epoch in range(6)}
    assert len(set(orders.values())) == 36
    assert all(sorted(order) == list(range(50)) for order in orders.values())


def test_a_limit_takes_images_at_random_and_always_the_same(tmp_path: Path) -> None:
    """Of images that lie class by class, the first ones would all be of one class."""
    y = np.repeat(np.arange(4), 50)
    data = load_dataset(
        f"npz:{make_npz(tmp_path / 'a.npz', n=200, train_y=y, test_x=None, test_y=None)}", split="validation"
    )
    labels, again = ([int(n) for _, y in limited(data, 40).train.eval_batches(10) for n in y] for _ in range(2))
    assert len(labels) == 40
    assert labels == again
    # 40 of 180 without replacement: 10 of each class are expected, with a standard deviation of 2.4.
    assert all(3 <= labels.count(n) <= 17 for n in range(4))


@pytest.mark.parametrize("augment", ["default", "crop_flip", "random_resized"])
def test_an_epoch_is_the_same_however_it_is_shared_and_wherever_it_is_taken_up(make: Make, augment: str) -> None:
    source = make(augment=augment).train
    state = torch.random.get_rng_state()
    whole = joined(source)
    assert same(whole, joined(source))
    assert same(whole, joined(source, world=2))
    assert same(whole, joined(source, world=4))
    for start in (1, len(whole)):
        assert same(whole[start:], joined(source, start_step=start))
    assert same(whole[1:], joined(source, start_step=1, world=2))
    assert not same(whole, joined(source, epoch=3))
    assert not same(whole, joined(source, seed=4))
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_order_is_epoch_order(make: Make) -> None:
    source = make(augment="none").train
    images = torch.cat([x for x, _ in source.eval_batches(7)])
    labels = torch.cat([y for _, y in source.eval_batches(7)])
    order = epoch_order(len(source), 3, 2)
    for step, (x, y) in enumerate(joined(source)):
        picks = order[8 * step : 8 * step + 8]  # each index at most once, as the order is a permutation
        assert torch.equal(x, images[picks])
        assert torch.equal(y, labels[picks])


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_evaluation_sees_each_image_once_over_all_processes(make: Make, world: int, batch_size: int) -> None:
    source = make().evaluate
    if len(source) > 100 and batch_size == 1:
        pytest.skip("slow, and the same as for the small ones")
    reference = torch.cat([x for x, _ in source.eval_batches(5)])
    parts = [x for r in range(world) for x, _ in source.eval_batches(batch_size, rank=r, world=world)]
    assert all(0 < len(x) <= batch_size for x in parts)
    found = torch.cat(parts)
    assert len(found) == len(source)
    assert sorted(found.flatten(1).tolist()) == sorted(reference.flatten(1).tolist())


@pytest.mark.parametrize("split", ["test", "validation"])
def test_training_images_are_normalised_by_their_own_mean_where_it_is_not_known(tmp_path: Path, split: str) -> None:
    for name in (f"npz:{make_npz(tmp_path / 'a.npz', shape=(6, 6, 3))}", f"folder:{make_folder(tmp_path / 'f')}"):
        x = torch.cat([x for x, _ in load_dataset(name, split=split).train.eval_batches(5)])
        torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("augment", ["none", "crop_flip", "random_resized"])
def test_worker_processes_change_nothing(tmp_path: Path, augment: str) -> None:
    folder = make_folder(tmp_path / "f", per_class=8, uneven=True)
    here, there = (
        load_dataset(f"folder:{folder}", image_size=10, augment=augment, workers=workers, in_memory=False)
        for workers in (0, 2)
    )
    state = torch.random.get_rng_state()
    assert same(joined(here.train, 4), joined(there.train, 4))
    assert torch.equal(state, torch.random.get_rng_state())
    assert same(list(here.evaluate.eval_batches(5)), list(there.evaluate.eval_batches(5)))
    batches = there.train.train_batches(4, seed=0, epoch=0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]


def test_an_equally_sized_folder_is_the_same_in_memory_and_streamed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f")
    for augment in ("none", "crop_flip"):
        memory, stream = (
            load_dataset(f"folder:{folder}", augment=augment, in_memory=in_memory) for in_memory in (None, False)
        )
        flat = [torch.cat([x for x, _ in d.train.eval_batches(6)]).transpose(0, 1).flatten(1) for d in (memory, stream)]
        # Their constants differ: bring one to the other's by the line through all pixels of a channel.
        slope = flat[1].std(1) / flat[0].std(1)
        shift = flat[1].mean(1) - slope * flat[0].mean(1)
        for (a, y), (b, z) in zip(joined(memory.train, 4), joined(stream.train, 4), strict=True):
            assert torch.equal(y, z)
            line = a * slope[:, None, None] + shift[:, None, None]
            inside = b != 0  # the border is zero in both
            torch.testing.assert_close(line[inside], b[inside], atol=1e-4, rtol=0)
            assert torch.equal(a == 0, b == 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected 1 or more"),
        ({"batch_size": 10_000}, "batch_size: expected at most"),
        ({"batch_size": 9, "world": 2}, "multiple of the 2 processes"),
        ({"batch_size": 8, "rank": 2, "world": 2}, "rank: expected"),
        ({"batch_size": 8, "start_step": -1}, "start_step: expected 0 to"),
        ({"batch_size": 8, "start_step": 1000}, "start_step: expected 0 to"),
    ],
)
def test_impossible_batches_are_refused_before_any_is_made(make: Make, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make().train.train_batches(seed=0, epoch=0, **arguments)


def test_numpy_and_python_random_states_are_left_alone(make: Make) -> None:
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    joined(make().train)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_those_of_all_pixels(dtype: torch.dtype, channels: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    x = torch.randint(0, 256, (2 * CHUNK + 5, channels, 3, 2), generator=generator).to(dtype)
    x[:, 0] = 7  # constant: it has no standard deviation to divide by
    mean, std = statistics(x)
    pixels = x.transpose(0, 1).flatten(1).numpy().astype(np.float64)
    assert mean.dtype == std.dtype == torch.float64
    np.testing.assert_allclose(mean, pixels.mean(1), rtol=1e-13)
    np.testing.assert_allclose(std[1:], pixels.std(1)[1:], rtol=1e-13)
    assert std[0] == 1
