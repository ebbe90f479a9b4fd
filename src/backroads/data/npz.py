"""Arrays in a file that ``numpy.savez`` writes."""

from __future__ import annotations

import contextlib
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from backroads.data.parts import Arrays, Images
from backroads.errors import BackroadsError, ConfigError, is_out_of_memory

MOST = 1032  # times as large as its compressed form a deflated file is at most (zlib, technical details)
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_BROKEN = (zipfile.BadZipFile, zlib.error, struct.error)  # of an archive
_AGAIN = "write it again with numpy.savez, from arrays of numbers"
KEYS = ("train_x", "train_y", "test_x", "test_y")


def read_npz(path: Path, split: str) -> Images[Arrays]:
    """Read ``train_x``, ``train_y``, ``test_x``, ``test_y``; the latter two only for split "test".

    Images are (N, H, W) or (N, H, W, C), uint8 or floating point; labels are (N,), integers from 0. Pickled objects
    are refused.

    Raises:
        ConfigError: for a file, keys, types or shapes that are none of this.
    """
    wanted = KEYS[:2] if split == "validation" else KEYS
    with open_npz(path) as arrays:
        if any(key not in arrays for key in wanted):
            raise ConfigError(f"data: expected {', '.join(KEYS)} in {path}, got {', '.join(arrays) or 'nothing'}")
        parts = [read_part(arrays, name) for name in ("train", "test")[: len(wanted) // 2]]
    return Images(parts[0], parts[1] if len(parts) > 1 else None)


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[Mapping[str, Any]]:
    """The arrays of a file that ``numpy.savez`` wrote, by name; each is read when it is looked up.

    Raises:
        ConfigError: there is no such file, or it is none, or an array turns out to be damaged or pickled.
    """
    if not path.is_file():
        raise ConfigError(
            f"data: expected a file that numpy.savez wrote, and {path.absolute()} is none; check the path"
        )
    try:
        with path.open("rb") as file:  # numpy leaves the file of a broken archive open
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, NpzFile):
                raise ConfigError(f"data: expected an archive of arrays with names, and {path} is one array")
            _check_sizes(arrays, path)
            yield arrays
    except (ValueError, OSError, EOFError, RuntimeError, OverflowError, *_BROKEN) as error:
        if isinstance(error, BackroadsError) or is_out_of_memory(error):
            raise
        raise ConfigError(f"data: {path} cannot be read ({error}); {_AGAIN}") from error


def _check_sizes(arrays: NpzFile, path: Path) -> None:
    """Refuse arrays that are larger than what the file can hold, from their headers, before memory is asked for."""
    assert arrays.zip is not None  # until it is closed
    for info in arrays.zip.infolist():
        held = min(info.file_size, MOST * info.compress_size)
        with arrays.zip.open(info) as member:
            version = np.lib.format.read_magic(member)
            if version not in _HEADERS:
                raise ConfigError(f"data: {info.filename} in {path} is of version {version}; {_AGAIN}")
            shape, _, dtype = _HEADERS[version](member)
        needed = math.prod(shape) * dtype.itemsize
        if needed > held and not dtype.hasobject:  # pickled objects are refused when they are looked up
            raise ConfigError(
                f"data: {info.filename} in {path} has the shape {shape}, of {needed} bytes, and holds no more than "
                f"{held}; {_AGAIN}"
            )


def read_part(arrays: Mapping[str, Any], name: str) -> Arrays:
    """``NAME_x`` and ``NAME_y`` of an archive; raises ConfigError for types or shapes that are no images or labels."""
    return Arrays(_images(arrays[f"{name}_x"], f"{name}_x"), _labels(arrays[f"{name}_y"], f"{name}_y"))


def _images(x: Any, key: str) -> Tensor:
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise ConfigError(f"{key}: expected uint8 or floating point, got {x.dtype}; convert it with astype")
    if x.ndim not in (3, 4):
        raise ConfigError(f"{key}: expected shape (N, H, W) or (N, H, W, C), got {x.shape}")
    if 0 in x.shape:
        raise ConfigError(f"{key}: expected images, got an array of shape {x.shape}")
    if x.ndim == 4 and x.shape[3] not in (1, 3):
        hint = "; channels come last: transpose(0, 2, 3, 1)" if x.shape[1] in (1, 3) else ""
        raise ConfigError(f"{key}: expected 1 or 3 channels in (N, H, W, C), got shape {x.shape}{hint}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused as such
        tensor = torch.as_tensor(x if x.dtype == np.uint8 else x.astype(np.float32))
    return tensor[:, None] if x.ndim == 3 else tensor.permute(0, 3, 1, 2).contiguous()


def _labels(y: Any, key: str) -> Tensor:
    if not np.issubdtype(y.dtype, np.integer):
        raise ConfigError(f"{key}: expected integers, got {y.dtype}; number the classes 0, 1, 2, ...")
    if y.ndim != 1:
        raise ConfigError(f"{key}: expected shape (N,), got {y.shape}")
    return torch.as_tensor(y.astype(np.int64))
