"""How a running search is shown: a live table on a terminal, a line for each trial that ends otherwise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backroads.search.run import View

RECENT = 8  # trials that have ended, in the live table


@contextmanager
def watching() -> Iterator[Callable[[View], None]]:
    """A function to call with each new view of the search."""
    if not sys.stdout.isatty():
        yield _print_lines
        return
    from rich.live import Live

    with Live(auto_refresh=False, transient=True) as live:
        yield lambda view: live.update(_table(view), refresh=True)


def _print_lines(view: View) -> None:
    first = len(view.settled) - len(view.new) + 1
    best = "" if view.best is None else f"; best {100 * (view.best.value or 0.0):.2f} %"
    for n, record in enumerate(view.new, first):
        print(f"[{n}/{view.planned}] {record}{best}", flush=True)


def _table(view: View) -> Any:
    from rich.table import Table
    from rich.text import Text

    done = len(view.settled)
    title = f"{done} of {view.planned} trials"
    if view.done_here:
        title += f", about {(view.planned - done) * view.seconds / view.done_here / 60:.0f} min left"
    if view.best is not None:
        title += f"; best so far: {view.best}"
    table = Table(title=Text(title), title_justify="left", expand=False)
    for name in ("trial", "rule or subset", "", "accuracy", "epoch", ""):
        table.add_column(name)
    for record in [*view.settled[-RECENT:], *view.running]:
        value = "" if record.value is None else f"{100 * record.value:.2f} %"
        epoch = str(record.trial.last_step or "")
        cells = (str(record.number), record.group, record.outcome, value, epoch, record.reason[:60])
        table.add_row(*map(Text, cells))
    return table
