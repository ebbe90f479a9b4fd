"""The gallery, whose scripts run when the pages are built, and what the pages say of the choice of a rule."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

import backroads as br

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "examples" / "gallery").glob("plot_*.py"))


def test_the_gallery_has_six_scripts() -> None:
    assert [path.name.split("_")[1] for path in SCRIPTS] == list("123456")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_begins_with_a_title_is_short_and_seeded_and_shows_one_picture(path: Path) -> None:
    source = path.read_text()
    title = (ast.get_docstring(ast.parse(source)) or "").splitlines()
    assert title[1] == "=" * len(title[0])
    assert len(source.splitlines()) <= 150
    assert "manual_seed(" in source
    assert source.count("plt.show()") == 1
    assert not re.search(r"^\s*br\.register_", source, re.MULTILINE)  # it would name something on other pages, too


def test_what_is_to_be_chosen_is_there_and_has_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # whose scripts import one another
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "_ext" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    rows = tables.choices("digits").splitlines()[2:]
    for name, page in (re.search(r"\[`(\w+)`\]\((\S+)\)", row).groups() for row in rows):  # type: ignore[union-attr]
        assert name in [*br.list_rules(), *br.list_methods()]
        assert name in (ROOT / "docs" / page).read_text()
    top = tables.leaderboard_top("digits").splitlines()
    accuracies = [float(row.split("|")[3].split()[0]) for row in top[2:]]
    assert len(accuracies) == 10
    assert accuracies == sorted(accuracies, reverse=True)
