"""What is proposed: from a group's own trials, differently in each worker, at a cost that stays bounded."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from backroads.search.ledger import ABOUT
from backroads.search.sampling import BEST, GroupStudy, make_pruner, make_sampler, propose, windowed
from backroads.search.settings import SearchConfig
from backroads.search.storage import storage_at

SPACE = {"rate": FloatDistribution(1e-4, 1.0, log=True)}
CONFIG = SearchConfig(startup=8, pruner="median", epochs=10)


def trial(group: str, rate: float, value: float) -> FrozenTrial:
    return create_trial(
        params={"rate": rate},
        distributions=SPACE,
        value=value,
        user_attrs={ABOUT: {"slot": 0, "group": group, "worker": "", "token": ""}},
        intermediate_values={2: value},
    )


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[BaseStorage]:
    with storage_at(f"journal:{tmp_path}/study.log") as found:
        number = found.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "study")
        for n in range(40):  # group a is best at 0.1, group b at 0.001
            rate = 10 ** (-4 * (n + 0.5) / 40)
            found.create_new_trial(number, trial("a", rate, 1 - abs(math.log10(rate) + 1) / 4))
            found.create_new_trial(number, trial("b", rate, 1 - abs(math.log10(rate) + 3) / 4))
        yield found


def study(storage: BaseStorage, group: str, worker: int = 0, window: int | None = None) -> GroupStudy:
    return GroupStudy(
        "study",
        storage,
        group,
        read=lambda: storage.get_all_trials(0, deepcopy=False),
        sampler=make_sampler(CONFIG, worker),
        pruner=make_pruner(CONFIG),
        window=window,
    )


@pytest.mark.parametrize(("group", "best"), [("a", -1.0), ("b", -3.0)])
def test_proposals_gather_where_the_group_itself_did_well(storage: BaseStorage, group: str, best: float) -> None:
    proposed = [math.log10(propose(study(storage, group, worker), SPACE)["rate"]) for worker in range(20)]
    # Uniform draws from [-4, 0] are at a mean distance of 1.25 from either.
    assert statistics.fmean(abs(x - best) for x in proposed) < 0.6


def test_workers_propose_different_values_and_each_repeats_its_own(storage: BaseStorage) -> None:
    first = [propose(study(storage, "a", worker), SPACE)["rate"] for worker in range(4)]
    again = [propose(study(storage, "a", worker), SPACE)["rate"] for worker in range(4)]
    assert first == again
    assert len(set(first)) == 4


def test_proposing_writes_nothing(storage: BaseStorage) -> None:
    before = storage.get_n_trials(0)
    propose(study(storage, "a"), SPACE)
    assert storage.get_n_trials(0) == before


def test_a_poor_trial_of_one_group_is_not_held_against_the_other(storage: BaseStorage) -> None:
    weak = create_trial(state=TrialState.RUNNING, intermediate_values={2: 0.45})
    for group in ("a", "b"):
        assert study(storage, group).pruner.prune(study(storage, group), weak)
    assert not study(storage, "none yet").pruner.prune(study(storage, "none yet"), weak)


def test_a_window_holds_the_best_and_the_newest_and_what_still_runs() -> None:
    done = [create_trial(value=-float(n)) for n in range(200)]  # the oldest are the best
    for n, one in enumerate(done):
        one.number = n
    running = create_trial(state=TrialState.RUNNING)
    running.number = 200
    kept = [one.number for one in windowed([*done, running], 80)]
    assert kept == [*range(BEST), *range(200 - 30, 201)]
