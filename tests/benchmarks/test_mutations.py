"""``benchmarks/mutations.toml``: the table fits the source, and the script tells what is seen from what is not."""

from __future__ import annotations

import ast
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MUTATIONS = runpy.run_path(str(ROOT / "benchmarks/mutations.py"))
TABLE: list[Any] = MUTATIONS["table"]()


@pytest.mark.parametrize("mutation", TABLE, ids=lambda one: one.name)
def test_a_mutation_fits_the_source(mutation: Any) -> None:
    mutated = mutation.mutated()
    if mutation.file.endswith(".py"):
        ast.parse(mutated)
    assert mutation.new != mutation.old
    assert mutation.tests
    assert all((ROOT / test).is_file() for test in mutation.tests)


def test_names_are_told_apart() -> None:
    assert not [name for name, n in Counter(one.name for one in TABLE).items() if n > 1]


def test_a_stale_row_is_named(tmp_path: Path) -> None:
    file = tmp_path / MUTATIONS["SOURCE"] / TABLE[0].file
    file.parent.mkdir(parents=True)
    for times in (0, 2):
        file.write_text(TABLE[0].old * times)
        with pytest.raises(ValueError, match=f"stale: {TABLE[0].name}: .* found it {times} times"):
            TABLE[0].mutated(tmp_path)


def test_the_first_test_that_fails_is_named_and_none_if_all_pass(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "test_right.py").write_text("def test_right(): assert 1 + 1 == 2\n")
    (tmp_path / "test_wrong.py").write_text("def test_one(): pass\ndef test_two(): assert 1 + 1 == 3\n")
    assert MUTATIONS["run_tests"](tmp_path, ["test_right.py"]) is None
    assert MUTATIONS["run_tests"](tmp_path, ["test_right.py", "test_wrong.py"]) == "test_wrong.py::test_two"
    assert "status" in MUTATIONS["run_tests"](tmp_path, ["test_none.py"])
