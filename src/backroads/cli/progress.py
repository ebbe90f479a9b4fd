"""How long work shows that it goes on: a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from backroads.runs.progress import Progress

EVERY = 5.0  # seconds between two lines in a log that have no news


@contextmanager
def progress(*, silent: bool = False, unit: str = "step") -> Iterator[Callable[[Progress], None]]:
    """What to call with the progress of some work: a bar with the time left on a terminal, plain lines otherwise.

    Args:
        silent: show nothing (processes beside the first). unit: what is counted.
    """
    if silent:
        yield lambda _: None
        return
    if sys.stdout is None or not sys.stdout.isatty():
        yield _Lines(unit)
        return
    import rich.progress as rich

    columns = (
        rich.BarColumn(),
        rich.TaskProgressColumn(),
        rich.TextColumn("{task.completed}/{task.total}"),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(rich.SpinnerColumn(), rich.TextColumn("{task.description}"), *columns) as bar:
        task = bar.add_task("starting", total=None)

        def report(progress: Progress) -> None:
            bar.update(task, completed=progress.done, total=progress.total)
            if progress.line is not None:
                bar.update(task, description=progress.line.partition(":")[0])
                bar.console.print(progress.line, markup=False, highlight=False)

        yield report


class _Lines:
    """Prints a line where there is news, and every few seconds how far the work is and how long it will take."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._began = self._printed = time.monotonic()
        self._first, self._total = 0, -1

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.total != self._total:  # the work itself begins
            self._began, self._first, self._total = now, progress.done, progress.total
        if progress.line is None and now - self._printed < EVERY:
            return
        self._printed = now
        line = progress.line
        if line is None:
            done, left = progress.done - self._first, progress.total - progress.done
            line = f"{self._unit} {progress.done} of {progress.total}"
            if done:
                minutes, seconds = divmod(round((now - self._began) * left / done), 60)
                line += f", about {minutes}:{seconds:02d} min left"
        print(f"[{100 * progress.done / progress.total:3.0f} %] {line}", flush=True)
