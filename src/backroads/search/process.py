"""Which process works on a trial, so that a process that has died is recognised on its own machine."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path

PROCESS = r"^[^:]*:[^:]*:\d{1,10}:\d*$"  # HOST:MACHINE:PID:START


def process_id() -> str:
    """This process as ``HOST:MACHINE:PID:START``, unlike any other's: process numbers are used again, starts are not.

    Two machines or containers may have one HOST name. MACHINE tells them apart, and changes when one starts again.
    """
    return f"{socket.gethostname()}:{_machine()}:{os.getpid()}:{_start(os.getpid())}"


def is_gone(process: str) -> bool | None:
    """Whether a process has ended; None if it ran on another machine or in another container, or before this one was
    started: nothing is known of it here.

    Args:
        process: as :func:`process_id` gave it.
    """
    host, machine, pid, start = process.split(":")
    if (host, machine) != (socket.gethostname(), _machine()):
        return None
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it runs, as another user
        pass
    return _start(int(pid)) != start


@functools.cache
def _machine() -> str:
    """The start of this machine and its space of process numbers, of which each container has one; or an empty text."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _start(pid: int) -> str:
    """When a process started, in ticks since the machine did; empty where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
