"""The command line as a user meets it: a separate process, its output and its exit status."""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from patience import PATIENCE

from backroads.cli import main
from backroads.cli.compare import table
from backroads.cli.progress import progress
from backroads.runs.groups import flags, groups
from backroads.runs.progress import Progress
from backroads.runs.schema import ArmResult, TrainingResults

QUICK = [
    "--epochs",
    "1",
    "--seeds",
    "0",
    "--model-options.width",
    "2",
    "--batch-size",
    "256",
    "--rules",
    "symmetric_alignment",
]


def backroads(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "backroads", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_compare_prints_plain_lines_and_a_table_and_writes_a_report(tmp_path: Path) -> None:
    done = backroads("compare", *QUICK, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "[100 %] epoch 1/1, test: backprop" in done.stdout
    assert "\x1b" not in done.stdout  # no terminal codes into a pipe
    assert "symmetric alignment" in done.stdout
    assert "report: run/report.html" in done.stdout
    names = {path.name for path in (tmp_path / "run").iterdir()}
    written = {"config.toml", "environment.json", "events.jsonl", "system.jsonl", "checkpoints", "results.json"}
    assert names - {"report.html"} == written
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert "compare --epochs 1 --seeds 0" in environment["command"]
    for key in ("torch", "python", "cpu", "cores", "started", "backroads"):
        assert environment[key]


def test_the_gap_of_a_comparison_is_accuracy_less_the_baselines_of_the_same_seed() -> None:
    accuracies = {("backprop", 0): 0.9, ("backprop", 1): 0.7, ("worse", 0): 0.85, ("worse", 1): 0.68}
    arms = tuple(ArmResult(name, seed, "finished", 1, 1.0, accuracy=a) for (name, seed), a in accuracies.items())
    lines = table(TrainingResults("compare", "test", arms, baseline="backprop")).splitlines()
    (worse,) = (line for line in lines if line.startswith("worse"))
    assert "76.50 +- 12.02" in worse
    assert "-3.50 +- 2.12" in worse  # of -5 and -2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "--epoch", "3"], "Did you mean --epochs?"),
        (["train", "--drop-epochs", "[]", "1"], 'Invalid value for --drop-epochs: unable to convert "[]" into float.'),
        (["comare"], 'Did you mean "compare"?'),
        (["train", "--resume"], "out: expected the folder of the run to resume or restart"),
        (["meta", "train", "--restart-from-scratch"], "out: expected the folder of the run to resume or restart"),
        (["inspect", "mlp", "--shape", "0,28,28"], "expected three whole numbers of 1 or more"),
        (["eval", "study"], "expected the folder of a training, and study is that of a search"),
        (["compare", "--epochs", "0"], "epochs: expected greater than or equal to 1, got 0"),
        (["compare", "--rules", "feedback_alignmnt"], "Did you mean 'feedback_alignment'?"),
        (["compare", "--config", "nowhere.toml"], "cannot read nowhere.toml"),
        (["compare", "--config", "broken.toml"], "is not TOML"),
        (["compare", "--config", "misspelt.toml"], "Did you mean 'epochs' in [run]?"),
        (["compare", "--out", "full"], "full exists and is not empty"),
    ],
)
def test_mistakes_get_one_message_and_leave_nothing_behind(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "broken.toml").write_text("epochs = = 3")
    (tmp_path / "misspelt.toml").write_text("epoch = 3")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "config.toml").write_text("[study]\ntrials = 3\n")
    before = sorted(tmp_path.rglob("*"))
    done = backroads(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_flags_override_the_file(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        "[run]\nepochs = 7\nbatch_size = 512\n[model]\noptions = { width = 2 }\n"
        '[compare]\nseeds = [0]\nrules = ["backprop"]\n'
    )
    done = backroads("compare", "--config", "run.toml", "--epochs", "1", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert (written["run"]["epochs"], written["model"]["options"]) == (1, {"width": 2})


@pytest.mark.slow
def test_lists_take_several_words_and_settings_of_rules_are_numbers(tmp_path: Path) -> None:
    words = ["--epochs", "1", "--seeds", "0", "1", "--model-options.width", "2", "--batch-size", "512"]
    words += ["--rules", "backprop", "weight_mirror", "--rule-settings.weight_mirror.amp", "0.25", "--out", "run"]
    done = backroads("compare", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert written["compare"]["seeds"] == [0, 1]
    assert written["compare"]["rules"] == ["backprop", "weight_mirror"]
    assert written["compare"]["rule_settings"]["weight_mirror"] == {"amp": 0.25}


VERBS = ("compare", "train", "eval", "export", "inspect", "report", "search", "theory", "transfer", "worker")


@pytest.mark.parametrize("verb", [*VERBS, "meta train", "meta eval"])
def test_help_of_every_command_needs_no_torch(verb: str) -> None:
    code = "import sys, backroads.cli as cli; cli.main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    words = [*verb.split(), "--help"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], check=False, timeout=PATIENCE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"Usage: backroads {verb}" in done.stdout


SCHEMAS = {
    "train": "backroads.train.settings:TrainSettings",
    "compare": "backroads.train.comparison:CompareSettings",
    "search": "backroads.search.settings:SearchSettings",
    "meta train": "backroads.plasticity.settings:MetaConfig",
    "theory": "backroads.contrib.theory.settings:TheoryConfig",
}


@pytest.mark.parametrize("verb", SCHEMAS)
def test_help_names_every_setting(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, _, name = SCHEMAS[verb].partition(":")
    schema = getattr(importlib.import_module(module), name)
    with contextlib.suppress(SystemExit):  # of commands within commands
        main([*verb.split(), "--help"])
    said = capsys.readouterr().out
    hidden = {name for group in groups(schema).values() for name in group.without_flag}
    missing = [flag for flag, (_, name) in flags(schema).items() if name not in hidden and dashed(flag) not in said]
    assert missing == []


def dashed(flag: str) -> str:
    return "--" + flag.replace("_", "-")


def test_a_log_gets_news_at_once_and_the_time_left_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 2))  # two seconds a look
    monkeypatch.setattr("backroads.cli.progress.time.monotonic", lambda: float(next(clock)))
    with progress() as report:
        report(Progress(0, 1, "loading digits"))
        for step in range(20, 26):  # from step 20 on: a run that was resumed
            report(Progress(step, 100, "epoch 1" if step == 24 else None))
    assert capsys.readouterr().out.splitlines() == [
        "[  0 %] loading digits",
        "[ 22 %] step 22 of 100, about 2:36 min left",  # 2 steps in 4 s, 78 steps left
        "[ 24 %] epoch 1",
    ]
