"""Who trains which trial: each planned trial is finished once, whatever becomes of workers and storage.

A study plans N *slots*. To take one, a worker writes a trial that names the slot, and looks again: of several running
trials of one slot the first one counts, the others withdraw before they train. A storage numbers trials one after the
other and ends each only once; nothing else is asked of it, so that databases and journal files will do.

A trial that ended without an *outcome* lost its worker. Its slot is free again, and keeps the values that were tried.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import random
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from backroads.search.storage import retrying

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

T = TypeVar("T")
ABOUT = "about"  # the trial's attribute that says whose it is
OUTCOME = "outcome"
# How a trial can end, beside "complete" and "pruned". The first two end the slot too.
DIVERGED, ERROR, INTERRUPTED, WITHDRAWN, LOST = "diverged", "error", "interrupted", "withdrawn", "lost"
FINAL = (DIVERGED, ERROR)


@dataclasses.dataclass
class Slot:
    """What is known of one planned trial.

    Attributes:
        done: the trial that settled it. running: the one that trains it. lost: how many lost their worker.
        last: the newest one that was begun, whose values the next one takes over.
    """

    done: FrozenTrial | None = None
    running: FrozenTrial | None = None
    lost: int = 0
    last: FrozenTrial | None = None


@dataclasses.dataclass(frozen=True)
class Claim:
    """A slot that this worker trains, as trial ``number``, of ``id`` in the storage, with ``params``."""

    slot: int
    number: int
    id: int
    params: dict[str, Any]
    trial: FrozenTrial


class TakenAwayError(Exception):
    """The trial was given to another worker while this one was away."""


def outcome(trial: FrozenTrial) -> str:
    """How a trial ended, in a word; "running" while it runs."""
    if trial.state.name == "FAIL":
        found = trial.user_attrs.get(OUTCOME)
        return str(found["kind"]) if isinstance(found, dict) else LOST
    return trial.state.name.lower()


def reason(trial: FrozenTrial) -> str:
    """Why it failed; empty if it did not."""
    found = trial.user_attrs.get(OUTCOME)
    return str(found.get("reason", "")) if isinstance(found, dict) else ""


class Ledger:
    """The slots of a study in a storage.

    Args:
        storage: from :func:`open_storage`. name: of the study. slots: how many are planned. retries: how often a slot
            is given out again after its worker was lost. patience: seconds to wait for the storage.
    """

    def __init__(
        self, storage: BaseStorage, name: str, slots: int, *, retries: int = 2, grace: int = 60, patience: float = 120.0
    ) -> None:
        self.storage, self.name, self.slots, self.retries = storage, name, slots, retries
        self.patience, self.grace = patience, grace
        self.id = self._call(lambda: storage.get_study_id_from_name(name))
        self._study = self._call(lambda: study_of(storage, name))
        self._board: dict[int, Slot] = {}  # of the first trials, all of which have ended
        self._counted = 0
        self._read: list[FrozenTrial] = []
        self._read_at = -math.inf
        self._seen: dict[int, float] = {}
        self._looked = -math.inf

    def _call(self, call: Callable[[], T]) -> T:
        return retrying(call, self.patience)

    def trials(self, age: float = 0.0) -> list[FrozenTrial]:
        """All trials, by number; as they were at most ``age`` seconds ago."""
        if time.monotonic() - self._read_at > age:
            self._read = self._call(lambda: self.storage.get_all_trials(self.id, deepcopy=False))
            self._read_at = time.monotonic()
        return self._read

    def board(self) -> dict[int, Slot]:
        """Every slot that was ever taken."""
        trials = self.trials()
        # What has ended stays so: a study of thousands is not counted anew each time.
        while self._counted < len(trials) and trials[self._counted].state.is_finished():
            read_slots(trials[self._counted : self._counted + 1], self.retries, self._board)
            self._counted += 1
        left = trials[self._counted :]
        named = [trial.user_attrs[ABOUT]["slot"] for trial in left if ABOUT in trial.user_attrs]
        own = {k: dataclasses.replace(self._board[k]) for k in named if k in self._board}
        return {**self._board, **read_slots(left, self.retries, own)}

    def open(self, board: Mapping[int, Slot]) -> list[int]:
        """Slots that nobody trains and that are not settled."""
        free = Slot()
        return [k for k in range(self.slots) if (slot := board.get(k, free)).done is None and slot.running is None]

    def take(
        self, worker: str, propose: Callable[[int], tuple[dict[str, Any], dict[str, BaseDistribution], str]]
    ) -> Claim | None:
        """A slot to train; None if all are settled or being trained.

        Args:
            worker: who asks. propose: values, their distributions and the group's name for a slot that is new.
        """
        from optuna.trial import TrialState, create_trial

        while True:
            self.release_stale()
            board = self.board()
            free = self.open(board)
            if not free:
                return None
            slot = random.choice(free[:4])  # not all workers the same
            before = board.get(slot, Slot()).last
            if before is None:
                params, distributions, group = propose(slot)
            else:
                params, distributions = before.params, before.distributions
                group = before.user_attrs[ABOUT]["group"]
            about = {"slot": slot, "group": group, "worker": worker, "token": uuid.uuid4().hex}
            template = create_trial(
                state=TrialState.RUNNING, params=params, distributions=distributions, user_attrs={ABOUT: about}
            )
            own = self._create(template)
            holder = self.board()[slot]
            if holder.done is None and holder.running is not None and holder.running._trial_id == own:
                trial = copy.deepcopy(holder.running)
                return Claim(slot, trial.number, own, dict(params), trial)
            self._end(own, WITHDRAWN, "")

    def _create(self, template: FrozenTrial) -> int:
        """Write a trial once, even if the storage goes away before it has answered; its id."""
        token = template.user_attrs[ABOUT]["token"]
        first = True

        def attempt() -> int:
            nonlocal first
            if not first:
                for trial in reversed(self.storage.get_all_trials(self.id, deepcopy=False)):
                    if trial.user_attrs.get(ABOUT, {}).get("token") == token:
                        return trial._trial_id
            first = False
            return self.storage.create_new_trial(self.id, template)

        return self._call(attempt)

    # -- what a worker says of its trial; all raise TakenAwayError if it is no longer its own ---------------------

    def report(self, claim: Claim, epoch: int, value: float) -> None:
        """A validation accuracy."""
        claim.trial.intermediate_values[epoch] = value
        self.own(lambda: self.storage.set_trial_intermediate_value(claim.id, epoch, value))

    def finish(self, claim: Claim, value: float, *, pruned: bool = False) -> None:
        """The trial is done: ``value`` is its accuracy, or the last one before it was pruned."""
        from optuna.trial import TrialState

        state = TrialState.PRUNED if pruned else TrialState.COMPLETE
        self.own(lambda: self.storage.set_trial_state_values(claim.id, state, [value]))

    def fail(self, claim: Claim, kind: str, text: str) -> None:
        """The trial failed; ``kind`` is DIVERGED, ERROR or INTERRUPTED."""
        if not self._end(claim.id, kind, text):
            raise TakenAwayError(claim.number)

    def beat(self, trial_id: int) -> None:
        """A sign of life, where the storage keeps them."""
        record = getattr(self.storage, "record_heartbeat", None)
        if record is not None:
            record(trial_id)

    def own(self, call: Callable[[], object]) -> None:
        """Write something of a running trial."""
        if not self._settle(call):
            raise TakenAwayError

    def _settle(self, call: Callable[[], object]) -> bool:
        """Whether the trial was still open. The answer of a storage that went away may come twice: then it is not."""
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            self._call(call)
        except UpdateFinishedTrialError:
            return False
        return True

    def _end(self, trial_id: int, kind: str, text: str) -> bool:
        from optuna.trial import TrialState

        attribute = {"kind": kind, "reason": text[:500]}
        return self._settle(lambda: self.storage.set_trial_user_attr(trial_id, OUTCOME, attribute)) and self._settle(
            lambda: self.storage.set_trial_state_values(trial_id, TrialState.FAIL)
        )

    # -- lost workers ---------------------------------------------------------------------------------------------

    def release_stale(self) -> None:
        """Free the slots of workers that gave no sign of life for the grace time, where the storage knows of them."""
        import optuna

        if not _has_heartbeat(self.storage) or time.monotonic() - self._looked < self.grace / 4:
            return
        self._looked = time.monotonic()
        self._vouch()

        def fail() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                optuna.storages.fail_stale_trials(self._study)

        self._call(fail)

    def _vouch(self) -> None:
        """Give a first sign of life for running trials that may never have given one: optuna overlooks those."""
        from optuna.trial import TrialState

        now = time.monotonic()
        running = {t._trial_id for t in self.trials(math.inf) if t.state == TrialState.RUNNING}
        self._seen = {key: self._seen.get(key, now) for key in running}
        for key, since in self._seen.items():
            if self.grace < now - since < math.inf:
                self._call(lambda key=key: self.beat(key))  # type: ignore[misc]
                self._seen[key] = math.inf  # once: from now on it is its worker's turn

    def reap(self, dead: Callable[[FrozenTrial], bool]) -> list[FrozenTrial]:
        """Free the slots of the running trials that ``dead`` finds so; returns them."""
        from optuna.trial import TrialState

        running = [trial for trial in self.trials() if trial.state == TrialState.RUNNING and dead(trial)]
        return [
            trial
            for trial in running
            if self._settle(lambda t=trial: self.storage.set_trial_state_values(t._trial_id, TrialState.FAIL))  # type: ignore[misc]
        ]


def read_slots(trials: list[FrozenTrial], retries: int, board: dict[int, Slot] | None = None) -> dict[int, Slot]:
    """The slots that ``trials``, by number, tell of; added to ``board``, which the trials before them told of."""
    board = {} if board is None else board
    for trial in trials:
        about = trial.user_attrs.get(ABOUT)
        if about is None:
            continue
        slot = board.get(about["slot"])
        if slot is None:
            slot = board[about["slot"]] = Slot()
        if slot.done is not None:
            continue
        ended = outcome(trial)
        if ended == WITHDRAWN:
            continue
        if ended == "running":
            slot.running = slot.running or trial
        elif ended == LOST:
            slot.lost += 1
            if slot.lost > retries:
                slot.done = trial
        elif ended != INTERRUPTED:
            slot.done = trial
        if ended != "running":
            slot.last = trial
    return board


def study_of(storage: BaseStorage, name: str) -> Any:
    """The study with nothing of optuna's own that would propose or prune."""
    import optuna

    return optuna.load_study(
        study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler(), pruner=optuna.pruners.NopPruner()
    )


def _has_heartbeat(storage: BaseStorage) -> bool:
    interval = getattr(storage, "get_heartbeat_interval", None)
    return interval is not None and interval() is not None
