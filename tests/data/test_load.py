"""Data sets by name: what is accepted, how it is divided, and what is refused with which words."""

from __future__ import annotations

import importlib
import re
import shutil
import struct
import subprocess
import sys
import types
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.images import make_folder, make_npz, pixels
from PIL import Image

import backroads as br
from backroads.data import Arrays, Images, Source, load_dataset, load_digits
from backroads.data import known as known_module
from backroads.data import load as load_module
from backroads.data.augment import Augment
from backroads.data.known import DATASETS, IMAGENET_MEAN, IMAGENET_STD
from backroads.data.parts import hold_out
from backroads.errors import ConfigError, DataError, MissingDependencyError
from backroads.extras import import_torchvision

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def torchvision() -> types.ModuleType:
    try:
        return import_torchvision()
    except MissingDependencyError as error:
        pytest.skip(str(error))


def everything(source: Source) -> tuple[torch.Tensor, torch.Tensor]:
    xs, ys = zip(*source.eval_batches(64), strict=True)
    return torch.cat(xs), torch.cat(ys)


def test_importing_the_package_imports_neither_torchvision_nor_pillow() -> None:
    code = "import sys, backroads.data; assert not {'torchvision', 'PIL', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- by name ---


@pytest.mark.parametrize("split", ["both", "test", "validation"])
def test_digits_are_those_of_load_digits(split: str) -> None:
    data = load_dataset("digits", split=split)
    assert (data.classes, data.shape) == (10, (1, 8, 8))
    for source, part in zip((data.train, data.validation, data.test), load_digits(split).divided(split), strict=True):
        assert (source is None) == (part is None)
        if source is None:
            continue
        found = everything(source)
        assert torch.equal(found[0], part.x)
        assert torch.equal(found[1], part.y)


def test_digits_are_not_flipped_and_by_default_not_varied_at_all() -> None:
    images = {tuple(x.flatten().tolist()) for x in load_digits().train.x}
    for x, _ in load_dataset("digits").train.train_batches(100, seed=0, epoch=0):
        assert {tuple(image.flatten().tolist()) for image in x} <= images
    assert not load_dataset("digits", augment="crop_flip").train.augment.flip  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "Did you mean 'digits'"),
        ("cifar", "Did you mean 'cifar10"),
        ("foldr:/tmp", "Did you mean 'folder:PATH'"),
        ("folder", "Did you mean 'folder:PATH'"),
        ("folder:", "expected a path after 'folder:'"),
        ("backroads.data:load_digit", "has no 'load_digit', expected a callable. Did you mean 'load_digits'"),
        ("builtins:dict", r"expected backroads\.data\.Images, got dict"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_dataset(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"split": "valid"},
            "split: expected 'both' or 'test' or 'validation', got 'valid'. Did you mean 'validation'",
        ),
        ({"augment": "crop"}, "augment: expected .* Did you mean 'crop_flip'"),
        ({"image_size": 0}, "image_size: expected 1 or more"),
        ({"workers": -1}, "workers: expected 0 or more"),
        ({"corrupt_limit": -1}, "corrupt_limit: expected 0 or more"),
        ({"in_memory": False}, "in_memory: expected True or None"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_dataset("digits", **options)


def test_image_size_resizes_and_cuts_out_the_middle(tmp_path: Path) -> None:
    assert load_dataset("digits", image_size=12).shape == (1, 12, 12)
    ramp = np.broadcast_to(20 * np.arange(10, dtype=np.uint8)[:, None], (4, 6, 10, 3))
    data = load_dataset(f"npz:{make_npz(tmp_path / 'a.npz', n=4, train_x=ramp, test_x=ramp[:2])}", image_size=3)
    assert data.shape == (3, 3, 3)
    # Ten columns become five, of 2 k + 1/2, of which the middle three stay; a ramp stays a ramp.
    assert data.train.x[0, 0].tolist() == [[50, 90, 130]] * 3  # type: ignore[attr-defined]


# --- torchvision ---


def write_mnist(root: Path, folder: str, n: int = 60) -> None:
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for part, seed in (("train", 1), ("t10k", 2)):
        images, labels = pixels((n, 28, 28), seed), np.arange(n, dtype=np.uint8) % 10
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">iiii", 2051, n, 28, 28) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 2049, n) + labels.tobytes())


