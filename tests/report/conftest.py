"""A run and its report, made once for all tests that only read them."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_run import write_run

from backroads.report import write_report


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of eight rules with its report; one seed of feedback_alignment diverged at epoch 6."""
    folder = write_run(tmp_path_factory.mktemp("run"), diverged={("feedback_alignment", 2): 6})
    write_report(folder)
    return folder


@pytest.fixture(scope="session")
def report(run_folder: Path) -> str:
    """The page of that run."""
    return (run_folder / "report.html").read_text(encoding="utf-8")
