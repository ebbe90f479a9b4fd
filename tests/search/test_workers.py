"""Workers as separate processes that are killed, stopped and cut off: each planned trial is settled once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres import PASSWORD, Postgres, binaries

from backroads.search.ledger import ABOUT, Ledger, outcome
from backroads.search.run import prepare
from backroads.search.settings import SearchConfig, resolve
from backroads.search.storage import open_storage

WORKERS, TRIALS = 4, 16
SETTINGS = {
    "trials": TRIALS,
    "epochs": 24,
    "report_every": 2,
    "batch_size": 64,
    "train": {"model_options": {"width": 2}},
    "pruner": "none",
    "startup": 4,
    "heartbeat": 1,
    "grace": 3,
    "checkpoint_seconds": 0.0,
}
PATIENCE = 100.0  # seconds until a test gives up


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install backroads[postgresql]")
    found = binaries()
    if found is None:
        pytest.skip("there is no PostgreSQL server here: install Debian's `postgresql`")
    with Postgres(found) as running:
        yield running


class Crew:
    """Four workers of a study."""

    def __init__(self, config: SearchConfig, url: str, folder: Path) -> None:
        self.config, self.folder = config, folder
        storage = open_storage(url, heartbeat=config.heartbeat, grace=config.grace)
        self.ledger = Ledger(storage, config.name, config.trials, retries=config.retries)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.workers = []
        for number in range(WORKERS):
            words = ["worker", url, config.name, "--number", str(number), "--folder", str(folder)]
            with (folder / f"worker-{number}.log").open("ab") as log:
                self.workers.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "backroads", *words], stdout=log, stderr=log, env=environment
                    )
                )

    def training(self, worker: int) -> int | None:
        """The slot that a worker trains and has reported on."""
        mark = f":{self.workers[worker].pid}:"
        for k, slot in self.ledger.board().items():
            trial = slot.running
            if slot.done is None and trial is not None and mark in trial.user_attrs[ABOUT]["worker"]:
                return k if trial.intermediate_values else None
        return None

    def lost(self, slot: int) -> bool:
        return self.ledger.board()[slot].lost > 0

    def wait(self, what: Callable[[], bool], why: str) -> None:
        end = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < end, f"{why}\n{self.logs()}"
            time.sleep(0.05)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("worker-*.log")))

    def end(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
                worker.wait()


def check(crew: Crew, hurt: list[int]) -> None:
    """Every planned trial is complete once, and what was lost was tried again with its own values."""
    trials = crew.ledger.trials()
    ended = Counter(trial.user_attrs[ABOUT]["slot"] for trial in trials if outcome(trial) == "complete")
    assert ended == dict.fromkeys(range(TRIALS), 1), crew.logs()
    assert not [trial for trial in trials if outcome(trial) == "running"]
    assert not {outcome(trial) for trial in trials} - {"complete", "lost", "withdrawn"}
    for slot in hurt:
        values = {str(trial.params) for trial in trials if trial.user_attrs[ABOUT]["slot"] == slot}
        assert len(values) == 1


def hurt(crew: Crew, between: Callable[[], None]) -> None:
    """Kill one worker and stop another for longer than the grace time; all planned trials are settled all the same."""
    crew.wait(lambda: crew.training(0) is not None and crew.training(1) is not None, "two workers began no trial")
    killed, stopped = crew.training(0), crew.training(1)
    crew.workers[0].kill()
    crew.workers[1].send_signal(signal.SIGSTOP)
    # A trial may have ended just before: then the worker was hurt between two.
    again = [slot for slot in (killed, stopped) if slot is not None and crew.ledger.board()[slot].done is None]
    assert again, "both trials ended in the moment before"
    crew.wait(lambda: all(crew.lost(slot) for slot in again), "the lost trials were not given out again")
    between()
    crew.workers[1].send_signal(signal.SIGCONT)
    crew.wait(lambda: all(worker.poll() is not None for worker in crew.workers), "a worker hangs")
    assert [worker.returncode for worker in crew.workers] == [-signal.SIGKILL, 0, 0, 0], crew.logs()
    check(crew, again)


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_each_planned_trial_is_settled_once_whatever_becomes_of_workers_and_server(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "")
    server = request.getfixturevalue("server") if kind == "postgresql" else None
    folder = tmp_path / "study"
    config, url = prepare(resolve({**SETTINGS, **({"storage": server.url} if server is not None else {})}), folder)
    assert PASSWORD not in url
    crew = Crew(config, url, folder)

    def restart() -> None:
        if server is not None:
            server.stop()
            time.sleep(1.0)
            server.start()

    try:
        hurt(crew, restart)
    finally:
        crew.end()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"config.toml", "environment.json", "worker-3.log"} <= {path.name for path in files}
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]
