"""Checkpoints: whole or not at all, and never code."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from backroads.errors import StateError
from backroads.runs import checkpoint
from backroads.runs.manifest import read_manifest

MODEL = {"a.weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7)}
STATE = {"optimizers": {"lr": 0.1, "momentum": [torch.ones(2)]}, "counters": {"step": 3}, "ema": None}


def _save(folder: Path, step: int, score: float | None = None) -> Path:
    return checkpoint.save(folder, step, {**MODEL, "steps": torch.tensor(step)}, STATE, score)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 3, MODEL, STATE, 0.5)
    found = checkpoint.load(path)
    assert found.manifest.step == 3
    assert found.manifest.score == 0.5
    assert set(found.model) == set(MODEL)
    assert all(torch.equal(found.model[name], MODEL[name]) for name in MODEL)
    assert torch.equal(found.state["optimizers"]["momentum"][0], torch.ones(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000003"]


def test_channels_last_and_shared_tensors_are_saved_by_value(tmp_path: Path) -> None:
    image = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    found = checkpoint.load(checkpoint.save(tmp_path, 0, {"a": image, "b": image}, {}, None))
    assert torch.equal(found.model["a"], image)
    assert torch.equal(found.model["b"], image)


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for step, score in ((0, 0.1), (10, 0.9), (20, 0.9), (30, 0.5), (40, None), (50, None)):
        _save(tmp_path, step, score)
    checkpoint.prune(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000010", "step-000000040", "step-000000050"]
    assert checkpoint.load_best(tmp_path).manifest.step == 10


@pytest.mark.parametrize("name", [checkpoint.MODEL, checkpoint.STATE, checkpoint.MANIFEST])
@pytest.mark.parametrize("damage", ["truncate", "alter", "remove", "empty"])
def test_a_damaged_one_is_found_and_the_one_before_is_used(tmp_path: Path, name: str, damage: str) -> None:
    _save(tmp_path, 1)
    path = _save(tmp_path, 2) / name
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        altered = bytearray(content)
        altered[len(altered) // 2] ^= 0x40
        path.write_bytes({"truncate": content[: len(content) // 2], "alter": bytes(altered), "empty": b""}[damage])
    found, problems = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found.manifest.step == 1
    assert len(problems) == 1
    assert "step-000000002" in problems[0]
    assert found.passed_over == tuple(problems)
    assert path.parent.is_dir()  # to look is to change nothing
    assert checkpoint.set_aside(path.parent) == tmp_path / "damaged-step-000000002"
    assert checkpoint.load_newest(tmp_path)[1] == []


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    path = _save(tmp_path, 1)
    mark = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {mark}",)

    def seal() -> None:
        """Make the manifest fit, as whoever made the folder can."""
        manifest = read_manifest(path)
        sums = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in manifest.sha256}
        (path / checkpoint.MANIFEST).write_text(dataclasses.replace(manifest, sha256=sums).as_json())

    (path / checkpoint.STATE).write_bytes(pickle.dumps(Evil()))
    seal()
    with pytest.raises(StateError):
        checkpoint.load(path)
    torch.save({"x": Evil()}, path / checkpoint.STATE)
    seal()
    with pytest.raises(StateError, match="more than tensors and plain data"):
        checkpoint.load(path)
    assert not mark.exists()


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path, 1)
    written: list[str] = []
    real = checkpoint.write_atomically

    def full_disk(path: Path, content: bytes) -> None:
        if written:
            real(path, content[: len(content) // 2])
            raise OSError(28, "No space left on device", str(path))
        written.append(path.name)
        real(path, content)

    monkeypatch.setattr(checkpoint, "write_atomically", full_disk)
    with pytest.raises(OSError, match="No space"):
        _save(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000001"]
    assert checkpoint.load_newest(tmp_path)[0] is not None


def test_what_a_killed_write_left_is_ignored_and_removed(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    left = tmp_path / ".writing-000000002"
    left.mkdir()
    (left / checkpoint.MODEL).write_bytes(b"half")
    found, problems = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert (found.manifest.step, problems) == (1, [])
    checkpoint.prune(tmp_path, 2)
    assert not left.exists()


def test_without_any_the_message_says_so(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path / "none") == (None, [])
    with pytest.raises(StateError, match="holds no checkpoint"):
        checkpoint.load_best(tmp_path / "none")
