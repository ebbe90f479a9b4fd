"""A trial as it stands in the storage: what a search writes there, checked when it is read, and how the trial ended."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable
from typing import Annotated, Literal

from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, Field

from backroads.search.faults import intact
from backroads.search.process import PROCESS
from backroads.search.storage import experimental

ATTEMPT, OUTCOME = "attempt", "outcome"  # attributes of a trial: who works on it for which trial; why it failed
DIVERGED, ERROR, LOST = "diverged", "error", "lost"
SETTLED = ("complete", "pruned", DIVERGED, ERROR, LOST)
INTERRUPTED, SURPLUS, RETRIED = "interrupted", "surplus", "retried"  # ends that settle nothing
Accuracy = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[int, Field(ge=0)]


class _Stored(BaseModel):
    """What is read from a storage: it comes from outside, and is checked."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Attempt(_Stored):
    """Who works on a trial: ``process`` on the attempt ``number`` to settle the trial that was begun as ``trial``."""

    trial: Number
    number: Number
    process: Annotated[str, Field(pattern=PROCESS)]


class Outcome(_Stored):
    """Why a trial has ended without a value."""

    kind: Literal["diverged", "error", "interrupted", "surplus"]
    reason: str


class _Trial(_Stored):
    attempt: Attempt | None
    outcome: Outcome | None
    value: Accuracy | None
    reports: dict[int, Accuracy]


class TrialFailed(Exception):
    """Ends a trial without a value: ``kind`` is DIVERGED, ERROR, INTERRUPTED or SURPLUS."""

    def __init__(self, kind: str, reason: str = "") -> None:
        super().__init__(kind)
        self.kind, self.reason = kind, reason[:500]


class TrialReassignedError(Exception):
    """The trial was given to another worker: this one had sent no heartbeat for too long."""


@dataclasses.dataclass(frozen=True)
class Record:
    """A trial of a group.

    Attributes:
        group: name of its rule or subset. trial: as Optuna keeps it. outcome: one of SETTLED, or INTERRUPTED, SURPLUS
            or RETRIED (its worker died, and it was queued again), or "running" or "waiting". attempt: who works on it,
            or worked on the attempt before this one; None for one that has never begun. reason: why it failed; empty
            if it did not.
    """

    group: str
    trial: FrozenTrial
    outcome: str
    attempt: Attempt | None = None
    reason: str = ""

    @property
    def number(self) -> int:
        """The trial's number in its group; an attempt after a failed one has the first attempt's."""
        return self.trial.number if self.attempt is None else self.attempt.trial

    @property
    def process(self) -> str | None:
        """The process that works on it, or did; None for one that has not begun."""
        own = self.attempt is not None and self.attempt.number == self.trial.number
        return self.attempt.process if self.attempt is not None and own else None

    @property
    def seconds(self) -> float | None:
        """How long it took; None if it has not ended."""
        start, end = self.trial.datetime_start, self.trial.datetime_complete
        return None if start is None or end is None else (end - start).total_seconds()

    def __str__(self) -> str:
        value = "" if self.value is None else f" {100 * self.value:.2f} %"
        reason = f" ({self.reason})" if self.reason else ""
        return f"trial {self.number} [{self.group}] {self.outcome}{value}{reason}"

    @property
    def value(self) -> float | None:
        """Its validation accuracy, a fraction; of a trial that did not complete, the last one reported."""
        last = self.trial.last_step
        if self.trial.value is None and last is not None:
            return self.trial.intermediate_values[last]
        return self.trial.value


def settled(records: Iterable[Record]) -> list[Record]:
    """Those of some trials that are settled, in the order in which they ended."""
    done = [record for record in records if record.outcome in SETTLED]
    return sorted(done, key=lambda r: (r.trial.datetime_complete or datetime.datetime.max, r.group, r.trial.number))


def counting(records: Iterable[Record]) -> list[Record]:
    """Those of some trials that count as planned ones: settled, being trained, or waiting to be tried again."""
    return [record for record in records if record.outcome in (*SETTLED, "running", "waiting")]


def record_of(group: str, trial: FrozenTrial, retries: int) -> Record:
    """What a stored trial is: see :class:`Record`.

    Args:
        group: of the trial. retries: how often a trial is tried again after its worker has died.

    Raises:
        RunError: what is stored is not what a search writes.
    """
    with intact(f"trial {trial.number} of {group}"), experimental():
        attributes = trial.user_attrs
        stored = _Trial(
            attempt=attributes.get(ATTEMPT),
            outcome=attributes.get(OUTCOME),
            value=trial.value,
            reports=trial.intermediate_values,
        )
        if trial.state != TrialState.FAIL:
            return Record(group, trial, trial.state.name.lower(), stored.attempt)
        if stored.outcome is not None:
            return Record(group, trial, stored.outcome.kind, stored.attempt, stored.outcome.reason)
        lost = len(RetryHeartbeatStaleTrialCallback.retry_history(trial)) >= retries
        return Record(group, trial, LOST if lost else RETRIED, stored.attempt)
