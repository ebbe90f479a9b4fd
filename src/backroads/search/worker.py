"""A worker: trains one trial after the other, until all planned ones of the search are settled."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from backroads.data import Dataset
from backroads.errors import BackroadsError, RunError
from backroads.runs.files import folder_within
from backroads.runs.runtime import Runtime, joined
from backroads.runs.signals import Stopper
from backroads.runs.trust import check_trusted
from backroads.search.faults import reason_of, retrying
from backroads.search.record import ERROR, INTERRUPTED, SURPLUS, Record, TrialFailed, TrialReassignedError
from backroads.search.run import client_at
from backroads.search.settings import SearchSettings
from backroads.search.storage import check_storage, hide_password, storage_at
from backroads.search.study import StudyClient, load_search
from backroads.search.trial import load_once, run_trial

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
IDLE = 0.5  # seconds between looks, while others train all trials that are left


def work(
    url: str,
    name: str,
    *,
    folder: Path | None = None,
    most: int | None = None,
    parent: int | None = None,
    trust: bool = False,
    log: Callable[[str], None],
) -> str:
    """Train trials of a search until none is left.

    Under torchrun, all processes train each trial together; the first one alone talks to the storage.

    Args:
        url, name: where the search is. folder: for checkpoints of long trials; None takes the search's own, if it is
            on this machine. most: leave after so many trials. parent: leave when this process is no longer the parent.
        trust: whether the search's settings may name code outside of the package, which is then run.
        log: called with a line when a trial ends.

    Returns:
        "settled": all planned trials are; "enough": ``most`` were trained; "stopped": by a signal.

    Raises:
        ConfigError: settings or data are wrong, or settings need ``trust``. RunError: the storage does not answer.
    """
    url = hide_password(url)
    check_storage(url)
    with storage_at(url) as storage:
        config, own = load_search(storage, name)
    check_trusted(config.model_dump(), f"study {name}", trust=trust)
    if folder is None and own.is_dir():
        folder = own
    run = config.training().run
    with joined(run.device, threads=run.threads, deterministic=run.deterministic) as runtime, Stopper() as stopper:

        def stop() -> bool:
            return stopper.signal is not None or (parent is not None and os.getppid() != parent)

        worker = _Worker(config, runtime, stop, folder)
        if not runtime.leads:
            return worker.follow()
        with client_at(url, config) as client:
            ended = worker.lead(client, most, log)
        runtime.shared(ended)
        return ended


class _Worker:
    def __init__(self, config: SearchSettings, runtime: Runtime, stop: Callable[[], bool], folder: Path | None) -> None:
        self.config, self.runtime, self.stop, self.folder = config, runtime, stop, folder
        self.groups = config.groups
        self.datasets: dict[str, Dataset] = {}
        load_once(config.training(), self.datasets, runtime.device)  # raises at once if the data are wrong

    def lead(self, client: StudyClient, most: int | None, log: Callable[[str], None]) -> str:
        """Take trials and train them; says why it ended."""
        trained = broken = 0
        while not self.stop():
            if most is not None and trained >= most:
                return "enough"
            group = retrying(client.next_group, self.config.study.patience)
            if group is None and client.settled():
                return "settled"
            try:
                record = None if group is None else self._take(client, group, log)
                broken = 0
            except (StorageInternalError, SQLAlchemyError) as error:
                # The connection broke within a transaction. The trial is found later: it has no heartbeat.
                record, broken = None, broken + 1
                if broken > 10:
                    raise RunError(f"the storage failed repeatedly: {reason_of(error)}") from None
            if record is None:
                time.sleep(IDLE)
            elif record.outcome == INTERRUPTED:
                break
            elif record.outcome != SURPLUS:
                trained += 1
        return "stopped"

    def _take(self, client: StudyClient, group: str, log: Callable[[str], None]) -> Record | None:
        """Train one trial; returns it, or None if it was given to another worker."""

        def train(trial: optuna.Trial, record: Record, params: dict[str, Any]) -> float:
            self.runtime.shared([group, record.number, trial.number, params])
            return self._train(
                group,
                record.number,
                trial.number,
                params,
                lambda epoch, accuracy: client.report(trial, epoch, accuracy),
            )

        try:
            record = client.run_trial(group, train)
        except TrialReassignedError:
            log(f"a trial of {group} had no heartbeat for too long and was given to another worker")
            return None
        if record.outcome != SURPLUS:
            log(f"{record} in {record.seconds or 0.0:.1f} s")
        if self.folder is not None and record.outcome not in (SURPLUS, INTERRUPTED):
            shutil.rmtree(folder_within(self.folder, f"trials/{group}/{record.number}"), ignore_errors=True)
        return record

    def follow(self) -> str:
        """Train what the first process takes."""
        while isinstance(found := self.runtime.shared(None), list):
            group, number, attempt, params = found
            with contextlib.suppress(TrialFailed, TrialReassignedError, optuna.TrialPruned):
                self._train(group, number, attempt, params, lambda epoch, accuracy: False)
        return str(found)

    def _train(
        self, group: str, number: int, attempt: int, params: dict[str, Any], report: Callable[[int, float], bool]
    ) -> float:
        """The accuracy of a trial. Any error but the storage's ends the trial and not the worker: TrialFailed."""
        place = self.folder and folder_within(self.folder, f"trials/{group}/{number}/{attempt}")
        try:
            fixed = self.config.rule.options
            config = self.config.training(**self.groups[group].settings(params, fixed))
            return run_trial(
                config,
                load_once(config, self.datasets, self.runtime.device),
                self.runtime,
                report=report,
                stop=self.stop,
                report_every=self.config.search.report_every,
                folder=place,
                checkpoint_seconds=self.config.study.checkpoint_seconds,
            )
        except (TrialFailed, TrialReassignedError, optuna.TrialPruned, RunError, StorageInternalError, SQLAlchemyError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL:  # no fault of the trial's
                raise RunError(f"cannot write a checkpoint: {error.strerror}; no finished trial is lost") from error
            reason = str(error) if isinstance(error, BackroadsError) else f"{type(error).__name__}: {error}"
            reason = reason.partition("\n")[0].removesuffix(": ")
            if self.runtime.world > 1:  # the processes are no longer at the same place
                raise RunError(f"trial {number} of {group}: {reason}") from error
            raise TrialFailed(ERROR, reason) from error
