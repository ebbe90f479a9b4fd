"""Training as a user meets it: start, stop, go on, look, take away."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch
from cli.test_cli import backroads
from patience import PATIENCE
from safetensors.torch import load_file

from backroads.cli import main
from backroads.data import load_dataset
from backroads.models import build_model

QUICK = ["--model-options.width", "4", "--epochs", "2", "--batch-size", "64", "--threads", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("trained")
    done = backroads("train", *QUICK, "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "[100 %] epoch 2/2: loss" in done.stdout
    assert "report: run/report.html" in done.stdout
    return folder / "run"


@pytest.mark.slow
def test_the_folder_repeats_the_run(run: Path) -> None:
    config = tomllib.loads((run / "config.toml").read_text())
    assert config["run"]["epochs"] == 2
    assert config["model"]["options"] == {"width": 4}
    assert config["optimizer"]["learning_rate"] == 0.1  # defaults, too
    again = backroads("train", "--config", "run/config.toml", "--out", "again", cwd=run.parent)
    assert again.returncode == 0, again.stderr
    assert (run / "events.jsonl").read_bytes() == (run.parent / "again" / "events.jsonl").read_bytes()


def test_eval_says_what_the_run_said(run: Path) -> None:
    done = backroads("eval", "run", "--checkpoint", "last", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    accuracy = json.loads((run / "results.json").read_text())["arms"][0]["accuracy"]
    assert f"top-1 {100 * accuracy:.2f} %" in done.stdout
    assert "360 images of digits" in done.stdout


def test_export_is_plain_torch_with_the_same_outputs(run: Path) -> None:
    done = backroads("export", "run", "--out", "plain", "--checkpoint", "last", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    weights = load_file(run.parent / "plain" / "model.safetensors")
    assert not any("backward" in name for name in weights)
    about = json.loads((run.parent / "plain" / "model.json").read_text())
    model = build_model(
        about["model"],
        classes=about["classes"],
        shape=tuple(about["input_shape"]),
        options=about["model_options"],
    )
    model.load_state_dict(weights)
    model.eval()
    hits, n = 0, 0
    program = torch.export.load(run.parent / "plain" / "model.pt2").module()
    with torch.no_grad():
        for x, y in load_dataset("digits").evaluate.eval_batches(90):
            logits = model(x)
            torch.testing.assert_close(program(x), logits)
            hits, n = hits + int((logits.argmax(1) == y).sum()), n + len(y)
    assert hits / n == json.loads((run / "results.json").read_text())["arms"][0]["accuracy"]
    again = backroads("export", "run", "--out", "plain", cwd=run.parent)
    assert again.returncode == 2
    assert "nothing was overwritten" in again.stderr


def test_the_report_is_made_on_demand(run: Path) -> None:
    done = backroads("report", "run", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    assert "symmetric" in (run / "report.html").read_text()


def test_other_settings_are_refused_with_a_list(run: Path) -> None:
    done = backroads("train", "--resume", "--out", "run", "--learning-rate", "0.2", "--seed", "3", cwd=run.parent)
    assert done.returncode == 2
    assert "optimizer.learning_rate: the run has 0.1, now 0.2" in done.stderr
    assert "run.seed: the run has 0, now 3" in done.stderr


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "backroads", "train", *QUICK[:2], "--epochs", "500", "--log-every", "1"]
    process = subprocess.Popen(
        [*command, "--out", "run"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    events = tmp_path / "run" / "events.jsonl"
    while process.poll() is None and not (events.exists() and '"event": "step"' in events.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "saved, go on with: backroads train --resume --out run" in stderr
    assert "Traceback" not in stderr


def test_a_diverged_run_says_where_and_ends_with_1(tmp_path: Path) -> None:
    done = backroads("train", *QUICK, "--learning-rate", "1e30", "--out", "run", cwd=tmp_path)
    assert done.returncode == 1
    assert "diverged: " in done.stdout
    assert "the last good checkpoint is kept" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--epoch", "3"], "Did you mean --epochs?"),
        (["train", "--epochs", "0"], "epochs: expected greater than or equal to 1, got 0"),
        (["train", "--data", "cifar11"], "Did you mean 'cifar10'?"),
        (["train", "--data", "folder:nowhere"], "nowhere"),
        (["train", "--model", "rsenet20"], "Did you mean 'resnet20'?"),
        (["train", "--model", "torchvision:resnet19"], "Did you mean"),
        (["train", "--model", "no.such:thing"], "cannot import 'no.such'"),
        (["train", "--model", "resnet50", "--model-options.depht", "3"], "takes no option 'depht'"),
        (["train", "--rule", "symetric_alignment"], "Did you mean 'symmetric_alignment'?"),
        (["train", "--config", "cifar10-resnet9"], "Did you mean 'cifar10-resnet8'?"),
        (["train", "--device", "cuda:77"], "cannot be used here"),
        (["eval", "nowhere"], "has no config.toml"),
        (["export", "nowhere"], "has no config.toml"),
    ],
)
def test_mistakes_get_one_message_and_leave_nothing_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_doctor_names_what_is_there_and_how_to_get_the_rest(tmp_path: Path) -> None:
    done = backroads("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert torch.__version__ in done.stdout
    for package in ("torchvision", "timm", "tensorboard", "wandb", "mlflow"):
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(package))
        assert "works" in line or "pip install" in line


def test_doctor_imports_packages_as_a_user_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, so that nothing that this one has mended hides what is wrong."""
    broken = {
        "matplotlib": "__version__ = '1.2'",
        "torchvision": "raise RuntimeError('operator torchvision::nms does not exist')",
        "timm": "import torchvision",
        "optuna": "import something_else",
        "wandb": "import os; os._exit(7)",
    }
    for name, code in broken.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 0
    said = {line.partition(":")[0].partition(" ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert said["matplotlib"] == "matplotlib 1.2: works"
    for package in ("torchvision", "timm"):
        assert "not by itself (RuntimeError: operator torchvision::nms does not exist)" in said[package]
        assert "pip install --force-reinstall torch torchvision --index-url" in said[package]
    assert "does not work (ModuleNotFoundError: No module named 'something_else')" in said["optuna"]
    assert 'pip install --force-reinstall "backroads[search]"' in said["optuna"]
    assert "does not work (ended with status 7)" in said["wandb"]


def test_doctor_runs_nothing_from_the_folder_it_is_called_in(tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("open('ran', 'w')")
    assert backroads("doctor", cwd=tmp_path).returncode == 0
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_flags_reach_the_estimate_the_phases_and_the_noise(tmp_path: Path) -> None:
    done = backroads(
        *("train", *QUICK, "--out", "run"),
        *("--rule-options.view.bits", "4", "--rule-options.view.delay_steps", "2"),
        *("--update-noise", "0.01", "--update-noise-on", "forward"),
        *("--mirror-steps", "3", "--mirror-options.rate", "0.2"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert config["rule"]["options"] == {"view": {"bits": 4, "delay_steps": 2}}
    assert (config["optimizer"]["update_noise"], config["optimizer"]["update_noise_on"]) == (0.01, "forward")
    assert (config["backward"]["mirror_steps"], config["backward"]["mirror_options"]) == (3, {"rate": 0.2})
    started = json.loads((tmp_path / "run" / "events.jsonl").read_text().splitlines()[0])
    assert "WeightEstimate" in str(started["arms"])


@pytest.mark.slow
def test_a_method_without_backward_weights_is_trained_evaluated_and_exported(tmp_path: Path) -> None:
    words = ["--method", "local_errors", "--method-options.limit", "64", "--limit", "192", "--max-steps", "2"]
    done = backroads("train", *QUICK, *words, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert (events[0]["train_examples"], events[0]["eval_examples"], events[0]["steps"]) == (192, 192, 2)
    assert events[0]["arms"][0]["name"] == "local_errors"
    assert events[-1]["step"] == 2
    accuracy = json.loads((tmp_path / "run" / "results.json").read_text())["arms"][0]["accuracy"]
    evaluated = backroads("eval", "run", "--checkpoint", "last", cwd=tmp_path)
    assert f"top-1 {100 * accuracy:.2f} %" in evaluated.stdout
    exported = backroads("export", "run", "--no-program", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert not any("head" in name for name in load_file(tmp_path / "run" / "export" / "model.safetensors"))
    more = backroads("train", "--resume", "--out", "run", "--max-steps", "5", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    assert "going on from step 2" in more.stdout
