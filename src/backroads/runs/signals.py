"""Signals that ask a run to leave."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from types import FrameType
from typing import Any


class Stopper:
    """Notes SIGTERM and SIGINT, so that a run can save and leave; a second signal ends the process at once.

    One within another hands on at its end what came to it, too late perhaps for its own run.

    A cluster sends a signal to every process, and torchrun sends its own to the processes it started: there, a second
    signal within ten seconds counts as the same one.

    Attributes:
        signal: number of the signal that came; None for none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._patience = 10.0 if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
        self._noted = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopper:
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # signals exist in the main thread only
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        outer = getattr(self._before.get(self()), "__self__", None)
        if isinstance(outer, Stopper):
            outer.signal = outer.signal or self.signal

    def __call__(self) -> int:
        """The signal that came, 0 for none."""
        return self.signal or 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._noted = number, now
        elif now - self._noted > self._patience:
            os._exit(128 + number)
