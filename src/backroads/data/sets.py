"""The data sets by name: one entry in the table each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backroads._optional import import_torchvision
from backroads._registry import Registry
from backroads.data.digits import SPLIT_SEED, load_digits
from backroads.data.folder import Corrupt, StreamSource, list_images, open_image, read_all
from backroads.data.memory import CROP_PADDING, Augmentation, MemorySource
from backroads.data.source import Dataset, Source
from backroads.errors import ConfigError, nearest

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
IN_MEMORY = 2 * 2**30  # bytes of decoded images of a folder that are held on the device
HELD_OUT = 0.1  # of the training split, for validation
AUGMENTS = ("default", "none", "crop_flip", "random_resized")


@dataclasses.dataclass(frozen=True)
class Request:
    """What was asked for; see :func:`load_dataset`."""

    name: str
    path: str
    split: str
    root: Path | None
    download: bool
    image_size: int | None
    augment: str
    device: torch.device
    workers: int
    corrupt_limit: int
    in_memory: bool | None


LOADERS: Registry[Callable[[Request], Dataset]] = Registry("data set", ConfigError)


def load_dataset(
    name: str,
    *,
    split: str = "test",
    root: str | Path | None = None,
    download: bool = False,
    image_size: int | None = None,
    augment: str = "default",
    device: str | torch.device = "cpu",
    workers: int = 0,
    corrupt_limit: int = 0,
    in_memory: bool | None = None,
) -> Dataset:
    """A data set by name.

    Args:
        name: digits, mnist, fashion_mnist, kmnist, cifar10, cifar100, imagenet, ``folder:PATH`` (train/CLASS and
            val/CLASS or test/CLASS) or ``npz:PATH`` (train_x, train_y, test_x, test_y).
        split: "test": train on the training split and evaluate on the test split. "validation": hold out a part of the
            training split, by class and always the same, and do not read the test split.
        root: where torchvision's sets lie. download: fetch them. image_size: pixels, for folders and ImageNet.
        augment: "default" (usual for the set), "none", "crop_flip", "random_resized" (folders that are streamed).
        device: where small sets lie and batches appear. workers: decoding processes. corrupt_limit: unreadable images
            of a folder that are skipped. in_memory: hold a folder in memory; None decides by size.

    Raises:
        ConfigError: what is missing or wrong, before anything is trained. MissingDependencyError: torchvision or pillow
            is needed. DataError: more unreadable images than allowed.
    """
    kind, colon, path = name.partition(":")
    if split not in ("test", "validation"):
        raise ConfigError(f"split: expected 'test' or 'validation', got {split!r}")
    if augment not in AUGMENTS:
        raise ConfigError(
            f"augment: expected one of {', '.join(AUGMENTS)}, got {augment!r}.{nearest(augment, AUGMENTS)}"
        )
    load = LOADERS.get(kind)
    if kind in ("folder", "npz") and not path:
        raise ConfigError(f"data: expected {kind}:PATH, got {name!r}")
    if colon and kind not in ("folder", "npz"):
        raise ConfigError(f"data: {kind!r} takes no path, got {name!r}; give its place with root")
    where = None if root is None else Path(root)
    return load(
        Request(
            name,
            path,
            split,
            where,
            download,
            image_size,
            augment,
            torch.device(device),
            workers,
            corrupt_limit,
            in_memory,
        )
    )


# -- in memory --------------------------------------------------------------------------------------------------------


def _in_memory(
    request: Request,
    train: tuple[Tensor, Tensor],
    evaluate: tuple[Tensor, Tensor] | None,
    class_names: list[str],
    usual: Augmentation,
    statistics: tuple[Any, Any] | None = None,
) -> Dataset:
    """A set of small images, checked. ``evaluate`` is None on "validation"."""
    if request.augment == "random_resized":
        raise ConfigError("augment: 'random_resized' is for folders of large images; use 'default' or 'crop_flip'")
    if request.image_size is not None and request.image_size != train[0].shape[-1]:
        raise ConfigError(
            f"image_size: {request.name} has images of {train[0].shape[-1]} pixels, got {request.image_size}; "
            f"leave it out"
        )
    _check(request.name, "training", *train, len(class_names))
    if evaluate is None:
        kept, out = _hold_out(train[1])
        evaluate = (train[0][out], train[1][out])
        train = (train[0][kept], train[1][kept])
    else:
        _check(request.name, "test", *evaluate, len(class_names))
        if evaluate[0].shape[1:] != train[0].shape[1:]:
            raise ConfigError(
                f"{request.name}: expected test images of shape {tuple(train[0].shape[1:])}, as in training, "
                f"got {tuple(evaluate[0].shape[1:])}"
            )
    scale = 255.0 if train[0].dtype == torch.uint8 else 1.0
    if statistics is None:
        as_double = train[0].double() / scale
        mean, std = as_double.mean((0, 2, 3)), as_double.std((0, 2, 3)).clamp(min=1e-6)
    else:
        mean, std = (torch.tensor(s, dtype=torch.float64) for s in statistics)
    vary = {
        "default": usual,
        "none": Augmentation(),
        "crop_flip": Augmentation(CROP_PADDING, True),
    }[request.augment]

    def source(images: Tensor, labels: Tensor, augmentation: Augmentation) -> Source:
        return MemorySource(
            images, labels, mean=mean, std=std, scale=scale, augmentation=augmentation, device=request.device
        )

    channels, height, width = train[0].shape[1:]
    return Dataset(
        request.name,
        len(class_names),
        (channels, height, width),
        source(*train, vary),
        source(*evaluate, Augmentation()),
        tuple(class_names),
    )


def _check(name: str, split: str, images: Tensor, labels: Tensor, classes: int) -> None:
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ConfigError(f"{name}: expected {split} images with 1 or 3 channels, got shape {tuple(images.shape)}")
    if len(images) == 0:
        raise ConfigError(f"{name}: expected {split} images, got none")
    if len(images) != len(labels):
        raise ConfigError(f"{name}: expected a label for each of {len(images)} {split} images, got {len(labels)}")
    if images.is_floating_point() and not bool(images.isfinite().all()):
        raise ConfigError(f"{name}: expected finite {split} images, got NaN or infinity")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ConfigError(f"{name}: expected {split} labels from 0 to {classes - 1}, got {low} to {high}")


def _hold_out(labels: Tensor) -> tuple[Tensor, Tensor]:
    """(kept, held out) indices: a tenth of each class, always the same."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        if len(members) < 2:
            raise ConfigError(
                f"split: 'validation' needs two training images of each class, class {int(label)} has one"
            )
        picks = torch.randperm(len(members), generator=generator)[: max(1, round(HELD_OUT * len(members)))]
        out[members[picks]] = True
    return (~out).nonzero()[:, 0], out.nonzero()[:, 0]


