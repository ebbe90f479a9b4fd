"""Imports go one way, between the parts of the package and between the files of each part."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import backroads

ROOT = Path(backroads.__file__).parent
# What each part may import besides itself; all imports count: at the top, within functions, and for type checkers.
BASE = {"errors", "registry", "extras"}
CORE = BASE | {"runs", "data", "models", "feedback", "phases"}
GRAPH: dict[str, set[str]] = {
    "errors": set(),
    "registry": {"errors"},
    "extras": {"errors"},
    "runs": BASE,
    "data": BASE | {"runs"},
    "models": BASE | {"runs"},
    "feedback": BASE | {"runs", "models"},
    "phases": BASE | {"feedback"},
    "methods": CORE,
    "metrics": CORE | {"methods"},
    "train": CORE | {"methods", "metrics"},
    "contrib": CORE | {"methods", "metrics", "train"},
    "search": CORE | {"methods", "metrics", "train"},
    "plasticity": BASE | {"runs", "data"},
    "report": BASE | {"runs"},
    "reproduce": CORE | {"methods", "metrics", "train", "search", "plasticity"},
    "cli": CORE | {"methods", "metrics", "train", "contrib", "search", "plasticity", "report", "reproduce"},
}
# To be mended; nothing may be added here.
CIRCLES, LONG = 0, 0
FACE = {"__init__", "__main__"}  # of the package: may import anything, lazily
FILES = sorted(path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0].removesuffix(".py") not in FACE)


def module_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT.parent).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """The package's modules that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            for alias in node.names:
                # A name that is a module of its own, or one that a module defines.
                inner = f"{node.module}.{alias.name}"
                found |= {name for name in (inner if inner in MODULES else node.module,) if name in MODULES}
    return found


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def part(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", MODULES)
def test_a_part_imports_only_what_stands_below_it(module: str) -> None:
    assert part(module) in GRAPH, f"{part(module)} has no place in the order of imports; give it one here"
    wrong = {other for other in IMPORTS[module] if part(other) not in GRAPH[part(module)] | {part(module)}}
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}"


def test_no_two_files_import_each_other_in_a_circle() -> None:
    circles: list[str] = []
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            circles.append(" -> ".join([*trail[trail.index(module) :], module]))
            return
        if module not in done:
            for other in sorted(IMPORTS[module]):
                visit(other, [*trail, module])
            done.add(module)

    for module in MODULES:
        visit(module, [])
    assert len(circles) <= CIRCLES, "\n".join(circles)


def test_no_file_is_longer_than_400_lines() -> None:
    """One may be: a page that has to be read as a whole."""
    files = [path for path in ROOT.rglob("*") if path.suffix in (".py", ".j2", ".css")]
    long = {path.name: n for path in files if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400}
    assert len(long) <= LONG, long


def test_every_public_name_is_there_and_convert_stays_a_function() -> None:
    import backroads.feedback.conversion.swap

    for name in backroads.__all__:
        assert getattr(backroads, name) is not None
    assert callable(backroads.convert)
    assert callable(backroads.plan)
    with pytest.raises(AttributeError, match="Did you mean 'convert'"):
        backroads.conver  # noqa: B018
