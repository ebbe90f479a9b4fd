"""Workers of a study as real processes, to be hurt: forked from a server that has torch and optuna imported."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from backroads.search.ledger import ABOUT, Ledger
from backroads.search.settings import SearchConfig
from backroads.search.storage import close_storage, open_storage

PATIENCE = 240.0  # seconds until a test gives up; far more than it takes
_CONTEXT: ForkServerContext = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "backroads.search.worker",
        "backroads.search.desk",
        "backroads.search.trial",
        "torch._dynamo",
        "sqlalchemy.dialects.postgresql.psycopg",
        "sklearn.datasets",
        "sklearn.model_selection",
    ]
)


class Crew:
    """Workers of a study, and a ledger to watch them by."""

    def __init__(self, config: SearchConfig, url: str, folder: Path, workers: int) -> None:
        self.config, self.folder = config, folder
        self._storage = open_storage(url, heartbeat=config.heartbeat, grace=config.grace)
        self.ledger = Ledger(self._storage, config.name, config.trials, retries=config.retries)
        password = os.environ.get("PGPASSWORD", "")
        self.workers: list[ForkServerProcess] = []
        for number in range(workers):
            log = folder / f"worker-{number}.log"
            process = _CONTEXT.Process(target=_work, args=(url, config.name, number, folder, log, password))
            process.start()
            self.workers.append(process)

    def signal(self, worker: int, number: int) -> None:
        os.kill(self.workers[worker].pid or 0, number)

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

    def left(self) -> bool:
        return all(worker.exitcode is not None for worker in self.workers)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("worker-*.log")))

    def end(self) -> None:
        for worker in self.workers:
            if worker.exitcode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid or 0, signal.SIGCONT)
                worker.kill()
                worker.join()
        close_storage(self._storage)


def _work(url: str, name: str, number: int, folder: Path, log: Path, password: str) -> None:
    os.environ["PGPASSWORD"] = password
    with log.open("a", buffering=1) as out:
        sys.stdout = sys.stderr = out
        from backroads.search.worker import work

        how = work(url, name, number=number, folder=folder, say=lambda line: out.write(line + "\n"))
        out.write(how)
    os._exit(0 if how == "settled" else 1)
