"""The comparison: what is shared between rules, what is written, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import backroads as br
from backroads.errors import ConfigError, RuleError
from backroads.runs.folder import RunFolder
from backroads.train.compare import Run, compare, rules_of
from backroads.train.config import CompareConfig, resolve

QUICK = {"epochs": 2, "seeds": [0, 1], "width": 2, "batch_size": 128, "rules": ["backprop", "symmetric_alignment"]}


def run_quickly(folder: Path, **changes: Any) -> dict[str, Any]:
    config = resolve({**QUICK, **changes})
    run_folder = RunFolder(folder, config.model_dump(exclude_none=True), {})
    try:
        return compare(config, run_folder, lambda progress: None)
    finally:
        run_folder.close()


def read_events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_a_run_writes_everything_it_says(tmp_path: Path) -> None:
    results = run_quickly(tmp_path / "run")
    written = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [(arm["name"], arm["seed"]) for arm in written["arms"]] == [
        (rule, seed) for seed in (0, 1) for rule in ("backprop", "symmetric_alignment")
    ]
    events = read_events(tmp_path / "run")
    assert [e["event"] for e in events] == ["start", *["readings", "evaluation"] * (2 * 2 * 3)]
    last = [e for e in events if e["event"] == "evaluation" and e["epoch"] == 2 and e["arm"] % 2 == 1]
    assert [e["eval_accuracy"] for e in last] == [arm["accuracy"] for arm in written["arms"][1::2]]
    row = next(row for row in results["rows"] if row["rule"] == "symmetric_alignment")
    assert row["accuracies"] == [e["eval_accuracy"] for e in last]
    assert row["accuracy_mean"] == pytest.approx(sum(row["accuracies"]) / 2)
    assert row["step_ratio"] is not None


def test_rules_start_from_the_same_weights_and_see_the_same_data() -> None:
    config = resolve(QUICK)
    runs = [Run(name, rule, 0, config, 10) for name, rule in rules_of(config).items()]
    first, second = (br.forward_parameters(run.model) for run in runs)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_rules_result_does_not_depend_on_who_else_is_compared(tmp_path: Path) -> None:
    br.register_rule("noisy_signs", lambda: br.rules.sign_symmetry("batch_random"))
    alone = run_quickly(tmp_path / "alone", rules=["backprop", "noisy_signs"])
    together = run_quickly(tmp_path / "together", rules=["backprop", "feedback_alignment", "noisy_signs"])
    pick = {row["rule"]: row["accuracies"] for row in together["rows"]}
    assert {row["rule"]: row["accuracies"] for row in alone["rows"]} == {
        k: pick[k] for k in ("backprop", "noisy_signs")
    }


def test_backprop_is_added_first_and_is_the_baseline(tmp_path: Path) -> None:
    results = run_quickly(tmp_path / "run", rules=["symmetric_alignment"])
    assert [row["rule"] for row in results["rows"]] == ["backprop", "symmetric_alignment"]
    assert results["rows"][0]["gap_mean"] == 0
    assert results["rows"][0]["step_ratio"] == 1
    assert results["rows"][0]["weight_angle_mean"] == 0


def test_kolen_pollack_decays_as_w_does_unless_told_otherwise() -> None:
    rules = rules_of(resolve({"rules": ["kolen_pollack"], "weight_decay": 0.02}))
    assert rules["kolen_pollack"] == br.rules.kolen_pollack(0.02)
    told = rules_of(resolve({"rules": ["kolen_pollack"], "rule_settings": {"kolen_pollack": {"decay": 0.3}}}))
    assert told["kolen_pollack"] == br.rules.kolen_pollack(0.3)


def test_a_diverging_rule_is_counted_and_stops_nobody_else(tmp_path: Path) -> None:
    br.register_rule("explosive", lambda: br.Alignment(self_=1e30))
    results = run_quickly(tmp_path / "run", rules=["backprop", "explosive"], epochs=3)
    rows = {row["rule"]: row for row in results["rows"]}
    assert rows["explosive"]["diverged"] == 2
    assert rows["explosive"]["accuracies"] == [None, None]
    assert rows["explosive"]["accuracy_mean"] is None
    assert rows["backprop"]["diverged"] == 0
    assert math.isfinite(rows["backprop"]["accuracy_mean"])
    json.loads((tmp_path / "run" / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"epoch": 3}, "unknown setting 'epoch'. Did you mean 'epochs'?"),
        ({"epochs": 0}, "epochs: expected greater than or equal to 1, got 0"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"learning_rate": -1.0}, "learning_rate: expected greater than 0, got -1.0"),
        ({"momentum": 1.0}, "momentum: expected less than 1"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds: expected different whole numbers"),
        ({"seeds": [-1]}, "seeds"),
        ({"rules": ["backprop", "backprop"]}, "rules: expected each rule once"),
        ({"split": "train"}, "split"),
        ({"data": "imagenet"}, "data"),
    ],
)
def test_bad_settings_are_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(data)
    assert message in str(caught.value)


def test_unknown_rules_and_options_are_refused_before_training() -> None:
    with pytest.raises(RuleError, match="Did you mean 'weight_mirror'"):
        rules_of(resolve({"rules": ["weight_miror"]}))
    with pytest.raises(RuleError, match="does not take these options"):
        rules_of(resolve({"rules": ["feedback_alignment"], "rule_settings": {"feedback_alignment": {"amp": 1}}}))
    with pytest.raises(RuleError, match="unknown rule"):
        rules_of(resolve({"rules": ["backprop"], "rule_settings": {"weight_miror": {}}}))


def test_the_resolved_configuration_reads_back(tmp_path: Path) -> None:
    from backroads.runs.settings import read_toml

    config = resolve({**QUICK, "rule_settings": {"weight_mirror": {"amp": 0.02}}})
    RunFolder(tmp_path / "run", config.model_dump(exclude_none=True), {}).close()
    assert resolve(read_toml(tmp_path / "run" / "config.toml")) == config
    assert CompareConfig(**read_toml(tmp_path / "run" / "config.toml")) == config


def test_a_folder_with_content_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("results")
    with pytest.raises(ConfigError, match="not empty"):
        RunFolder(tmp_path, {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_place_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make the folder"):
        RunFolder(tmp_path / "file", {}, {})
