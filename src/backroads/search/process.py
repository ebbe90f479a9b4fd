"""Which process works on a trial, so that a process that has died is recognised on its own machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def process_id() -> str:
    """This process as ``HOST:PID:START``, unlike any other's: process numbers are used again, their start is not."""
    return f"{socket.gethostname()}:{os.getpid()}:{_start(os.getpid())}"


def is_gone(process: str) -> bool | None:
    """Whether a process has ended; None if it ran on another machine, of which nothing is known here.

    Args:
        process: as :func:`process_id` gave it.
    """
    host, pid, start = process.rsplit(":", 2)
    if host != socket.gethostname():
        return None
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it runs, as another user
        pass
    return _start(int(pid)) != start


def _start(pid: int) -> str:
    """When a process started, in ticks since the machine did; empty where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
