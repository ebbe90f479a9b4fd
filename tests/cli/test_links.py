"""A folder from someone else, in which files and folders are links to what is outside: no command changes that."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from backroads.cli import main

META = ["--tasks", "3", "--steps-per-task", "2", "--batch-size", "4", "--hidden", "6", "5", "--meta-steps", "2"]
META += ["--eval-lifetimes", "2", "--lr-plasticity", "1e-4", "--threads", "1", "--device", "cpu"]
TRAIN = ["--model-options.width", "2", "--epochs", "1", "--threads", "1", "--device", "cpu"]
MORE = ["--max-steps", "3"]  # than the two that were taken
THEORY = ["theory", "--points", "3", "--simulated", "2", "--no-network", "--out"]
SEARCH = ["search", "--rules", "symmetric_alignment", "--trials", "1", "--workers", "1", "--epochs", "1"]
SEARCH += ["--batch-size", "512", "--model-options.width", "2", "--out"]
# How a folder is made, and the commands that write into it.
KINDS: dict[str, tuple[list[list[str]], list[list[str]]]] = {
    "train": (
        [["train", *TRAIN, "--max-steps", "2", "--out"], ["export"]],
        [
            ["train", "--resume", *MORE, "--out"],
            ["report"],
            ["eval"],
            ["export"],
            ["train", "--restart-from-scratch", "--out"],
        ],
    ),
    "compare": (
        [["compare", *TRAIN, "--max-steps", "2", "--rules", "backprop", "--seeds", "0", "--out"]],
        [["compare", "--resume", *MORE, "--out"], ["report"], ["compare", "--restart-from-scratch", "--out"]],
    ),
    "meta": (
        [["meta", "train", *META, "--out"], ["meta", "eval", "--lifetimes", "2"]],
        [
            ["meta", "train", "--resume", "--meta-steps", "3", "--out"],
            ["meta", "eval", "--lifetimes", "2"],
            ["meta", "analyse", "--lifetimes", "2", "--probes", "2"],
            ["meta", "report"],
            ["report"],
        ],
    ),
    "theory": ([[*THEORY]], [[*THEORY], ["report"]]),
    "search": (
        [[*SEARCH]],
        [
            [*SEARCH],
            ["search", "report"],
            ["search", "best"],
            ["search", "promote", "--top", "1", "--seeds", "1"],
            ["transfer", "--models", "digits_conv", "--seeds", "1"],
        ],
    ),
}
# What is written, beside the files that the folder has; the last are temporary names that can be guessed.
NAMES = ["run.lock", "system.jsonl", "results.json", "report.html", "evaluation.json", "analysis.json", "promote.json"]
NAMES += ["transfer.json", "best.toml", "worker-0.log", "results.json.tmp", f"results.json.{os.getpid()}.tmp"]
NAMES += [f"{name}.{os.getpid()}.tmp" for name in ("config.toml", "report.html", "evaluation.json")]
REFUSED = {"train": {"run.lock", "events.jsonl", "system.jsonl", "checkpoints", "export", "tensorboard"}}


def call(*words: str) -> None:
    """A command in this process, however it ends; no other exception."""
    with pytest.raises(SystemExit):
        main(list(words))


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file in a folder: when it was changed, and its content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_what_is_linked_to_is_never_changed(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, write = KINDS[kind]
    monkeypatch.chdir(tmp_path)
    for words in make:
        call(*words, "made")
    assert (tmp_path / "made" / "results.json").is_file()
    entries = [path.name for path in (tmp_path / "made").iterdir() if not path.name.endswith((".db", ".log"))]
    folders = ["checkpoints", "export", "trials"]
    said: dict[str, str] = {}
    for name in dict.fromkeys([*entries, *NAMES, *folders]):
        shutil.rmtree("victims", ignore_errors=True)
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree("made", "run")
        own, victim = Path("run", name), Path("victims", name)
        victim.parent.mkdir()
        if os.path.lexists(own):
            own.rename(victim)
        elif name in folders:
            victim.mkdir()
        else:
            victim.write_text('{"trainings": {}}')  # what promotions and transfers begin with
        own.symlink_to(victim.resolve())
        before = state(Path("victims"))
        capsys.readouterr()
        for words in write:
            call(*words, "run")
            assert state(Path("victims")) == before, (name, words)
        said[name] = capsys.readouterr().err
    for name in REFUSED.get(kind, set()) & set(said):
        assert f"{Path('run', name)}: expected a" in said[name], name
        assert "symbolic link" in said[name], name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "run"
    call("train", *TRAIN, "--max-steps", "2", "--out", str(folder))
    return folder


@pytest.mark.parametrize("name", ["events.jsonl", "system.jsonl", "run.lock", "checkpoints", "tensorboard"])
def test_a_link_in_the_place_of_what_grows_is_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    if name == "tensorboard":
        pytest.importorskip("tensorboard")
    run, victim = tmp_path / "run", tmp_path / "victim"
    shutil.copytree(made, run)
    if (run / name).exists():
        (run / name).rename(victim)
    else:
        victim.mkdir()
    (run / name).symlink_to(victim)
    before = {path: content for path, (_, content) in state(tmp_path).items()}
    call("train", "--resume", "--log", "tensorboard", *MORE, "--out", str(run))
    assert f"{run / name}: expected a" in (said := capsys.readouterr().err)
    assert "symbolic link" in said
    if name != "tensorboard":  # which is refused at its first event
        assert {path: content for path, (_, content) in state(tmp_path).items()} == before
    assert list(victim.glob("events.out*")) == []


def test_the_users_own_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    for words in (["train", *TRAIN, "--max-steps", "2"], ["train", "--resume", *MORE]):
        with pytest.raises(SystemExit) as left:
            main([*words, "--out", str(tmp_path / "run")])
        assert left.value.code == 0
    assert (tmp_path / "disk" / "checkpoints" / "step-000000003").is_dir()