def _digits(request: Request) -> Dataset:
    """scikit-learn's digits, in the split of :func:`load_digits`, normalised as there."""
    split = load_digits(request.split)
    names = [str(digit) for digit in range(10)]
    return _in_memory(
        dataclasses.replace(request, split="test"),
        (split.train_x, split.train_y),
        (split.eval_x, split.eval_y),
        names,
        Augmentation(),
        ((0.0,), (1.0,)),
    )


def _torchvision(cls: str, statistics: tuple[Any, Any], usual: Augmentation) -> Callable[[Request], Dataset]:
    """A loader of one of torchvision's small sets."""

    def load(request: Request) -> Dataset:
        datasets = import_torchvision().datasets
        if request.root is None:
            raise ConfigError(f"root: {request.name} needs the folder it lies in, or download = true and where to")

        def part(train: bool) -> tuple[Tensor, Tensor]:
            try:
                found = getattr(datasets, cls)(str(request.root), train=train, download=request.download)
            except (RuntimeError, OSError) as error:
                raise ConfigError(
                    f"data: {request.name} is not in {request.root} ({error}); give another root, or download = true"
                ) from None
            images = torch.as_tensor(np.asarray(found.data))
            images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
            names.extend(str(name) for name in found.classes if len(names) < len(found.classes))
            return images, torch.as_tensor(found.targets, dtype=torch.int64)

        names: list[str] = []
        train = part(True)
        evaluate = part(False) if request.split == "test" else None
        return _in_memory(request, train, evaluate, names, usual, statistics)

    return load


def _npz(request: Request) -> Dataset:
    path = Path(request.path)
    keys = ("train_x", "train_y", "test_x", "test_y") if request.split == "test" else ("train_x", "train_y")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in keys if key not in file.files]
            if missing:
                raise ConfigError(f"data: expected {', '.join(keys)} in {path}, which lacks {', '.join(missing)}")
            arrays = {key: file[key] for key in keys}
    except (OSError, ValueError) as error:
        raise ConfigError(f"data: cannot read {path} as npz: {error}") from None

    def part(which: str) -> tuple[Tensor, Tensor]:
        x, y = arrays[f"{which}_x"], arrays[f"{which}_y"]
        if not np.issubdtype(y.dtype, np.integer) or y.ndim != 1:
            raise ConfigError(f"data: expected {which}_y of shape (N,) and whole numbers, got {y.dtype} of {y.shape}")
        if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
            raise ConfigError(f"data: expected {which}_x as uint8 or float, got {x.dtype}")
        if x.ndim == 3:
            x = x[..., None]
        if x.ndim != 4 or x.shape[-1] not in (1, 3):
            raise ConfigError(f"data: expected {which}_x of shape (N, H, W) or (N, H, W, 1 or 3), got {x.shape}")
        images = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))
        return images if images.dtype == torch.uint8 else images.float(), torch.from_numpy(y.astype(np.int64))

    train = part("train")
    if len(train[1]) == 0:
        raise ConfigError(f"data: expected training images in {path}, got none")
    classes = int(train[1].max()) + 1
    present = set(train[1].unique().tolist())
    absent = [label for label in range(classes) if label not in present]
    if absent or min(present) < 0:
        raise ConfigError(
            f"data: expected labels 0 to {classes - 1}, each with an image, in train_y; "
            + (f"no image has {absent[:5]}" if absent else f"got {min(present)}")
        )
    evaluate = part("test") if request.split == "test" else None
    return _in_memory(request, train, evaluate, [str(i) for i in range(classes)], Augmentation())


