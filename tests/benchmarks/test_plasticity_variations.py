"""The table of what plasticity of hidden layers adds under variations of FLP."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scripts import script


def arm(task: str, variation: str, learner: str, by_seed: dict[int, float], measure: str) -> dict[str, Any]:
    steps = {"own": -2.0, "others": 0.5, "gradient_own": -1.0, "gradient_others": 4.0}
    seeds = {
        str(seed): {"mean": mean, "measure": measure, "lifetimes": 4, "skipped": 0, "interference": steps}
        for seed, mean in by_seed.items()
    }
    return {"labels": {"experiment": task, "variation": variation, "learner": learner}, "seeds": seeds}


def test_what_concerns_hidden_layers_alone_is_trained_once_and_compared_with_the_output_as_it_is() -> None:
    variations = script("plasticity_variations")
    trained = [tuple(arm.labels.values()) for arm in variations["arms_of_all"]()]
    assert ("omniglot 5", "strength 0.5", "flp") in trained
    assert ("omniglot 5", "strength 0.5", "flp_output_only") not in trained
    assert ("omniglot 5", "no convolutions", "flp_output_only") in trained
    results = {
        "arms": [
            arm("omniglot 5", "as in L1", "flp_output_only", {0: 0.9, 1: 0.8}, "accuracy"),
            arm("omniglot 5", "strength 0.5", "flp", {0: 0.92, 1: 0.84, 2: 0.1}, "accuracy"),
            arm("sinusoid", "as in L1", "flp", {0: math.exp(-3)}, "mean squared error"),
            arm("sinusoid", "as in L1", "flp_output_only", {0: math.exp(-5)}, "mean squared error"),
        ]
    }
    head, _, strength, sinusoid = variations["table"](results).splitlines()
    # Seeds that both have: means of 92 and 84, and of 90 and 80. Differences 2 and 4, their standard error 1, and
    # Student's t for one degree of freedom is 12.706.
    assert "| omniglot 5 | strength 0.5 | 88.00 | 85.00 | +3.00 [-9.71, +15.71] |" in strength
    assert "| sinusoid | as in L1 | 3.00 | 5.00 | -2.00 |" in sinusoid  # minus the logarithm of the error
    assert strength.endswith("| -2.00 | +0.50 | -1.00 | +4.00 | 2 |")
    assert head.count("|") == sinusoid.count("|")


def test_lifetimes_that_exploded_count_as_in_the_claims() -> None:
    score = script("plasticity_variations")["score"]
    # Half of them with the error of answering 0 to sinusoids: half of the mean of A^2, for A uniform in [0.1, 5.1).
    half = {"mean": 0.5, "measure": "mean squared error", "lifetimes": 4, "skipped": 2}
    assert math.exp(-score(half)) == pytest.approx((0.5 + (5.1**3 - 0.1**3) / 30) / 2)
    assert score({**half, "measure": "accuracy"}) == pytest.approx(25.0)
