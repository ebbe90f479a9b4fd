"""The limit in minutes: what runs first, and what is said of the rest."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest

@pytest.mark.slow
def test_long(): pass

@pytest.mark.parametrize("case", range(4))
def test_a(case): pass

@pytest.mark.parametrize("case", range(4))
def test_b(case): pass
"""


def run(folder: Path, *words: str) -> list[str]:
    """The lines that pytest prints of these tests, with this project's ``conftest.py``."""
    shutil.copy(Path(__file__).parent / "conftest.py", folder)
    (folder / "test_some.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.splitlines()


def test_each_function_has_a_case_before_any_has_its_second_and_slow_ones_are_last(tmp_path: Path) -> None:
    lines = run(tmp_path, "--minutes", "5", "--collect-only", "-q")
    names = [line.partition("::")[2].partition("[")[0] for line in lines if "::" in line]
    assert names == ["test_a", "test_b"] * 2 + ["test_a"] * 2 + ["test_b"] * 2 + ["test_long"]


def test_what_is_not_begun_is_skipped_and_counted(tmp_path: Path) -> None:
    lines = run(tmp_path, "--minutes", "0")
    assert "TIME WAS UP: 9 tests were not run." in lines
    assert "9 skipped" in lines[-1]
