"""Workers of a search as real processes, to be killed and stopped: forked from a server that has imported torch."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from patience import PATIENCE

from backroads.search.record import Record
from backroads.search.run import client_at
from backroads.search.settings import SearchSettings

_CONTEXT: ForkServerContext = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "backroads.search.worker",
        "torch._dynamo",
        "sqlalchemy.dialects.postgresql.psycopg",
        "sklearn.datasets",
        "sklearn.model_selection",
    ]
)


class Workers(contextlib.ExitStack):
    """Workers of a search, and a client to watch them by; a context, which ends them."""

    def __init__(self, config: SearchSettings, url: str, folder: Path, workers: int) -> None:
        super().__init__()
        self.folder = folder
        self.client = self.enter_context(client_at(url, config))
        password = os.environ.get("PGPASSWORD", "")
        self.processes: list[ForkServerProcess] = []
        self.callback(self._end)
        for number in range(workers):
            log = folder / f"worker-{number}.log"
            process = _CONTEXT.Process(target=_work, args=(url, config.study.name, folder, log, password))
            process.start()
            self.processes.append(process)

    def signal(self, worker: int, number: int) -> None:
        os.kill(self.processes[worker].pid or 0, number)

    def training(self, worker: int) -> Record | None:
        """The trial that a worker trains and has reported on."""
        for record in self.client.all_records():
            own = record.process is not None and f":{self.processes[worker].pid}:" in record.process
            if own and record.outcome == "running" and record.value is not None:
                return record
        return None

    def wait(self, what: Callable[[], bool], why: str) -> None:
        end = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < end, f"{why}\n{self.logs()}"
            time.sleep(0.05)

    def left(self) -> bool:
        return all(process.exitcode is not None for process in self.processes)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("worker-*.log")))

    def _end(self) -> None:
        for process in self.processes:
            if process.exitcode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid or 0, signal.SIGCONT)
                process.kill()
                process.join()


def _work(url: str, name: str, folder: Path, log: Path, password: str) -> None:
    os.environ["PGPASSWORD"] = password
    with log.open("a", buffering=1) as out:
        sys.stdout = sys.stderr = out
        from backroads.search.worker import work

        try:
            how = work(url, name, folder=folder, log=lambda line: out.write(line + "\n"))
        except BaseException:
            how = traceback.format_exc()
        out.write(how)
    os._exit(0 if how == "settled" else 1)
