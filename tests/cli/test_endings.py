"""How commands end: the exit status of every verb, and one line for whatever goes wrong."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import PATIENCE
from report.folders import meta, training

from backroads.cli import app, main
from backroads.errors import ConfigError, DataError, RunError
from backroads.report import write_report
from backroads.runs.schema import ArmResult, MetaResults, Stopped, TrainingResults

FULL = OSError(errno.ENOSPC, "No space left on device")
MEMORY = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried ...\nmore")
ARM = ArmResult("backprop", 0, "finished", 1, 1.0, accuracy=0.5, loss=1.0)


def ended(words: list[str]) -> int:
    """Exit status of a command in this process."""
    try:
        main(words)
    except SystemExit as left:
        return int(left.code or 0)
    return 0


# Verb: right words (RUN stands for a folder), wrong ones, what does its work, and what that returns where it succeeds.
VERBS: dict[str, tuple[list[str], list[str], str, Any]] = {
    "train": ([], ["--epochs", "0"], "backroads.train.trainer:train", TrainingResults("train", "test", (ARM,))),
    "compare": (
        [],
        ["--rules", "a", "a"],
        "backroads.train.trainer:compare",
        TrainingResults("compare", "test", (ARM,), "backprop", seconds=1.0),
    ),
    "search": (["--out", "RUN"], ["--config", "none"], "backroads.search.run:search", None),
    "worker": (["sqlite:///a.db", "study"], ["sqlite:///a.db"], "backroads.search.worker:work", "done"),
    "transfer": (["RUN", "--models", "mlp"], ["RUN"], "backroads.search.run:study_in", None),
    "meta train": (
        [],
        ["--seed", "-1"],
        "backroads.plasticity.trainer:meta_train",
        MetaResults("meta", "finished", 1),
    ),
    "meta eval": (["RUN"], ["RUN", "--lifetimes", "0"], "backroads.plasticity.trainer:load_run", None),
    "meta analyse": (["RUN"], ["RUN", "--split", "third"], "backroads.plasticity.trainer:load_run", None),
    "meta report": (["RUN"], [], "backroads.report:write_meta_report", Path("page")),
    "eval": (["RUN"], ["RUN", "--split", "third"], "backroads.train.load:load_model", None),
    "export": (
        ["RUN"],
        ["RUN", "--checkpoint", "third"],
        "backroads.train.export:export",
        {"model": "mlp", "step": 1, "passed_over": []},
    ),
    "report": (["RUN"], [], "backroads.report:write_report", Path("page")),
    "reproduce report": (["RUN"], [], "backroads.reproduce.run:campaign_in", None),
    "inspect": (["mlp", "--rule", "backprop"], ["mlp", "--shape", "3"], "backroads.metrics.cost:cost", None),
    "theory": (["--out", "RUN/new"], ["--amp", "nan"], "backroads.contrib.theory.run:theory", None),
    "doctor": ([], ["now"], "torch.get_num_threads", None),
}
ENDINGS: dict[str, tuple[BaseException, int]] = {
    "bad input": (ConfigError("data: expected images"), 2),
    "failed run": (RunError("too many images"), 1),
    "images that are damaged": (DataError("at most 0 unreadable images"), 1),
    "full disk": (FULL, 1),
    "too little memory": (MemoryError(), 1),
    "a mistake of ours": (KeyError("a"), 1),
    "Ctrl-C": (KeyboardInterrupt(), 130),
    "nobody reads": (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141),
}


@pytest.fixture
def working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], list[str]]:
    """Lets the work of a verb return or raise something; returns the words of the command."""
    monkeypatch.chdir(tmp_path)
    training(epochs=1).write(tmp_path / "RUN")
    (tmp_path / "RUN" / "config.toml").write_text("")

    def patch(verb: str, outcome: Any) -> list[str]:
        def work(*_: Any, **__: Any) -> Any:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        module, _, name = VERBS[verb][2].replace("torch.get", "torch:get").partition(":")
        monkeypatch.setattr(importlib.import_module(module), name, work)
        return [*verb.split(), *VERBS[verb][0]]

    return patch


def test_the_table_has_every_verb() -> None:
    assert {verb.split()[0] for verb in VERBS} == {name for name in app if not name.startswith("-")}


@pytest.mark.parametrize("how", ENDINGS)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_ends_with_the_same_status_and_one_line(
    verb: str, how: str, working: Callable[[str, Any], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    error, status = ENDINGS[how]
    words = working(verb, error)
    assert ended(words) == status
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert len(said.splitlines()) == (0 if how == "nobody reads" else 1)
    if how in ("full disk", "a mistake of ours"):
        assert ended([*words, "--debug"] if verb != "theory" else [*words[:-1], "RUN/other", "--debug"]) == status
        assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_wrong_words(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ended([*verb.split(), *VERBS[verb][1]]) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", [verb for verb, (*_, result) in VERBS.items() if result is not None])
def test_every_verb_ends_with_0_where_it_is_done(verb: str, working: Callable[[str, Any], list[str]]) -> None:
    assert ended(working(verb, VERBS[verb][3])) == 0


@pytest.mark.parametrize("verb", ["train", "compare", "meta train"])
def test_runs_end_with_their_signal(verb: str, working: Callable[[str, Any], list[str]]) -> None:
    assert ended(working(verb, Stopped(3, 15))) == 143
    assert ended(working(verb, Stopped(3, 2))) == 130


def test_a_training_that_diverged_is_a_failed_run(working: Callable[[str, Any], list[str]]) -> None:
    arm = ArmResult("backprop", 0, "diverged", 1, reason="not finite")
    assert ended(working("train", TrainingResults("train", "test", (arm,)))) == 1
    assert ended(working("meta train", MetaResults("meta", "diverged", 1, reason="not finite"))) == 1


@pytest.mark.parametrize("error", [MEMORY, MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried ...")])
def test_too_little_memory_says_what_to_make_smaller(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def step(*_: object) -> None:
        raise error

    monkeypatch.setattr("backroads.train.step.Stepper.forward_backward", step)
    words = ["train", "--model-options.width", "2", "--max-steps", "1", "--out", str(tmp_path / "run")]
    assert ended(words) == 1
    said = capsys.readouterr().err
    assert "not enough memory" in said
    assert "make the batch (--batch-size), the images (--image-size) or the model smaller" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "meta"], "device: 'meta' cannot be used here"),
        (["--device", "nonsense"], "device: 'nonsense' cannot be used here"),
        (["--device", "cuda:99"], "device: 'cuda:99' cannot be used here"),
        (["--device", "privateuseone"], "device: 'privateuseone' cannot be used here"),
        (["--model", ":"], "model ':': cannot import ''"),
        (["--model", "a:"], "model 'a:': cannot import 'a'"),
        (["--threads", "0"], "threads: expected greater than or equal to 1"),
        (["--threads", "-1"], "threads: expected greater than or equal to 1"),
        (["--threads", "1000000000"], "threads: expected less than or equal to 1024"),
        (["--batch-size", "1000000000"], "batch_size: expected at most 1149"),
        (["--seed", str(2**64)], "seed: expected less than 2147483648"),
        (["--readings-every", "inf"], "readings_every: expected a finite number"),
        (["--drop-epochs", "nan"], "drop_epochs: expected epochs in increasing order, from 0 and finite"),
        (["--image-size", "1000000000"], "image_size: expected at most 16384"),
        (["--model-options.width", "9" * 5_000], "model 'digits_conv' cannot be made"),
        (["--model-options.width", "[" * 5_000], "model 'digits_conv' cannot be made"),
    ],
)
def test_absurd_flags_are_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(["train", "--max-steps", "1", *words, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rule", "feedback_alignmnt"], "Did you mean 'feedback_alignment'?"),
        (["--method", "local_error"], "Did you mean 'local_errors'?"),
        (["--model", "digit_conv"], "Did you mean 'digits_conv'?"),
        (["--layer-rules.fc", "bakprop"], "Did you mean 'backprop'?"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "compare"])
def test_names_are_checked_before_data_are_loaded(
    verb: str,
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if verb == "compare":
        words = [word.replace("--rule", "--rules").replace("--method", "--methods") for word in words]
    monkeypatch.setattr("backroads.train.build.load_dataset", lambda *_, **__: pytest.fail("data were loaded"))
    assert ended([verb, *words, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["report", "meta report"])
def test_a_report_that_cannot_be_written_leaves_the_old_one(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = (training(epochs=1) if verb == "report" else meta()).write(tmp_path)
    before = write_report(folder).read_bytes()

    def full(*_: object) -> None:
        raise FULL

    monkeypatch.setattr(os, "fsync", full)
    names = sorted(folder.iterdir())
    assert ended([*verb.split(), str(folder)]) == 1
    said = capsys.readouterr().err
    assert "cannot be written (No space left on device); make room" in said
    assert len(said.splitlines()) == 1
    assert (folder / "report.html").read_bytes() == before
    assert sorted(folder.iterdir()) == names


@pytest.mark.parametrize("target", ["/dev/full", "a closed pipe"])
def test_an_output_that_takes_nothing_ends_in_no_traceback(target: str, tmp_path: Path) -> None:
    folder = training(epochs=1).write(tmp_path)
    if target == "/dev/full":
        out = os.open(target, os.O_WRONLY)
    else:
        reader, out = os.pipe()
        os.close(reader)
    command = [sys.executable, "-m", "backroads", "report", str(folder)]
    done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE)
    os.close(out)
    assert done.returncode == (1 if target == "/dev/full" else 141)
    said = "backroads: error: No space left on device; run again with --debug to see where\n"
    assert done.stderr == (said if target == "/dev/full" else "")
