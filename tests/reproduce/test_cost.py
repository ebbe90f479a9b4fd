"""What trainings cost, beside what their equations say."""

from __future__ import annotations

import itertools

import pytest

from backroads.plasticity.settings import resolve
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