# -- folders ----------------------------------------------------------------------------------------------------------


def _folder(request: Request) -> Dataset:
    return _from_folder(request, Path(request.path), Augmentation(CROP_PADDING, True))


def _imagenet(request: Request) -> Dataset:
    """ImageNet as it is unpacked for torchvision: root/train/WNID and root/val/WNID."""
    if request.root is None:
        raise ConfigError("root: imagenet needs the folder that holds train/ and val/; it cannot be downloaded freely")
    sized = dataclasses.replace(request, image_size=request.image_size or 224, in_memory=False)
    return _from_folder(sized, request.root, Augmentation())


def _from_folder(request: Request, root: Path, usual: Augmentation) -> Dataset:
    if not root.is_dir():
        raise ConfigError(f"data: expected a folder, and {root} is not there")
    paths, labels, names = list_images(root / "train")
    if request.split == "test":
        other = next((root / n for n in ("val", "test", "validation") if (root / n).is_dir()), None)
        if other is None:
            raise ConfigError(f"data: expected val/ or test/ beside train/ in {root}; or use split = 'validation'")
        eval_paths, eval_labels, eval_names = list_images(other)
        if eval_names != names:
            odd = sorted(set(names) ^ set(eval_names))
            raise ConfigError(f"data: expected the same classes in train/ and {other.name}/, differing: {odd[:5]}")
    else:
        kept, out = _hold_out(torch.tensor(labels))
        eval_paths, eval_labels = [paths[i] for i in out.tolist()], [labels[i] for i in out.tolist()]
        paths, labels = [paths[i] for i in kept.tolist()], [labels[i] for i in kept.tolist()]
    mode, sizes = _sample(paths)
    small = len(sizes) == 1 and (len(paths) + len(eval_paths)) * 3 * max(sizes)[0] * max(sizes)[1] <= IN_MEMORY
    fits = request.image_size is None or {(request.image_size,) * 2} == sizes
    if request.in_memory or (request.in_memory is None and small and fits and request.augment != "random_resized"):
        found: dict[str, str] = {}
        corrupt = Corrupt(found, request.corrupt_limit)
        train = read_all(paths, labels, mode, corrupt)
        evaluate = read_all(eval_paths, eval_labels, mode, corrupt)
        made = _in_memory(dataclasses.replace(request, split="test"), train, evaluate, names, usual)
        made.train.corrupt.update(found)
        return made
    if request.augment == "crop_flip":
        raise ConfigError("augment: 'crop_flip' is for images in memory; use 'default', 'random_resized' or 'none'")
    size = request.image_size or 224
    channels = 1 if mode == "L" else 3
    mean, std = (torch.tensor(s[:channels]) for s in IMAGENET)

    def source(where: list[Path], what: list[int]) -> StreamSource:
        return StreamSource(
            where,
            what,
            size=size,
            mode=mode,
            mean=mean,
            std=std,
            vary="none" if request.augment == "none" else "random_resized",
            workers=request.workers,
            corrupt_limit=request.corrupt_limit,
            device=request.device,
        )

    return Dataset(
        request.name,
        len(names),
        (channels, size, size),
        source(paths, labels),
        source(eval_paths, eval_labels),
        tuple(names),
    )


def _sample(paths: list[Path], n: int = 64) -> tuple[str, set[tuple[int, int]]]:
    """Mode ("L" if all are grey, else "RGB") and sizes of some images, evenly spread; unreadable ones do not count."""
    modes, sizes = set(), set()
    for path in paths[:: max(1, len(paths) // n)]:
        try:
            from PIL import Image

            with Image.open(path) as image:
                modes.add(image.mode)
                sizes.add(image.size)
        except ImportError:
            open_image(path)  # says what to install
        except Exception:
            continue
    if not sizes:
        raise ConfigError(f"data: none of {min(n, len(paths))} images tried could be read, the first was {paths[0]}")
    return ("L" if modes <= {"1", "L"} else "RGB"), sizes


_FLIPPED = Augmentation(CROP_PADDING, True)
LOADERS.add("digits", _digits)
LOADERS.add("mnist", _torchvision("MNIST", ((0.1307,), (0.3081,)), Augmentation()))
LOADERS.add("fashion_mnist", _torchvision("FashionMNIST", ((0.2860,), (0.3530,)), Augmentation(0, True)))
LOADERS.add("kmnist", _torchvision("KMNIST", ((0.1918,), (0.3483,)), Augmentation()))
LOADERS.add("cifar10", _torchvision("CIFAR10", ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)), _FLIPPED))
LOADERS.add("cifar100", _torchvision("CIFAR100", ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)), _FLIPPED))
LOADERS.add("imagenet", _imagenet)
LOADERS.add("folder", _folder)
LOADERS.add("npz", _npz)
