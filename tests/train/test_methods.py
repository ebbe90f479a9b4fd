"""Every method by its name: trained, killed and taken up, evaluated, exported, compared, searched and reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from train.test_resume import assert_same, contents

import backroads as br
from backroads.errors import RunError
from backroads.methods.base import Method
from backroads.models import build_model
from backroads.report import write_report
from backroads.search.settings import resolve as resolve_search
from backroads.train.build import method_of
from backroads.train.comparison import resolve_comparison
from backroads.train.export import export
from backroads.train.load import load_config, load_model
from backroads.train.settings import TrainSettings, resolve
from backroads.train.trainer import compare, train

NAMES = [name for name in br.list_methods() if name != "feedback"]  # whose rules are held by tests of their own
QUICK: dict[str, Any] = {
    "data": "digits",
    "limit": 256,
    "model": "digits_conv",
    "model_options": {"width": 4},
    "epochs": 2,
    "batch_size": 64,
    "threads": 1,
}
# Methods that take no batch norm, or logistic functions alone, and a network that all take.
SIGMOIDS: dict[str, Any] = {"model": "mlp", "model_options": {"hidden": [16, 16], "activation": "sigmoid"}}
ON_SIGMOIDS = ("equilibrium_propagation", "burstprop")
# Estimates of a gradient need smaller steps and more of them, and units that are drawn need two states.
DRAWN: dict[str, Any] = {
    "model_options": {"hidden": [64], "activation": "tanh"},
    "epochs": 100,
    "optimizer": "adam",
    "learning_rate": 0.003,
    "weight_decay": 0.0,
}
# Methods whose prediction makes no program, and what is said.
WITHOUT_PROGRAM = {"equilibrium_propagation": "states settle by derivatives.* use --no-program"}
LEARNS: dict[str, dict[str, Any]] = {
    "node_perturbation": {"method_options": {"draws": 10}, "learning_rate": 0.01},
    "weight_perturbation": {**DRAWN, "model_options": {"hidden": [16]}, "method_options": {"draws": 16}},
    "three_factor": DRAWN,
    "reinforce": DRAWN,
    "burstprop": {
        "model_options": {"hidden": [128, 128], "activation": "sigmoid"},
        "optimizer": "adam",
        "learning_rate": 0.003,
    },
    "equilibrium_propagation": {"model_options": {"hidden": [128, 128, 128], "activation": "tanh"}},
    "hebbian": {"method_options": {"rule": "sanger"}, "model_options": {"hidden": [128]}},
    "softhebb": {"method_options": {"radius": 5.0, "t": 4.0}, "model_options": {"hidden": [128]}},
}


def settings(name: str, **changes: Any) -> TrainSettings:
    return resolve({**QUICK, **(SIGMOIDS if name in ON_SIGMOIDS else {}), "method": name, **changes})


class Killed(BaseException):
    """Ends a run as a kill would: nothing is written any more."""


@pytest.fixture(scope="module", params=NAMES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "run"
    train(settings(request.param), folder, lambda _: None)
    return folder


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(run: Path, tmp_path: Path) -> None:
    config, steps = load_config(run), 0

    def killing(_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 6:  # after the checkpoint of the first epoch
            raise Killed

    with pytest.raises(Killed):
        train(config, tmp_path / "broken", killing)
    train(config, tmp_path / "broken", lambda _: None, resume=True)
    assert_same(contents(run), contents(tmp_path / "broken"))


def test_a_run_is_evaluated_and_exported_as_it_predicts(run: Path, tmp_path: Path) -> None:
    config = load_config(run)
    model, data, _ = load_model(run, config, "last")
    method = method_of(config)
    x = next(iter(data.evaluate.eval_batches(50)))[0]
    with torch.no_grad():
        expected = method.predict(model, x)
    about = export(run, tmp_path / "plain", "last", program=config.method.name not in WITHOUT_PROGRAM)
    if config.method.name in WITHOUT_PROGRAM:
        with pytest.raises(RunError, match=WITHOUT_PROGRAM[config.method.name]):
            export(run, tmp_path / "program", "last")
        assert not list((tmp_path / "program").iterdir())
    else:
        program = torch.export.load(tmp_path / "plain" / "model.pt2").module()
        torch.testing.assert_close(program(x), expected)
    plain = build_model(config.model.name, classes=10, shape=(1, 8, 8), options=config.model.options)
    plain.load_state_dict(load_file(tmp_path / "plain" / "model.safetensors"))
    forward_pass = type(method).predict is Method.predict
    assert about["predicts"] == ("the forward pass" if forward_pass else f"{config.method.name}, as in model.pt2")
    assert torch.equal(plain.eval()(x), expected) == forward_pass


def test_a_run_says_what_taught_each_layer_and_has_a_report(run: Path) -> None:
    start = json.loads((run / "events.jsonl").read_text().splitlines()[0])
    said = start["arms"][0]["formulas"]
    mlp = load_config(run).method.name in ON_SIGMOIDS
    layers = {"1", "3", "5"} if mlp else {"block1.conv", "block2.conv", "readout"}
    assert min(layers) in said
    assert said.keys() <= layers
    assert load_config(run).method.name.replace("_", " ") in write_report(run).read_text()


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_trains_and_accumulation_is_taken(name: str, tmp_path: Path) -> None:
    train(settings(name, epochs=1, precision="bf16", accumulate=2), tmp_path / "run", lambda _: None)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert 0 <= results["arms"][0]["accuracy"] <= 1


def test_all_of_them_are_compared(tmp_path: Path) -> None:
    data = {**QUICK, **SIGMOIDS, "epochs": 1, "rules": [], "methods": NAMES, "seeds": [0]}
    compare(resolve_comparison(data), tmp_path / "run", lambda _: None)
    arms = json.loads((tmp_path / "run" / "results.json").read_text())["arms"]
    assert [arm["name"] for arm in arms] == ["backprop", *NAMES]
    assert all(0 < arm["readings"]["update_angle"][""] < 180 for arm in arms[1:])


@pytest.mark.parametrize("name", NAMES)
def test_a_search_has_a_group_for_it_whose_trainings_are_accepted(name: str) -> None:
    search = resolve_search({"methods": [name]})
    (group,) = search.groups.values()
    training = search.training(**group.settings({"learning_rate": 0.02, "weight_decay": 0.0}))
    assert training.method.name == name
    assert isinstance(method_of(training), Method)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_learns_digits(name: str, tmp_path: Path) -> None:
    """Far above chance, on a network of linear layers; by the default options of the method, or else by those here."""
    model = {"model": "mlp", "model_options": {"hidden": [128, 128, 128]}, "epochs": 20}
    config = settings(name, **{"limit": None, "split": "test", **model, **LEARNS.get(name, {})})
    train(config, tmp_path / "run", lambda _: None)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["arms"][0]["accuracy"] > 0.8
