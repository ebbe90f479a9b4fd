"""Every recorded number of the public reference, jlindsey15/FeedbackAndLocalPlasticity (2f2df41), in float64.

All cases are read from a folder outside the repository if there is one (BACKROADS_FLP_PARITY); some are copied, with
the same layout, to tests/fixtures/plasticity. Tolerances: weights 1e-9, meta-gradients 1e-7, relative to the largest
entry of the array.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backroads.plasticity.lifetime import Stream, lifetime, loss_of, predict
from backroads.plasticity.rule import LocalRule

REPO = Path(__file__).resolve().parents[2]
COPIED = REPO / "tests" / "fixtures" / "plasticity"
RECORDED = Path(os.environ.get("BACKROADS_FLP_PARITY", REPO.parent / "shared" / "flp_parity"))
WEIGHTS, GRADIENTS = 1e-9, 1e-7
Case = dict[str, Any]


def cases(*kinds: str) -> list[Any]:
    """The recorded cases as parameters; without the folder, those that are copied and a skipped one that says so."""
    found = []
    for folder in (COPIED, RECORDED):
        if not (folder / "cases.json").is_file():
            reason = f"no recorded cases: {folder / 'cases.json'} is missing; set BACKROADS_FLP_PARITY to their folder"
            found.append(pytest.param(None, id="missing", marks=pytest.mark.skip(reason=reason)))
            continue
        for case in json.loads((folder / "cases.json").read_text())["cases"]:
            if case["kind"] in kinds:
                name = case["file"].removesuffix(".npz")
                found.append(pytest.param({**case, "folder": folder}, id=f"{folder.parent.name}-{name}"))
    return found


def arrays_of(case: Case) -> dict[str, Tensor]:
    with np.load(case["folder"] / case["file"]) as arrays:
        return {name: torch.from_numpy(np.array(arrays[name])) for name in arrays}


def close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    scale = float(expected.abs().max()) or 1.0
    worst = float((found.detach().reshape(expected.shape) - expected).abs().max())
    assert worst <= tolerance * scale, f"{what}: off by {worst / scale:.2e} of its largest entry"


def convolutions(case: Case, arrays: dict[str, Tensor], leaves: dict[str, Tensor]) -> Any:
    """The frozen front of a case, of the leaves W0, W1, ... that are convolutions; None without one."""
    if not case.get("conv"):
        return None
    strides = [made[1][4] for made in case["conv"] if made[0] == "conv2d"]

    def front(x: Tensor) -> Tensor:
        for layer, stride in enumerate(strides):
            x = torch.conv2d(x, leaves[f"W{layer}"], leaves[f"b{layer}"], stride=stride).relu()
        return x.flatten(1)

    return front


def leaves_of(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """The meta-parameters of a case under their own names."""
    names = [name for name in arrays if name[0] in "WbBcsp"]
    names = [name for name in names if name[1:].replace("_", "").isdigit() or name == "p" or name[:2] in ("pW", "pb")]
    return {name: arrays[name].clone().requires_grad_() for name in names}


def meta_of(leaves: dict[str, Tensor], convs: int) -> dict[str, Tensor]:
    """The same as our meta-parameters: linear layers are counted from 0, rates of weights are called p."""
    meta = {}
    for name, leaf in leaves.items():
        name = name.replace("pW", "p")
        letter = name.rstrip("0123456789_")
        layer, _, path = name[len(letter) :].partition("_")
        if not layer:
            meta[name] = leaf
        elif int(layer) >= convs:
            meta[f"{letter}{int(layer) - convs}{_ and '_'}{path}"] = leaf
    return meta


def rule_of(case: Case, convs: int) -> dict[str, Any]:
    options, uses = case["options"], {layer - convs for layer in case["layers_that_use_feedback"]}
    regression, last = case["kind"] == "regression", case["layers"] - convs - 1
    detached = case["signal"] == "error" and case["error_signal_detached"]
    through = case["output_through_feedback"] and last in uses
    return {
        "signal": "error_detached" if detached else case["signal"],
        "frozen_layers": len([layer for layer in case["frozen_layers"] if layer >= convs]),
        "hidden_shift": "feedback" if uses - {last} else "none",
        "output_shift": "feedback" if through else "none" if regression else "signal",
        "hidden_multiplier": case["hidden_multiplier"],
        "linear_feedback": options.get("linear_feedback", False),
        "absolute_signal": options.get("error_only_to_output", False),
        "gate": "sign" if options.get("use_derivative") else "none",
    }


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("case", cases("regression", "classification"))
def test_a_lifetime_is_the_recorded_one(case: Case, segments: int) -> None:
    arrays = arrays_of(case)
    convs = len([made for made in case["conv"] or () if made[0] == "conv2d"])
    leaves = leaves_of(arrays)
    meta, front, options = meta_of(leaves, convs), convolutions(case, arrays, leaves), rule_of(case, convs)
    x, y = arrays["x"][None], arrays["y"][None]
    steps: list[dict[str, Tensor]] = []
    outputs, hebbian = [], case["hebbian_per_step"]
    now, start = dict(meta), 0
    while start < len(hebbian):  # the trainer's slip has runs of different rules: lifetimes one after the other
        stop = next((k for k in range(start, len(hebbian)) if hebbian[k] != hebbian[start]), len(hebbian))
        rule = LocalRule(rule="hebb" if hebbian[start] else "oja", **options)
        kept = (lambda k, weights: steps.append(weights)) if segments == 1 else None
        seen = Stream(x[:, start:stop], y[:, start:stop])
        weights, yhat = lifetime(now, seen, rule, front=front, checkpoint_segments=segments, observe=kept)
        outputs.append(yhat)
        now, start = {**meta, **weights}, stop
    yhat = predict(meta, weights, arrays["xq"][None], front)
    loss = loss_of(yhat, arrays["yq"][None]).sum()
    loss.backward()

    close(torch.cat(outputs, 1)[0], arrays["out"], WEIGHTS, "outputs at each step")
    close(yhat[0], arrays["query_out"], WEIGHTS, "query outputs")
    close(loss, arrays["query_loss"], WEIGHTS, "query loss")
    for name, found in weights.items():
        recorded = arrays[f"W{int(name[1:]) + convs}_steps"]
        close(found[0], recorded[-1], WEIGHTS, f"{name} at the end")
        kept_steps = [one for one in steps if name in one]
        if segments == 1 and len(kept_steps) == len(recorded) + 1:
            close(torch.stack([one[name][0] for one in kept_steps[1:]]), recorded, WEIGHTS, f"{name} at each step")
    for name, leaf in leaves.items():
        if f"g{name}" in arrays:
            gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            close(gradient, arrays[f"g{name}"], GRADIENTS, f"gradient of {name}")


@pytest.mark.parametrize("case", cases("meta_iteration"))
def test_meta_iterations_with_adam_are_the_recorded_ones(case: Case) -> None:
    arrays = arrays_of(case)
    meta = {
        name: value.clone().requires_grad_()
        for name, value in arrays.items()
        if name[0] in "WbBcps" and name[1:].replace("_", "").isdigit()
    }
    rule = LocalRule(rule=case["rule"], signal=case["signal"])
    groups = {"forward": "Wb", "feedback": "Bc", "plasticity": "p", "strength": "s"}
    optimizers = [
        torch.optim.Adam([meta[name] for name in meta if name[0] in letters], lr=case["lr"][group])
        for group, letters in groups.items()
    ]
    for i in range(case["meta_iterations"]):
        for optimizer in optimizers:
            optimizer.zero_grad()
        weights, _ = lifetime(meta, Stream(arrays["x"][None], arrays["y"][None]), rule)
        loss = loss_of(predict(meta, weights, arrays["xq"][None]), arrays["yq"][None]).sum()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        close(loss, arrays["query_loss"][i], WEIGHTS, f"query loss {i}")
        for name, value in meta.items():
            close(value, arrays[f"{name}_after{i + 1}"], WEIGHTS, f"{name} after iteration {i + 1}")


@pytest.mark.parametrize("case", cases("oml_regression", "oml_classification"))
def test_a_lifetime_by_gradient_is_the_recorded_one(case: Case) -> None:
    arrays = arrays_of(case)
    leaves = leaves_of(arrays)
    rule = LocalRule(
        rule="gradient",
        frozen_layers=len(case["frozen_layers"]),
        inner_lr=case["inner_lr"] if isinstance(case["inner_lr"], float) else 0.0,
        second_order=case["second_order"],
    )
    steps: list[dict[str, Tensor]] = []
    meta = meta_of(leaves, 0)
    stream = Stream(arrays["x"][None], arrays["y"][None])
    weights, _ = lifetime(meta, stream, rule, observe=lambda k, weights: steps.append(weights))
    yhat = predict(meta, weights, arrays["xq"][None])
    loss = loss_of(yhat, arrays["yq"][None]).sum()
    loss.backward()

    close(yhat[0], arrays["query_out"], WEIGHTS, "query outputs")
    close(loss, arrays["query_loss"], WEIGHTS, "query loss")
    for name in weights:
        close(torch.stack([one[name][0] for one in steps[1:]]), arrays[f"{name}_steps"], WEIGHTS, name)
    for name, leaf in leaves.items():
        if f"g{name}" in arrays:
            gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            close(gradient, arrays[f"g{name}"], GRADIENTS, f"gradient of {name}")
