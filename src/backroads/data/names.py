"""The data sets by name. To add one, write its reader and add a line here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from backroads.data.known import read_digits, read_folder, read_imagenet, torchvision_reader
from backroads.data.npz import read_npz
from backroads.data.parts import Files, Found, Labelled
from backroads.data.request import Request
from backroads.errors import ConfigError
from backroads.registry import Registry


@dataclasses.dataclass(frozen=True)
class Constants:
    """Mean and standard deviation of a channel, for pixels from 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Constants((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True)
class Entry:
    """A data set.

    Attributes:
        read: fetches the arrays, or lists the files. augment: what "default" stands for. constants: to normalise by;
            None: taken from the training images. mirror: whether a mirrored image is of the same class.
        ready: whether the arrays are normalised already. large: files are not read into memory unless asked for.
        image_size: the usual one, where files have none of their own.
    """

    read: Callable[[Request], Found[Labelled] | Found[Files]]
    augment: str = "none"
    constants: Constants | None = None
    mirror: bool = True
    ready: bool = False
    large: bool = False
    image_size: int | None = None


DATASETS: Registry[Entry] = Registry("data set", ConfigError)
DATASETS.add("digits", Entry(read_digits, mirror=False, ready=True))
DATASETS.add("mnist", Entry(torchvision_reader("MNIST"), "none", Constants((0.1307,), (0.3081,)), mirror=False))
DATASETS.add("fashion_mnist", Entry(torchvision_reader("FashionMNIST"), "flip", Constants((0.2860,), (0.3530,))))
DATASETS.add("kmnist", Entry(torchvision_reader("KMNIST"), "none", Constants((0.1918,), (0.3483,)), mirror=False))
DATASETS.add(
    "cifar10",
    Entry(torchvision_reader("CIFAR10"), "crop_flip", Constants((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))),
)
DATASETS.add(
    "cifar100",
    Entry(torchvision_reader("CIFAR100"), "crop_flip", Constants((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))),
)
DATASETS.add("imagenet", Entry(read_imagenet, "random_resized", IMAGENET, large=True, image_size=224))
DATASETS.add("folder:PATH", Entry(read_folder, "crop_flip"))
DATASETS.add("npz:PATH", Entry(read_npz))


def entry_of(name: str) -> tuple[Entry, str]:
    """The entry of a name, and PATH of ``folder:PATH``; raises ConfigError with the nearest name."""
    kind, colon, path = name.partition(":")
    entry = DATASETS.get(f"{kind}:PATH" if colon else kind)
    if colon and not path:
        raise ConfigError(f"data: expected a path after {name!r}, as in {kind}:PATH")
    return entry, path
