"""The trials of a search: one Optuna study for each rule or subset, and how each of its trials ended.

A search NAME keeps its settings in the Optuna study NAME, which has no trials, and the trials of a group in NAME/GROUP,
so that each group is sampled and pruned by its own trials only. Optuna does the rest: it assigns trials, records
heartbeats of workers in a database, and queues a trial whose worker has died again, with the values it had.

Each group has a planned number of trials. A trial counts as soon as it runs or waits to be run again, and no longer
when it was interrupted or its worker has died. Workers that begin trials at the same moment may begin too many: each
looks once more, and ends its trial at once as "surplus" if enough trials with smaller numbers count. Numbers grow and
an ended trial never comes back, so that exactly the planned number of trials is settled in the end, whatever becomes of
workers and storage.
"""

from __future__ import annotations

import contextlib
import copy
import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState, create_trial
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import SQLAlchemyError

from backroads.errors import ConfigError, RunError, nearest
from backroads.search.faults import PATIENCE, intact, retrying
from backroads.search.process import is_gone, process_id
from backroads.search.record import (
    ATTEMPT,
    INTERRUPTED,
    OUTCOME,
    SURPLUS,
    Record,
    TrialFailed,
    TrialReassignedError,
    counting,
    record_of,
    settled,
)
from backroads.search.settings import SearchSettings, resolve
from backroads.search.storage import experimental

SETTINGS, FOLDER = "settings", "folder"  # attributes of the Optuna study that bears the search's name


class _Search(BaseModel):
    model_config = ConfigDict(strict=True)

    settings: str
    folder: str


def save_search(storage: BaseStorage, config: SearchSettings, folder: Path) -> None:
    """Make the studies of a search in its storage, and write its settings and folder there, unless they are there."""
    found = study_names(storage, config.study.patience)

    def save() -> None:  # the settings last: who finds them finds the rest
        for group in config.groups:
            open_study(storage, f"{config.study.name}/{group}", found)
        study = open_study(storage, config.study.name, found)
        for name, value in ((SETTINGS, json.dumps(config.as_toml())), (FOLDER, str(folder.resolve()))):
            if study.user_attrs.get(name) != value:
                study.set_user_attr(name, value)

    with intact(f"study {config.study.name!r}"):
        retrying(save, config.study.patience)


def study_names(storage: BaseStorage, patience: float) -> set[str]:
    """Names of all of Optuna's studies in a storage."""
    with intact("the storage's list of studies"):
        return set(retrying(lambda: optuna.get_all_study_names(storage), patience))


def open_study(storage: BaseStorage, name: str, known: set[str], **words: Any) -> optuna.Study:
    """An Optuna study; it is made if it is not one of the known. One that is there is not written to: Optuna's own
    ``load_if_exists`` would."""
    if name in known:
        return optuna.load_study(study_name=name, storage=storage, **words)
    return optuna.create_study(storage=storage, study_name=name, load_if_exists=True, direction="maximize", **words)


def load_search(storage: BaseStorage, name: str) -> tuple[SearchSettings, Path]:
    """The settings of a search, and its folder where it began.

    Raises:
        ConfigError: the storage has none of this name, with the nearest one. RunError: what is stored is damaged.
    """
    with intact("the storage's list of studies"):
        studies = retrying(storage.get_all_studies, PATIENCE)
    found = {study.study_name: study.user_attrs for study in studies if SETTINGS in study.user_attrs}
    if name not in found:
        known = ", ".join(found) or "none"
        raise ConfigError(f"study: the storage has none called {name!r}.{nearest(name, found)} It has: {known}")
    with intact(f"study {name!r}"):
        stored = _Search(settings=found[name][SETTINGS], folder=found[name][FOLDER])
        settings = json.loads(stored.settings)
        if not isinstance(settings, dict):
            raise TypeError(f"expected a table of settings, got {settings!r}")
    return resolve(settings), Path(stored.folder)


