"""Methods as a user meets them: trained, resumed, evaluated, exported and compared by name and by import path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from cli.test_cli import backroads
from safetensors.torch import load_file

from backroads.data import load_dataset
from backroads.models import build_model

QUICK = ["--data", "digits", "--model-options.width", "4", "--batch-size", "64", "--threads", "1", "--epochs"]
LOCAL = ["--method", "local_errors", "--method-options.limit", "100"]
# A method of the user's own: backpropagation with a smaller learning signal.
OWN = """
import dataclasses
from backroads.methods.base import Method

@dataclasses.dataclass(frozen=True)
class Halved(Method):
    name = "halved"
    factor: float = 0.5

    def objective(self, model, x, y, loss):
        value, output = super().objective(model, x, y, loss)
        return self.factor * value, output
"""


def lines(run: Path, kind: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == kind]


def result(run: Path) -> dict[str, Any]:
    arms = json.loads((run / "results.json").read_text())["arms"]
    assert len(arms) == 1
    return dict(arms[0])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training by local errors."""
    folder = tmp_path_factory.mktemp("methods")
    (folder / "halved.py").write_text(OWN)
    done = backroads("train", *LOCAL, *QUICK, "2", "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "with local errors" in (folder / "run" / "report.html").read_text()
    return folder / "run"


def test_local_errors_learn_and_their_update_angles_are_logged(run: Path) -> None:
    assert result(run)["accuracy"] > 0.85
    start, first, *_ = (lines(run, "start")[0], *lines(run, "readings"))
    assert start["arms"][0]["name"] == "local_errors"
    assert start["arms"][0]["formulas"] == {"block1.conv": "local pred", "block2.conv": "local pred"}
    assert start["metrics"]["update_angle"]["unit"] == "degrees"
    assert list(first["values"]) == ["update_angle"]  # there is no B to compare with W
    angles = first["values"]["update_angle"]
    assert list(angles) == ["block1.conv", "block2.conv", "readout", ""]
    assert angles["block1.conv"] == 90  # heads start at zero, and teach their blocks nothing yet
    assert angles["readout"] == pytest.approx(0, abs=0.01)
    assert lines(run, "readings")[-1]["values"]["update_angle"][""] < 90


@pytest.mark.slow
def test_a_run_that_is_resumed_ends_as_the_one_that_was_not_stopped(run: Path) -> None:
    resumed = run.parent / "resumed"
    shutil.copytree(run, resumed)
    (resumed / "results.json").unlink()
    last = sorted((resumed / "checkpoints").iterdir())[-1]
    shutil.rmtree(last)
    done = backroads("train", *LOCAL, *QUICK, "2", "--out", "resumed", "--resume", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    assert (resumed / "events.jsonl").read_bytes() == (run / "events.jsonl").read_bytes()
    own, other = (
        {
            key: value
            for file in (path / "checkpoints" / last.name).glob("*.safetensors")
            for key, value in load_file(file).items()
        }
        for path in (run, resumed)
    )
    assert any("local_head" in name for name in own)
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)


def test_eval_finds_the_method_in_the_run(run: Path) -> None:
    done = backroads("eval", "run", "--checkpoint", "last", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    assert f"top-1 {100 * result(run)['accuracy']:.2f} %" in done.stdout


@pytest.mark.slow
def test_export_drops_the_heads_and_keeps_the_outputs(run: Path) -> None:
    done = backroads("export", "run", "--out", "plain", "--checkpoint", "last", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    model = build_model("digits_conv", classes=10, shape=(1, 8, 8), options={"width": 4})
    model.load_state_dict(load_file(run.parent / "plain" / "model.safetensors"))
    model.eval()
    program = torch.export.load(run.parent / "plain" / "model.pt2").module()
    right = n = 0
    with torch.no_grad():
        for x, y in load_dataset("digits").evaluate.eval_batches(90):
            logits = model(x)
            torch.testing.assert_close(program(x), logits)
            right, n = right + int((logits.argmax(1) == y).sum()), n + len(y)
    assert right / n == result(run)["accuracy"]


@pytest.mark.slow
def test_a_method_is_trained_and_evaluated_by_its_import_path(run: Path) -> None:
    own = ["--method", "halved:Halved", "--method-options.factor", "0.25"]
    done = backroads("train", *own, *QUICK, "1", "--out", "own", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    start = lines(run.parent / "own", "start")[0]
    assert start["arms"][0]["name"] == "halved:Halved"
    readings = lines(run.parent / "own", "readings")[0]["values"]
    assert readings["update_angle"][""] == pytest.approx(0, abs=0.1)  # backpropagation, at a fourth of the rate
    done = backroads("eval", "own", "--trust", cwd=run.parent)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_methods_are_compared_with_rules_on_the_same_batches(run: Path) -> None:
    words = ["--rules", "feedback_alignment", "--methods", "local_errors", "halved:Halved", "--seeds", "0"]
    done = backroads("compare", *words, *QUICK, "1", "--out", "compared", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    arms = json.loads((run.parent / "compared" / "results.json").read_text())["arms"]
    assert [arm["name"] for arm in arms] == ["backprop", "feedback_alignment", "local_errors", "halved:Halved"]
    assert all(arm["accuracy"] > 0.3 and arm["readings"]["update_angle"][""] < 90 for arm in arms)
    assert all(name in done.stdout.replace("local errors", "local_errors") for name in ("local_errors", "halved"))
    assert (run.parent / "compared" / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "local_errors", "--method-options.limits", "3"], "takes no option 'limits'. Did you mean"),
        (["--method", "local_errors", "--model", "vit", "--model-options.patch", "4"], "found none in"),
    ],
)
def test_a_method_that_cannot_be_is_answered_before_a_folder_is_made(run: Path, words: list[str], message: str) -> None:
    done = backroads("train", *words, "--epochs", "1", "--out", "never", cwd=run.parent)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert not (run.parent / "never").exists()
