"""Commands in this process, as the command line runs them: their status, what they print, and a limit on their time."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import shlex
import signal
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from backroads.cli import main

TINY = "--model digits_conv --model-options.width 2 --batch-size 8 --threads 1"
"""Flags of a training that costs next to nothing, on :func:`tiny_images`."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        words: after ``backroads``. status: of exit; None if an exception came out, which a user sees as a traceback.
        out, err: what it printed; of an exception, the traceback as well.
    """

    words: list[str]
    status: int | None
    out: str
    err: str

    @property
    def problem(self) -> str | None:
        """What a user should never see: a traceback, another status than 0, 1 and 2, or a failure without a message."""
        if self.status is None or "Traceback" in self.err + self.out:
            return "a traceback"
        if self.status not in (0, 1, 2):
            return f"status {self.status}"
        if "--debug" in self.err:
            return "an error that nobody foresaw"
        said = self.err + self.out
        if self.status and not any(word in said for word in ("backroads: ", "diverged", "stopped: ")):
            return f"status {self.status} without a message"
        return None

    def __str__(self) -> str:
        return f"backroads {shlex.join(self.words)}\nstatus {self.status}\n{self.out[-1000:]}\n{self.err[-3000:]}"


class _Late(BaseException):
    pass


def call(*words: str, seconds: float = 60.0) -> Ended:
    """Run a command; one that takes longer than so many seconds counts as hanging, which is an exception."""
    out, err = io.StringIO(), io.StringIO()
    status: int | None = 0
    with _limited(seconds), warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        warnings.simplefilter("default")  # shown, as in a terminal, and no error
        try:
            main(list(words))
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 0 if left.code is None else None
        except (Exception, _Late):
            status = None
            traceback.print_exc(file=err)
    return Ended(list(words), status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        raise _Late(f"the command takes longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def tiny_images(path: Path) -> Path:
    """A data set of 48 + 16 images of 8 x 8 pixels in 3 classes, as ``npz:PATH`` takes it."""
    draw = np.random.default_rng(0)
    arrays = {}
    for name, n in (("train", 48), ("test", 16)):
        y = np.arange(n) % 3
        arrays[f"{name}_y"] = y
        arrays[f"{name}_x"] = (draw.integers(0, 100, (n, 8, 8)) + 50 * y[:, None, None]).astype(np.uint8)
    np.savez(path, **arrays)
    return path
