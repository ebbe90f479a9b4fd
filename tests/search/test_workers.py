"""Workers that are killed, stopped and cut off from their server: each planned trial is settled once."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres import PASSWORD, Postgres, running
from search_workers import Workers

from backroads.errors import ConfigError
from backroads.search.record import Record
from backroads.search.run import prepare
from backroads.search.settings import resolve
from backroads.search.storage import FILE, storage_at

WORKERS, TRIALS = 4, 12
SETTINGS = {
    "trials": TRIALS,
    "epochs": 60,  # seconds: long enough to be killed in, and so that some are left to begin after the grace time
    "batch_size": 128,
    "model_options": {"width": 2},
    "pruner": "none",
    "startup": 4,
    "heartbeat": 1,
    "grace": 3,
    "retries": 20,  # a busy machine may take a worker for lost that is only slow
    "checkpoint_seconds": 0.0,
}


@pytest.fixture
def server() -> Iterator[Postgres]:
    with running() as found:
        yield found


def check(workers: Workers, hurt: list[Record]) -> None:
    """Every planned trial is complete once, and what was lost was tried again with its own values."""
    records = workers.client.all_records()
    complete = [str(record.trial.params) for record in records if record.outcome == "complete"]
    assert len(set(complete)) == len(complete) == TRIALS, workers.logs()
    assert {record.outcome for record in records} <= {"complete", "retried", "surplus"}
    for lost in hurt:
        attempts = [record for record in records if record.number == lost.number]
        assert len(attempts) > 1
        assert {str(record.trial.params) for record in attempts} == {str(lost.trial.params)}


def stop_between_transactions(workers: Workers, worker: int) -> None:
    """Stop a worker where it does not hold SQLite's file: there, all others would wait for it until it goes on."""
    while True:
        workers.signal(worker, signal.SIGSTOP)
        try:
            if (workers.folder / FILE).exists():
                with contextlib.closing(sqlite3.connect(workers.folder / FILE, timeout=5)) as database:
                    database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            workers.signal(worker, signal.SIGCONT)
            time.sleep(0.05)
        else:
            return


def hurt(workers: Workers, between: Callable[[], None], *, stop: bool) -> None:
    """Kill one worker and stop another for longer than the grace time; all planned trials are settled all the same.

    Args:
        stop: whether to stop one: a journal file knows of no sign of life, and a stopped process is not dead.
    """
    workers.wait(lambda: None not in (workers.training(0), workers.training(1)), "two workers began no trial")
    workers.signal(0, signal.SIGKILL)
    if stop:
        stop_between_transactions(workers, 1)
    workers.processes[0].join()
    lost = [record for worker in range(1 + stop) if (record := workers.training(worker)) is not None]

    def retried() -> bool:
        # Optuna marks a lost trial first and queues it anew in a second transaction; the server goes on until both.
        records = workers.client.all_records()
        found = {record.trial.number for record in records if record.outcome == "retried"}
        numbers = [record.number for record in records]
        return all(record.trial.number in found and numbers.count(record.number) > 1 for record in lost)

    workers.wait(retried, "the lost trials were not given out again")
    between()
    workers.signal(1, signal.SIGCONT)
    workers.wait(workers.left, "a worker hangs")
    assert [process.exitcode for process in workers.processes] == [-signal.SIGKILL, 0, 0, 0], workers.logs()
    check(workers, lost)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "sqlite", "journal"])
def test_each_planned_trial_is_settled_once_whatever_becomes_of_workers_and_server(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "")
    server = request.getfixturevalue("server") if kind == "postgresql" else None
    folder = tmp_path / "study"
    storage = {"journal": "journal:study.log", "sqlite": None, "postgresql": server and server.url}[kind]
    config, url = prepare(resolve({**SETTINGS, "storage": storage}), folder)
    if server is not None:
        assert PASSWORD not in url
        with monkeypatch.context() as forgotten:
            forgotten.setenv("PGPASSWORD", "wrong")
            with pytest.raises(ConfigError, match="PGPASSWORD"), storage_at(url):
                pass

    def restart() -> None:
        if server is not None:
            server.stop()
            time.sleep(1.0)
            server.start()

    with Workers(config, url, folder, WORKERS) as workers:
        hurt(workers, restart, stop=kind != "journal")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"config.toml", "environment.json", "worker-3.log"} <= {path.name for path in files}
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]
