"""A worker: trains one trial after the other, until all planned ones of the search are settled."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from backroads.errors import BackroadsError, RunError
from backroads.runs.arm import DivergedError
from backroads.runs.runtime import joined
from backroads.runs.signals import Stopper
from backroads.search.run import client_at
from backroads.search.settings import SearchConfig, resolve
from backroads.search.storage import retrying
from backroads.search.study import (
    DIVERGED,
    ERROR,
    INTERRUPTED,
    SURPLUS,
    Record,
    StudyClient,
    TakenAwayError,
    TrialFailed,
    find_search,
)
from backroads.search.trial import Hooks, PrunedError, StoppedError, load_once, run_trial

if TYPE_CHECKING:
    from backroads.runs.runtime import Runtime

IDLE = 0.5  # seconds between looks, while others train all trials that are left


def work(
    url: str,
    name: str,
    *,
    folder: Path | None = None,
    most: int | None = None,
    parent: int | None = None,
    say: Callable[[str], None] = print,
) -> str:
    """Train trials of a search until none is left.

    Under torchrun, all processes train each trial together; the first one alone talks to the storage.

    Args:
        url, name: where the search is. folder: for checkpoints of long trials; None takes the search's own, if it is
            on this machine. most: leave after so many trials. parent: leave when this process is no longer the parent.
        say: called with a line when a trial ends.

    Returns:
        "settled": all planned trials are; "enough": ``most`` were trained; "stopped": by a signal.

    Raises:
        ConfigError: settings or data are wrong. RunError: the storage does not answer.
    """
    found = find_search(url, name)
    config = resolve(found.settings)
    if folder is None and found.folder.is_dir():
        folder = found.folder
    base = config.training()
    with (
        joined(base.device, threads=base.threads, deterministic=base.deterministic) as process,
        Stopper() as stopper,
    ):

        def stop() -> bool:
            return stopper.signal is not None or (parent is not None and os.getppid() != parent)

        worker = _Worker(config, process, stop, folder)
        if not process.leads:
            return worker.follow()
        with client_at(url, config) as client:
            ended = worker.lead(client, most, say)
        process.shared(ended)
        return ended


class _Worker:
    def __init__(self, config: SearchConfig, process: Runtime, stop: Callable[[], bool], folder: Path | None) -> None:
        self.config, self.process, self.stop, self.folder = config, process, stop, folder
        self.groups = config.groups
        self.datasets: dict[str, Any] = {}
        load_once(config.training(), self.datasets, process.device)  # what is wrong with the data is said at once

    def lead(self, client: StudyClient, most: int | None, say: Callable[[str], None]) -> str:
        """Take trials and train them; says why it ended."""
        trained = broken = 0
        while not self.stop():
            if most is not None and trained >= most:
                return "enough"
            group = retrying(client.next_group, self.config.patience)
            if group is None:
                if client.settled():
                    return "settled"
                time.sleep(IDLE)
                continue
            try:
                record = self._take(client, group, say)
            except (StorageInternalError, SQLAlchemyError) as error:
                # The connection broke within a transaction. The trial is found later: it has no sign of life.
                broken += 1
                if broken > 10:
                    raise RunError(f"the storage fails again and again: {error}") from None
                time.sleep(IDLE)
                continue
            broken = 0
            if record is not None and record.outcome == INTERRUPTED:
                break
            trained += record is not None and record.outcome != SURPLUS
        return "stopped"

    def _take(self, client: StudyClient, group: str, say: Callable[[str], None]) -> Record | None:
        def train(trial: optuna.Trial, record: Record, params: dict[str, Any]) -> float:
            hooks = Hooks(lambda epoch, accuracy: client.report(trial, epoch, accuracy), self.stop)
            self.process.shared([group, record.number, trial.number, params])
            return self._train(group, record.number, trial.number, params, hooks)

        try:
            record = client.run_trial(group, train)
        except TakenAwayError:
            say(f"a trial of {group} took too long to answer and was given to another worker")
            return None
        if record.outcome != SURPLUS:
            seconds = "" if record.seconds is None else f" in {record.seconds:.1f} s"
            say(f"{record}{seconds}")
        place = self._checkpoints(group, record.number)
        if record.outcome not in (SURPLUS, INTERRUPTED) and place is not None:
            shutil.rmtree(place, ignore_errors=True)
        return record

    def follow(self) -> str:
        """Train what the first process takes."""
        while isinstance(found := self.process.shared(None), list):
            with contextlib.suppress(TrialFailed, TakenAwayError, optuna.TrialPruned):
                group, number, attempt, params = found
                self._train(group, number, attempt, params, Hooks())
        return str(found)

    def _checkpoints(self, group: str, number: int) -> Path | None:
        return None if self.folder is None else self.folder / "trials" / group / str(number)

    def _train(self, group: str, number: int, attempt: int, params: dict[str, Any], hooks: Hooks) -> float:
        """Train one trial; raises TrialFailed, TakenAwayError or TrialPruned."""
        place = self._checkpoints(group, number)
        try:
            config = self.config.training(**self.groups[group].settings(params, self.config.train.get("rule_options")))
            return run_trial(
                config,
                load_once(config, self.datasets, self.process.device),
                self.process,
                hooks,
                report_every=self.config.report_every,
                folder=None if place is None else place / str(attempt),
                checkpoint_seconds=self.config.checkpoint_seconds,
            )
        except PrunedError as error:
            raise optuna.TrialPruned from error
        except DivergedError as error:
            raise TrialFailed(DIVERGED, str(error)) from error
        except StoppedError as error:
            raise TrialFailed(INTERRUPTED) from error
        except (TakenAwayError, RunError):
            raise
        except Exception as error:
            reason = str(error) if isinstance(error, BackroadsError) else f"{type(error).__name__}: {error}"
            reason = reason.partition("\n")[0]
            if self.process.world > 1:  # the processes are no longer at the same place
                raise RunError(f"trial {number} of {group}: {reason}") from error
            raise TrialFailed(ERROR, reason) from error
