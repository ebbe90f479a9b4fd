"""How a search shows that it goes on: a live table on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from backroads.search.run import View

RECENT = 8  # trials in the live table


@contextmanager
def watching() -> Iterator[Callable[[View], None]]:
    """What to call with a view of the study, as often as one likes."""
    if not sys.stdout.isatty():
        yield _print_lines
        return
    from rich.live import Live

    with Live(auto_refresh=False, transient=True) as live:
        yield lambda view: live.update(_table(view), refresh=True)


def _print_lines(view: View) -> None:
    first = len(view.done) - len(view.new)
    for n, trial in enumerate(view.new, first + 1):
        slot, group, end, value, why = _words(trial)
        best = "" if view.best is None else f"; best {100 * (view.best.value or 0.0):.2f} %"
        told = f" {value}" if value else ""
        print(f"[{n}/{view.planned}] trial {slot} [{group}] {end}{told}{f' ({why})' if why else ''}{best}", flush=True)


def _words(trial: FrozenTrial) -> tuple[str, str, str, str, str]:
    """Slot, group, how it ended, accuracy and reason of a trial."""
    from backroads.search.ledger import ABOUT, outcome, reason

    about = trial.user_attrs[ABOUT]
    values = trial.intermediate_values
    value = trial.value if trial.value is not None else values[max(values)] if values else None
    return (
        str(about["slot"]),
        about["group"],
        outcome(trial),
        "" if value is None else f"{100 * value:.2f} %",
        reason(trial),
    )


def _table(view: View) -> Any:
    from rich.table import Table
    from rich.text import Text

    done = len(view.done)
    left = (view.planned - done) * view.seconds / done if done and view.seconds else None
    title = f"{done} of {view.planned} trials"
    if left is not None:
        title += f", about {left / 60:.0f} min left"
    if view.best is not None:
        slot, group, _, value, _ = _words(view.best)
        title += f"; best {value}, trial {slot} [{group}]"
    table = Table(title=Text(title), title_justify="left", expand=False)
    for name in ("trial", "rule or subset", "", "accuracy", "epoch", ""):
        table.add_column(name)
    for trial in [*view.done[-RECENT:], *view.running]:
        slot, group, end, value, why = _words(trial)
        epochs = str(max(trial.intermediate_values, default=""))
        table.add_row(*(Text(word) for word in (slot, group, end, value, epochs, why[:60])))
    return table