@pytest.mark.parametrize(
    ("name", "folder", "mean", "std"),
    [
        ("mnist", "MNIST", 0.1307, 0.3081),
        ("fashion_mnist", "FashionMNIST", 0.2860, 0.3530),
        ("kmnist", "KMNIST", 0.1918, 0.3483),
    ],
)
def test_torchvisions_sets_with_their_constants(
    torchvision: types.ModuleType, tmp_path: Path, name: str, folder: str, mean: float, std: float
) -> None:
    write_mnist(tmp_path, folder)
    data = load_dataset(name, root=tmp_path)
    assert (data.classes, data.shape, len(data.train), len(data.evaluate)) == (10, (1, 28, 28), 60, 60)
    for source, seed in ((data.train, 1), (data.evaluate, 2)):
        expected = (torch.from_numpy(pixels((60, 1, 28, 28), seed)) / 255 - mean) / std
        torch.testing.assert_close(everything(source)[0], expected)


def fake_torchvision(name: str, asked: list[bool], shape: tuple[int, ...] = (32, 32, 3)) -> types.SimpleNamespace:
    class Fake:
        classes = [f"class {i}" for i in range(10)]  # noqa: RUF012

        def __init__(self, root: str, train: bool, download: bool) -> None:
            asked.append(train)
            self.data = pixels((40, *shape), int(train))
            self.targets = [i % 10 for i in range(40)]

    return types.SimpleNamespace(datasets=types.SimpleNamespace(**{name: Fake}))


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize(
    ("name", "theirs", "mean", "std"),
    [
        ("cifar10", "CIFAR10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ("cifar100", "CIFAR100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    ],
)
def test_coloured_sets_and_that_validation_does_not_open_the_test_split(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    theirs: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    split: str,
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(known_module, "import_torchvision", lambda: fake_torchvision(theirs, asked))
    data = load_dataset(name, root=tmp_path, split=split)
    assert asked == ([True, False] if split == "test" else [True])
    assert (data.shape, len(data.train)) == ((3, 32, 32), 40 if split == "test" else 30)
    assert data.class_names[3] == "class 3"
    if split == "test":
        expected = torch.from_numpy(pixels((40, 32, 32, 3), 1)).permute(0, 3, 1, 2) / 255
        expected = (expected - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        torch.testing.assert_close(everything(data.train)[0], expected)


@pytest.mark.parametrize(
    ("name", "theirs", "augment", "mirror"),
    [
        ("mnist", "MNIST", Augment(), False),
        ("fashion_mnist", "FashionMNIST", Augment(flip=True), True),
        ("kmnist", "KMNIST", Augment(), False),
        ("cifar10", "CIFAR10", Augment(crop=True, flip=True), True),
        ("cifar100", "CIFAR100", Augment(crop=True, flip=True), True),
    ],
)
def test_how_the_known_sets_are_varied(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, theirs: str, augment: Augment, mirror: bool
) -> None:
    shape = (32, 32, 3) if "cifar" in name else (28, 28)
    monkeypatch.setattr(known_module, "import_torchvision", lambda: fake_torchvision(theirs, [], shape))
    found = [load_dataset(name, root=tmp_path, **more).train for more in ({}, {"augment": "crop_flip"})]
    assert [source.augment for source in found] == [augment, Augment(crop=True, flip=mirror)]  # type: ignore[attr-defined]


def test_missing_torchvision_data_says_what_to_pass(torchvision: types.ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="root: expected the folder that holds MNIST"):
        load_dataset("mnist")
    with pytest.raises(ConfigError, match=r"MNIST cannot be read from root .* download"):
        load_dataset("mnist", root=tmp_path)


@pytest.mark.skipif(not (SHARED / "MNIST").is_dir(), reason="no MNIST beside the repository")
def test_mnist_itself(torchvision: types.ModuleType) -> None:
    data = load_dataset("mnist", root=SHARED)
    assert (len(data.train), len(data.evaluate)) == (60_000, 10_000)
    x, _ = next(data.train.train_batches(10_000, seed=0, epoch=0))
    # A sixth of the images: their mean is that of all to a few standard errors of 0.01.
    assert abs(float(x.mean())) < 0.03
    assert abs(float(x.std()) - 1) < 0.03


# --- data sets of one's own ---

MINE = """
import torch
from backroads.data import Arrays, Images

def squares(split, root, extra=None):
    assert extra is None
    n = 20 if split == "validation" else 30
    x = torch.arange(n * 16, dtype=torch.float32).reshape(n, 1, 4, 4) % 251
    return Images(Arrays(x, torch.arange(n) % 2), Arrays(x[:6], torch.arange(6) % 2), class_names=("even", "odd"))

def wrong(path):
    return Images(Arrays(torch.zeros(4, 3, 2, 2, dtype=torch.float64), torch.arange(4) % 2))
"""


@pytest.fixture
def my_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_data.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))


@pytest.mark.usefixtures("my_data")
def test_a_data_set_of_your_own_by_import_path_and_by_name() -> None:
    br.register_dataset("squares", "my_data:squares")
    for name in ("my_data:squares", "squares"):
        data = load_dataset(name)
        assert (data.classes, data.shape, len(data.train), len(data.evaluate)) == (2, (1, 4, 4), 30, 6)
        assert data.class_names == ("even", "odd")
        x, _ = everything(data.train)  # normalised by its own constants
        torch.testing.assert_close((x.mean(), x.std(correction=0)), (torch.tensor(0.0), torch.tensor(1.0)))
    held = load_dataset("squares", split="validation")
    assert (len(held.train), len(held.evaluate)) == (18, 2)  # its test split is left alone
    with pytest.raises(ConfigError, match="'squares' is already taken"):
        br.register_dataset("squares", "my_data:squares")


@pytest.mark.usefixtures("my_data")
def test_a_data_set_of_your_own_is_checked() -> None:
    br.register_dataset("mine:PATH", "my_data:wrong")
    message = r"train\.x: expected a tensor, uint8 or float32 \(N, C, H, W\), got torch\.float64 \(4, 3, 2, 2\)"
    with pytest.raises(ConfigError, match=message):
        load_dataset("mine:somewhere")
    x: Any = np.zeros((4, 1, 2, 2), np.uint8)
    br.register_dataset("numpy", lambda: Images(Arrays(x, torch.arange(4) % 2)))
    with pytest.raises(ConfigError, match=r"train\.x: expected a tensor, .*, got ndarray"):
        load_dataset("numpy")


def test_constants_must_fit_the_channels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(known_module, "import_torchvision", lambda: fake_torchvision("MNIST", []))
    with pytest.raises(ConfigError, match=r"mean and std of 3 channels, got \(0\.1307,\) and"):
        load_dataset("mnist", root=tmp_path)


def test_without_a_test_split_only_validation_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    part = Arrays(torch.zeros(20, 1, 4, 4, dtype=torch.uint8), torch.arange(20) % 2)
    br.register_dataset("no test", lambda: Images(part))
    assert len(load_dataset("no test", split="validation").evaluate) == 2
    with pytest.raises(ConfigError, match="has no test split; use split 'validation'"):
        load_dataset("no test")


# --- validation ---


def test_a_tenth_of_each_class_is_held_out_and_always_the_same() -> None:
    y = torch.tensor([0] * 50 + [1] * 20 + [2] * 3 + [3])
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]
    kept, held = hold_out(y)
    assert torch.bincount(y[held], minlength=4).tolist() == [5, 2, 1, 0]
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(y)))
    assert all(torch.equal(a, b) for a, b in zip(hold_out(y), (kept, held), strict=True))


