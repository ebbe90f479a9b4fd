"""Settings of a training: one schema, clear answers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cyclopts
import pytest
import tomli_w
import torch

import backroads as br
from backroads.cli.flags import with_flags
from backroads.errors import ConfigError, RuleError
from backroads.feedback.rules import WeightEstimate, exact_probing, symmetric_alignment
from backroads.phases import NoisePhase
from backroads.runs.groups import flags
from backroads.runs.settings import check_resume, check_resume_in, parse, read_settings, recipes
from backroads.train.build import phase_of, rules_of
from backroads.train.optimizers import Optimizers
from backroads.train.settings import GROWING, HARMLESS, TrainSettings, resolve


def test_settings_round_trip_through_toml(tmp_path: Path) -> None:
    config = resolve({"rule_options": {"self": "0.1"}, "drop_epochs": [1.5, 2.0], "clip_norm": 1.0})
    assert config.rule.options == {"self": 0.1}
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(config.as_toml()))
    assert resolve(read_settings(str(path))) == config


def test_noise_phases_and_estimates_are_settings_too(tmp_path: Path) -> None:
    flags = {"view": {"bits": "3", "keep_probability": "0.5", "sparse_in": "steps"}}  # as flags are: text
    config = resolve(
        {
            "rule_options": flags,
            "update_noise": 0.1,
            "update_noise_on": "backward",
            "update_noise_rate": "forward",
            "update_noise_distribution": "uniform",
            "mirror_steps": 2,
            "mirror_options": {"rate": "0.5", "images": "4"},
        }
    )
    assert config.rule.options == {"view": {"bits": 3, "keep_probability": 0.5, "sparse_in": "steps"}}
    assert rules_of(config) == symmetric_alignment(
        1.0, 1.0, view=WeightEstimate(keep_probability=0.5, bits=3, sparse_in="steps")
    )
    assert phase_of(config) == NoisePhase(steps=2, rule=exact_probing(0.5, images=4))
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(config.as_toml()))
    assert resolve(read_settings(str(path))) == config
    assert phase_of(resolve({})) is None
    with pytest.raises(RuleError, match="does not take these options"):
        phase_of(resolve({"mirror_steps": 1, "mirror_options": {"amp": 1}}))
    with pytest.raises(ConfigError, match="mirror_options: expected mirror_steps with it"):
        phase_of(resolve({"mirror_rows": 131, "mirror_options": {"rate": 0.1}}))
    with pytest.raises(ConfigError, match="mirror_every: expected mirror_rows or mirror_steps with it, got 2 alone"):
        phase_of(resolve({"mirror_every": 2}))


def test_names_with_dots_are_given_by_flags() -> None:
    given: dict[str, Any] = {}

    @with_flags(TrainSettings)
    def command(*, settings: dict[str, Any]) -> None:
        given.update(settings)

    app = cyclopts.App(result_action="return_value")
    app.default(command)
    words = ["--freeze-after.0.bias", "3", "--freeze-after.*.weight", "1.5", "--rule-options.view.bits", "4"]
    app([*words, "--layer-rules.layer1.0.conv1", "backprop"], exit_on_error=False)
    config = resolve(given)
    assert config.optimizer.freeze_after == {"0.bias": 3.0, "*.weight": 1.5}
    assert config.rule.layers == {"layer1.0.conv1": "backprop"}
    assert config.rule.options == {"view": {"bits": 4}}


def test_B_may_have_the_rate_of_W() -> None:
    config = resolve({"learning_rate": 0.02, "backward_rate": "forward", "schedule": "constant"})
    net = br.convert(torch.nn.Sequential(torch.nn.Linear(3, 2)), "symmetric_alignment")
    parameters = {"forward": [net[0].weight, net[0].bias], "backward": [net[0].backward_weight]}
    assert Optimizers(net, config, 10, parameters).rates(3) == (0.02, 0.02)


@pytest.mark.parametrize("text", ["null", "[1, null]", '{"a": {"b": null}}', "[" * 100_000, "1" * 5_000, "a", ""])
def test_what_spells_no_value_stays_text_which_toml_can_write(text: str) -> None:
    assert parse({"a": [text], "b": text}) == {"a": [text], "b": text}
    tomli_w.dumps(resolve({"rule_options": {"decay": text}}).as_toml())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"update_noise": -1.0}, "update_noise: expected greater than or equal to 0"),
        ({"update_noise_on": "W"}, "update_noise_on: expected 'all', 'forward' or 'backward'"),
        ({"mirror_steps": -1}, "mirror_steps: expected greater than or equal to 0"),
        ({"epoch": 3}, "unknown setting 'epoch'. Did you mean 'epochs' in [run]?"),
        ({"run": 3, "seed": 1}, "run: expected a table of settings"),
        ({"learning_rate": True}, "learning_rate: expected a number, got true"),
        ({"max_steps": False}, "max_steps: expected a number, got false"),
        ({"epochs": 3, "delay_epochs": 3.0}, "delay_epochs: expected less than the 3 epochs"),
        ({"run": {"epoch": 3}}, "unknown setting 'run.epoch'. Did you mean 'epochs'?"),
        (
            {"schedule": {"learning_rate": 1.0}},
            "unknown setting 'schedule.learning_rate'. It belongs in [optimizer].",
        ),
        ({"method": "local_errors", "rule": "backprop"}, "rule: expected no feedback rule"),
        ({"epochs": 0}, "epochs: expected greater than or equal to 1, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate: expected"),
        ({"optimizer": "sdg"}, "optimizer.name: expected 'sgd'"),
        ({"batch_size": 10, "accumulate": 3}, "accumulate: expected a divisor of batch_size 10, got 3"),
        ({"drop_epochs": [3.0, 1.0]}, "drop_epochs: expected epochs in increasing order"),
        (
            {"coefficients": {"amp": {"stop": 0.5}}, "layer_rules": {"fc": "backprop"}},
            "coefficients: expected one rule",
        ),
    ],
)
def test_wrong_settings_are_answered_by_name(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(dict(wrong))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_valid(name: str) -> None:
    config = resolve(read_settings(name))
    expected = "mirrored_kolen_pollack" if name == "cifar10-fast" else "symmetric_alignment"
    assert config.rule.name == expected


def test_the_reference_recipes_are_the_reference_settings() -> None:
    for name, size in (("resnet18", 224), ("resnet50", 224), ("resnet50-v2", 299), ("resnet101-v2", 299)):
        config = resolve(read_settings(f"imagenet-{name}"))
        assert config.model.name == name.replace("-", "_")
        assert (config.data.image_size, config.run.epochs, config.run.batch_size) == (size, 90, 256)
        assert (config.optimizer.momentum, config.optimizer.weight_decay) == (0.9, 1e-4)
        assert (config.schedule.warmup_epochs, config.schedule.drop_epochs) == (5, [30, 60, 80])


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'cifar10-resnet8'"):
        read_settings("cifar10-resnet9")
    with pytest.raises(ConfigError, match="cannot read"):
        read_settings("missing.toml")


def test_only_differences_that_change_no_weight_are_harmless() -> None:
    assert set(flags(TrainSettings)) >= HARMLESS | GROWING

    def check(**changes: object) -> None:
        old, new = (resolve(dict(data)).model_dump() for data in ({}, changes))
        check_resume(old, new, harmless=HARMLESS, growing=GROWING)

    check(epochs=11, workers=4, keep=5)
    with pytest.raises(ConfigError, match="epochs: the run has 10, now 9"):
        check(epochs=9)
    with pytest.raises(ConfigError) as caught:
        check(learning_rate=0.2, seed=1)
    assert "learning_rate: the run has 0.1, now 0.2\n  run.seed: the run has 0, now 1" in str(caught.value)


def test_a_run_from_before_a_setting_there_was_has_its_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = resolve({}).as_toml()
    del old["optimizer"]["norm_rate"], old["run"]["six_views"]
    monkeypatch.setattr("backroads.runs.settings.newest_settings", lambda folder: copy.deepcopy(old))

    def check(**changes: object) -> None:
        new = resolve(dict(changes)).as_toml()
        check_resume_in(tmp_path, new, TrainSettings, harmless=HARMLESS, growing=GROWING)

    check()
    with pytest.raises(ConfigError, match=r"norm_rate: the run has None, now 2\.0"):
        check(norm_rate=2.0)


def test_a_phase_of_rows_comes_once_unless_it_is_said_how_often() -> None:
    assert phase_of(resolve({"mirror_rows": 131})) == NoisePhase(131.0)
    with pytest.raises(ConfigError, match=r"mirror_rows: expected it or mirror_steps, got both \(131 and 2\)"):
        phase_of(resolve({"mirror_rows": 131, "mirror_steps": 2}))
