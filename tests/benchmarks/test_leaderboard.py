"""``benchmarks/leaderboard.py``: which rates are tried, and that every card is of something there is."""

from __future__ import annotations

from typing import Any

import pytest
from scripts import script

import backroads as br


@pytest.fixture(scope="module")
def board() -> dict[str, Any]:
    return script("leaderboard")


def results(**accuracies: dict[float, float | None]) -> dict[str, Any]:
    arms = [({"name": name, "rate": rate}, found) for name, of in accuracies.items() for rate, found in of.items()]
    return {"arms": [{"labels": labels, "accuracy_mean": found} for labels, found in arms]}


def test_every_rule_and_method_has_a_card(board: dict[str, Any]) -> None:
    assert set(board["CARDS"]) == {*br.rules.list_rules(), *br.list_methods()} - {"feedback"}


@pytest.mark.parametrize(
    ("long", "then"),
    [
        ({}, 0.1),  # the best of the short trials
        ({0.1: 0.9}, 0.03),
        ({0.1: 0.9, 0.03: 0.8}, None),  # the lower one is worse
        ({0.1: 0.8, 0.03: 0.9}, 0.01),
        ({0.1: None, 0.03: None, 0.01: 0.2, 0.003: 0.3}, 0.001),  # what diverges is left behind
        ({0.1: None, 0.03: None, 0.01: None, 0.003: None, 0.001: None, 0.0003: None}, None),
    ],
)
def test_rates_are_tried_at_full_length_downwards_until_one_is_worse(
    board: dict[str, Any], long: dict[float, float | None], then: float | None
) -> None:
    short = results(hebbian={0.3: 0.5, 0.1: 0.7, 0.03: 0.6})
    arms = board["longer"]("mnist", short, results(hebbian=long) if long else None)
    assert [(arm.labels["rate"], arm.settings["learning_rate"]) for arm in arms] == (
        [] if then is None else [(then, then)]
    )
    assert all(arm.settings["split"] == "validation" and arm.settings["epochs"] == 3 for arm in arms)


@pytest.mark.parametrize(
    ("tried", "then"),
    [
        ({0.01: 0.5, 0.03: 0.7, 0.1: 0.6}, []),
        ({0.01: 0.5, 0.03: 0.6, 0.1: 0.7}, [0.3]),
        ({0.01: 0.7, 0.03: 0.6, 0.1: 0.5}, [0.003]),
        ({0.03: 0.5, 0.1: 0.6, 0.3: 0.7}, []),  # no rate is above
        ({0.03: 0.5, 0.1: 0.7, 0.3: None}, []),
    ],
)
def test_rates_go_on_where_the_best_is_at_an_end(
    board: dict[str, Any], tried: dict[float, float | None], then: list[float]
) -> None:
    arms = board["beyond"]("cifar10", results(hebbian=tried))
    assert [arm.labels["rate"] for arm in arms] == then
    assert all(arm.settings["split"] == "validation" and arm.settings["limit"] == 10_000 for arm in arms)
