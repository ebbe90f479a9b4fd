"""What was asked for, checked as far as that is possible without looking at the data."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from backroads.data.augment import CHOICES
from backroads.errors import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class Request:
    """The arguments of :func:`~backroads.data.load_dataset`.

    Attributes:
        path: PATH of ``folder:PATH`` and ``npz:PATH``, below ``root`` if that is given; else the current folder.
    """

    name: str
    path: Path
    split: str
    root: Path | None
    download: bool
    image_size: int | None
    augment: str
    device: torch.device
    workers: int
    corrupt_limit: int
    in_memory: bool | None

    def __post_init__(self) -> None:
        for field, value, known in (
            ("split", self.split, ("test", "validation")),
            ("augment", self.augment, CHOICES),
        ):
            if value not in known:
                raise ConfigError(
                    f"{field}: expected {' or '.join(map(repr, known))}, got {value!r}.{nearest(value, known)}"
                )
        for field, number, least in (
            ("image_size", self.image_size, 1),
            ("workers", self.workers, 0),
            ("corrupt_limit", self.corrupt_limit, 0),
        ):
            if number is not None and number < least:
                raise ConfigError(f"{field}: expected {least} or more, got {number}")
