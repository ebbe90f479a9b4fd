"""What writes into a run's folder: on the disk before it has its name, through no link, and one process at a time."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import PATIENCE

from backroads.errors import ConfigError, RunError
from backroads.runs import checkpoint
from backroads.runs.files import folder_within, free_name, open_plain, write_atomically
from backroads.runs.lock import LOCK, locked


def in_child(act: Callable[[], Any]) -> int:
    """Call ``act`` in a forked process; how that ended, as ``os.waitpid`` says."""
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# -- order on the disk -------------------------------------------------------------------------------------------------


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Flushes and renames in their order: ("flush", path) and ("rename", new path)."""
    calls: list[tuple[str, str]] = []
    flush, rename, replace = os.fsync, os.rename, os.replace

    def flushed(descriptor: int) -> None:
        flush(descriptor)
        calls.append(("flush", os.readlink(f"/proc/self/fd/{descriptor}")))

    def renamed(act: Callable[..., None]) -> Callable[..., None]:
        def rename(old: Path, new: Path) -> None:
            act(old, new)
            calls.append(("rename", f"{old} {new}"))

        return rename

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "rename", renamed(rename))
    monkeypatch.setattr(os, "replace", renamed(replace))
    return calls


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(monkeypatch)
    write_atomically(tmp_path / "results.json", "new")
    (kind, aside), renamed, folder = calls
    assert kind == "flush"
    assert renamed == ("rename", f"{aside} {tmp_path / 'results.json'}")
    assert folder == ("flush", str(tmp_path))
    assert os.listdir(tmp_path) == ["results.json"]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(monkeypatch)
    target = checkpoint.save(tmp_path, 7, {"w": torch.ones(2)}, {"n": 1}, None)
    (last,) = [place for place, (kind, what) in enumerate(calls) if kind == "rename" and what.endswith(f" {target}")]
    aside = Path(calls[last][1].split()[0])
    before = calls[:last]
    for name in (checkpoint.MODEL, checkpoint.STATE, checkpoint.MANIFEST):
        (named,) = [
            i for i, (kind, what) in enumerate(before) if kind == "rename" and what.endswith(f" {aside / name}")
        ]
        assert ("flush", before[named][1].split()[0]) in before[:named]
        assert ("flush", str(aside)) in before[named:]
    assert ("flush", str(tmp_path)) in calls[last:]


# -- a kill at any point -----------------------------------------------------------------------------------------------


def killed_at(point: int, act: Callable[[], Any]) -> bool:
    """Call ``act`` in a process that is killed before its call number ``point`` to the disk; whether it got there."""

    def child() -> None:
        left = point

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def one(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                if left == 0:
                    die()
                left -= 1
                return call(*args, **kwargs)

            return one

        for name in ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "open"):
            setattr(os, name, counted(getattr(os, name)))
        act()

    return os.WIFSIGNALED(in_child(child))


@pytest.mark.parametrize("step", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_kill_while_a_checkpoint_is_written_or_deleted_loses_none_that_is_whole(tmp_path: Path, step: int) -> None:
    """Of the same step as one that is there, or of the next one; then all but the newest and the best are deleted."""
    points = 0
    while True:
        folder = tmp_path / str(points)
        for old, score in ((0, 0.9), (1, 0.1)):
            checkpoint.save(folder, old, {"w": torch.tensor(float(old))}, {"new": False}, score)

        def save(folder: Path = folder) -> None:
            checkpoint.save(folder, step, {"w": torch.tensor(float(step))}, {"new": True}, 0.2)
            checkpoint.prune(folder, 1)

        if not killed_at(points, save):
            break
        checkpoint.put_back(folder)
        newest = checkpoint.load_last(folder)
        assert newest.passed_over == ()
        assert newest.manifest.step in {1, step}
        assert newest.model["w"] == newest.manifest.step
        assert checkpoint.load_best(folder).manifest.step == 0
        save()
        assert [path.name for path in sorted(folder.iterdir())] == ["step-000000000", f"step-{step:09d}"]
        assert checkpoint.load_last(folder).state["new"]
        points += 1
    assert points > 15


def test_what_is_damaged_is_never_overwritten_or_deleted(tmp_path: Path) -> None:
    for step in range(4):
        checkpoint.save(tmp_path, step, {"w": torch.zeros(1)}, {}, None)
    (tmp_path / "damaged-step-000000000").mkdir()
    (tmp_path / "damaged-step-000000000" / "mine").write_text("earlier")
    (tmp_path / "step-000000000" / checkpoint.MANIFEST).write_text("{}")
    checkpoint.prune(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "damaged-step-000000000",
        "damaged-step-000000000-2",
        "step-000000003",
    ]
    assert (tmp_path / "damaged-step-000000000" / "mine").read_text() == "earlier"


@pytest.mark.parametrize("field", ["step", "score", "settings"])
def test_a_change_in_a_manifest_is_noticed(tmp_path: Path, field: str) -> None:
    path = checkpoint.save(tmp_path, 3, {"w": torch.zeros(1)}, {}, 0.5, {"seed": 4}) / checkpoint.MANIFEST
    data = json.loads(path.read_text())
    data[field] = {"step": 2, "score": 0.75, "settings": {"seed": 5}}[field]
    path.write_text(json.dumps(data))
    found, problems = checkpoint.load_newest(tmp_path)
    assert found is None
    assert "manifest.json is not what was written" in problems[0]


# -- links -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["symbolic", "dangling", "hard", "pipe", "folder"])
def test_only_a_plain_file_is_opened(tmp_path: Path, kind: str) -> None:
    victim, path = tmp_path / "victim", tmp_path / "run" / "events.jsonl"
    path.parent.mkdir()
    if kind != "dangling":
        victim.write_text("precious")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "hard":
        os.link(victim, path)
    else:
        path.symlink_to(victim)
    with pytest.raises((ConfigError, IsADirectoryError)):
        open_plain(path)
    assert victim.exists() == (kind != "dangling")
    assert kind == "dangling" or victim.read_text() == "precious"


def test_a_file_is_written_in_the_place_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "results.json").symlink_to(tmp_path / "victim")
    write_atomically(tmp_path / "results.json", "new")
    assert (tmp_path / "victim").read_text() == "precious"
    assert (tmp_path / "results.json").read_text() == "new"


