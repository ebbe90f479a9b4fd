"""torchvision imports beside any build of torch, once, silently, and only then touched."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from backroads import extras
from backroads.errors import BackroadsError, MissingDependencyError

MISMATCH = "operator torchvision::nms does not exist"


def _torchvision_modules() -> dict[str, Any]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "torchvision"}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """A stand-in for torchvision whose ``__init__`` is the given source; ``tries`` counts its imports."""
    real = _torchvision_modules()

    def clear() -> None:
        for name in _torchvision_modules():
            del sys.modules[name]

    def write(source: str) -> None:
        package = tmp_path / "torchvision"
        package.mkdir()
        (package / "half.py").write_text("")
        count = "import pathlib\n_log = pathlib.Path(__file__).with_name('tries')\n"
        count += "tries = len(_log.read_text()) + 1 if _log.exists() else 1\n_log.write_text('x' * tries)\n"
        (package / "__init__.py").write_text(count + textwrap.dedent(source))
        importlib.invalidate_caches()

    clear()
    monkeypatch.syspath_prepend(tmp_path)
    yield write
    clear()
    sys.modules.update(real)


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the operators that are declared, in place of their declaration."""
    names: list[str] = []

    class Library:
        def __init__(self, namespace: str, kind: str) -> None:
            self.namespace = namespace

        def define(self, schema: str) -> None:
            names.append(f"{self.namespace}::{schema.partition('(')[0]}")

    monkeypatch.setattr(torch.library, "Library", Library)
    monkeypatch.setattr(extras, "_declared", [])
    return names


def test_models_data_sets_and_transforms_work_beside_the_installed_torch() -> None:
    torchvision = extras.import_torchvision()
    assert torchvision is sys.modules["torchvision"]
    assert torchvision is extras.import_torchvision()
    v2 = importlib.import_module("torchvision.transforms.v2")
    image = torch.rand(3, 8, 8)
    assert torch.equal(v2.RandomHorizontalFlip(p=1.0)(image), image.flip(-1))
    assert torchvision.models.squeezenet1_1(num_classes=3)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert len(torchvision.datasets.FakeData(size=2)) == 2


def test_compiled_operators_work_or_say_that_they_are_missing() -> None:
    torchvision = extras.import_torchvision()
    boxes, scores = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2.1], [5, 5, 6, 6]]), torch.tensor([0.9, 0.8, 0.7])
    if torchvision.extension._has_ops():
        assert torchvision.ops.nms(boxes, scores, 0.5).tolist() == [0, 2]
    else:
        with pytest.raises(RuntimeError, match=r"custom C\+\+ ops"):
            torchvision.ops.nms(boxes, scores, 0.5)


def test_a_torchvision_that_fits_is_imported_once_and_nothing_is_declared(install: Any, declared: list[str]) -> None:
    install("")
    assert extras.import_torchvision().tries == 1
    assert declared == []


def test_missing_operators_are_declared_and_the_half_import_is_dropped(install: Any, declared: list[str]) -> None:
    install(f"""
        import torchvision.half
        if tries == 1:
            raise RuntimeError({MISMATCH!r})
        torchvision.half  # an attribute only if imported anew
    """)
    assert extras.import_torchvision().tries == 2
    assert declared == ["torchvision::nms", "torchvision::qnms"]
    assert len(extras._declared) == 1, "a collected library takes its operators along"


def test_the_remark_on_the_image_extension_is_silenced_and_no_other_warning(install: Any, declared: list[str]) -> None:
    install(f"""
        import warnings
        if tries == 1:
            raise RuntimeError({MISMATCH!r})
        warnings.warn("Failed to load image Python extension: 'undefined symbol'")
        warnings.warn("something else", DeprecationWarning)
    """)
    with pytest.warns(DeprecationWarning, match="something else") as caught:
        extras.import_torchvision()
    assert len(caught) == 1


def test_any_other_failure_of_the_import_is_passed_on_untouched(install: Any, declared: list[str]) -> None:
    install('raise RuntimeError("compiled with different CUDA major versions")')
    with pytest.raises(RuntimeError, match="different CUDA major versions"):
        extras.import_torchvision()
    assert declared == []


@pytest.mark.parametrize("package", ["torchvision", "PIL"])
def test_a_missing_package_is_answered_with_the_extra(
    package: str, install: Any, declared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("import PIL")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"'{package}'.*pip install \"backroads\[vision\]\"") as caught:
        extras.import_torchvision()
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, BackroadsError)
    assert declared == []


def test_packages_that_import_torchvision_find_one_that_works_or_none(
    install: Any, declared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As transformers and Lightning do: by themselves they would stop at a torchvision that does not fit."""
    install(f"if tries == 1: raise RuntimeError({MISMATCH!r})")
    extras.prepare_torchvision()
    assert importlib.import_module("torchvision").tries == 2
    with monkeypatch.context() as patch:  # undone before the real torchvision is put back
        patch.setitem(sys.modules, "torchvision", None)
        extras.prepare_torchvision()  # where it is not installed, these packages do without


def test_a_module_missing_elsewhere_is_not_blamed_on_the_extra(install: Any, declared: list[str]) -> None:
    install("import no_such_module_of_anyone")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_of_anyone") as caught:
        extras.import_torchvision()
    assert not isinstance(caught.value, MissingDependencyError)
