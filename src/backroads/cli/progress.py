"""How long work shows that it goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress(*, lines: bool = False, silent: bool = False) -> Iterator[Callable[[Any], None]]:
    """What to call with (done, total, line): a live bar on a terminal, plain lines otherwise.

    Args:
        lines: keep the lines above the bar, too. silent: show nothing (processes beside the first).
    """
    if silent:
        yield lambda _: None
        return
    if not sys.stdout.isatty():
        yield _print_line
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("training"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}")) as bar:
        task = bar.add_task("")

        def report(progress: Any) -> None:
            bar.update(task, completed=progress.done, total=progress.total)
            if progress.line is not None:
                bar.update(task, description=progress.line.partition(":")[0])
                if lines:
                    bar.console.print(progress.line, markup=False, highlight=False)

        yield report


def _print_line(progress: Any) -> None:
    if progress.line is not None:
        print(f"[{100 * progress.done / progress.total:3.0f} %] {progress.line}", flush=True)