class StudyClient:
    """What a process does with the trials of a search.

    Args:
        storage: from :func:`backroads.search.storage.storage_at`, with the search's number of retries.
        config: settings of the search. make: whether Optuna's studies are made that are missing, as when a search
            begins.

    Raises:
        RunError: a study is missing that is not to be made.
    """

    def __init__(self, storage: BaseStorage, config: SearchSettings, *, make: bool = True) -> None:
        self.storage, self.config, self.groups = storage, config, config.groups
        self.planned = {name: config.planned(name) for name in self.groups}
        known = study_names(storage, config.study.patience)
        missing = [name for name in self.groups if f"{config.study.name}/{name}" not in known]
        if missing and not make:
            raise RunError(
                f"storage: it is damaged, it has nothing of {missing[0]}; nothing was changed, put back a copy"
            )
        self.studies = {
            name: open_study(
                storage,
                f"{config.study.name}/{name}",
                known,
                sampler=optuna.samplers.RandomSampler(),  # each trial has a sampler of its own, see run_trial
                pruner=make_pruner(config),
            )
            for name in self.groups
        }
        with experimental():
            self._retry = RetryHeartbeatStaleTrialCallback(max_retry=config.study.retries)
        self._all_settled: dict[str, list[Record]] = {}  # of groups that have come to their end
        self._turn: int | None = None  # of the groups, whose is next
        self._first_seen: dict[tuple[str, int], float] = {}  # running trials that no process has put its name to

    def records(self, group: str) -> list[Record]:
        """The trials of a group, by number; not read again once all planned ones are settled."""
        if group in self._all_settled:
            return self._all_settled[group]
        found = self._read(group)
        if len(settled(found)) >= self.planned[group]:
            self._all_settled[group] = found
        return found

    def _read(self, group: str) -> list[Record]:
        with intact(f"the trials of {group}"):
            trials = retrying(lambda: self.studies[group].get_trials(deepcopy=False), self.config.study.patience)
        return [record_of(group, trial, self.config.study.retries) for trial in trials]

    def all_records(self) -> list[Record]:
        """The trials of all groups."""
        return [record for group in self.groups for record in self.records(group)]

    # -- taking trials -------------------------------------------------------------------------------------------------

    def next_group(self) -> str | None:
        """The group that needs a trial, taken in turns; None if all trials are settled or being trained."""
        names = list(self.groups)
        if self._turn is None:  # begin with the group that has fewest
            self._turn = min(range(len(names)), key=lambda k: len(counting(self.records(names[k]))))
        for step in range(len(names)):
            k = (self._turn + step) % len(names)
            records = counting(self.records(names[k]))
            outcomes = {record.outcome for record in records}
            if len(records) < self.planned[names[k]] or "waiting" in outcomes:
                self._turn = k + 1
                return names[k]
            if "running" in outcomes:
                self.release(names[k])
        return None

    def settled(self) -> bool:
        """Whether all planned trials are."""
        return all(len(settled(self.records(group))) >= self.planned[group] for group in self.groups)

    def run_trial(self, group: str, train: Callable[[optuna.Trial, Record, dict[str, Any]], float]) -> Record:
        """Take a trial of a group, train it, and note how it ended.

        Args:
            train: called with the trial, its record and its values; returns its accuracy. It may raise TrialFailed
                or ``optuna.TrialPruned``. Any other error comes out of here, and the trial counts no longer; it must
                be no ValueError or AssertionError, which are Optuna's.

        Raises:
            TrialReassignedError: the trial was given to another worker in the meantime. StorageInternalError,
                SQLAlchemyError, RunError: the storage went away; the trial is found later, without a heartbeat.
        """
        study = self.studies[group]
        number: int | None = None

        def objective(trial: optuna.Trial) -> float:
            nonlocal number
            number = trial.number
            try:
                record = self._begin(group, trial)
                return train(trial, record, self.groups[group].suggest(trial))
            except TrialFailed as failed:
                trial.set_user_attr(OUTCOME, {"kind": failed.kind, "reason": failed.reason})
                raise

        try:
            study.optimize(objective, n_trials=1, catch=(TrialFailed,))
        # Optuna's answers if it comes to end a trial, or to write to one, that has been ended by another process. Where
        # the storage fails as it ends a trial, it trips over its own log of how that ended: over a state that is
        # "running" (AssertionError), or over none at all (UnboundLocalError).
        except (AssertionError, ValueError, UpdateFinishedTrialError, UnboundLocalError) as error:
            if isinstance(failed := error.__context__, StorageInternalError | SQLAlchemyError | RunError):
                raise failed from None
            if number is None or self._read(group)[number].outcome == "running":
                raise
            raise TrialReassignedError from None
        assert number is not None
        record = self._read(group)[number]
        if record.outcome == INTERRUPTED:
            self._queue_again(record)
        return record

    def _begin(self, group: str, trial: optuna.Trial) -> Record:
        """Put this process's name to a trial; raises TrialFailed if enough others count."""
        first = self._read(group)[trial.number].number
        attempt = {"trial": first, "number": trial.number, "process": process_id()}
        trial.set_user_attr(ATTEMPT, attempt)
        records = self._read(group)
        if len(counting(records[: trial.number])) >= self.planned[group]:
            raise TrialFailed(SURPLUS)
        # Which draw this is: attempts after the first repeat the values of one and do not count.
        draw = len({record.number for record in records[: first + 1]})
        self.studies[group].sampler = make_sampler(self.config, group, draw)
        return records[trial.number]

    def report(self, trial: optuna.Trial, epoch: int, accuracy: float) -> bool:
        """Report an accuracy; returns whether the trial should end early.

        Raises:
            TrialReassignedError: the trial was given to another worker in the meantime.
        """
        try:
            retrying(lambda: trial.report(accuracy, epoch), self.config.study.patience)
        except UpdateFinishedTrialError:
            raise TrialReassignedError from None
        return epoch < self.config.run.epochs and retrying(trial.should_prune, self.config.study.patience)

    # -- trials whose worker has died --------------------------------------------------------------------------------

    def release(self, group: str, dead: Callable[[Record], bool] = lambda record: False) -> list[Record]:
        """End running trials of a group whose process has died, and queue them again; returns those found here.

        Optuna finds those without a heartbeat, on a database. On this machine the process itself is looked for.
        A trial that no process has put its name to for the grace time lost its worker in the moment it began.

        Args:
            dead: whether the process of a trial is known to have died by other means.
        """
        with experimental(), intact(f"the heartbeats of {group}"):
            optuna.storages.fail_stale_trials(self.studies[group])
        now, freed = time.monotonic(), []
        for record in self.records(group):
            if record.outcome != "running":
                continue
            if record.process is None:
                first = self._first_seen.setdefault((group, record.trial.number), now)
                gone = now - first > self.config.study.grace
            else:
                gone = is_gone(record.process) is True
            if gone or dead(record):
                with contextlib.suppress(ValueError, UpdateFinishedTrialError):  # it has ended in the meantime
                    self.studies[group].tell(record.trial.number, state=TrialState.FAIL)
                    self._retry(self.studies[group], copy.deepcopy(record.trial))  # it writes into what it gets
                    freed.append(record)
        return freed

    def _queue_again(self, record: Record) -> None:
        """Queue an interrupted trial with the values it had; unlike Optuna's retry, it counts as none."""
        trial = record.trial
        attributes = {key: value for key, value in trial.user_attrs.items() if key != OUTCOME}
        self.studies[record.group].add_trial(
            create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs=attributes,
                system_attrs=trial.system_attrs,
            )
        )


def make_sampler(config: SearchSettings, group: str, draw: int) -> optuna.samplers.BaseSampler:
    """What proposes the values of one trial. All of Optuna's switches are given: their defaults change by version.

    The seed follows from that of the search, the group and the number of the draw: no two trials draw alike, whichever
    workers train them, and a search that was interrupted goes on with the draws that it would have made.
    """
    seed = zlib.crc32(f"{config.run.seed}/{group}/{draw}".encode())
    if config.search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        n_startup_trials=config.search.startup,
        n_ei_candidates=24,
        seed=seed,
        multivariate=True,
        group=False,
        constant_liar=True,  # values that others are trying count as poor ones until they are known
    )


def make_pruner(config: SearchSettings) -> optuna.pruners.BasePruner:
    """What ends poor trials early."""
    if config.search.pruner == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=max(4, config.search.startup // 2), n_warmup_steps=max(1, config.run.epochs // 5)
        )
    if config.search.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=config.search.report_every, max_resource=config.run.epochs, reduction_factor=3
        )
    return optuna.pruners.NopPruner()
