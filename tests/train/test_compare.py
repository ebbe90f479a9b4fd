"""The comparison: what is shared between rules, what is written, what is refused, and that it goes on after a kill."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from train.processes import finish, start, wait_for_step
from train.test_resume import assert_same, contents

import backroads as br
from backroads.errors import ConfigError, RuleError
from backroads.runs.folder import RunFolder
from backroads.runs.runtime import Runtime
from backroads.runs.schema import ArmResult, TrainingResults
from backroads.runs.settings import read_toml
from backroads.train.arm import TrainingArm
from backroads.train.build import Batches, dataset_of
from backroads.train.comparison import COMPARED_METHODS, COMPARED_RULES, resolve_comparison
from backroads.train.trainer import compare, train

QUICK = {
    "epochs": 2,
    "seeds": [0, 1],
    "model_options": {"width": 2},
    "batch_size": 128,
    "rules": ["backprop", "symmetric_alignment"],
}


def run_quickly(folder: Path, **changes: Any) -> dict[str, list[ArmResult]]:
    """The ends of the arms of each name, by seed."""
    results = compare(resolve_comparison({**QUICK, **changes}), folder, lambda progress: None)
    assert isinstance(results, TrainingResults)
    return {name: [arm for arm in results.arms if arm.name == name] for name in results.names}


def read_events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def test_several_processes_cannot_share_a_smaller_last_batch_and_are_told_before_anything_is_written() -> None:
    (_, config), *_ = resolve_comparison({**QUICK, "batch_size": 32}).arms()
    here = torch.device("cpu")
    with pytest.raises(ConfigError, match=r"last_batch: expected one process, got 2, .* the 29 images of the last"):
        Batches(dataset_of(config, here), config, Runtime(here, 0, 2))
    with pytest.raises(ConfigError, match=r"schedule\.coefficients: .*the arms of a comparison"):
        resolve_comparison({"coefficients": {"amp": {"stop": 0.5}}})


def test_a_run_writes_everything_it_says(tmp_path: Path) -> None:
    ends = run_quickly(tmp_path / "run")
    (begin,) = read_events(tmp_path / "run", "start")
    assert [(arm["name"], arm["seed"]) for arm in begin["arms"]] == [
        *(("backprop", 0), ("symmetric_alignment", 0)),
        *(("backprop", 1), ("symmetric_alignment", 1)),
    ]
    evaluations = read_events(tmp_path / "run", "evaluation")
    assert [(e["epoch"], e["arm"]) for e in evaluations] == [(epoch, arm) for epoch in range(3) for arm in range(4)]
    assert [arm.accuracy for arm in ends["symmetric_alignment"]] == [e["test_accuracy"] for e in evaluations[-3::2]]
    assert all(arm.step_ratio is not None for arm in ends["symmetric_alignment"])
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["baseline"] == "backprop"
    assert [arm["accuracy"] for arm in results["arms"]] == [e["test_accuracy"] for e in evaluations[-4:]]


def test_rules_start_from_the_same_weights_and_see_the_same_data() -> None:
    (_, first), (_, second), *_ = resolve_comparison(QUICK).arms()
    runtime = Runtime(torch.device("cpu"))
    batches = Batches(dataset_of(first, runtime.device), first, runtime)
    models = [TrainingArm("", config, batches, runtime).model for config in (first, second)]
    for a, b in zip(*(br.forward_parameters(model) for model in models), strict=True):
        assert torch.equal(a, b)
    assert batches.at(0, 1)[0] is batches.at(0, 1)[0]
    assert batches.steps_per_epoch == math.ceil(1149 / 128)  # with the last, smaller batch
    assert sum(len(batches.at(0, step)[1]) for step in range(batches.steps_per_epoch)) == 1149


def test_an_arm_is_the_training_of_its_settings(tmp_path: Path) -> None:
    together = run_quickly(tmp_path / "together", rules=["backprop", "weight_mirror"], mirror_steps=1)
    settings = dict(resolve_comparison({**QUICK, "rules": ["weight_mirror"], "mirror_steps": 1}).arms()[1:2])
    alone = train(settings["weight_mirror"], tmp_path / "alone", lambda progress: None)
    assert isinstance(alone, TrainingResults)
    assert alone.arms[0].accuracy == together["weight_mirror"][0].accuracy
    assert alone.arms[0].readings == together["weight_mirror"][0].readings


@pytest.mark.usefixtures("own_rules")
def test_a_rules_result_does_not_depend_on_who_else_is_compared(tmp_path: Path) -> None:
    br.register_rule("noisy_signs", lambda: br.rules.sign_symmetry("batch_random"))
    alone = run_quickly(tmp_path / "alone", rules=["backprop", "noisy_signs"])
    together = run_quickly(tmp_path / "together", rules=["backprop", "feedback_alignment", "noisy_signs"])
    for name, arms in alone.items():
        assert [arm.accuracy for arm in arms] == [arm.accuracy for arm in together[name]]


def test_a_comparison_has_the_coefficients_that_were_chosen_for_its_small_network() -> None:
    """Those of docs/defaults.md."""
    chosen = {name: arm.rule.options for name, arm in resolve_comparison({"seeds": [0]}).arms() if arm.rule.options}
    assert chosen == {"information_alignment": {"amp": 0.003, "null": 0.01, "decay": 0.01}}


def test_backprop_is_added_first_and_is_the_baseline(tmp_path: Path) -> None:
    ends = run_quickly(tmp_path / "run", rules=["symmetric_alignment"])
    assert list(ends) == ["backprop", "symmetric_alignment"]
    assert ends["backprop"][0].step_ratio == (1, 1, 1)
    assert set(ends["backprop"][0].readings["weight_angle"].values()) == {0}


def test_rules_or_methods_that_are_given_are_the_only_ones() -> None:
    def names(**given: list[str]) -> list[str]:
        return [name for name, _ in resolve_comparison({"seeds": [0], **given}).arms()]

    assert names() == [*COMPARED_RULES, *COMPARED_METHODS]
    assert names(rules=["kolen_pollack"]) == ["backprop", "kolen_pollack"]
    assert names(methods=["hebbian"]) == ["backprop", "hebbian"]
    assert names(rules=["kolen_pollack"], methods=["hebbian"]) == ["backprop", "kolen_pollack", "hebbian"]


def test_methods_are_compared_too(tmp_path: Path) -> None:
    ends = run_quickly(
        tmp_path / "run", rules=[], methods=["local_errors"], rule_settings={"local_errors": {"limit": 64}}
    )
    assert list(ends) == ["backprop", "local_errors"]
    assert all(arm.readings["update_angle"][""] > 0 for arm in ends["local_errors"])  # type: ignore[operator]
    (begin,) = read_events(tmp_path / "run", "start")
    assert set(begin["arms"][1]["formulas"].values()) == {"local pred"}


@pytest.mark.usefixtures("own_rules")
def test_a_diverging_rule_is_counted_and_stops_nobody_else(tmp_path: Path) -> None:
    br.register_rule("explosive", lambda: br.Alignment(self_=1e30))
    ends = run_quickly(tmp_path / "run", rules=["backprop", "explosive"], epochs=3)
    assert [(arm.status, arm.accuracy, bool(arm.reason)) for arm in ends["explosive"]] == [("diverged", None, True)] * 2
    assert all(arm.status == "finished" and math.isfinite(arm.accuracy or math.nan) for arm in ends["backprop"])
    assert {e["arm"] for e in read_events(tmp_path / "run", "diverged")} == {1, 3}
    json.loads((tmp_path / "run" / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))


@pytest.mark.slow
def test_a_comparison_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    settings = {
        **QUICK,
        "rules": ["backprop", "weight_mirror", "kolen_pollack"],
        "rule_settings": {"weight_mirror": {"drive": {"kind": "white_noise", "std": 0.1}}},
        "epochs": 4,
        "checkpoint_every": 5,
        "log_every": 3,
        "compare": {},
    }
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert finish(settings, whole, resume=False) == [0]
    for step in (7, 26):
        (process,) = start(settings, broken)
        wait_for_step(broken, step)
        process.kill()
        process.join()
    assert finish(settings, broken) == [0]
    assert_same(contents(whole), contents(broken))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"epoch": 3}, "unknown setting 'epoch'. Did you mean 'epochs' in [run]?"),
        ({"epochs": 0}, "epochs: expected greater than or equal to 1, got 0"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"learning_rate": -1.0}, "learning_rate: expected greater than 0, got -1.0"),
        ({"momentum": 1.0}, "momentum: expected less than 1"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds: expected different whole numbers"),
        ({"seeds": [-1]}, "seeds"),
        ({"rules": ["backprop", "backprop"]}, "rules: expected each name once"),
        ({"split": "train"}, "split"),
        ({"seed": 1}, "run.seed: expected nothing, a comparison has [compare] seeds"),
        ({"rule": "backprop"}, "rule.name: expected nothing, a comparison has [compare] rules"),
        ({"rules": ["weight_mirror"], "rule_settings": {"weight_miror": {}}}, "Did you mean 'weight_mirror'"),
    ],
)
def test_bad_settings_are_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_comparison(data).arms()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"rules": ["weight_miror"]}, "Did you mean 'weight_mirror'"),
        (
            {"rules": ["feedback_alignment"], "rule_settings": {"feedback_alignment": {"amp": 1}}},
            "does not take these options",
        ),
        ({"data": "imagnet"}, "Did you mean 'imagenet'"),
        ({"methods": ["local_eror"]}, "Did you mean 'local_errors'"),
    ],
)
def test_unknown_names_are_refused_before_training(tmp_path: Path, data: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, RuleError), match=message):
        run_quickly(tmp_path / "run", **data)
    assert not (tmp_path / "run").exists()


def test_the_resolved_configuration_reads_back(tmp_path: Path) -> None:
    config = resolve_comparison({**QUICK, "rule_settings": {"weight_mirror": {"amp": 0.02}}})
    folder = RunFolder(tmp_path / "run")
    folder.begin(config.as_toml(), {})
    folder.close()
    assert resolve_comparison(read_toml(tmp_path / "run" / "config.toml")) == config


def test_a_folder_with_content_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("results")
    folder = RunFolder(tmp_path)
    with pytest.raises(ConfigError, match="not empty"):
        folder.begin({}, {})
    folder.close()
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_place_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make the folder"):
        RunFolder(tmp_path / "file")
