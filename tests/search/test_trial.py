"""A trial is a training: the same accuracy, bit for bit, also when it was cut off and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backroads.data import Dataset
from backroads.runs.arm import DivergedError
from backroads.runs.runtime import Runtime
from backroads.runs.schema import TrainingResults
from backroads.search.settings import resolve
from backroads.search.trial import Hooks, PrunedError, StoppedError, load_once, run_trial
from backroads.train.settings import TrainConfig
from backroads.train.trainer import train

HERE = Runtime(torch.device("cpu"))
SEARCH = resolve({"epochs": 3, "batch_size": 128, "train": {"model_options": {"width": 2}}})
CONFIG = SEARCH.training(
    rule="alignment",
    rule_options={"decay": 0.2, "self_": 0.1, "amp": 0.05, "reduction": "power", "operations": {"center_input": True}},
    learning_rate=0.2,
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_once(CONFIG, {}, HERE.device)


def test_a_trial_ends_where_a_training_of_its_settings_ends(dataset: Dataset, tmp_path: Path) -> None:
    reports: dict[int, float] = {}

    def note(epoch: int, accuracy: float) -> bool:
        reports[epoch] = accuracy
        return False

    accuracy = run_trial(CONFIG, dataset, HERE, Hooks(note))
    results = train(CONFIG, tmp_path / "run", lambda _: None)
    assert isinstance(results, TrainingResults)
    assert accuracy == results.arms[0].accuracy
    assert list(reports) == [1, 2, 3]
    assert reports[3] == accuracy


def test_no_trial_sees_the_test_split(dataset: Dataset) -> None:
    whole = load_once(TrainConfig(split="test"), {}, HERE.device)
    assert len(dataset.train) + len(dataset.evaluate) == len(whole.train)


def test_what_was_cut_off_goes_on_from_its_checkpoint_to_the_same_end(dataset: Dataset, tmp_path: Path) -> None:
    steps = 0

    def tired() -> bool:
        nonlocal steps
        steps += 1
        return steps > 2 * (len(dataset.train) // CONFIG.batch_size) + 3  # in the third epoch

    whole = run_trial(CONFIG, dataset, HERE, Hooks())
    with pytest.raises(StoppedError):
        run_trial(CONFIG, dataset, HERE, Hooks(stop=tired), folder=tmp_path / "0001", checkpoint_seconds=0)
    told: list[int] = []
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return False

    hooks = Hooks(lambda epoch, _: bool(told.append(epoch)), count)
    assert run_trial(CONFIG, dataset, HERE, hooks, folder=tmp_path / "0002", checkpoint_seconds=0) == whole
    assert told == [1, 2, 3]  # the pruner learns what came before, too
    assert steps == len(dataset.train) // CONFIG.batch_size


def test_a_checkpoint_of_other_settings_is_left_alone(dataset: Dataset, tmp_path: Path) -> None:
    run_trial(CONFIG, dataset, HERE, Hooks(), folder=tmp_path / "0001", checkpoint_seconds=0)
    other = CONFIG.model_copy(update={"learning_rate": 0.05})
    alone = run_trial(other, dataset, HERE, Hooks())
    assert run_trial(other, dataset, HERE, Hooks(), folder=tmp_path / "0002", checkpoint_seconds=0) == alone


def test_a_trial_can_be_ended_early_with_its_last_accuracy(dataset: Dataset) -> None:
    seen: list[float] = []

    def enough(epoch: int, accuracy: float) -> bool:
        seen.append(accuracy)
        return epoch == 2

    with pytest.raises(PrunedError) as ended:
        run_trial(CONFIG, dataset, HERE, Hooks(enough))
    assert [ended.value.value] == seen[1:]


def test_divergence_is_told_with_step_and_layer(dataset: Dataset) -> None:
    wild = CONFIG.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(DivergedError, match=r"step \d+ is not finite"):
        run_trial(wild, dataset, HERE, Hooks())
