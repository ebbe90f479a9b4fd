"""``benchmarks/softhebb.py``: the layers learn without labels, and the probe changes nothing but the read-out."""

from __future__ import annotations

from typing import Any

import torch
from scripts import script

from backroads.data import load_dataset
from backroads.methods.softhebb import SoftHebb
from backroads.models import build_model


def test_the_layers_learn_first_and_then_the_read_out_alone() -> None:
    softhebb = script("softhebb")
    data = load_dataset("digits", augment="none")
    model: Any = build_model("softhebb", classes=10, shape=data.shape, options={"width": 0.1})
    states = []
    for lr in (0.0, 1.0):
        softhebb["learn"](model, SoftHebb(radius=5.0), data, 1, 100, 0, lr)
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    changed = {name for name, value in states[0].items() if not torch.equal(value, states[1][name])}
    assert {"conv1.weight", "conv2.weight", "conv3.weight"} <= changed
    assert not changed & {"readout.weight", "readout.bias"}
    accuracy = softhebb["probe"](model, data, 20, 300, 0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, states[1][name])}
    assert changed == {"readout.weight", "readout.bias"}
    assert accuracy > 0.3  # a guess is right in 0.1
