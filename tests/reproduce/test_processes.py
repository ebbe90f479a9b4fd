"""Several processes at one campaign: in a folder they share, and through a database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import PATIENCE
from postgres import PASSWORD, Postgres, running

from backroads.errors import RunError
from backroads.reproduce import run as runs
from backroads.reproduce import storage
from backroads.reproduce.arms import Campaign, arms_of, unique
from backroads.reproduce.claims import load_claim
from backroads.runs.lock import InUseError, locked
from backroads.runs.progress import Progress

CLAIM = load_claim("K8")
CAMPAIGN = Campaign((CLAIM,), "smoke", machine={"threads": 1})
ARMS = unique(arms_of(CLAIM, CAMPAIGN))


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running() as found:
        yield found


def together(folders: list[Path], *more: str) -> set[str]:
    """The trainings of which some processes that work on a campaign at the same time say that they have ended."""
    words = ["reproduce", "run", "K8", "--scale", "smoke", "--threads", "1", "--resume", *more, "--out"]
    command = [sys.executable, "-m", "backroads", *words]
    started = [subprocess.Popen([*command, folder], stdout=-1, stderr=-1, text=True) for folder in folders]
    ends = [(process.communicate(timeout=PATIENCE), process.returncode) for process in started]
    assert [code for _, code in ends] == [0] * len(folders), ends
    lines = [line for texts, _ in ends for text in texts for line in text.splitlines()]
    return {line.partition("] ")[2] for line in lines if ": finished" in line}


@pytest.mark.slow
def test_processes_that_share_a_folder_run_each_training_once(tmp_path: Path) -> None:
    assert len(together([tmp_path / "out"] * 3)) == len(ARMS)
    assert all(arm.outcome(tmp_path / "out").done for arm in ARMS)
    assert not list((tmp_path / "out" / "runs").glob("*.lock"))


@pytest.mark.slow
def test_processes_divide_a_campaign_through_a_database_and_each_has_all_results(
    tmp_path: Path, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    folders = [tmp_path / "one", tmp_path / "two"]
    together(folders, "--storage", server.url)
    assert together(folders, "--storage", server.url) == set()  # they get what the other has trained, and train nothing
    for arm in ARMS:
        ends = [(folder / arm.folder / "results.json").read_text() for folder in folders]
        assert ends[0] == ends[1]  # with its duration: one of them trained it, and the other has a copy
        checkpoints = [list((folder / arm.folder).rglob("state.pt")) for folder in folders]
        assert sum(map(bool, checkpoints)) == 1
    tables = [json.loads((folder / "results.json").read_text())["claims"] for folder in folders]
    assert tables[0] == tables[1]
    assert not any(PASSWORD in path.read_text() for path in tmp_path.rglob("*.*") if path.suffix in (".toml", ".json"))


def said(told: list[Progress], words: str) -> bool:
    return any(words in (one.line or "") for one in told)


def test_a_training_in_the_hands_of_another_process_is_left_to_it(tmp_path: Path) -> None:
    runs.begin(CAMPAIGN, tmp_path, resume=True)
    (tmp_path / "runs").mkdir()
    told: list[Progress] = []
    with locked(tmp_path / "runs", name=f"{ARMS[0].folder.name}.lock"):
        assert runs.perform(ARMS[0], tmp_path) is None
        assert runs.run(CAMPAIGN, tmp_path, told.append) == []
        assert said(told, "1 trainings are in the hands of other processes")
        assert [arm.outcome(tmp_path).done for arm in ARMS] == [False, *[True] * (len(ARMS) - 1)]
    assert runs.run(CAMPAIGN, tmp_path, told.append) == []
    assert ARMS[0].outcome(tmp_path).done


def test_what_trials_of_another_process_choose_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "IDLE", 0.01)
    claim = load_claim("K1")
    own = Campaign((claim,), "smoke", machine={"threads": 1})
    runs.begin(own, tmp_path, resume=True)
    (tmp_path / "runs").mkdir()
    trial = next(arm for arm in arms_of(claim, own) if arm.of == "trials")
    told: list[Progress] = []
    held = locked(tmp_path / "runs", name=f"{trial.folder.name}.lock")
    held.__enter__()
    worker = threading.Thread(target=runs.run, args=(own, tmp_path, told.append))
    worker.start()
    try:
        while worker.is_alive() and not said(told, "waiting for trials of other processes"):
            worker.join(0.01)
        assert worker.is_alive()
    finally:
        held.__exit__(None, None, None)
        worker.join(600)
    assert all(arm.outcome(tmp_path).done for arm in arms_of(claim, own, tmp_path))
    assert len(arms_of(claim, own, tmp_path)) == len(arms_of(claim, own))


def test_a_lock_of_the_database_ends_with_its_connection(server: Postgres) -> None:
    url = storage.checked(server.url)
    with storage.taken(url, ARMS[0]):
        with pytest.raises(InUseError), storage.taken(url, ARMS[0]):
            pass
        with storage.taken(url, ARMS[1]):
            pass
    with storage.taken(url, ARMS[0]):
        server.stored("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
        with storage.taken(url, ARMS[0]):
            pass


def test_rows_that_are_no_training_are_refused_and_write_nothing(tmp_path: Path, server: Postgres) -> None:
    url = storage.checked(server.url)
    for files in ("[1]", '{"../../results.json": ""}', '{"results.json": 1}'):
        with storage._connected(url) as connection:
            connection.execute("DELETE FROM backroads_trainings")
            row = [storage.__version__, ARMS[0].identity, files]
            connection.execute("INSERT INTO backroads_trainings VALUES (%s, %s, %s)", row)
        with pytest.raises(RunError, match="is no training; remove that row"):
            storage.exchange(url, ARMS, tmp_path)
        assert not list(tmp_path.rglob("*"))
    with storage._connected(url) as connection:
        connection.execute("DELETE FROM backroads_trainings")


def test_a_server_that_is_away_is_named_and_the_training_is_kept(
    tmp_path: Path, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PATIENCE", 0.2)
    url = storage.checked(server.url)
    runs.begin(CAMPAIGN, tmp_path, resume=True)
    assert runs.perform(ARMS[0], tmp_path) == ""
    server.stop()
    try:
        with pytest.raises(RunError, match="did not answer"):
            runs.run(CAMPAIGN, tmp_path, lambda progress: None, storage=url)
    finally:
        server.start()
    storage.exchange(url, ARMS, tmp_path)
    storage.exchange(url, ARMS, tmp_path / "other")
    ends = [ARMS[0].outcome(folder) for folder in (tmp_path, tmp_path / "other")]
    assert ends[0].done
    assert ends[0] == ends[1]


FAILS = """
import importlib.abc, importlib.util, signal, sys, time

def train(config, folder, report, **options):
    from backroads.runs.schema import Stopped
    if config.rule.name == "backprop":
        time.sleep(5)
        raise RuntimeError("an error of torch")
    stopped = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    while not stopped:
        time.sleep(0.05)
    return Stopped(0, stopped[0])

class Trainer(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "backroads.train.trainer":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (execute(module), setattr(module, "train", train))
        return spec

sys.meta_path.insert(0, Trainer())
"""


@pytest.mark.slow
def test_an_error_in_one_of_several_trainings_at_a_time_stops_the_others_and_is_said(tmp_path: Path) -> None:
    """Trainings that are stopped save a checkpoint first, as these here do; none may be waited for in vain."""
    (tmp_path / "sitecustomize.py").write_text(FAILS)
    command = [sys.executable, "-m", "backroads", "reproduce", "run", "K8", "--scale", "smoke", "--threads", "1"]
    command += ["--jobs", "4", "--out", str(tmp_path / "out")]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, "PYTHONPATH": path}, check=False
    )
    assert ended.returncode
    assert "an error of torch" in ended.stderr
