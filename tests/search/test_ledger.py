"""Slots are claimed by one worker, settled once, and never lost: on databases and on journal files."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution

from backroads.search import ledger as module
from backroads.search.ledger import ABOUT, DIVERGED, INTERRUPTED, Claim, Ledger, TakenAwayError, outcome, reason
from backroads.search.process import is_gone, me
from backroads.search.storage import storage_at

SLOTS = 5
SPACE = {"rate": FloatDistribution(0.01, 1.0, log=True)}


@pytest.fixture(params=["sqlite", "journal"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    found = f"sqlite:///{tmp_path}/study.db" if request.param == "sqlite" else f"journal:{tmp_path}/study.log"
    with storage_at(found) as storage:
        storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "study")
    return found


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with storage_at(url) as storage:
        yield Ledger(storage, "study", SLOTS, retries=1)


@pytest.fixture
def other(url: str) -> Iterator[Ledger]:
    """The same study, seen by another worker through a connection of its own."""
    with storage_at(url) as storage:
        yield Ledger(storage, "study", SLOTS, retries=1)


def values(slot: int) -> tuple[dict[str, Any], dict[str, Any], str]:
    return {"rate": (slot + 1) / 100}, SPACE, "group"


def take(ledger: Ledger, worker: str = "here:1:0") -> Claim:
    claim = ledger.take(worker, values)
    assert claim is not None
    return claim


def lose(ledger: Ledger, claim: Claim) -> None:
    freed = ledger.reap(lambda trial: trial.number == claim.number)
    assert [trial.number for trial in freed] == [claim.number]


def test_every_slot_is_handed_out_once_and_then_there_are_none(ledger: Ledger) -> None:
    claims = [take(ledger) for _ in range(SLOTS)]
    assert sorted(claim.slot for claim in claims) == list(range(SLOTS))
    assert ledger.take("here:1:0", values) is None
    assert all(claim.params == {"rate": (claim.slot + 1) / 100} for claim in claims)


def test_of_two_claims_of_one_slot_the_first_counts(
    ledger: Ledger, other: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.random, "choice", lambda free: free[0])  # both want the same
    first: list[Claim] = []

    def overtaken(slot: int) -> tuple[dict[str, Any], dict[str, Any], str]:
        if not first:  # between this worker's look and its writing
            first.append(take(other, "there:2:0"))
        return values(slot)

    second = ledger.take("here:1:0", overtaken)
    assert second is not None
    assert (first[0].slot, second.slot) == (0, 1)
    assert [outcome(trial) for trial in ledger.trials()] == ["running", "withdrawn", "running"]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # threads share the filters
def test_many_workers_at_once_take_each_slot_once(url: str) -> None:
    taken: list[int] = []

    def work(worker: int) -> None:
        with storage_at(url) as storage:
            own = Ledger(storage, "study", 24)
            while (claim := own.take(f"here:{worker}:0", values)) is not None:
                own.report(claim, 1, 0.5)
                own.finish(claim, 0.5)
                taken.append(claim.slot)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert Counter(taken) == dict.fromkeys(range(24), 1)


def test_a_lost_trial_is_tried_again_with_its_values_and_a_bounded_number_of_times(ledger: Ledger) -> None:
    claims = [take(ledger)]
    lose(ledger, claims[0])
    others = [take(ledger) for _ in range(SLOTS)]
    again = next(claim for claim in others if claim.slot == claims[0].slot)
    assert again.params == claims[0].params
    assert again.number != claims[0].number
    lose(ledger, again)  # retries = 1
    settled = ledger.board()[again.slot].done
    assert settled is not None
    assert outcome(settled) == "lost"
    assert ledger.take("here:1:0", values) is None


def test_who_comes_back_too_late_changes_nothing(ledger: Ledger, other: Ledger) -> None:
    late = take(ledger)
    lose(other, late)
    fresh = [take(other) for _ in range(SLOTS)]
    for claim in fresh:
        other.finish(claim, 0.9)
    for tell in (
        lambda: ledger.report(late, 1, 0.1),
        lambda: ledger.finish(late, 0.1),
        lambda: ledger.fail(late, DIVERGED, "late"),
    ):
        with pytest.raises(TakenAwayError):
            tell()
    done = [slot.done for slot in ledger.board().values()]
    assert [trial.value for trial in done if trial is not None] == [0.9] * SLOTS


def test_an_interrupted_trial_is_free_again_and_counts_as_no_retry(ledger: Ledger) -> None:
    for _ in range(3):
        claim = next(c for c in [take(ledger) for _ in range(SLOTS)] if c.slot == 0)
        for running in [t for t in ledger.trials() if outcome(t) == "running" and t.number != claim.number]:
            ledger.fail(
                Claim(running.user_attrs[ABOUT]["slot"], running.number, running._trial_id, {}, running),
                INTERRUPTED,
                "",
            )
        ledger.fail(claim, INTERRUPTED, "")
    assert ledger.board()[0].lost == 0
    assert ledger.open(ledger.board()) == list(range(SLOTS))


def test_a_diverged_trial_settles_its_slot_with_the_reason(ledger: Ledger) -> None:
    claim = take(ledger)
    ledger.fail(claim, DIVERGED, "the loss of step 3 is not finite")
    settled = ledger.board()[claim.slot].done
    assert settled is not None
    assert outcome(settled) == "diverged"
    assert reason(settled) == "the loss of step 3 is not finite"


def test_a_trial_is_written_once_if_the_storage_fails_after_it_has_written(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, answers = ledger.storage.create_new_trial, []

    def fails_at_first(*args: Any) -> int:
        answers.append(write(*args))
        if len(answers) == 1:
            raise optuna.exceptions.StorageInternalError("the server went away")
        return answers[-1]

    monkeypatch.setattr(ledger.storage, "create_new_trial", fails_at_first)
    claim = take(ledger)
    assert len(answers) == 1
    assert [trial.number for trial in ledger.trials()] == [claim.number]


def test_an_end_that_was_written_before_the_storage_went_away_stays_as_it_is(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = take(ledger)
    write, calls = ledger.storage.set_trial_state_values, []

    def fails_at_first(*args: Any) -> bool:
        calls.append(args)
        answer = write(*args)
        if len(calls) == 1:
            raise optuna.exceptions.StorageInternalError("the server went away")
        return answer

    monkeypatch.setattr(ledger.storage, "set_trial_state_values", fails_at_first)
    with pytest.raises(TakenAwayError):
        ledger.finish(claim, 0.75)
    settled = ledger.board()[claim.slot].done
    assert settled is not None
    assert (outcome(settled), settled.value) == ("complete", 0.75)


def test_a_process_is_told_from_a_later_one_of_the_same_number() -> None:
    own = me()
    host, pid, _ = own.rsplit(":", 2)
    assert is_gone(own) is False
    assert is_gone(f"{host}:{pid}:1") is True
    assert is_gone(f"elsewhere:{pid}:1") is None
