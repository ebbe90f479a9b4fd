"""A run that cannot go on loses nothing: what is refused changes no byte, what is set aside is found again."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from backroads.cli import main
from backroads.errors import ConfigError, RunError
from backroads.plasticity.settings import resolve as resolve_meta
from backroads.plasticity.trainer import meta_train
from backroads.runs import checkpoint
from backroads.runs.lock import locked
from backroads.runs.progress import Progress
from backroads.train.comparison import resolve_comparison
from backroads.train.settings import resolve
from backroads.train.trainer import compare, train

META: dict[str, Any] = {
    "tasks": 3,
    "steps_per_task": 2,
    "batch_size": 4,
    "hidden": [6, 5],
    "meta_steps": 4,
    "eval_every": 4,
    "eval_lifetimes": 3,
    "log_every": 1,
    "checkpoint_every": 2,
    "lr_plasticity": 1e-4,
    "threads": 1,
    "device": "cpu",
}
TRAIN: dict[str, Any] = {
    "data": "digits",
    "model": "digits_conv",
    "model_options": {"width": 2},
    "rule": "symmetric_alignment",
    "epochs": 1,
    "max_steps": 3,
    "batch_size": 32,
    "log_every": 1,
    "threads": 1,
    "device": "cpu",
}
COMPARE = {**TRAIN, "rules": ["backprop", "symmetric_alignment"], "seeds": [0]}
del COMPARE["rule"]


def run_meta(path: Path, settings: dict[str, Any] | None = None, **how: Any) -> list[str]:
    return said(lambda report: meta_train(resolve_meta({**META, **(settings or {})}), path, report, **how))


def run_train(path: Path, settings: dict[str, Any] | None = None, **how: Any) -> list[str]:
    return said(lambda report: train(resolve({**TRAIN, **(settings or {})}), path, report, **how))


def run_compare(path: Path, settings: dict[str, Any] | None = None, **how: Any) -> list[str]:
    return said(lambda report: compare(resolve_comparison({**COMPARE, **(settings or {})}), path, report, **how))


KINDS = {"train": run_train, "compare": run_compare, "meta": run_meta}


def said(act: Callable[[Callable[[Progress], None]], Any]) -> list[str]:
    """What a run said."""
    lines: list[str] = []
    act(lambda progress: lines.append(progress.line) if progress.line else None)
    return lines


def files(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, by its path within."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a finished run of each kind."""
    place = tmp_path_factory.mktemp("finished")
    for kind, run in KINDS.items():
        run(place / kind)
    return {kind: place / kind for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(kind: str, finished: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a finished run."""
    shutil.copytree(finished[kind], tmp_path / "run")
    return tmp_path / "run"


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("step-*"))


# -- without a checkpoint that can be read -----------------------------------------------------------------------------


def one_bit(folder: Path) -> None:
    for path in checkpoints(folder):
        flip(path / checkpoint.MODEL)


def not_mounted(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").mkdir()


@pytest.mark.parametrize("damage", [one_bit, not_mounted])
def test_a_run_without_a_readable_checkpoint_is_left_as_it_is(
    kind: str, folder: Path, damage: Callable[[Path], None]
) -> None:
    damage(folder)
    before = files(folder)
    with pytest.raises(ConfigError, match=r"no checkpoint can be read: .*--restart-from-scratch"):
        KINDS[kind](folder, resume=True)
    assert files(folder) == before


def test_a_restart_sets_everything_aside_and_begins_anew(kind: str, folder: Path, finished: dict[str, Path]) -> None:
    one_bit(folder)
    before = files(folder)
    for number, aside in enumerate(("set-aside", "set-aside-2"), 1):
        lines = KINDS[kind](folder, restart=True)
        assert any(str(folder / aside) in line for line in lines)
        now = files(folder)
        assert {name: now[f"set-aside/{name}"] for name in before} == before
        assert now["events.jsonl"] == (finished[kind] / "events.jsonl").read_bytes()
        assert len([name for name in now if name.endswith("events.jsonl")]) == number + 1
    assert files(folder)["set-aside-2/events.jsonl"] == (finished[kind] / "events.jsonl").read_bytes()


@pytest.mark.parametrize("log", [[], ["tensorboard"]])
def test_a_run_killed_before_its_first_checkpoint_begins_anew_beside_what_it_left(
    tmp_path: Path, finished: dict[str, Path], monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    if log:
        pytest.importorskip("tensorboard")

    class Killed(BaseException):
        pass

    def killed(*args: Any, **kwargs: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(Killed):
            run_train(tmp_path / "run", {"log": log}, resume=True)
    before = files(tmp_path / "run")
    assert "events.jsonl" in before
    assert any("tfevents" in name for name in before) == bool(log)
    lines = run_train(tmp_path / "run", {"log": log}, resume=True)
    assert f"began anew: what was in {tmp_path / 'run'} is now in {tmp_path / 'run' / 'set-aside'}" in lines
    assert files(tmp_path / "run" / "set-aside") == before
    assert (tmp_path / "run" / "events.jsonl").read_bytes() == (finished["train"] / "events.jsonl").read_bytes()


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    for how in ({}, {"resume": True}, {"restart": True}):
        with pytest.raises(ConfigError, match="not empty"):
            run_meta(tmp_path, **how)
    assert files(tmp_path) == {"precious": b"mine"}


def test_a_damaged_checkpoint_is_set_aside_under_a_new_name(folder: Path, kind: str, finished: dict[str, Path]) -> None:
    checkpoint.save(folder / "checkpoints", 99, {}, {}, None)
    flip(folder / "checkpoints" / "step-000000099" / checkpoint.MANIFEST)
    taken = folder / "checkpoints" / "damaged-step-000000099"
    taken.mkdir()
    (taken / "earlier").write_text("kept")
    damaged = files(folder / "checkpoints" / "step-000000099")
    lines = KINDS[kind](folder, resume=True)
    assert any("damaged checkpoint set aside" in line and "step-000000099" in line for line in lines)
    assert files(taken) == {"earlier": b"kept"}
    assert files(taken.with_name("damaged-step-000000099-2")) == damaged
    assert (folder / "events.jsonl").read_bytes() == (finished[kind] / "events.jsonl").read_bytes()


# -- changes that would go unseen --------------------------------------------------------------------------------------


def edit(folder: Path, table: str, name: str, value: Any) -> None:
    path = folder / "config.toml"
    settings = tomllib.loads(path.read_text())
    assert settings[table][name] != value
    settings[table][name] = value
    path.write_text(tomli_w.dumps(settings))


@pytest.mark.parametrize(
    ("kind", "table", "name", "value"),
    [
        ("train", "optimizer", "weight_decay", 0.5),
        ("train", "optimizer", "momentum", 0.1),
        ("train", "optimizer", "learning_rate", 0.7),
        ("train", "backward", "rate", 0.7),
        ("train", "run", "seed", 5),
        ("train", "run", "max_steps", 2),
        ("compare", "optimizer", "momentum", 0.1),
        ("meta", "meta", "lr_plasticity", 0.5),
    ],
)
def test_an_edited_setting_is_refused(
    folder: Path, kind: str, table: str, name: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the library with the run's own settings, and by the command, which reads them from the file."""
    was = tomllib.loads((folder / "config.toml").read_text())[table][name]
    edit(folder, table, name, value)
    before = files(folder)
    message = rf"config.toml was changed(.|\n)*{table}.{name}: the run has {was!r}, now {value!r}(.|\n)*--restart-from"
    with pytest.raises(ConfigError, match=message):
        KINDS[kind](folder, resume=True)
    with pytest.raises(SystemExit) as left:
        main([*(["meta", "train"] if kind == "meta" else [kind]), "--resume", "--out", str(folder)])
    assert left.value.code == 2
    assert f"{table}.{name}: the run has {was!r}, now {value!r}" in capsys.readouterr().err
    assert files(folder) == before


@pytest.mark.parametrize("changes", [{"weight_decay": 0.5}, {"momentum": 0.1}])
def test_optimiser_settings_that_are_given_are_refused_too(
    tmp_path: Path, finished: dict[str, Path], changes: dict[str, Any]
) -> None:
    shutil.copytree(finished["train"], tmp_path / "run")
    before = files(tmp_path / "run")
    with pytest.raises(ConfigError, match=f"optimizer.{next(iter(changes))}"):
        run_train(tmp_path / "run", {**changes, "max_steps": 5}, resume=True)
    assert files(tmp_path / "run") == before


def test_an_edit_that_is_taken_takes_effect_and_is_said(tmp_path: Path, finished: dict[str, Path]) -> None:
    """max_steps may grow: by the file as by a flag, the weights are those of a run that had it from the start."""
    shutil.copytree(finished["train"], tmp_path / "run")
    edit(tmp_path / "run", "run", "max_steps", 5)
    lines = run_train(tmp_path / "run", {"max_steps": 5}, resume=True)
    assert "run.max_steps: 3 so far, 5 from here on" in lines
    run_train(tmp_path / "once", {"max_steps": 5})
    ends = [checkpoint.load_last(tmp_path / name / "checkpoints") for name in ("run", "once")]
    assert ends[0].manifest.step == ends[1].manifest.step == 5
    assert ends[0].manifest.settings == ends[1].manifest.settings
    assert all(torch.equal(ends[0].model[name], value) for name, value in ends[1].model.items())


def test_settings_that_are_missing_come_from_the_checkpoint(
    kind: str, folder: Path, finished: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "config.toml").unlink()
    with pytest.raises(SystemExit) as left:
        main([*(["meta", "train"] if kind == "meta" else [kind]), "--resume", "--out", str(folder)])
    assert left.value.code == 0
    assert "config.toml was missing, and is written again from the checkpoint" in capsys.readouterr().out
    assert (folder / "config.toml").read_bytes() == (finished[kind] / "config.toml").read_bytes()


@pytest.mark.parametrize("change", ["a digit", "shorter", "missing"])
def test_an_edited_log_is_noticed(kind: str, folder: Path, change: str) -> None:
    log = folder / "events.jsonl"
    content = log.read_bytes()
    if change == "missing":
        log.unlink()
    elif change == "shorter":
        log.write_bytes(content[:-5])
    else:
        place = content.index(b'"step": 1')
        log.write_bytes(content[:place] + b'"step": 2' + content[place + 9 :])
    before = files(folder)
    with pytest.raises(ConfigError, match=r"events\.jsonl .*--restart-from-scratch"):
        KINDS[kind](folder, resume=True)
    assert files(folder) == before


def test_lines_after_the_checkpoint_are_written_again(kind: str, folder: Path, finished: dict[str, Path]) -> None:
    with (folder / "events.jsonl").open("ab") as log:
        log.write(b'{"event": "step", "st')
    KINDS[kind](folder, resume=True)
    assert (folder / "events.jsonl").read_bytes() == (finished[kind] / "events.jsonl").read_bytes()


# -- two processes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"restart": True}])
def test_a_folder_in_use_is_left_alone(kind: str, folder: Path, how: dict[str, Any]) -> None:
    with locked(folder):
        before = files(folder)
        with pytest.raises(RunError, match="in use by process"):
            KINDS[kind](folder, **how)
        assert files(folder) == before


def test_a_run_holds_its_folder_to_its_end(tmp_path: Path) -> None:
    held = []

    def report(progress: Progress) -> None:
        if progress.done:
            with pytest.raises(RunError, match="in use by process"), locked(tmp_path):
                pass
            held.append(progress.done)

    meta_train(resolve_meta(META), tmp_path, report)
    assert len(held) >= META["meta_steps"]
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("words", [["theory", "--points", "3", "--no-network"], ["search", "--trials", "1"]])
def test_other_commands_take_the_lock(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path), pytest.raises(SystemExit) as left:
        main([*words, "--out", str(tmp_path)])
    assert left.value.code == 1
    assert "in use by process" in capsys.readouterr().err
    assert files(tmp_path) == {}


# -- which checkpoint, and whether it is any good ----------------------------------------------------------------------


def test_eval_says_which_checkpoint_it_took(
    tmp_path: Path, finished: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, words in (
        ("train", ["eval", "--checkpoint", "last"]),
        ("meta", ["meta", "eval", "--checkpoint", "newest", "--lifetimes", "2"]),
    ):
        folder = tmp_path / kind
        shutil.copytree(finished[kind], folder)
        checkpoint.save(folder / "checkpoints", 99, {}, {}, None)
        flip(folder / "checkpoints" / "step-000000099" / checkpoint.STATE)
        with pytest.raises(SystemExit) as left:
            main([*words, str(folder)])
        assert left.value.code == 0
        printed = capsys.readouterr()
        steps = {"train": TRAIN["max_steps"], "meta": META["meta_steps"]}[kind]
        assert f"step {steps}" in printed.out
        assert "passed over: " in printed.err
        assert "step-000000099: state.pt is not what was written" in printed.err
    found = json.loads((tmp_path / "meta" / "evaluation.json").read_text())
    assert found["step"] == META["meta_steps"]
    assert "step-000000099: state.pt is not what was written" in found["passed_over"][0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named_and_counted(
    tmp_path: Path, finished: dict[str, Path], capsys: pytest.CaptureFixture[str], value: float
) -> None:
    for kind, verbs in (("train", (["eval"], ["export", "--no-program"])), ("meta", (["meta", "eval"],))):
        folder = tmp_path / kind
        shutil.copytree(finished[kind], folder)
        found = checkpoint.load_best(folder / "checkpoints")
        name = next(name for name, tensor in found.model.items() if tensor.numel() > 2 and tensor.is_floating_point())
        found.model[name].view(-1)[:2] = value
        checkpoint.save(folder / "checkpoints", found.manifest.step, found.model, found.state, 9.0)
        for verb in verbs:
            with pytest.raises(SystemExit) as left:
                main([*verb, str(folder)])
            assert left.value.code == 1
            assert f"{name}: 2 of {found.model[name].numel()}" in capsys.readouterr().err
        assert not (folder / "export").exists()
        assert not (folder / "evaluation.json").exists()
