"""Several trainings at a time, each in a fresh interpreter: forked ones share the threads of torch, and hang."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from backroads.errors import RunError

K = TypeVar("K")
R = TypeVar("R")


def in_processes(
    workers: int, work: Callable[..., R], jobs: Iterable[tuple[K, tuple[Any, ...]]]
) -> Iterator[tuple[K, R]]:
    """The results of jobs as they come, each with its key; SIGTERM is taken as Ctrl-C.

    Where this ends early, by a signal or an error, the processes get SIGTERM, and what has not begun never does.

    Args:
        workers: processes. work: a function of a module. jobs: a key and the arguments of ``work`` for each.

    Raises:
        RunError: a process was killed.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(work, *arguments): key for key, arguments in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise RunError(
                "a process that trained was killed (is memory short?); what has ended is kept: run the command again "
                "to go on"
            ) from None
        except BaseException:
            for child in multiprocessing.active_children():
                child.terminate()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
