"""After a search: fresh seeds, means of what was tested, and what is lost in transfer; nothing is really trained."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backroads.cli import main
from backroads.errors import ConfigError, RunError
from backroads.search import promote as module
from backroads.search.promote import fresh_seeds, promote, transfer
from backroads.search.results import seconds_of
from backroads.search.run import client_at, prepare, study_in
from backroads.search.settings import resolve
from backroads.search.space import DIMENSIONS, groups_of
from backroads.search.study import StudyClient

A, B = "backprop", "feedback_alignment"
CONFIG = resolve({"rules": [A, B], "vary": ["learning_rate"], "trials": 4, "epochs": 2, "seed": 5})
# Test accuracy by rule and network, plus 0.01 for each seed after the first.
TESTED = {(A, "digits_conv"): 0.9, (B, "digits_conv"): 0.8, (A, "mlp"): 0.95, (B, "mlp"): 0.6}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[StudyClient]:
    with client_at(f"journal:{tmp_path}/study.log", CONFIG) as found:
        for group, values in ((A, (0.7, 0.75)), (B, (0.74, 0.6))):
            for value in values:
                found.run_trial(group, lambda trial, record, params, value=value: value)
        yield found


@pytest.fixture(autouse=True)
def seeds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of all trainings so far."""
    used: list[int] = []

    def tested(settings: dict[str, Any]) -> dict[str, Any]:
        used.append(settings["run"]["seed"])
        assert settings["data"]["split"] == "test"
        model = settings["model"].get("name", "digits_conv")
        return {"accuracy": TESTED[settings["rule"]["name"], model] + 0.01 * (used[-1] % 10 - 5), "reason": None}

    monkeypatch.setattr(module, "final_accuracy", tested)
    return used


def test_the_best_are_trained_with_seeds_that_no_trial_has_seen(
    client: StudyClient, seeds: list[int], tmp_path: Path
) -> None:
    found = promote(client, tmp_path, top=2, seeds=3, log=lambda line: None)
    assert client.config.training().run.seed == 5  # that of every trial
    assert 5 not in seeds
    assert sorted(seeds) == sorted(2 * fresh_seeds(CONFIG, 3)) == sorted(2 * list(found.seeds))
    assert len(set(found.seeds)) == 3
    assert [(row.group, row.validation) for row in found.rows] == [(A, 0.75), (B, 0.74)]
    assert [row.mean for row in found.rows] == pytest.approx([0.91, 0.81])  # + 0, 0.01, 0.02


def test_what_is_lost_in_transfer_is_the_gap_there_less_the_gap_at_home(client: StudyClient, tmp_path: Path) -> None:
    found = transfer(client, tmp_path, models=["mlp"], top=2, seeds=1, log=lambda line: None)
    lost = {row.group: row.models["mlp"].lost for row in found.rows}
    assert lost == {A: pytest.approx(0), B: pytest.approx((0.95 - 0.6) - (0.9 - 0.8))}


