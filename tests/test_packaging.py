"""One version, extras that bring what they say, and a core that needs none of them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from patience import PATIENCE

import backroads
from backroads import extras
from backroads.errors import MissingDependencyError

ROOT = Path(__file__).parents[1]
SOURCE = Path(backroads.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
CORE = {"torch", "numpy", "safetensors"}
# Where the names differ.
DISTRIBUTIONS = {"sklearn": "scikit-learn", "tomli_w": "tomli-w", "PIL": "pillow", "mlflow": "mlflow-skinny"}
# Imported by what an extra brings, and by us only beside it.
THROUGH = {"markupsafe": "jinja2", "sqlalchemy": "optuna"}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=]", requirement)[0] for requirement in requirements}


def python(*words: str, hidden: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A new interpreter that runs a script or ``-m module`` as if the ``hidden`` modules were not installed."""
    how = "run_module" if words[0] == "-m" else "run_path"
    words = words[words[0] == "-m" :]
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({list(hidden or ())})); "
        f"sys.argv = {list(words)}; runpy.{how}({words[0]!r}, run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)


# --- the version ---


def test_the_version_is_written_once_and_everything_else_follows() -> None:
    assert "version" not in PROJECT["project"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "backroads.__version__"}
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [backroads.__version__]
    assert python("-m", "backroads", "--version").stdout.strip() == backroads.__version__


def test_the_changelog_has_the_version_below_what_is_not_released() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1].startswith(backroads.__version__)


# --- extras ---


def test_the_core_needs_three_packages() -> None:
    assert names(PROJECT["project"]["dependencies"]) == CORE


@pytest.mark.parametrize("module", extras.EXTRAS)
def test_the_extra_that_a_message_names_brings_the_package(module: str) -> None:
    assert DISTRIBUTIONS.get(module, module) in names(EXTRAS[extras.EXTRAS[module]])


def test_every_package_of_an_extra_is_known_to_the_messages() -> None:
    for extra in set(EXTRAS) - {"all", "docs", "dev"}:
        brought = {DISTRIBUTIONS.get(module, module) for module in extras.EXTRAS}
        assert names(EXTRAS[extra]) <= brought | CORE


def test_the_message_names_all_for_the_extras_in_it() -> None:
    assert EXTRAS["all"] == [f"backroads[{','.join(extras.IN_ALL)}]"]
    with pytest.raises(MissingDependencyError, match=r'pip install "backroads\[report\]" \(or "backroads\[all\]"'):
        raise extras.missing("jinja2")
    with pytest.raises(MissingDependencyError, match=r'^model: .*pip install "backroads\[timm\]"$'):
        raise extras.missing("timm", "model")


def test_no_module_of_the_source_imports_a_package_that_nothing_brings() -> None:
    known = CORE | set(extras.EXTRAS) | set(THROUGH) | set(sys.stdlib_module_names) | {"backroads"}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            unknown = {name.partition(".")[0] for name in imported} - known
            assert not unknown, f"{path.relative_to(SOURCE)} imports {unknown}; add it to an extra, and to extras.py"


def test_a_missing_module_of_ours_is_not_blamed_on_an_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module") as caught, extras.extra_named():
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
    assert not isinstance(caught.value, MissingDependencyError)


# --- the core alone ---


def test_the_core_imports_and_trains_without_any_extra() -> None:
    done = python(str(ROOT / "tests" / "core_only.py"), hidden=extras.EXTRAS)
    assert done.returncode == 0, done.stderr
    assert "alone" in done.stdout


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ((), "cyclopts"),
        (("train", "--rule", "backprop"), "pydantic"),
        (("report", "."), "matplotlib"),
        (("search", "--config", "digits-primitives"), "optuna"),
    ],
)
def test_the_command_line_names_the_missing_extra(words: tuple[str, ...], missing: str, tmp_path: Path) -> None:
    done = python("-m", "backroads", *words, hidden={missing: ""})
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("backroads: ")
    assert f'pip install "backroads[{extras.EXTRAS[missing]}]"' in done.stderr
    assert done.stderr.count("\n") == 1, "no traceback"


# --- what the wheel holds ---


def test_every_file_of_the_source_is_in_the_wheel() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["backroads"]
    for path in SOURCE.rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            assert any(path.relative_to(SOURCE).match(pattern) for pattern in patterns), path
    for path in SOURCE.rglob("*.py"):
        assert (path.parent / "__init__.py").exists(), f"{path.parent} is not a package: its files are in no wheel"
