"""The examples run, and their networks transport no weights."""

from __future__ import annotations

import ast
import importlib.util
import runpy
from pathlib import Path
from types import ModuleType

import pytest
import torch

import backroads as br
from backroads.errors import MissingDependencyError

FOLDER = Path(__file__).resolve().parents[2] / "examples"


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_one_short_file(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 150
    if path.stem.startswith("with_"):
        pytest.importorskip(f"backroads.contrib.{path.stem.removeprefix('with_')}", exc_type=MissingDependencyError)
    runpy.run_path(str(path))  # imports, and trains nothing


def test_the_vision_transformer_learns_under_its_rule() -> None:
    accuracy, angle = _module("vit").train("symmetric_alignment", epochs=3, seed=0)
    assert accuracy > 0.3  # after 66 steps; chance is 0.1
    assert angle < 20


def test_the_gpt_learns_under_its_rule_and_looks_at_no_later_byte() -> None:
    gpt = _module("gpt")
    loss, angle = gpt.train("symmetric_alignment", steps=30, seed=0)
    assert loss < 4.5  # uniform bytes are log 256 = 5.5
    assert angle < 20
    model = br.convert(gpt.GPT(), "symmetric_alignment")
    tokens = torch.randint(256, (1, gpt.CONTEXT))
    later = tokens.clone()
    later[0, 40:] = 0
    torch.testing.assert_close(model(tokens)[0, :40], model(later)[0, :40])


def test_the_character_model_learns_under_its_rule() -> None:
    assert _module("characters").train("symmetric_alignment", steps=30) < 3.5  # uniform characters are log 128 = 4.85


@pytest.mark.filterwarnings("default")  # these packages warn of each other
@pytest.mark.parametrize(("name", "measured"), [("huggingface", "lm_head"), ("lightning", "weight_angle/net.4")])
def test_the_trainers_of_others_run_as_scripts(name: str, measured: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(f"backroads.contrib.{name}", exc_type=MissingDependencyError)
    runpy.run_path(str(FOLDER / f"with_{name}.py"), run_name="__main__")
    said = ast.literal_eval(capsys.readouterr().out.splitlines()[-1])  # what it prints at the end, angles among them
    assert said[measured] < 10  # degrees; from about 90
