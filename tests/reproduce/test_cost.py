"""What trainings cost, beside what their equations say."""

from __future__ import annotations

import itertools

import pytest
from scripts import script

from backroads.plasticity.settings import resolve
from backroads.reproduce import cost
from backroads.reproduce.arms import Campaign, arms_of, unique
from backroads.reproduce.claims import Scale, claim_ids, load_claim
from backroads.reproduce.cost import of_lifetimes


def test_a_lifetime_takes_six_products_a_layer_and_step() -> None:
    """Forward y = a W^T, and the change D = q^T a; back through each of the two, for two factors: six products of
    m n_in n_out, of which the first layer needs no error for its inputs. The query takes three. Feedback from one
    output is not counted here."""
    hidden, tasks, steps, m = [32, 32, 32], 2, 20, 8
    config = resolve(
        {
            "task": "sinusoid",
            "hidden": hidden,
            "tasks": tasks,
            "steps_per_task": steps,
            "batch_size": m,
            "meta_steps": 3,
            "meta_batch_size": 2,
            "initial_plasticity": 1e-6,
        }
    )
    sizes = [tasks + 1, *hidden, 1]
    products = [n_in * n_out for n_in, n_out in itertools.pairwise(sizes)]
    T, query = tasks * steps, tasks * m
    expected = 2 * (T * m * (6 * sum(products) - products[0]) + query * (3 * sum(products) - products[0])) * 3 * 2
    assert of_lifetimes(config) == pytest.approx(expected, rel=0.05)


def test_what_ships_is_what_the_claims_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has to be counted, of any claim at any scale."""
    monkeypatch.setattr(cost, "cost", None)
    monkeypatch.setattr(cost, "_lifetime", None)
    scales: tuple[Scale, ...] = ("smoke", "desk", "paper")
    for scale in scales:
        for claim in map(load_claim, claim_ids()):
            flop, hours = cost.flop_and_hours(unique(arms_of(claim, Campaign((claim,), scale))))
            assert flop
            assert hours


@pytest.mark.slow
def test_what_ships_is_what_is_counted() -> None:
    cost.counted.cache_clear()  # other tests may have counted what no claim needs
    shipped = dict(cost.counted())
    anew = script("claim_costs")["counted_anew"]()
    assert anew == pytest.approx(shipped, rel=1e-12)
