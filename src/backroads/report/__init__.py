"""Turns the folder of a run into one self-contained web page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from backroads.report.comparison import comparison_page
from backroads.report.meta import meta_page
from backroads.report.meta_run import is_meta, read_meta
from backroads.report.runs import read_run
from backroads.report.search import search_page
from backroads.report.search_run import is_search, read_search
from backroads.report.theory import theory_page
from backroads.report.theory_run import is_theory, read_theory
from backroads.report.training import training_page
from backroads.report.training_run import is_training, read_training

__all__ = ["write_meta_report", "write_report"]


def write_report(folder: Path) -> Path:
    """Writes ``folder/report.html`` from the files of the run in ``folder``, of whatever kind.

    A training may still be running, or have ended in any way: the page shows what is there. The page needs nothing
    but itself, and the same folder always gives the same bytes. An older report stays as it is until the new one is
    complete.

    Returns:
        The path of the report.

    Raises:
        ConfigError: the folder or one of its files is missing or damaged.
    """
    if is_search(folder):
        page = search_page(read_search(folder))
    elif is_meta(folder):
        page = meta_page([read_meta(folder)])
    elif is_theory(folder):
        page = theory_page(read_theory(folder))
    elif is_training(folder):
        page = training_page(read_training(folder))
    else:
        page = comparison_page(read_run(folder))
    return _written(page, folder / "report.html")


def write_meta_report(folders: Sequence[Path], target: Path) -> Path:
    """Writes one page about several meta-trainings, side by side.

    Returns:
        ``target``.

    Raises:
        ConfigError: a folder is none of a meta-training, or one of its files is missing or damaged.
    """
    return _written(meta_page([read_meta(folder) for folder in folders]), target)


def _written(page: str, target: Path) -> Path:
    part = target.with_name(f".report-{os.getpid()}.html")
    try:
        part.write_text(page, encoding="utf-8", newline="\n")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target