def test_the_command_prints_the_points_lost_with_their_sign(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Gaps to backprop: 10 points at home, 35 there."""
    prepare(CONFIG, tmp_path / "study")
    with study_in(tmp_path / "study") as client:
        for group in (A, B):
            client.run_trial(group, lambda trial, record, params: 0.5)
    with pytest.raises(SystemExit) as left:
        main(["transfer", str(tmp_path / "study"), "--models", "mlp", "--seeds", "1"])
    assert left.value.code == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith((A, B))]
    assert rows == [[A, "90.0", "95.0"], [B, "80.0", "(+0.0)", "60.0", "(+25.0)"]]


def test_what_diverges_comes_after_what_does_not(
    client: StudyClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mean is over the seeds that are left, and would make a fragile rule look better."""

    def tested(settings: dict[str, Any]) -> dict[str, Any]:
        fragile = settings["rule"]["name"] == A
        gone = fragile and settings["run"]["seed"] % 2
        return {"accuracy": None if gone else 0.9 if fragile else 0.8, "reason": "not finite" if gone else None}

    monkeypatch.setattr(module, "final_accuracy", tested)
    found = promote(client, tmp_path, top=2, seeds=3, log=lambda line: None)
    assert [(row.group, row.accuracies.count(None)) for row in found.rows] == [(B, 0), (A, 2)]
    table = transfer(client, tmp_path, models=["mlp"], top=2, seeds=3, log=lambda line: None)
    lost = {row.group: row.models["mlp"].lost for row in table.rows}
    assert lost == {A: 0.0, B: pytest.approx(0.0)}  # of the one seed with which backprop is there on both


def test_of_each_group_the_best_where_that_is_asked_for(tmp_path: Path) -> None:
    with client_at(f"journal:{tmp_path}/study.log", CONFIG) as client:
        for group, values in ((A, (0.7, 0.75)), (B, (0.6, 0.5))):
            for value in values:
                client.run_trial(group, lambda trial, record, params, value=value: value)
        best = promote(client, tmp_path, top=2, seeds=1, log=lambda line: None)
        assert [(row.group, row.validation) for row in best.rows] == [(A, 0.75), (A, 0.7)]
        each = promote(client, tmp_path, top=2, seeds=1, each=True, log=lambda line: None)
        assert [(row.group, row.validation) for row in each.rows] == [(A, 0.75), (B, 0.6)]


def test_trainings_of_earlier_calls_are_kept(client: StudyClient, seeds: list[int], tmp_path: Path) -> None:
    promote(client, tmp_path, top=2, seeds=3, log=lambda line: None)
    promote(client, tmp_path, top=1, seeds=1, log=lambda line: None)
    promote(client, tmp_path, top=2, seeds=3, log=lambda line: None)
    assert len(seeds) == 6


def test_a_process_that_is_killed_ends_the_command_and_trainings_of_before_are_kept(
    client: StudyClient, seeds: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(client, tmp_path, top=1, seeds=2, log=lambda line: None)
    with monkeypatch.context() as killed:
        killed.setattr(module, "final_accuracy", functools.partial(exec, "import os; os.kill(os.getpid(), 9)"))
        with pytest.raises(RunError, match="was killed"):
            promote(client, tmp_path, top=2, seeds=2, workers=2, log=lambda line: None)
    assert len(seeds) == 2
    promote(client, tmp_path, top=2, seeds=2, log=lambda line: None)
    assert len(seeds) == 4


def test_backprop_has_its_own_best_rates_whatever_its_rank(
    client: StudyClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client_at(f"journal:{tmp_path}/other.log", CONFIG) as other:
        for group, value in ((A, 0.5), (B, 0.7)):
            other.run_trial(group, lambda trial, record, params, value=value: value)
        best = {record.group: record.trial.params["learning_rate"] for record in other.all_records()}
        rates = {}

        def tested(settings: dict[str, Any]) -> dict[str, Any]:
            rates[settings["rule"]["name"]] = settings["optimizer"]["learning_rate"]
            return {"accuracy": 0.5, "reason": None}

        monkeypatch.setattr(module, "final_accuracy", tested)
        transfer(other, tmp_path, models=[], top=1, seeds=1, log=lambda line: None)
    assert rates == {A: best[A], B: best[B]}


def test_a_search_whose_storage_is_gone_is_not_begun_anew(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    prepare(CONFIG, folder)
    prepare(CONFIG, folder)  # nothing has come of it yet
    (folder / "results.json").write_text("{}")
    prepare(CONFIG, folder)
    (folder / "study.db").unlink()
    before = sorted(folder.iterdir())
    with pytest.raises(ConfigError, match=r"has the results of a search, and .* has no study"):
        prepare(CONFIG, folder)
    assert sorted(folder.iterdir()) == before


def test_of_a_rule_of_ones_own_only_what_it_takes_varies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rules.py").write_text(
        "import backroads as br\n"
        "def half(): return 0.5 * br.rules.weight_mirror()\n"
        "def scaled(amp=0.1, cadence=br.Cadence()): return br.rules.weight_mirror(amp, cadence=cadence)\n"
        "def any_of_them(**options): return br.rules.weight_mirror(**options)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    names = ["own_rules:half", "own_rules:scaled", "own_rules:any_of_them", "weight_mirror"]
    vary = ["learning_rate", "backward_rate", "amp", "decay", "every", "reduction"]
    half, scaled, some, named = (set(group.space) for group in groups_of(names, [], {n: DIMENSIONS[n] for n in vary}))
    assert half == {"learning_rate", "backward_rate"}
    assert scaled == {"learning_rate", "backward_rate", "amp", "every"}
    assert some == named == set(vary)


def test_the_time_of_a_search_is_that_in_which_a_trial_ran() -> None:
    def at(*seconds: int) -> Any:
        return tuple(datetime(2026, 1, 1) + timedelta(seconds=second) for second in seconds)

    assert seconds_of([]) is None
    assert seconds_of([(None, None), at(0, 10), at(5, 12), at(6, 8), at(100, 103)]) == 15
