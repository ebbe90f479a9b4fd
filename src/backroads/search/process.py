"""Which process a worker is, told from all others: its machine, its number, and when it began."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def me() -> str:
    """This process, told from all others: machine, process and when that began."""
    return f"{socket.gethostname()}:{os.getpid()}:{_began(os.getpid())}"


def is_gone(worker: str) -> bool | None:
    """Whether that process has ended; None if it is another machine's, of which nothing is known."""
    host, pid, began = worker.rsplit(":", 2)
    if host != socket.gethostname():
        return None
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return _began(int(pid)) != began


def _began(pid: int) -> str:
    """When a process began, in the kernel's count; empty where that is not told."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
