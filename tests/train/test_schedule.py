"""Schedules against hand-computed values and against recorded outputs of the reference.

The recorded cases come from neuroailab/Neural-Alignment (d83defb) run with TensorFlow in float32. Six of
them, with fewer steps, are in tests/fixtures/schedules.json; all of them are read from a folder outside the
repository if there is one.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backroads.errors import BackroadsError, ConfigError, UsageError
from backroads.train.schedule import CoefficientSchedule, RateSchedule

REPO = Path(__file__).resolve().parents[2]
RTOL, ATOL = 1e-5, 1e-6  # the recorded numbers are float32


# --- the reference's arguments under our names ---


def coefficient_from(kwargs: dict[str, Any]) -> CoefficientSchedule:
    return CoefficientSchedule(
        kwargs["value"],
        start=kwargs["start"],
        stop=kwargs["stop"],
        cycle=kwargs["cycle"],
        rate=kwargs["schedule_rate"],
        growth=kwargs["schedule_type"],
        steps_per_epoch=kwargs["num_batches_per_epoch"],
        epochs=kwargs["train_epochs"],
    )


def rates_from(kwargs: dict[str, Any]) -> RateSchedule:
    return RateSchedule(
        kwargs["loss_rate"],
        kwargs["alignment_rate"],
        delay_epochs=kwargs["delay_epochs"],
        alternate_step_freq=kwargs["alternate_step_freq"],
        constant=kwargs["constant_rate"],
        steps_per_epoch=kwargs["num_batches_per_epoch"],
    )


MAKERS: dict[str, Callable[[dict[str, Any]], Callable[[int], Any]]] = {
    "coefficient_schedule": coefficient_from,
    "rate_schedule": rates_from,
}


def parity_folder() -> Path:
    return Path(os.environ.get("BACKROADS_PARITY", REPO.parent / "shared" / "parity"))


def recorded_cases() -> list[Any]:
    """The recorded schedule cases as parameters, or one skipped parameter that says what is missing."""
    index = parity_folder() / "cases.json"
    if not index.is_file():
        reason = f"no recorded cases: {index} is missing; set BACKROADS_PARITY to the folder that holds it"
        return [pytest.param(None, id="missing", marks=pytest.mark.skip(reason=reason))]
    cases = json.loads(index.read_text())["cases"]
    return [pytest.param(case, id=case["id"]) for case in cases if case["kind"] in MAKERS]


def fixture_cases() -> list[Any]:
    cases = json.loads((REPO / "tests" / "fixtures" / "schedules.json").read_text())
    return [pytest.param(case, id=case["id"]) for case in cases if case["kind"] in MAKERS]


@pytest.mark.parametrize("case", recorded_cases())
def test_reproduces_the_recorded_case(case: dict[str, Any]) -> None:
    schedule = MAKERS[case["kind"]](case["kwargs"])
    with np.load(parity_folder() / case["file"]) as arrays:
        steps = arrays[case["arrays"]["steps"]].tolist()
        values = arrays[case["arrays"]["values"]]
    np.testing.assert_allclose([schedule(step) for step in steps], values, rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize("case", fixture_cases())
def test_reproduces_the_copied_case(case: dict[str, Any]) -> None:
    schedule = MAKERS[case["kind"]](case["kwargs"])
    got = [schedule(step) for step in case["steps"]]
    np.testing.assert_allclose(got, case["values"], rtol=RTOL, atol=ATOL)


# --- coefficients ---


def test_a_plain_coefficient_is_its_value_to_the_last_step() -> None:
    schedule = CoefficientSchedule(0.1, steps_per_epoch=4, epochs=90)
    assert [schedule(step) for step in (0, 1, 359, 360)] == [0.1] * 4
    assert schedule(361) == 0.0


def test_start_and_stop_are_fractions_and_both_ends_count() -> None:
    # 10 epochs of 4 steps: in effect from epoch 2.5 (step 10) to epoch 7.5 (step 30).
    schedule = CoefficientSchedule(2.0, start=0.25, stop=0.75, steps_per_epoch=4, epochs=10)
    assert [schedule(step) for step in (9, 10, 30, 31)] == [0.0, 2.0, 2.0, 0.0]


@pytest.mark.parametrize("stop", [0.1, 0.7, 0.9])
def test_a_boundary_survives_the_rounding_of_its_fraction(stop: float) -> None:
    # In float64, 0.7 * 90 < 63; the last step in effect is nevertheless the first of epoch 63.
    steps = round(stop * 90) * 5004
    schedule = CoefficientSchedule(1.0, stop=stop, steps_per_epoch=5004, epochs=90)
    assert (schedule(steps), schedule(steps + 1)) == (1.0, 0.0)


def test_linear_growth_counts_epochs_from_the_start_of_the_coefficient() -> None:
    # In effect from epoch 5; at epoch 7 it has grown for 2 epochs.
    schedule = CoefficientSchedule(1.0, start=0.5, rate=0.25, growth="linear", steps_per_epoch=2, epochs=10)
    assert [schedule(step) for step in (9, 10, 14, 20)] == [0.0, 1.0, 1.5, 2.25]


def test_linear_growth_downwards_passes_zero() -> None:
    schedule = CoefficientSchedule(1.0, rate=-0.5, growth="linear", steps_per_epoch=1, epochs=4)
    assert [schedule(step) for step in range(5)] == [1.0, 0.5, 0.0, -0.5, -1.0]


def test_exponential_growth_doubles_in_ln2_over_rate_epochs() -> None:
    rate = math.log(2) / 3
    schedule = CoefficientSchedule(0.5, rate=rate, growth="exponential", steps_per_epoch=10, epochs=9)
    assert [schedule(step) for step in (0, 30, 60, 90)] == pytest.approx([0.5, 1.0, 2.0, 4.0], rel=1e-12)


def test_the_peak_of_the_triangle_is_half_a_cycle_times_the_rate() -> None:
    # A cycle of 8 epochs, of which 4 rise: value + 4 * rate at the peak.
    schedule = CoefficientSchedule(1.0, cycle=8, rate=0.5, growth="linear", steps_per_epoch=1, epochs=20)
    one_cycle = [1.0, 1.5, 2.0, 2.5, 3.0, 2.5, 2.0, 1.5]
    assert [schedule(step) for step in range(20)] == (one_cycle * 3)[:20]


def test_the_triangle_starts_with_the_coefficient_and_enters_the_exponent() -> None:
    schedule = CoefficientSchedule(
        2.0, start=0.5, cycle=4, rate=0.1, growth="exponential", steps_per_epoch=1, epochs=20
    )
    expected = [0.0, 2.0, 2.0 * math.exp(0.1), 2.0 * math.exp(0.2), 2.0 * math.exp(0.1), 2.0]
    assert [schedule(step) for step in range(9, 15)] == pytest.approx(expected, rel=1e-12)


def test_rate_and_cycle_have_no_effect_without_growth() -> None:
    schedule = CoefficientSchedule(0.5, cycle=10, rate=0.3, steps_per_epoch=1, epochs=20)
    assert {schedule(step) for step in range(21)} == {0.5}


# --- the rates of the two losses ---


def test_both_losses_at_every_step_by_default() -> None:
    schedule = RateSchedule(0.5, 2.0, steps_per_epoch=4)
    assert {schedule(step) for step in range(500)} == {(0.5, 2.0)}


def test_step_0_is_an_alignment_step_followed_by_the_task_steps() -> None:
    schedule = RateSchedule(0.5, 2.0, alternate_step_freq=2, steps_per_epoch=4)
    assert [schedule(step) for step in range(6)] == [(0.0, 2.0), (0.5, 0.0), (0.5, 0.0)] * 2


def test_alignment_always_runs_during_the_delay() -> None:
    # 1.5 epochs of 4 steps: steps 0 to 5 are delayed; 6 is an alignment step anyway, 7 and 8 are task steps.
    schedule = RateSchedule(delay_epochs=1.5, alternate_step_freq=2, steps_per_epoch=4)
    assert [schedule(step) for step in range(6)] == [(0.0, 1.0)] * 6
    assert [schedule(step) for step in range(6, 10)] == [(0.0, 1.0), (1.0, 0.0), (1.0, 0.0), (0.0, 1.0)]


def test_after_a_delay_without_alternation_both_losses_run() -> None:
    schedule = RateSchedule(3.0, 2.0, delay_epochs=1, steps_per_epoch=2)
    assert [schedule(step) for step in range(4)] == [(0.0, 2.0), (0.0, 2.0), (3.0, 2.0), (3.0, 2.0)]


def test_rates_fall_at_epochs_30_60_80_whatever_the_delay() -> None:
    schedule = RateSchedule(1.0, 2.0, delay_epochs=40, constant=False, steps_per_epoch=2)
    assert schedule(59) == (0.0, 2.0)
    assert schedule(60) == (0.0, 0.2)
    assert schedule(80) == (0.1, 0.2)
    assert schedule(120) == (0.01, 0.02)
    assert schedule(160) == (0.001, 0.002)


# --- data, and bad input ---


def test_schedules_are_data() -> None:
    schedule = RateSchedule(delay_epochs=2.0, steps_per_epoch=4)
    assert RateSchedule(**json.loads(json.dumps(dataclasses.asdict(schedule)))) == schedule
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.loss_rate = 2.0  # type: ignore[misc]


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": NAN}, r"value must be a finite number, got nan"),
        ({"value": "0.1"}, r"value must be a finite number, got '0\.1'"),
        ({"value": True}, r"value must be a finite number, got True"),
        ({"start": 5}, r"start must be a number from 0 to 1, got 5; give a fraction"),
        ({"start": -0.1}, r"start must be"),
        ({"stop": 1.01}, r"stop must be"),
        ({"start": 0.6, "stop": 0.4}, r"start must be at most stop, got start 0\.6 and stop 0\.4"),
        ({"cycle": -1}, r"cycle must be"),
        ({"cycle": 0.1}, r"cycle must be 0 or last at least a step, got 0\.1 epochs of 4 steps"),
        ({"rate": INF}, r"rate must be a finite number, got inf"),
        ({"growth": "exponental"}, r"growth must be None.*got 'exponental'.*Did you mean 'exponential'"),
        ({"growth": "exponential", "rate": 1.0}, r"must be at most 88, got 1\.0 times 90 epochs"),
        ({"steps_per_epoch": 0}, r"steps_per_epoch must be a number above 0, got 0"),
        ({"steps_per_epoch": None}, r"steps_per_epoch must be a number above 0, got None"),
        ({"epochs": -90}, r"epochs must be a number above 0, got -90"),
    ],
)
def test_bad_coefficient_schedules(changes: dict[str, Any], message: str) -> None:
    good = CoefficientSchedule(0.1, steps_per_epoch=4, epochs=90)
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(good, **changes)


def test_steep_growth_is_fine_if_it_stops_in_time() -> None:
    # At most exp(1 * 5) in a cycle of 10 epochs, at most exp(9) in a tenth of the training.
    cycling = CoefficientSchedule(1.0, cycle=10, rate=1, growth="exponential", steps_per_epoch=1, epochs=90)
    assert cycling(5) == pytest.approx(math.exp(5), rel=1e-12)
    stopping = CoefficientSchedule(1.0, stop=0.1, rate=1, growth="exponential", steps_per_epoch=1, epochs=90)
    assert stopping(9) == pytest.approx(math.exp(9), rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_rate": -1.0}, r"loss_rate must be a number of at least 0, got -1\.0"),
        ({"alignment_rate": NAN}, r"alignment_rate must be"),
        ({"delay_epochs": -1}, r"delay_epochs must be a number of epochs, at least 0, or None, got -1"),
        ({"alternate_step_freq": 0}, r"alternate_step_freq must be a whole number of at least 1.*got 0"),
        ({"alternate_step_freq": 2.0}, r"alternate_step_freq must be a whole number.*got 2\.0"),
        ({"alternate_step_freq": True}, r"alternate_step_freq must be a whole number.*got True"),
        ({"constant": "no"}, r"constant must be True or False, got 'no'"),
        ({"steps_per_epoch": INF}, r"steps_per_epoch must be"),
    ],
)
def test_bad_rate_schedules(changes: dict[str, Any], message: str) -> None:
    good = RateSchedule(steps_per_epoch=4)
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(good, **changes)


@pytest.mark.parametrize(
    "schedule",
    [
        CoefficientSchedule(0.1, steps_per_epoch=4, epochs=90),
        RateSchedule(steps_per_epoch=4),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_a_step_is_a_whole_number_of_at_least_0(schedule: Callable[[Any], Any]) -> None:
    assert schedule(np.int64(3)) == schedule(3)
    for step in (-1, 0.5, 2.0, "3", None):
        with pytest.raises(UsageError, match=r"a whole number of at least 0, got"):
            schedule(step)
    assert issubclass(UsageError, BackroadsError)
