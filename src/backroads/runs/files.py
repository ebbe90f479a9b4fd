"""How everything that goes into a run's folder is written: whole or not at all, and never outside the folder.

A folder may come from someone else, and what looks like a file in it may be a link to one outside. So a new content is
written into a file of a random name, which is created and never opened, and then takes the old one's name; a link of
that name is replaced, not followed. Files that grow are opened only if they are plain files.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any, BinaryIO

from backroads.errors import ConfigError
from backroads.runs.schema import as_data


def write_json(path: Path, data: Any, indent: int | None = 2) -> None:
    """Write ``data`` as JSON, all or nothing; numbers that are not finite become null."""
    write_atomically(path, json.dumps(as_data(data), indent=indent) + "\n")


def make_folder(path: Path) -> None:
    """Make a folder for what a command writes; raises ConfigError where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out: cannot make the folder {path}: {error.strerror}; choose another place") from None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file aside, wait until it is on the disk, and rename it: a reader sees the old content or the new.

    Args:
        path: of the file; a file or symbolic link of this name is replaced. content: a text is written as UTF-8.

    Raises:
        OSError: a full disk, a read-only folder; what was there before is untouched.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    flush_folder(path.parent)


def open_plain(path: Path) -> BinaryIO:
    """A file of a run's folder, open to read and write from its beginning; it is made if it is not there.

    Raises:
        ConfigError: it is a symbolic link, no plain file, or has a second name, under which it may be someone's.
        OSError: it cannot be opened.
    """
    what = "a symbolic link"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
            return open(descriptor, "r+b")
        os.close(descriptor)
        what = "a file with several names (hard links)" if stat.S_ISREG(found.st_mode) else "no plain file"
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    raise ConfigError(
        f"{path}: expected a plain file of the run's own, and it is {what}; nothing was written, "
        f"put a copy in its place"
    )


def folder_within(folder: Path, name: str) -> Path:
    """``folder/name``, a folder to write into.

    Raises:
        ConfigError: it is a symbolic link that leads out of ``folder``.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{path}: expected a folder of the run's own, and it is a symbolic link to {path.resolve()}; nothing was "
            f"written, put a copy in its place (--out itself may be a link to another disk)"
        )
    return path


def free_name(path: Path) -> Path:
    """The path itself if nothing has this name, else the first free one of ``PATH-2``, ``PATH-3``, ..."""
    number, found = 1, path
    while os.path.lexists(found):
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found


def flush_folder(folder: Path) -> None:
    """Wait until names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
