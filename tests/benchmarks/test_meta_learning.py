"""How the rates of the long meta-trainings are chosen."""

from __future__ import annotations

import pytest
from scripts import script


def test_the_rates_of_the_least_error_are_taken_and_what_diverged_is_not() -> None:
    meta = script("meta_learning")
    errors = dict.fromkeys((arm.name for arm in meta["trials"]()), 3.0)
    best = {"sinusoid-64-iid, flp, 3 0.3": 1.0, "sinusoid-64-iid, oml, 1 1": None, "sinusoid-64-iid, oml, 0.3 3": 2.0}
    assert best.keys() < errors.keys()
    errors |= best
    arms = [
        {"labels": arm.labels, "settings": arm.settings, "rows": [{"mean": errors[arm.name]}]}
        for arm in meta["trials"]()
    ]
    found = meta["chosen_rates"]({"arms": arms})
    assert found["sinusoid-64-iid", "flp"] == pytest.approx({"initial_plasticity": 3.0, "lr_forward": 9e-5})
    assert found["sinusoid-64-iid", "oml"] == pytest.approx({"inner_lr": 9e-4, "lr_forward": 9e-4})
    settings = {arm.name: arm.settings for arm in meta["long_arms"](found)}
    assert settings["sinusoid-64-iid, flp_no_feedback"]["initial_plasticity"] == pytest.approx(3.0)
    assert settings["sinusoid-64-iid, oml_first_order"]["inner_lr"] == pytest.approx(9e-4)