def test_a_folder_within_is_within(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "in").symlink_to("other")
    (run / "out").symlink_to(tmp_path)
    (tmp_path / "disk").symlink_to(run)  # the user's own link to the run
    assert folder_within(tmp_path / "disk", "checkpoints") == tmp_path / "disk" / "checkpoints"
    assert folder_within(run, "in") == run / "in"
    with pytest.raises(ConfigError, match="symbolic link to"):
        folder_within(run, "out")


def test_a_free_name_is_free(tmp_path: Path) -> None:
    assert free_name(tmp_path / "a") == tmp_path / "a"
    (tmp_path / "a").mkdir()
    (tmp_path / "a-2").symlink_to("nowhere")
    assert free_name(tmp_path / "a") == tmp_path / "a-3"


# -- the lock ----------------------------------------------------------------------------------------------------------


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with locked(tmp_path):
        before = (tmp_path / LOCK).read_bytes()

        def second() -> None:
            with pytest.raises(RunError) as refused, locked(tmp_path):
                pass
            (tmp_path / "said").write_text(str(refused.value))

        in_child(second)
        said = (tmp_path / "said").read_text()
        assert f"process {os.getpid()} on {socket.gethostname()}, since 2" in said
        assert (tmp_path / LOCK).read_bytes() == before
    assert not (tmp_path / LOCK).exists()
    with locked(tmp_path):
        pass


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    def holder() -> None:
        with locked(tmp_path):
            die()

    assert os.WIFSIGNALED(in_child(holder))
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_a_child_does_not_keep_the_lock_of_a_parent_that_was_killed(tmp_path: Path) -> None:
    def holder() -> None:
        ready, started = os.pipe()
        with locked(tmp_path):
            child = os.fork()
            if child == 0:
                os.write(started, b"1")
                time.sleep(60)
                os._exit(0)
            (tmp_path / "child").write_text(str(child))
            os.read(ready, 1)
            die()

    in_child(holder)
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def test_the_lock_of_another_machine_is_not_taken(tmp_path: Path) -> None:
    left = json.dumps({"host": "elsewhere", "process": 7, "since": "2026-01-01T00:00:00"})
    (tmp_path / LOCK).write_text(left)
    with (
        pytest.raises(RunError, match=r"may be in use by process 7 on elsewhere, .* remove .*run\.lock"),
        locked(tmp_path),
    ):
        pass
    assert (tmp_path / LOCK).read_text() == left
    (tmp_path / LOCK).unlink()
    with locked(tmp_path):
        pass


def test_without_locks_in_the_file_system_the_file_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*args: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path), pytest.raises(RunError, match="may be in use"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_many_processes_at_once_hold_it_one_at_a_time(tmp_path: Path) -> None:
    """Each adds one to a number that is read, and written later; without a lock some are lost."""
    (tmp_path / "number").write_text("0")

    def add() -> None:
        done = 0
        while done < 20:
            try:
                with locked(tmp_path):
                    number = int((tmp_path / "number").read_text())
                    time.sleep(0.0005)
                    (tmp_path / "number").write_text(str(number + 1))
                done += 1
            except RunError:
                time.sleep(0.0002)

    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                add()
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    assert (tmp_path / "number").read_text() == "80"


def test_who_has_patience_waits_for_a_lock_that_is_let_go(tmp_path: Path) -> None:
    taken, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(tmp_path):
            taken.set()
            let_go.wait(PATIENCE)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    taken.wait(PATIENCE)
    with pytest.raises(RunError, match="in use by process"), locked(tmp_path, patience=0.2):
        pass
    threading.Timer(0.2, let_go.set).start()
    with locked(tmp_path, patience=PATIENCE):
        assert (tmp_path / LOCK).is_file()
    holder.join()
