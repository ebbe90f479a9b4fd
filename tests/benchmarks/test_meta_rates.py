"""How the rates of the long meta-trainings are chosen."""

from __future__ import annotations

import pytest
from scripts import script


def test_the_rates_of_the_best_score_are_taken_and_what_diverged_is_not() -> None:
    rates = script("meta_rates")
    scores = dict.fromkeys((arm.name for arm in rates["trials"]()), 0.5)
    best = {
        "sinusoid iid, flp, 3 10": 0.1,  # an error: less is better
        "sinusoid iid, oml, 1 10": None,
        "sinusoid iid, oml, 0.3 3": 0.2,
        "omniglot 5 iid, oml, 3 30": 0.9,  # an accuracy
        "omniglot 5 iid, oml, 0.3 3": 0.1,
    }
    assert best.keys() < scores.keys()
    scores |= best
    arms = [
        {
            "labels": arm.labels,
            "settings": arm.settings,
            "rows": [
                {
                    "mean": scores[arm.name],
                    "measure": "accuracy" if "omniglot" in arm.name else "mean squared error",
                }
            ],
        }
        for arm in rates["trials"]()
    ]
    found = rates["chosen_rates"]({"arms": arms})
    assert found["sinusoid iid", "flp"] == pytest.approx({"initial_plasticity": 3.0, "lr_forward": 3e-3})
    assert found["sinusoid iid", "oml"] == pytest.approx({"inner_lr": 9e-4, "lr_forward": 9e-4})
    assert found["omniglot 5 iid", "oml"] == pytest.approx({"inner_lr": 0.09, "lr_forward": 9e-3})
