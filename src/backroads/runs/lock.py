"""One process writes into a folder: the first takes its lock, a second is told who has it.

The lock is the kernel's (``flock``) on the file ``run.lock``: it ends with the process, however that ends. The file
says who holds it. Some network file systems lock within a machine only, so a file that a process of another machine
left behind counts as held. Where a file system has no locks at all, any file that was left behind does.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from backroads.errors import RunError
from backroads.runs.files import open_plain

LOCK = "run.lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_held: set[BinaryIO] = set()  # in a forked child, a file that is still open would keep the lock of a dead parent


class InUseError(RunError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(folder: Path, patience: float = 0.0, name: str = LOCK) -> Iterator[None]:
    """Hold a lock of a folder, which must be there.

    Args:
        folder: to be locked.
        patience: seconds to wait for another process to let go of it. Default: none.
        name: of the file, in a folder that has several locks.

    Raises:
        InUseError: another process holds it; it says which one. RunError: the folder cannot be written into. Nothing
            was changed.
        ConfigError: ``run.lock`` is a link or no plain file.
    """
    last = time.monotonic() + patience
    while True:
        try:
            file = _acquire(folder / name)
            break
        except OSError as error:
            raise RunError(
                f"{folder}: cannot be written into: {error.strerror}; mend that, or choose another"
            ) from None
        except InUseError:
            if time.monotonic() >= last:
                raise
            time.sleep(0.05)
    _held.add(file)
    try:
        yield
    finally:
        if file in _held:  # not so in a forked child
            _held.discard(file)
            (folder / name).unlink(missing_ok=True)  # before it is let go: whoever has opened it sees that it is gone
            file.close()


def _acquire(path: Path) -> BinaryIO:
    while True:
        file = open_plain(path)
        try:
            holder = _holder(file, path)
            if os.fstat(file.fileno()).st_nlink:  # else its holder has just removed it
                if holder is not None:
                    raise InUseError(f"{holder}; nothing was changed")
                own = {"host": socket.gethostname(), "process": os.getpid(), "since": _now()}
                file.seek(0)
                file.truncate()
                file.write(json.dumps(own).encode())
                file.flush()
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def _holder(file: BinaryIO, path: Path) -> str | None:
    """What to say of the process that holds the lock; None once this one does."""
    content = file.read(4096)
    try:
        owner = json.loads(content)
        host, who = owner["host"], f"process {owner['process']} on {owner['host']}, since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        host, who = socket.gethostname(), "another process"
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if host == socket.gethostname():
            return None
    except BlockingIOError:
        return f"{path.parent} is in use by {who}; wait until it has ended, or choose another folder"
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        if not content:
            return None
    return f"{path.parent} may be in use by {who}; if that has ended, remove {path}"


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _let_go() -> None:
    for file in _held:
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
