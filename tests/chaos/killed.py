"""Commands as processes that kill themselves at a chosen step, or at a chosen write to the disk."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from patience import PATIENCE

# What makes a file last, or takes its place: a kill before any of these must lose nothing.
WRITES = ("fsync", "replace", "rename", "truncate", "unlink")
Moment = tuple[str, int] | None
"""("step", n): after the n-th step of an optimiser. ("write", n): before the n-th of WRITES. None: never."""

_CONTEXT: ForkServerContext = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["backroads.train.trainer", "backroads.plasticity.trainer", "backroads.report"])


def run(words: list[str], moment: Moment, log: Path) -> int:
    """Run a command to its end; its exit status, -9 if it was killed. What it prints goes to ``log``."""
    process = _CONTEXT.Process(target=_run, args=(words, moment, str(log)))
    process.start()
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"backroads {' '.join(words)} hangs; {log.read_text()}")
    return process.exitcode


def _run(words: list[str], moment: Moment, log: str) -> None:
    with open(log, "a", buffering=1) as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        sys.stdout = sys.stderr = out
        if moment is not None:
            _die_at(*moment)
        from backroads.cli import main

        main(words)


def _die_at(kind: str, n: int) -> None:
    left = n

    def passed() -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    if kind == "step":
        from torch.optim.optimizer import register_optimizer_step_post_hook

        register_optimizer_step_post_hook(lambda *_: passed())
        return
    for name in WRITES:
        setattr(os, name, _counted(getattr(os, name), passed))


def _counted(act: Callable[..., Any], passed: Callable[[], None]) -> Callable[..., Any]:
    def counted(*args: Any, **kwargs: Any) -> Any:
        passed()
        return act(*args, **kwargs)

    return counted