def test_validation_never_reads_the_test_split(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f", per_class=10)
    for path in (folder / "test").rglob("*.png"):
        path.write_bytes(b"not to be read")
    npz = make_npz(tmp_path / "a.npz", n=40, test_x=np.full((3, 2), np.nan), test_y=np.array([99.5]))
    for name, sizes in ((f"folder:{folder}", (18, 2)), (f"npz:{npz}", (36, 4))):
        data = load_dataset(name, split="validation")
        assert (len(data.train), len(data.evaluate)) == sizes
        images = [{tuple(x.flatten().tolist()) for x in everything(s)[0]} for s in (data.train, data.evaluate)]
        assert not images[0] & images[1]
    shutil.rmtree(folder / "test")
    assert len(load_dataset(f"folder:{folder}", split="validation").evaluate) == 2


def test_a_part_is_held_out_and_the_test_split_read_too(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f", per_class=10)
    npz = make_npz(tmp_path / "a.npz", n=40)
    for name in (f"folder:{folder}", f"npz:{npz}"):
        data, held, tested = (load_dataset(name, split=split) for split in ("both", "validation", "test"))
        assert data.validation is not None
        assert data.test is not None
        assert held.test is None
        assert tested.validation is None
        assert torch.equal(everything(data.train)[1], everything(held.train)[1])
        assert torch.equal(everything(data.validation)[0], everything(held.evaluate)[0])
        assert torch.equal(everything(data.test)[1], everything(tested.evaluate)[1])


def test_nothing_to_hold_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a validation part needs a class with two training images"):
        load_dataset(f"folder:{make_folder(tmp_path, per_class=1)}", split="validation")


# --- folders ---


def test_a_folder_is_its_images(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, classes=("b", "a", "ä"))
    (folder / "train" / "a" / ".hidden.png").write_bytes(b"")
    (folder / "train" / "a" / "notes.txt").write_bytes(b"")
    (folder / "train" / ".cache").mkdir()
    (folder / "train" / "a" / "000.png").rename(folder / "train" / "a" / "ü.PNG")
    data = load_dataset("folder:" + folder.name, root=folder.parent)
    assert data.class_names == ("a", "b", "ä")
    assert (data.shape, len(data.train), len(data.evaluate)) == ((3, 12, 12), 18, 18)
    paths = sorted((folder / "train" / "a").glob("*.[pP]*")) + sorted((folder / "train" / "b").glob("*.png"))
    raw = []
    for path in [p for p in paths if not p.name.startswith(".")]:
        with Image.open(path) as image:
            raw.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    found, labels = everything(data.train)
    assert labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    stored = data.train.x  # type: ignore[attr-defined]
    assert stored.dtype == torch.uint8
    assert torch.equal(stored[:12], torch.stack(raw))
    assert found.dtype == torch.float32


def test_channels_of_grey_folders(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, grey=True)
    assert load_dataset(f"folder:{folder}").shape == (1, 12, 12)
    assert load_dataset(f"folder:{folder}", in_memory=False).shape == (3, 12, 12)
    x, _ = everything(load_dataset(f"folder:{folder}").evaluate)
    with Image.open(sorted((folder / "test").rglob("*.png"))[-1]) as image:
        image.convert("RGB").save(folder / "test" / "dog" / "999.png")
    data = load_dataset(f"folder:{folder}")
    assert data.shape == (3, 12, 12)
    coloured, _ = everything(data.evaluate)
    assert torch.equal(coloured[:, 0], coloured[:, 2])
    torch.testing.assert_close(coloured[:-1, :1], x, atol=1e-5, rtol=0)


def test_which_folders_are_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    even, uneven = make_folder(tmp_path / "a"), make_folder(tmp_path / "b", uneven=True)

    def kept(path: Path, **options: Any) -> bool:
        return hasattr(load_dataset(f"folder:{path}", **options).train, "x")

    assert kept(even)
    assert not kept(even, in_memory=False)
    assert not kept(uneven, image_size=8)
    assert kept(uneven, image_size=8, in_memory=True)
    with pytest.raises(ConfigError, match="image_size: expected a size"):
        load_dataset(f"folder:{uneven}")
    monkeypatch.setattr(load_module, "IN_MEMORY_BYTES", 24 * 3 * 12 * 12 - 1)
    assert not kept(even)


def test_imagenet_is_streamed_with_its_constants_at_224(tmp_path: Path) -> None:
    root = make_folder(tmp_path, splits=("train", "val"), size=(30, 40))
    data = load_dataset("imagenet", root=root)
    assert data.shape == (3, 224, 224)
    assert data.train.augment.resized  # type: ignore[attr-defined]
    assert load_dataset("imagenet", root=root, image_size=10).shape == (3, 10, 10)
    with pytest.raises(ConfigError, match="root: expected the folder that holds imagenet's train/CLASS"):
        load_dataset("imagenet")


def test_evaluation_of_a_stream_resizes_the_shorter_side_and_takes_the_middle(
    torchvision: types.ModuleType, tmp_path: Path
) -> None:
    transforms = importlib.import_module("torchvision.transforms")
    folder = make_folder(tmp_path, size=(40, 64), uneven=True)
    data = load_dataset(f"folder:{folder}", image_size=28)
    reference = transforms.Compose(
        [
            transforms.Resize(32),
            transforms.CenterCrop(28),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    expected = []
    for path in sorted((folder / "test").rglob("*.png")):
        with Image.open(path) as image:
            expected.append(reference(image.convert("RGB")))
    torch.testing.assert_close(everything(data.evaluate)[0], torch.stack(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "RGB"])
def test_all_usual_kinds_of_images_are_read(tmp_path: Path, mode: str) -> None:
    folder = make_folder(tmp_path)
    suffix = "tif" if mode == "CMYK" else "png"
    with Image.open(folder / "train" / "cat" / "000.png") as image:
        other = image.convert(mode)
    options = {"transparency": bytes(range(256))} if mode == "P" else {}
    other.save(folder / "train" / "cat" / f"100.{suffix}", **options)
    for in_memory in (True, False):
        data = load_dataset(f"folder:{folder}", in_memory=in_memory)
        assert data.shape[0] == 3
        assert len(everything(data.train)[0]) == 13


def test_deep_images_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    Image.fromarray(np.full((12, 12), 40_000, np.uint16)).save(folder / "train" / "cat" / "100.png")
    with pytest.raises(ConfigError, match="8 bits a channel"):
        load_dataset(f"folder:{folder}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: shutil.rmtree(f), "expected a folder of images, and .* is none"),
        (lambda f: shutil.rmtree(f / "train"), "train with a folder for each class, and there is none"),
        (lambda f: shutil.rmtree(f / "test"), "test or .*val to evaluate on"),
        (lambda f: [shutil.rmtree(p) for p in (f / "train").iterdir()], "a folder for each class in .*train"),
        (lambda f: shutil.rmtree(f / "train" / "cat"), "at least two classes"),
        (lambda f: [p.unlink() for p in (f / "train" / "cat").iterdir()], r"expected images in .*train.cat"),
        (lambda f: (f / "test" / "dog").rename(f / "test" / "wolf"), "only one of them has dog, wolf"),
        (lambda f: [p.write_bytes(b"") for p in f.rglob("*.png")], "none of the sampled ones can be read"),
    ],
)
def test_folders_that_will_not_do(tmp_path: Path, change: Any, message: str) -> None:
    folder = make_folder(tmp_path / "f")
    change(folder)
    with pytest.raises(ConfigError, match=message):
        load_dataset(f"folder:{folder}")


# --- unreadable images ---


def spoil(folder: Path, *names: str) -> list[str]:
    paths = [folder / name for name in names]
    for i, path in enumerate(paths):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if i % 2 else b"not an image")
    return [str(path) for path in paths]


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_of_a_stream_are_named_counted_and_skipped(tmp_path: Path, workers: int) -> None:
    folder = make_folder(tmp_path)
    bad = spoil(folder, "train/cat/001.png", "train/dog/004.png")

    def source(limit: int) -> Source:
        options: dict[str, Any] = {"in_memory": False, "workers": workers, "augment": "none"}
        return load_dataset(f"folder:{folder}", corrupt_limit=limit, **options).train

    lenient = source(2)
    for epoch in (1, 2):  # the same ones again do not count again
        batches = list(lenient.train_batches(6, seed=0, epoch=epoch))
        assert len(batches) == 2
        assert sum(len(y) for _, y in batches) == 10
        assert all(len(x) == len(y) for x, y in batches)
    assert set(lenient.corrupt) == set(bad)
    assert all(reason for reason in lenient.corrupt.values())
    assert len(everything(lenient)[0]) == 10
    with pytest.raises(DataError, match=r"at most 1 unreadable images \(corrupt_limit\), got 2") as caught:
        list(source(1).train_batches(6, seed=0, epoch=1))
    assert all(path in str(caught.value) for path in bad)


def test_an_unreadable_image_changes_nothing_about_the_others(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)

    def epoch() -> list[tuple[torch.Tensor, torch.Tensor]]:
        data = load_dataset(f"folder:{folder}", image_size=10, in_memory=False, corrupt_limit=1)
        return list(data.train.train_batches(6, seed=0, epoch=1))

    whole = epoch()
    spoil(folder, "train/cat/001.png")
    for (x, _), (y, _) in zip(whole, epoch(), strict=True):
        rows = {tuple(image.flatten().tolist()) for image in x}
        assert {tuple(image.flatten().tolist()) for image in y} <= rows


def test_a_batch_of_nothing_is_an_error(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    spoil(folder, *(f"train/{name}/{i:03}.png" for name in ("cat", "dog") for i in range(6)))
    source = load_dataset(f"folder:{folder}", in_memory=False, corrupt_limit=99).train
    with pytest.raises(DataError, match="none of the 6 images of a batch can be read"):
        next(source.train_batches(6, seed=0, epoch=1))
    assert list(source.eval_batches(6)) == []


def test_unreadable_images_are_left_out_of_memory(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    bad = spoil(folder, "train/cat/001.png", "test/dog/004.png")
    with pytest.raises(DataError, match="at most 1"):
        load_dataset(f"folder:{folder}", corrupt_limit=1)
    for workers in (0, 1):
        data = load_dataset(f"folder:{folder}", corrupt_limit=2, workers=workers)
        assert (len(data.train), len(data.evaluate)) == (11, 11)
        assert everything(data.train)[1].tolist() == [0] * 5 + [1] * 6
        assert set(data.train.corrupt) == set(bad)


def test_an_image_of_another_size_counts_as_unreadable_with_the_remedy(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, per_class=300)  # more than are looked at before
    Image.fromarray(pixels((13, 12, 3))).save(folder / "train" / "cat" / "299.png")
    with pytest.raises(DataError, match="its size is 13 x 12 and not 12 x 12 like the others'; give image_size"):
        load_dataset(f"folder:{folder}")


# --- arrays ---


@pytest.mark.parametrize(("shape", "expected"), [((8, 9), (1, 8, 9)), ((8, 9, 1), (1, 8, 9)), ((8, 9, 3), (3, 8, 9))])
@pytest.mark.parametrize("kind", [np.uint8, np.float64, np.float16])
def test_arrays_are_read_channels_last(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, int, int], kind: type[np.generic]
) -> None:
    x = pixels((20, *shape), 1).astype(kind)
    data = load_dataset(f"npz:{make_npz(tmp_path / 'a.npz', train_x=x, test_x=x[:10])}", augment="none")
    assert data.shape == expected
    raw = torch.from_numpy(x.astype(np.float32).reshape(20, *shape[:2], -1)).permute(0, 3, 1, 2)
    mean, std = raw.mean((0, 2, 3), keepdim=True), raw.std((0, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(everything(data.train)[0], (raw - mean) / std, atol=1e-5, rtol=1e-5)


def test_a_constant_channel_stays_finite(tmp_path: Path) -> None:
    x = np.full((20, 8, 8), 7, np.uint8)
    found, _ = everything(load_dataset(f"npz:{make_npz(tmp_path / 'a.npz', train_x=x)}").train)
    assert torch.equal(found, torch.zeros(20, 1, 8, 8))


NAN = np.zeros((20, 8, 8), np.float32)
NAN[3, 1, 1] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_y": None}, "expected train_x, train_y, test_x, test_y in .*, got train_x, test_x, test_y"),
        ({"train_x": pixels((20, 3, 8, 8))}, r"channels come last: transpose\(0, 2, 3, 1\)"),
        ({"train_x": pixels((20, 8, 8, 2))}, "expected 1 or 3 channels"),
        ({"train_x": pixels((20, 8))}, r"expected shape \(N, H, W\)"),
        ({"train_x": np.zeros((20, 8, 8), np.int64)}, "expected uint8 or floating point, got int64"),
        ({"train_x": np.zeros((0, 8, 8), np.uint8), "train_y": np.zeros(0, int)}, "expected images, got an array"),
        ({"train_x": NAN}, "expected finite numbers, got NaN or infinity in 1 images, the first of index 3"),
        ({"train_x": np.full((20, 8, 8), 1e300)}, "expected finite numbers"),
        ({"test_x": pixels((10, 8, 8, 3))}, r"images of one \(C, H, W\) in all splits"),
        ({"test_x": pixels((10, 9, 8))}, r"images of one \(C, H, W\) in all splits"),
        ({"test_x": np.zeros((10, 8, 8))}, "images of one dtype in all splits"),
        ({"train_y": np.arange(19) % 2}, "one label for each of 20 images, got 19"),
        ({"train_y": np.arange(20) % 2 * 2}, "every label from 0 to 2 at least once, and 1 is missing"),
        ({"train_y": np.arange(20) % 2 - 1}, "labels from 0 to 0, got -1"),
        ({"train_y": np.zeros(20, int)}, "at least two classes"),
        ({"train_y": np.arange(20) % 2 + 0.5}, "expected integers, got float64"),
        ({"train_y": np.ones((20, 2), int)}, r"expected shape \(N,\)"),
        ({"test_y": np.arange(10)}, "labels from 0 to 1, got 2"),
        ({"train_x": np.array([{}] * 20, dtype=object)}, "cannot be read .*; write it again"),
    ],
)
def test_arrays_that_will_not_do(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_dataset(f"npz:{make_npz(tmp_path / 'a.npz', **changes)}")


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a file that numpy\.savez wrote"):
        load_dataset(f"npz:{tmp_path / 'none.npz'}")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ConfigError, match="is one array"):
        load_dataset(f"npz:{tmp_path / 'one.npy'}")
    path = make_npz(tmp_path / "a.npz")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ConfigError, match="cannot be read"):
        load_dataset(f"npz:{path}")


# --- what could fill the memory ---


def npy(shape: str, content: bytes = b"", dtype: str = "|u1") -> bytes:
    """A file of an array whose header says any shape."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content


def archive(path: Path, train_x: bytes, compression: int = zipfile.ZIP_STORED, **said: int) -> Path:
    """An archive with these bytes as train_x; ``said``: what its directory says of them."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("train_x.npy", train_x)
        for name in ("train_y", "test_x", "test_y"):
            file.writestr(f"{name}.npy", npy("(2,)", bytes(2)))
        for field, value in said.items():
            setattr(file.getinfo("train_x.npy"), field, value)
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    "shape", ["(1000000000000,)", "(10000000, 1000, 1000, 3)", f"({2**62}, {2**62})", "(8, 8, 8, 3)"]
)
def test_an_array_larger_than_its_file_is_refused_before_memory_is_asked_for(
    shape: str, compression: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("an array was read"))
    path = archive(tmp_path / "a.npz", npy(shape, bytes(100)), compression)
    with pytest.raises(ConfigError, match=rf"train_x\.npy in .*a\.npz has the shape {re.escape(shape)}, of \d+ bytes"):
        load_dataset(f"npz:{path}")


def test_a_directory_that_lies_about_sizes_is_not_believed(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", npy("(1000000000000,)", bytes(100)), zipfile.ZIP_DEFLATED, file_size=2**41)
    with pytest.raises(ConfigError, match=r"a\.npz"):
        load_dataset(f"npz:{path}")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x05\x06" + bytes(18),
        b"\x80\x04\x95",
        b"not numpy's",
        npy("(1, 1, 1)", bytes(1)),
        npy("(" * 2_000 + ")" * 2_000),
        npy("(-1, 8, 8)", bytes(64)),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_files_that_are_no_archives_of_arrays_are_refused_in_a_line(
    content: bytes, inside: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    if inside:
        archive(path, content)
    with pytest.raises(ConfigError, match=r"data: |_x: ") as caught:
        load_dataset(f"npz:{path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [1, 30, 200, 700])
def test_an_archive_that_was_cut_off_is_refused(kept: int, tmp_path: Path) -> None:
    path = make_npz(tmp_path / "a.npz")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ConfigError, match=r"a\.npz cannot be read .*; write it again with numpy\.savez"):
        load_dataset(f"npz:{path}")


def test_pickles_and_encrypted_archives_are_refused_unopened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    path = make_npz(tmp_path / "a.npz", train_x=np.array([Trap(), Trap()], dtype=object))
    with pytest.raises(ConfigError, match="a\\.npz cannot be read"):
        load_dataset(f"npz:{path}")
    assert not (tmp_path / "executed").exists()
    content = bytearray(make_npz(path).read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + place] |= 1  # "is encrypted"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="encrypted"):
        load_dataset(f"npz:{path}")


def bomb(path: Path, width: int, height: int) -> None:
    """A PNG of a hundred bytes whose header says any size."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(9))))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (*chunks, (b"IEND", b""))
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (80_000_000, 1), (1, 80_000_000)])
def test_images_of_absurd_sizes_are_unreadable_images(size: tuple[int, int], tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    for split in ("train", "test"):
        bomb(folder / split / "dog" / "bomb.png", *size)
    for options in ({}, {"in_memory": False, "augment": "random_resized"}):
        data = load_dataset(f"folder:{folder}", corrupt_limit=2, image_size=8, **options)  # type: ignore[arg-type]
        seen = sum(len(y) for _, y in data.train.train_batches(13 if options else 12, seed=0, epoch=0))
        seen += sum(len(y) for _, y in data.evaluate.eval_batches(8))
        assert seen == 24
        assert {Path(name).name for name in data.train.corrupt} == {"bomb.png"}


def test_what_only_calls_itself_an_image_is_not_run(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 12\n%%EndComments\nshowpage\n"
    (folder / "train" / "dog" / "script.png").write_bytes(script)
    (folder / "train" / "dog" / "nothing.png").write_bytes(b"")
    data = load_dataset(f"folder:{folder}", corrupt_limit=2)
    assert all("UnidentifiedImageError" in reason for reason in data.train.corrupt.values())
    assert len(data.train.corrupt) == 2
    with pytest.raises(ConfigError, match="image_size: expected at most 16384, got 1000000000"):
        load_dataset(f"folder:{folder}", image_size=10**9)
