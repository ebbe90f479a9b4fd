"""``backroads meta`` from the outside: commands, messages, exit status, and the page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE

from backroads.cli import main

FLAGS = ["--tasks", "3", "--steps-per-task", "2", "--batch-size", "4", "--hidden", "6", "5", "--order", "continual"]
FLAGS += ["--eval-lifetimes", "3", "--log-every", "2", "--lr-plasticity", "1e-4", "--threads", "1"]


def done(*words: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(["meta", *words] if words[0] != "report-of" else ["report", *words[1:]])
    assert left.value.code == 0


def test_two_learners_are_trained_measured_analysed_and_shown_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    for learner in ("flp", "oml"):
        runs.append(str(tmp_path / learner))
        done("train", "--learner", learner, "--meta-steps", "6", "--eval-every", "4", "--out", runs[-1], *FLAGS)
    done("eval", *runs, "--lifetimes", "4", "--ways", "2", "3")
    done("analyse", *runs, "--lifetimes", "2", "--probes", "3")
    done("report", *runs, "--out", str(tmp_path / "both.html"))
    said = capsys.readouterr().out
    assert "flp: 3 tasks, continual, mean squared error" in said
    assert "n = 4 lifetimes of test, 95 % interval" in said
    change = json.loads((tmp_path / "flp" / "analysis.json").read_text())["interference"]
    assert f"its own task by {change['own']:+.3g} and that of others by {change['others']:+.3g}, as long" in said
    evaluation = json.loads((tmp_path / "oml" / "evaluation.json").read_text())
    assert list(evaluation["ways"]) == ["2", "3"]
    assert evaluation["environment"]["torch"]
    page = (tmp_path / "both.html").read_text()
    for part in ("Meta-loss", "Tasks learned", "Retention", "Updates and gradients"):
        assert f"{part}</" in page
    assert "Feedback and forward weights" in page
    assert ">Interference</h2>" in page
    assert "<script" not in page
    assert page.count("oml, continual, seed 0") > 5
    assert "learn to learn sinusoid" in page
    before = (tmp_path / "flp" / "report.html").read_bytes()
    done("report-of", runs[0])
    assert (tmp_path / "flp" / "report.html").read_bytes() == before  # the same folder, the same bytes
    done("train", "--config", f"{runs[0]}/config.toml", "--out", str(tmp_path / "again"))  # the folder repeats the run
    assert (tmp_path / "again" / "events.jsonl").read_bytes() == (tmp_path / "flp" / "events.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learner", "flpp"], "Did you mean 'flp'"),
        (["--taks", "3"], "Did you mean --task"),
        (["--config", "flat.toml"], "plasticity: expected a table of settings, got 0.01"),
        (["--config", "sinusoid-quik"], "Did you mean 'sinusoid-quick'"),
        (["--task", "omniglot", "--tasks", "1001"], "tasks: expected"),
        (["--task", "npz:nowhere.npz"], "expected a file that numpy.savez wrote"),
        (["--tasks", "500"], "at most the 400 sinusoids"),
        (["--frozen-layers", "40"], "frozen_layers: expected at most the 9 linear layers"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    tmp_path: Path,
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flat.toml").write_text("plasticity = 0.01")
    with pytest.raises(SystemExit) as left:
        main(["meta", "train", *words, "--out", str(tmp_path / "run")])
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_lifetime_has_a_task_at_least(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["meta", "eval", str(tmp_path), "--ways", "0"])
    assert left.value.code == 2
    assert "--ways" in capsys.readouterr().err


@pytest.mark.slow
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "backroads", "meta", "train", "--meta-steps", "250", "--eval-every", "50", *FLAGS]
    words += ["--out", str(tmp_path / "run")]
    with subprocess.Popen(
        words, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while "meta-step 50/" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM
    assert "--resume" in said
    stopped = int(said.partition("after step ")[2].partition(";")[0])
    with pytest.raises(SystemExit) as left:
        main(["meta", "train", "--resume", "--out", str(tmp_path / "run"), "--lr-forward", "1"])
    assert left.value.code == 2
    done("train", "--resume", "--out", str(tmp_path / "run"))
    assert stopped < json.loads((tmp_path / "run" / "results.json").read_text())["step"] == 250
