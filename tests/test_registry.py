"""Names, import paths, and answers to wrong ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import backroads as br
from backroads import phases
from backroads.cli import main
from backroads.data import load_dataset
from backroads.errors import BackroadsError, ConfigError
from backroads.models import build_model
from backroads.registry import LONGEST_NAME, Registry, call, check_file_name


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[Callable[..., Any]]:
    (tmp_path / "shapes_of_mine.py").write_text("def circle():\n    return 'round'\n\nsides = 4\n")
    (tmp_path / "broken_shapes.py").write_text("raise ZeroDivisionError('no sides')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shapes_of_mine", raising=False)
    registry: Registry[Callable[..., Any]] = Registry("shape", ConfigError)
    registry.add("line", lambda: "straight")
    registry.add("circle", "shapes_of_mine:circle")
    return registry


def test_an_import_path_is_imported_when_it_is_asked_for(shapes: Registry[Callable[..., Any]]) -> None:
    assert list(shapes) == ["line", "circle"]
    assert "circle" in shapes
    assert "shapes_of_mine" not in sys.modules
    assert shapes.get("circle")() == shapes.resolve("circle")() == shapes.resolve("shapes_of_mine:circle")() == "round"
    assert "shapes_of_mine:circle" not in shapes  # a path is used, not registered


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lime", "unknown shape 'lime'. Did you mean 'line'"),
        ("nowhere:circle", r"cannot import 'nowhere' \(ModuleNotFoundError.*PYTHONPATH.*Known: line, circle"),
        ("broken_shapes:circle", r"cannot import 'broken_shapes' \(ZeroDivisionError: no sides\)"),
        ("shapes_of_mine:cirkle", "has no 'cirkle', expected a callable. Did you mean 'circle'"),
        ("shapes_of_mine:sides", "has 'sides', expected a callable"),
        ("shapes_of_mine:", "has no '', expected a callable"),
        (":circle", "cannot import ''"),
        (".shapes:circle", "cannot import '.shapes'"),
    ],
)
def test_wrong_names_are_answered(shapes: Registry[Callable[..., Any]], name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shapes.resolve(name)


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("line", len, "the shape name 'line' is already taken"),
        ("a:b", len, "expected a name for a shape without ':', got 'a:b'"),
        ("", len, "expected a name for a shape"),
        ("a/b", len, "shape name: expected a name that a file can have"),
        ("..", len, "shape name: expected a name that a file can have"),
        ("new", "no path", "expected a callable or its import path, got 'no path'"),
        ("new", 3, "expected a callable or its import path, got 3"),
    ],
)
def test_what_cannot_be_registered(shapes: Registry[Callable[..., Any]], name: str, entry: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shapes.add(name, entry)
    assert list(shapes) == ["line", "circle"]


def test_a_callable_gets_what_its_signature_has() -> None:
    def make(size: int, colour: str = "red") -> tuple[int, str]:
        return size, colour

    assert call(make, {"size": 3, "weight": 5}, {}, "it") == (3, "red")
    assert call(make, {"size": 3}, {"size": 4, "colour": "blue"}, "it") == (4, "blue")
    with pytest.raises(ConfigError, match=r"it takes no option 'color'. Did you mean 'colour'.* It takes: colour"):
        call(make, {"size": 3}, {"color": "blue"}, "it")


BAD_NAMES = [
    "",
    ".",
    "..",
    "...",
    " ",
    "a/b",
    "/a",
    "../a",
    "a/..",
    "a\\b",
    "a\0b",
    "a\nb",
    "a\x1b[2J",
    "\x7f",
    "\u202e",
]
BAD_NAMES += ["n" * (LONGEST_NAME + 1), "\udcff"]


@pytest.mark.parametrize("name", [*BAD_NAMES, None, 3, b"a"])
def test_what_cannot_be_a_file_name(name: Any) -> None:
    with pytest.raises(ConfigError, match="thing: expected a name that a file can have") as refused:
        check_file_name(name, "thing")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", ["a", "decay+self", "my.module:rule", ".hidden", "a b", "n" * LONGEST_NAME, "größe"])
def test_what_can_be_a_file_name(name: str, tmp_path: Path) -> None:
    assert check_file_name(name, "thing") == name
    (tmp_path / name).touch()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize(
    "words",
    [
        ["search", "--name"],
        ["search", "--rules"],
        ["search", "--methods"],
        ["compare", "--rules"],
        ["compare", "--methods"],
    ],
    ids=" ".join,
)
def test_no_flag_that_becomes_a_file_name_leads_elsewhere(
    words: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    with pytest.raises(SystemExit) as left:
        main([words[0], f"{words[1]}={name}", "--epochs", "1"])
    assert left.value.code == 2
    assert "expected" in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == [inner]


@pytest.mark.parametrize("what", [None, 3, ["a"], b"a", object()], ids=lambda what: type(what).__name__)
@pytest.mark.parametrize(
    "find",
    [
        br.get_rule,
        br.get_method,
        br.metrics.get_metric,
        phases.get_phase,
        lambda name: build_model(name, classes=2, shape=(1, 4, 4)),
        load_dataset,
    ],
)
def test_what_is_no_name_is_one_error_of_the_package(find: Callable[[Any], Any], what: Any) -> None:
    with pytest.raises(BackroadsError, match=r"expected the name of a [a-z ]+ or package.module:callable, got "):
        find(what)
