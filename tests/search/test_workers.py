"""Workers that are killed, stopped and cut off from their server: each planned trial is settled once."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crew import Crew
from postgres import PASSWORD, Postgres, binaries

from backroads.errors import ConfigError
from backroads.search.ledger import ABOUT, outcome
from backroads.search.run import prepare
from backroads.search.settings import resolve
from backroads.search.storage import open_storage

WORKERS, TRIALS = 4, 12
SETTINGS = {
    "trials": TRIALS,
    "epochs": 8,
    "batch_size": 128,
    "train": {"model_options": {"width": 2}},
    "pruner": "none",
    "startup": 4,
    "heartbeat": 1,
    "grace": 3,
    "retries": 20,  # a busy machine may take a worker for lost that is only slow
    "checkpoint_seconds": 0.0,
}


@pytest.fixture
def server() -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'backroads[postgresql]'")
    found = binaries()
    if found is None:
        pytest.skip("there is no PostgreSQL server here: install Debian's `postgresql`")
    with Postgres(found) as running:
        yield running


def check(crew: Crew, hurt: list[int]) -> None:
    """Every planned trial is complete once, and what was lost was tried again with its own values."""
    trials = crew.ledger.trials()
    ended = Counter(trial.user_attrs[ABOUT]["slot"] for trial in trials if outcome(trial) == "complete")
    assert ended == dict.fromkeys(range(TRIALS), 1), crew.logs()
    assert {outcome(trial) for trial in trials} <= {"complete", "lost", "withdrawn"}
    trained = [trial for trial in trials if outcome(trial) != "withdrawn"]
    for slot in hurt:
        values = [str(trial.params) for trial in trained if trial.user_attrs[ABOUT]["slot"] == slot]
        assert len(values) > 1
        assert len(set(values)) == 1


def hurt(crew: Crew, between: Callable[[], None]) -> None:
    """Kill one worker and stop another for longer than the grace time; all planned trials are settled all the same."""
    crew.wait(lambda: crew.training(0) is not None and crew.training(1) is not None, "two workers began no trial")
    crew.signal(0, signal.SIGKILL)
    crew.signal(1, signal.SIGSTOP)
    crew.workers[0].join()
    again = [slot for worker in (0, 1) if (slot := crew.training(worker)) is not None]
    crew.wait(lambda: all(crew.lost(slot) for slot in again), "the lost trials were not given out again")
    between()
    crew.signal(1, signal.SIGCONT)
    crew.wait(crew.left, "a worker hangs")
    assert [worker.exitcode for worker in crew.workers] == [-signal.SIGKILL, 0, 0, 0], crew.logs()
    check(crew, again)


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_each_planned_trial_is_settled_once_whatever_becomes_of_workers_and_server(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "")
    server = request.getfixturevalue("server") if kind == "postgresql" else None
    folder = tmp_path / "study"
    config, url = prepare(resolve({**SETTINGS, **({"storage": server.url} if server is not None else {})}), folder)
    if server is not None:
        assert PASSWORD not in url
        with monkeypatch.context() as forgotten:
            forgotten.setenv("PGPASSWORD", "wrong")
            with pytest.raises(ConfigError, match="PGPASSWORD"):
                open_storage(url)
    crew = Crew(config, url, folder, WORKERS)

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
