"""Imports go one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import backroads

ROOT = Path(backroads.__file__).parent
# Each layer may import from those above it (and from itself).
LAYERS = [
    {"errors", "_registry", "_optional"},
    {"rules"},
    {"functional"},
    {"nn"},
    {"conversion"},
    {"metrics", "models", "data"},
    {"spiking"},
    {"train"},
    {"theory"},
    {"search", "plasticity"},
    {"report"},
    {"cli"},
    {"__main__", "__init__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def _part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "backroads":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    part = _part(path)
    assert part in LEVEL, f"{part} has no place in the order of imports; give it one here"
    wrong = {name for name in _imports(path) if LEVEL.get(name, -1) > LEVEL[part]}
    assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}, which is above it"


def test_every_public_name_is_there_and_convert_stays_a_function() -> None:
    import backroads.conversion.swap  # a submodule must not hide a public name

    for name in backroads.__all__:
        assert getattr(backroads, name) is not None
    assert callable(backroads.convert)
    assert callable(backroads.plan)
    with pytest.raises(AttributeError, match="Did you mean 'convert'"):
        backroads.conver  # noqa: B018
