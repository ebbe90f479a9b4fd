"""Every planned trial is settled once, whatever becomes of workers and storage; proposals; and pruning."""

from __future__ import annotations

import math
import os
import shutil
import signal
import statistics
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState, create_trial

from backroads.errors import ConfigError
from backroads.search import study as module
from backroads.search.process import is_gone, process_id
from backroads.search.record import (
    ATTEMPT,
    DIVERGED,
    ERROR,
    INTERRUPTED,
    SURPLUS,
    Record,
    TrialFailed,
    TrialReassignedError,
)
from backroads.search.run import client_at, prepare
from backroads.search.settings import resolve
from backroads.search.storage import experimental
from backroads.search.study import StudyClient

A, B = "backprop", "feedback_alignment"  # both vary the learning rate and nothing else
CONFIG = resolve(
    {
        "rules": [A, B],
        "vary": ["learning_rate"],
        "ranges": {"learning_rate": [1e-4, 1.0]},
        "trials": 6,
        "retries": 1,
        "epochs": 10,
    }
)
GONE = "elsewhere:boot:1:0"  # a process of another machine


@pytest.fixture(params=["sqlite", "journal"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db" if request.param == "sqlite" else f"journal:{tmp_path}/study.log"


@pytest.fixture
def client(url: str) -> Iterator[StudyClient]:
    with client_at(url, CONFIG) as found:
        yield found


@pytest.fixture
def other(url: str, client: StudyClient) -> Iterator[StudyClient]:
    """The same search, seen by another worker through a connection of its own."""
    with client_at(url, CONFIG) as found:
        yield found


def ends(how: float | Exception) -> Callable[..., float]:
    """A training that ends at once: with an accuracy, or with an error."""

    def train(trial: optuna.Trial, record: Record, params: dict[str, Any]) -> float:
        if isinstance(how, Exception):
            raise how
        return how

    return train


def outcomes(client: StudyClient, group: str) -> list[str]:
    return [record.outcome for record in client.records(group)]


def begin(client: StudyClient, group: str, process: str) -> Record:
    """A trial that a process began before it was killed: the storage gets no word of it."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(module, "process_id", lambda: process)
        warnings.simplefilter(
            "ignore"
        )  # Optuna says that a trial that is asked for has no heartbeat: it is to have none
        trial = client.studies[group].ask()
        client._begin(group, trial)
    client.groups[group].suggest(trial)
    return client.records(group)[trial.number]


def lose(client: StudyClient, group: str) -> Record:
    """A trial of a process that died, and was found to have."""
    begun = begin(client, group, GONE)
    (freed,) = client.release(group, lambda record: record.process == GONE)
    assert freed.trial.number == begun.trial.number
    return begun


def test_a_trial_whose_worker_dies_twice_is_tried_a_third_time(url: str) -> None:
    with client_at(url, resolve(CONFIG.as_toml(), {"retries": 2})) as client:
        for _ in range(2):
            lose(client, A)
        assert outcomes(client, A) == ["retried", "retried", "waiting"]
        with client_at(url, client.config) as fresh:
            assert outcomes(fresh, A) == ["retried", "retried", "waiting"]
        assert client.run_trial(A, ends(0.5)).number == 0
        assert outcomes(client, A) == ["retried", "retried", "complete"]


def test_every_planned_trial_is_handed_out_once_and_then_there_are_none(client: StudyClient) -> None:
    taken = []
    while (group := client.next_group()) is not None:
        assert not client.settled()
        taken.append(client.run_trial(group, ends(0.5)))
    assert [(record.group, record.number) for record in taken] == [(g, n) for n in range(3) for g in (A, B)]
    assert client.settled()
    assert {record.outcome for record in taken} == {"complete"}


def test_a_search_of_fewer_trials_than_groups_comes_to_its_end(url: str) -> None:
    with client_at(url, resolve({"rules": [A, B], "vary": ["learning_rate"], "trials": 1})) as client:
        assert client.next_group() == A
        assert not client.settled()
        client.run_trial(A, ends(0.5))
        assert client.next_group() is None
        assert client.settled()


def test_of_two_workers_that_begin_the_last_trial_at_once_one_withdraws(
    client: StudyClient, other: StudyClient
) -> None:
    for _ in range(2):
        client.run_trial(A, ends(0.5))
    late = []

    def overtaken(trial: optuna.Trial, record: Record, params: dict[str, Any]) -> float:
        late.append(other.run_trial(A, ends(0.1)))  # it had looked before this one began
        return 0.9

    assert client.run_trial(A, overtaken).outcome == "complete"
    assert late[0].outcome == SURPLUS
    assert outcomes(client, A) == ["complete"] * 3 + [SURPLUS]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # threads share the filters
def test_many_workers_at_once_settle_each_trial_once(url: str) -> None:
    config = resolve(CONFIG.as_toml(), {"trials": 24})

    def work() -> None:
        with client_at(url, config) as own:
            while (group := own.next_group()) is not None:
                own.run_trial(group, ends(0.5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(1200)
    with client_at(url, config) as client:
        assert client.settled()
        for group in (A, B):
            assert outcomes(client, group).count("complete") == 12
            assert set(outcomes(client, group)) <= {"complete", SURPLUS}


def test_a_lost_trial_is_tried_again_with_its_values_and_a_bounded_number_of_times(client: StudyClient) -> None:
    first = lose(client, A)
    assert outcomes(client, A) == ["retried", "waiting"]
    second = lose(client, A)
    assert second.trial.params == first.trial.params
    assert second.number == first.number
    assert second.trial.number != first.trial.number
    assert outcomes(client, A) == ["retried", "lost"]  # retries = 1
    while (group := client.next_group()) is not None:
        client.run_trial(group, ends(0.5))
    assert outcomes(client, A) == ["retried", "lost", "complete", "complete"]


@pytest.mark.parametrize("how", [0.1, TrialFailed(DIVERGED), TrialReassignedError(), optuna.TrialPruned()], ids=str)
def test_who_comes_back_too_late_changes_nothing(
    client: StudyClient, other: StudyClient, how: float | Exception
) -> None:
    def late(trial: optuna.Trial, record: Record, params: dict[str, Any]) -> float:
        other.release(A, lambda record: True)
        again = other.run_trial(A, ends(0.9))
        assert (again.number, again.trial.params) == (record.number, params)
        with pytest.raises(TrialReassignedError):
            client.report(trial, 1, 0.1)
        if isinstance(how, Exception):
            raise how
        return how

    with pytest.raises(TrialReassignedError):
        client.run_trial(A, late)
    assert [(record.outcome, record.trial.value) for record in client.records(A)] == [
        ("retried", None),
        ("complete", 0.9),
    ]


def test_an_interrupted_trial_waits_with_its_values_and_counts_as_no_retry(client: StudyClient) -> None:
    interrupted = [client.run_trial(A, ends(TrialFailed(INTERRUPTED))) for _ in range(3)]
    assert len({str(record.trial.params) for record in interrupted}) == 1
    assert {record.number for record in interrupted} == {0}
    assert outcomes(client, A) == [INTERRUPTED] * 3 + ["waiting"]
    lose(client, A)
    assert outcomes(client, A)[-1] == "waiting"
    assert client.run_trial(A, ends(0.5)).trial.params == interrupted[0].trial.params


def test_a_diverged_trial_is_settled_with_the_reason(client: StudyClient) -> None:
    record = client.run_trial(A, ends(TrialFailed(DIVERGED, "the loss of step 3 is not finite")))
    assert (record.outcome, record.reason) == ("diverged", "the loss of step 3 is not finite")
    for _ in range(2):
        client.run_trial(A, ends(0.5))
    assert client.next_group() == B
    assert client.run_trial(A, ends(0.5)).outcome == SURPLUS


def breaks_once(monkeypatch: pytest.MonkeyPatch, client: StudyClient, name: str, when: Callable[..., bool]) -> None:
    """Let a call of the storage fail after it has written, as when the server goes away before it answers."""
    storage = client.storage
    call, broken = getattr(storage, name), []

    def breaks(*args: Any, **options: Any) -> Any:
        answer = call(*args, **options)
        if not broken and when(*args, **options):
            broken.append(True)
            raise StorageInternalError("the server went away")
        return answer

    monkeypatch.setattr(storage, name, breaks)


def test_a_trial_that_began_as_the_storage_went_away_is_found_and_settled_once(
    client: StudyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks_once(monkeypatch, client, "create_new_trial", lambda *_, **__: True)
    with pytest.raises(StorageInternalError):
        client.run_trial(A, ends(0.5))
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    for _ in range(5):
        client.run_trial(A, ends(0.5))
    assert client.release(A) == []
    clock[0] = CONFIG.study.grace + 1.0
    assert [record.trial.number for record in client.release(A)] == [0]
    while (group := client.next_group()) is not None:
        client.run_trial(group, ends(0.5))
    assert outcomes(client, A).count("complete") == 3
    assert client.settled()


def test_an_end_that_was_written_before_the_storage_went_away_stays_as_it_is(
    client: StudyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks_once(monkeypatch, client, "set_trial_state_values", lambda _, state, *__, **___: state.is_finished())
    with pytest.raises(StorageInternalError):
        client.run_trial(A, ends(0.75))
    assert [(record.outcome, record.trial.value) for record in client.records(A)] == [("complete", 0.75)]


@pytest.mark.parametrize("also", [(), ("get_trial",)], ids=["that call", "the next one too"])
def test_an_end_that_could_not_be_written_is_an_error_of_the_storage(
    client: StudyClient, monkeypatch: pytest.MonkeyPatch, also: tuple[str, ...]
) -> None:
    """A worker goes on after those, and leaves after any other error."""
    storage, ended = client.storage, []
    write, read = storage.set_trial_state_values, storage.get_trial

    def breaks(number: int, state: TrialState, *args: Any, **options: Any) -> bool:
        if state.is_finished() and not ended:
            ended.append(True)
            raise StorageInternalError("the server went away as the trial ended")
        return write(number, state, *args, **options)

    def breaks_too(number: int) -> Any:
        if ended == [True]:
            ended.append(True)
            raise StorageInternalError("the server is still away")
        return read(number)

    with monkeypatch.context() as broken:
        broken.setattr(storage, "set_trial_state_values", breaks)
        if also:
            broken.setattr(storage, "get_trial", breaks_too)
        with pytest.raises(StorageInternalError, match="still away" if also else "as the trial ended"):
            client.run_trial(A, ends(0.5))
    assert outcomes(client, A) == ["running"]
    assert client.release(A, dead=lambda record: True)
    assert client.run_trial(A, ends(0.5)).outcome == "complete"


def test_a_trial_of_a_process_that_died_on_this_machine_is_given_out_again(
    client: StudyClient,
) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    begun = begin(client, A, process_id().replace(f":{os.getpid()}:", f":{child}:"))
    assert [record.trial.number for record in client.release(A)] == [begun.trial.number]
    assert outcomes(client, A) == ["retried", "waiting"]


def test_a_process_is_told_from_a_later_one_of_the_same_number() -> None:
    own = process_id()
    host, machine, pid, _ = own.split(":")
    assert is_gone(own) is False
    assert is_gone(f"{host}:{machine}:{pid}:1") is True
    assert is_gone(f"elsewhere:{machine}:{pid}:1") is None
    assert is_gone(f"{host}:another:{pid}:1") is None  # another container, or another machine, of the same name


# -- what is proposed, and what is ended early ------------------------------------------------------------------------


def proposals(client: StudyClient, group: str, count: int) -> list[float]:
    """Learning rates of the group's next trials, none of which is settled."""
    found: list[float] = []

    def note(trial: optuna.Trial, record: Record, params: dict[str, Any]) -> float:
        found.append(params["learning_rate"])
        raise TrialFailed(SURPLUS)

    for _ in range(count):
        client.run_trial(group, note)
    return found


@pytest.fixture
def grown(tmp_path: Path) -> Iterator[StudyClient]:
    """A search with 40 complete trials a group; A is best at a rate of 0.1, B at 0.001."""
    config = resolve(CONFIG.as_toml(), {"trials": 1000, "pruner": "median"})
    with client_at(f"journal:{tmp_path}/grown.log", config) as found:
        for group, best in ((A, 1), (B, 3)):
            for n in range(40):
                rate = 10 ** (-4 * (n + 0.5) / 40)
                value = 1 - abs(math.log10(rate) + best) / 4
                found.studies[group].add_trial(
                    create_trial(
                        params={"learning_rate": rate},
                        distributions={"learning_rate": FloatDistribution(1e-4, 1.0, log=True)},
                        value=value,
                        intermediate_values={2: value},
                    )
                )
        yield found


@pytest.mark.parametrize(("group", "best"), [(A, -1.0), (B, -3.0)])
def test_proposals_gather_where_the_group_itself_did_well(grown: StudyClient, group: str, best: float) -> None:
    rates = [math.log10(rate) for rate in proposals(grown, group, 20)]
    # Uniform draws from [-4, 0] are at a mean distance of 1.25 from either.
    assert statistics.fmean(abs(rate - best) for rate in rates) < 0.6


def test_a_seed_gives_the_same_proposals_however_often_the_search_is_interrupted(tmp_path: Path) -> None:
    def run(name: str, interrupted: int, seed: int = 0) -> list[Any]:
        """Values of the group's trials, of which every second one is interrupted so often; TPE from the third on."""
        config = resolve(CONFIG.as_toml(), {"seed": seed, "startup": 2, "trials": 20})
        for n in range(10):
            with client_at(f"journal:{tmp_path}/{name}.log", config) as own:
                for _ in range(n % 2 * interrupted):
                    own.run_trial(A, ends(TrialFailed(INTERRUPTED)))
                own.run_trial(A, ends(0.5 + n / 100))
                found = [record.trial.params for record in own.records(A) if record.outcome == "complete"]
        return found

    whole = run("whole", 0)
    assert len({str(params) for params in whole}) == 10
    assert run("parts", 2) == whole
    assert run("other", 0, seed=1) != whole


def test_a_poor_trial_is_held_against_its_own_group_only(grown: StudyClient) -> None:
    said = {}
    grown.studies["none yet"] = optuna.create_study(direction="maximize", pruner=module.make_pruner(grown.config))

    def weak(trial: optuna.Trial, record: Record, params: dict[str, Any]) -> float:
        said[record.group] = grown.report(trial, 2, 0.45)
        raise TrialFailed(SURPLUS)

    for group in (A, B):
        grown.run_trial(group, weak)
    assert said == {A: True, B: True}
    assert not grown.report(grown.studies["none yet"].ask(), 2, 0.45)


def test_what_the_attributes_of_a_lost_trial_say_is_not_taken_for_the_next_attempt(client: StudyClient) -> None:
    lose(client, A)
    (waiting,) = [record for record in client.records(A) if record.outcome == "waiting"]
    assert waiting.trial.user_attrs[ATTEMPT]["process"] == GONE
    assert waiting.process is None
    assert waiting.trial.state == TrialState.WAITING


# -- the ledger: a trial whose worker was killed, and one that failed --------------------------------------------------


def test_a_trial_of_a_killed_worker_is_taken_up_once_with_its_values_and_its_number(
    url: str, client: StudyClient, other: StudyClient
) -> None:
    def die(*_: object) -> float:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    child = os.fork()
    if child == 0:
        with client_at(url, CONFIG) as own:
            own.run_trial(A, die)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    freed = [*client.release(A), *other.release(A), *client.release(A)]
    assert [record.trial.number for record in freed] == [0]
    assert outcomes(client, A) == ["retried", "waiting"]
    again = client.run_trial(A, ends(0.5))
    assert (again.number, again.trial.number) == (0, 1)  # the same trial, its second attempt
    assert again.trial.params == freed[0].trial.params
    with experimental():
        assert RetryHeartbeatStaleTrialCallback.retry_history(again.trial) == [0]
    assert [record.number for record in client.records(A)] == [0, 0]
    for _ in range(2):
        client.run_trial(A, ends(0.5))
    assert outcomes(client, A) == ["retried", "complete", "complete", "complete"]
    assert [record.number for record in client.records(A)] == [0, 0, 2, 3]
    assert client.next_group() == B


def test_a_trial_that_failed_is_settled_and_is_not_run_again(client: StudyClient, other: StudyClient) -> None:
    failed = client.run_trial(A, ends(TrialFailed(ERROR, "MemoryError")))
    assert (failed.outcome, failed.reason) == (ERROR, "MemoryError")
    assert client.release(A) == other.release(A, lambda record: True) == []
    assert outcomes(other, A) == [ERROR]
    while (group := client.next_group()) is not None:
        assert client.run_trial(group, ends(0.5)).trial.params != failed.trial.params
    assert outcomes(other, A) == [ERROR, "complete", "complete"]
    assert outcomes(other, B) == ["complete"] * 3
    assert other.settled()


def test_a_search_does_not_begin_anew_in_another_storage(tmp_path: Path) -> None:
    """Only where its study is there, as after a server has moved."""
    folder = tmp_path / "study"
    config, _ = prepare(CONFIG, folder)
    before = (folder / "config.toml").read_bytes()
    other = resolve(CONFIG.as_toml(), {"storage": f"sqlite:///{tmp_path}/other.db"})
    with pytest.raises(ConfigError, match=r"storage: .* began in a file of its own, and"):
        prepare(other, folder)
    assert (folder / "config.toml").read_bytes() == before
    assert not (tmp_path / "other.db").exists()
    shutil.copy(folder / "study.db", tmp_path / "other.db")
    assert prepare(other, folder)[0].study.storage == other.study.storage
    assert config.study.storage is None
