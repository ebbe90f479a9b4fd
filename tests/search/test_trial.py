"""A trial is a training: the same accuracy, bit for bit, also when it was cut off and goes on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from backroads.data import Dataset
from backroads.runs.runtime import Runtime
from backroads.search import trial as module
from backroads.search.record import DIVERGED, INTERRUPTED, TrialFailed
from backroads.search.settings import resolve
from backroads.search.trial import load_once, run_trial
from backroads.train.arm import TrainingArm
from backroads.train.settings import TrainSettings
from backroads.train.settings import resolve as resolve_training
from backroads.train.trainer import train

RUNTIME = Runtime(torch.device("cpu"))
SEARCH = resolve({"epochs": 3, "batch_size": 128, "model_options": {"width": 2}})
CONFIG = SEARCH.training(
    rule="alignment",
    rule_options={
        "decay": 0.2,
        "self": 0.1,
        "amp": 0.05,
        "reduction": "unit_power",
        "operations": {"center_input": True},
    },
    learning_rate=0.2,
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_once(CONFIG, {}, RUNTIME.device)


@pytest.mark.parametrize(
    "more", [{}, {"mirror_steps": 2}, {"ema": 0.9, "coefficients": {"amp": {"stop": 0.5}}}], ids=str
)
def test_a_trial_ends_where_a_training_of_its_settings_ends(
    dataset: Dataset, tmp_path: Path, more: dict[str, Any]
) -> None:
    def accuracies(config: TrainSettings) -> list[float]:
        found: list[float] = []
        last = run_trial(config, dataset, RUNTIME, report=lambda epoch, accuracy: bool(found.append(accuracy)))
        assert found[-1] == last
        return found

    config = resolve_training(CONFIG.model_dump(), more)
    of_trial = accuracies(config)
    train(config, tmp_path / "run", lambda _: None)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    of_run = [event["eval_accuracy"] for event in events if event["event"] == "evaluation"]
    assert of_trial == of_run[1:]  # the first one is before training
    assert not more or of_trial != accuracies(CONFIG)  # no setting is ignored


def test_no_trial_sees_the_test_split(dataset: Dataset) -> None:
    whole = load_once(resolve_training({"split": "test"}), {}, RUNTIME.device)
    assert len(dataset.train) + len(dataset.evaluate) == len(whole.train)


def test_what_was_cut_off_goes_on_from_its_checkpoint_to_the_same_end(dataset: Dataset, tmp_path: Path) -> None:
    steps = 0

    def tired() -> bool:
        nonlocal steps
        steps += 1
        return steps > 2 * (len(dataset.train) // CONFIG.run.batch_size) + 3  # in the third epoch

    whole = run_trial(CONFIG, dataset, RUNTIME)
    with pytest.raises(TrialFailed, match=INTERRUPTED):
        run_trial(CONFIG, dataset, RUNTIME, stop=tired, folder=tmp_path / "0001", checkpoint_seconds=0)
    told: list[int] = []
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return False

    hooks: dict[str, Any] = {"report": lambda epoch, _: bool(told.append(epoch)), "stop": count}
    assert run_trial(CONFIG, dataset, RUNTIME, **hooks, folder=tmp_path / "0002", checkpoint_seconds=0) == whole
    assert told == [1, 2, 3]  # the pruner learns what came before, too
    assert steps == len(dataset.train) // CONFIG.run.batch_size


def test_the_momentum_of_B_is_that_of_the_settings_and_is_taken_up_again(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the weights at the end: accuracies of a few hundred images may agree by chance."""
    arms: list[TrainingArm] = []

    class Noted(TrainingArm):
        def __init__(self, *words: Any, **more: Any) -> None:
            super().__init__(*words, **more)
            arms.append(self)

    monkeypatch.setattr(module, "TrainingArm", Noted)
    config = resolve(SEARCH.as_toml(), {"backward_momentum": 0.75}).training(
        rule="alignment", rule_options={"self": 0.1}
    )
    assert config.backward.momentum == 0.75
    steps = iter(range(10**6))

    def tired() -> bool:
        return next(steps) > 2 * (len(dataset.train) // CONFIG.run.batch_size) + 3  # in the third epoch

    run_trial(config, dataset, RUNTIME)
    with pytest.raises(TrialFailed, match=INTERRUPTED):
        run_trial(config, dataset, RUNTIME, stop=tired, folder=tmp_path / "0001", checkpoint_seconds=0)
    run_trial(config, dataset, RUNTIME, folder=tmp_path / "0002", checkpoint_seconds=0)
    whole, _, again = (arm.model.state_dict() for arm in arms)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    for arm in (arms[0], arms[2]):
        backward = arm.stepper.optimizers.backward
        assert backward is not None
        assert {group["momentum"] for group in backward.param_groups} == {0.75}


def test_a_checkpoint_of_other_settings_is_left_alone(dataset: Dataset, tmp_path: Path) -> None:
    run_trial(CONFIG, dataset, RUNTIME, folder=tmp_path / "0001", checkpoint_seconds=0)
    other = resolve_training(CONFIG.model_dump(), {"learning_rate": 0.05})
    alone = run_trial(other, dataset, RUNTIME)
    assert run_trial(other, dataset, RUNTIME, folder=tmp_path / "0002", checkpoint_seconds=0) == alone


def test_a_trial_can_be_ended_early_with_its_last_accuracy(dataset: Dataset) -> None:
    seen: list[float] = []

    def enough(epoch: int, accuracy: float) -> bool:
        seen.append(accuracy)
        return epoch == 2

    with pytest.raises(optuna.TrialPruned):
        run_trial(CONFIG, dataset, RUNTIME, report=enough)
    assert len(seen) == 2


def test_divergence_is_told_with_step_and_layer(dataset: Dataset) -> None:
    wild = resolve_training(CONFIG.model_dump(), {"learning_rate": 1e30})
    with pytest.raises(TrialFailed, match=DIVERGED) as ended:
        run_trial(wild, dataset, RUNTIME)
    assert re.search(r"step \d+ is not finite; first: .+", ended.value.reason)
