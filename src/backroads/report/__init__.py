"""Turns the folder of a run into one self-contained web page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from backroads.errors import ConfigError
from backroads.report.comparison import comparison_page
from backroads.report.meta import meta_page
from backroads.report.page import Page
from backroads.report.read import Record, read_record
from backroads.report.reproduction import reproduction_page
from backroads.report.search import search_page
from backroads.report.theory import theory_page
from backroads.report.training import training_page
from backroads.runs.files import write_atomically
from backroads.runs.schema import printable

__all__ = ["write_meta_report", "write_report"]

PAGES: dict[str, Callable[[Record], Page]] = {
    "train": training_page,
    "compare": comparison_page,
    "search": search_page,
    "theory": theory_page,
    "reproduce": reproduction_page,
    "meta": lambda record: meta_page([record]),
}


def write_report(folder: Path) -> Path:
    """Write ``folder/report.html`` from the files of the run in ``folder``, of whatever kind, and return its path.

    The run may still be going on, or have ended in any way: the page shows what is there. The page needs nothing but
    itself, and the same folder always gives the same bytes. An older report stays as it is until the new one is whole.

    Raises:
        ConfigError: the folder or one of its files is missing, damaged, or of another version.
    """
    record = read_record(folder)
    target = folder / "report.html"
    write_atomically(target, printable(PAGES[record.kind](record).html()))
    return target


def write_meta_report(folders: Sequence[Path], target: Path) -> Path:
    """Write one page about several meta-trainings, side by side, into the file ``target``, and return it.

    Raises:
        ConfigError: a folder is none of a meta-training, or one of its files is missing or damaged.
    """
    records = [read_record(folder) for folder in folders]
    for folder, record in zip(folders, records, strict=True):
        if record.kind != "meta":
            raise ConfigError(f"expected the folder of a meta-training, and {folder} is one of {record.kind!r}")
    write_atomically(target, printable(meta_page(records).html()))
    return target
