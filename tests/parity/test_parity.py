"""Every recorded number of the reference, neuroailab/Neural-Alignment (d83defb), in float64.

A layer case is one pass through a layer; a trajectory is a two-layer network trained for 20 steps of SGD. All cases
are read from a folder outside the repository if there is one (BACKROADS_PARITY); some are copied, with the same
layout but their arrays in place, to tests/fixtures/parity_layers.json and parity_trajectories.json.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import backroads as br
from backroads.feedback.functional import ConvolutionMap, LinearMap, Operator, alignment_value, propagate

REPO = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-9
ANGLES = ("weight_angle", "projection_angle", "gradient_angle")
Case = dict[str, Any]
Arrays = dict[str, NDArray[np.float64]]


# --- where the cases are ---


def parity_folder() -> Path:
    return Path(os.environ.get("BACKROADS_PARITY", REPO.parent / "shared" / "parity"))


def recorded_cases(kind: str) -> list[Any]:
    """The recorded cases as parameters, or one skipped parameter that says what is missing."""
    index = parity_folder() / "cases.json"
    if not index.is_file():
        reason = f"no recorded cases: {index} is missing; set BACKROADS_PARITY to the folder that holds it"
        return [pytest.param(None, id="missing", marks=pytest.mark.skip(reason=reason))]
    cases = json.loads(index.read_text())["cases"]
    return [pytest.param(case, id=case["id"]) for case in cases if case["kind"] == kind]


def copied_cases(file: str) -> list[Any]:
    cases = json.loads((REPO / "tests" / "fixtures" / file).read_text())
    return [pytest.param(case, id=f"copied-{case['id']}") for case in cases]


@functools.cache
def archive(file: str) -> dict[str, NDArray[Any]]:
    with np.load(parity_folder() / file) as arrays:
        return dict(arrays)


def arrays_of(case: Case) -> Arrays:
    """A case's arrays, from its archive or, in a copied case, in place."""
    named = case["arrays"]
    return {name: archive(case["file"])[v] if isinstance(v, str) else np.asarray(v) for name, v in named.items()}


LAYERS = [*copied_cases("parity_layers.json"), *recorded_cases("layer")]
TRAJECTORIES = [*copied_cases("parity_trajectories.json"), *recorded_cases("trajectory")]


# --- the reference's arguments under our names ---


def rule_from(case: Case, activation: str | None) -> br.Alignment:
    """The reference has no 1/2: its coefficient of decay, sparse and null is half of ours."""
    given, options = case["coefficients"], case["options"]
    a, b, c = (given.get(name, 0.0) for name in ("alpha", "beta", "gamma"))
    coefficients: dict[str, Any] = {
        "Feedback": {},
        "Symmetric": {"decay": 2 * a, "self_": b},
        "Activation": {"sparse": 2 * a, "amp": b},
        "Mirror": {"decay": 2 * a, "amp": b},
        "Information": {"amp": a, "null": 2 * b, "sparse" if options.get("use_sparse") else "decay": 2 * c},
        "Kolen_Pollack": {"decay": 2 * a, "tie_grad": True},
    }[case["alignment"]]
    flags = {f.name: options.get(f.name, False) for f in dataclasses.fields(br.Operations) if f.name != "activation"}
    return br.Alignment(
        **coefficients,
        update_forward=options["update_forward"],
        operations=br.Operations(activation=options.get("activation_fn_override") or activation, **flags),
    )


def activation_called(name: str | None) -> Callable[[Tensor], Tensor]:
    return getattr(torch, name) if name else lambda v: v


def pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def layer_from(case: Case, arrays: Arrays) -> br.nn.AlignedLayer | None:
    """The public layer of a case with its weights; None for padding that no torch layer has."""
    W = arrays["W"]
    shared: dict[str, Any] = {
        "bias": "bias" in arrays,
        "dtype": torch.float64,
        "rule": rule_from(case, case["layer"]["effective_alignment_activation"]),
    }
    if case["layer_type"] == "fc":
        layer: br.nn.AlignedLayer = br.nn.Linear(W.shape[1], W.shape[0], **shared)
    else:
        conv = case["conv"]
        if conv["torch_padding"] is None:
            return None
        geometry = {"stride": pair(conv["stride"]), "padding": pair(conv["torch_padding"])}
        layer = br.nn.Conv2d(W.shape[1], W.shape[0], tuple(conv["kernel_size"]), **geometry, **shared)
    with torch.no_grad():
        for name, parameter in (("W", layer.weight), ("B", layer.backward_weight), ("bias", layer.bias)):
            if parameter is not None:
                parameter.copy_(torch.from_numpy(arrays[name]))
    return layer


def map_from(case: Case) -> Operator:
    """The layer's map, with all padding as a border of zeros on its four sides."""
    if case["layer_type"] == "fc":
        return LinearMap()
    top, bottom, left, right = case["conv"]["pad_top_bottom_left_right"]
    return ConvolutionMap(pair(case["conv"]["stride"]), (0, 0), (1, 1), 1, (left, right, top, bottom))


def same(name: str, ours: Any, recorded: NDArray[np.float64]) -> None:
    got = ours.detach().numpy() if isinstance(ours, Tensor) else np.asarray(ours)
    assert got.shape == recorded.shape, name
    scale = np.abs(recorded).max(initial=0.0)
    worst = np.abs(got - recorded).max(initial=0.0)
    assert worst <= TOLERANCE * max(scale, 1e-3), f"{name}: off by {worst:.1e} at a scale of {scale:.1e}"


# --- one pass through a layer ---


def run_layer(case: Case, arrays: Arrays, layer: br.nn.AlignedLayer) -> dict[str, Any]:
    """Everything recorded about a layer case, by the public layer."""
    x, G = torch.from_numpy(arrays["x"]).requires_grad_(), torch.from_numpy(arrays["G"])
    activate = activation_called(case["layer"]["activation"])

    def task_loss() -> Tensor:
        return (activate(layer(x)) * G).sum() / x.shape[0]

    def gradients(loss: Tensor) -> list[Tensor]:
        leaves = [v for v in (x, layer.weight, layer.backward_weight, layer.bias) if v is not None]
        for leaf in leaves:
            leaf.grad = None
        loss.backward()
        return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]

    angles = br.metrics.readings(layer, task_loss, ANGLES)
    everything, alignment_alone = gradients(task_loss()), gradients(0 * task_loss())
    return collect(
        everything,
        alignment_alone,
        outputs=activate(layer(x)),
        task_loss=task_loss(),
        alignment_loss=recorded_value(x, layer.weight, layer.backward_weight, layer.bias, layer.rule, layer.operator),
        **{name: angles[name][""] for name in ANGLES},
    )


def run_function(case: Case, arrays: Arrays, op: Operator) -> dict[str, Any]:
    """The same by the function under the layer, for any padding."""
    rule = rule_from(case, case["layer"]["effective_alignment_activation"])
    tensors = {name: torch.from_numpy(arrays[name]) for name in ("x", "W", "B", "bias") if name in arrays}
    leaves = [tensor.clone().requires_grad_() for tensor in tensors.values()]
    x, W, B, bias = [*leaves, None][:4]
    activate = activation_called(case["layer"]["activation"])
    y = propagate(x, W, bias, op, rule, {"backward_weight": B})
    outputs = activate(y)
    task_loss = (outputs * torch.from_numpy(arrays["G"])).sum() / x.shape[0]
    dy = torch.autograd.grad(task_loss, y, retain_graph=True)[0]
    options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
    everything = torch.autograd.grad(task_loss, leaves, retain_graph=True, **options)
    alignment_alone = torch.autograd.grad(0 * task_loss, leaves, **options)
    return collect(
        list(everything),
        list(alignment_alone),
        outputs=outputs,
        task_loss=task_loss,
        alignment_loss=recorded_value(x, W, B, bias, rule, op),
        weight_angle=br.metrics.angle(W, B),
        projection_angle=br.metrics.angle(op.project(x, W), op.project(x, B)),
        gradient_angle=br.metrics.angle(op.pullback(dy, B, x), op.pullback(dy, W, x)),
    )


def recorded_value(x: Tensor, W: Tensor, B: Tensor, bias: Tensor | None, rule: br.FeedbackRule, op: Operator) -> Tensor:
    """The reference always counts the terms of W alone, as our value does with ``update_forward``."""
    assert isinstance(rule, br.Alignment)
    return alignment_value(x, W, B, bias, dataclasses.replace(rule, update_forward=True), op)


def collect(everything: list[Tensor], alignment_alone: list[Tensor], **values: Any) -> dict[str, Any]:
    values |= dict(zip(("dx", "dW", "dB", "dbias"), everything, strict=False))
    values["dx_align"], values["dW_align"], values["dB_align"] = alignment_alone[:3]
    values["total_loss"] = values["task_loss"] + values["alignment_loss"]
    return values


def compare(got: dict[str, Any], arrays: Arrays) -> None:
    for name in arrays.keys() - {"x", "W", "B", "G", "bias"}:
        same(name, got[name], arrays[name])
    assert not got["dx_align"].any()


@pytest.mark.parametrize("case", LAYERS)
def test_a_layer_reproduces_the_recorded_case(case: Case) -> None:
    arrays = arrays_of(case)
    layer = layer_from(case, arrays)
    compare(run_function(case, arrays, map_from(case)) if layer is None else run_layer(case, arrays, layer), arrays)


@pytest.mark.parametrize("case", LAYERS)
def test_the_function_with_all_padding_as_a_border_reproduces_the_recorded_case(case: Case) -> None:
    arrays = arrays_of(case)
    compare(run_function(case, arrays, map_from(case)), arrays)


# --- a network that trains ---


def network_from(case: Case, arrays: Arrays) -> torch.nn.Sequential:
    sizes, hidden, top = (case["network"][k] for k in ("sizes", "hidden_activation", "output_activation"))

    class Activation(torch.nn.Module):
        def __init__(self, name: str | None) -> None:
            super().__init__()
            self.function = activation_called(name)

        def forward(self, v: Tensor) -> Tensor:
            return self.function(v)

    modules: list[torch.nn.Module] = []
    for i, name in enumerate((hidden, top)):
        rule = rule_from(case, case["network"]["alignment_activation"][i])
        bias = case["network"]["use_bias"]
        layer = br.nn.Linear(sizes[i], sizes[i + 1], bias=bias, dtype=torch.float64, rule=rule)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(arrays[f"W{i + 1}"][0]))
            layer.backward_weight.copy_(torch.from_numpy(arrays[f"B{i + 1}"][0]))
            if bias:
                layer.bias.copy_(torch.from_numpy(arrays[f"b{i + 1}"][0]))
        modules += [layer, Activation(name)]
    return torch.nn.Sequential(*modules)


@pytest.mark.parametrize("case", TRAJECTORIES)
def test_a_network_learns_along_the_recorded_trajectory(case: Case) -> None:
    arrays = arrays_of(case)
    net = network_from(case, arrays)
    optimizer = torch.optim.SGD(net.parameters(), lr=case["optimizer"]["lr"], momentum=case["optimizer"]["momentum"])
    x = torch.from_numpy(arrays["x"])

    def task_loss() -> Tensor:
        if case["loss_kind"] == "softmax":
            return F.cross_entropy(net(x), torch.from_numpy(arrays["labels"]).long())
        return (net(x) - torch.from_numpy(arrays["target"])).square().mean()

    for t, (loss_rate, alignment_rate) in enumerate(arrays["rates"].tolist()):
        inputs, value = x, torch.zeros((), dtype=torch.float64)
        for i, layer in enumerate((net[0], net[2]), start=1):
            W, B, bias = layer.weight, layer.backward_weight, layer.bias
            value = value + recorded_value(inputs, W, B, bias, layer.rule, LinearMap())
            inputs = net[2 * i - 1](layer(inputs)).detach()
            for name, parameter in (("W", W), ("B", B), ("b", bias)):
                if parameter is not None:
                    same(f"{name}{i}[{t}]", parameter, arrays[f"{name}{i}"][t])
        same(f"logits[{t}]", net(x), arrays["logits"][t])
        same(f"task_loss[{t}]", task_loss(), arrays["task_loss"][t])
        same(f"alignment_loss[{t}]", value, arrays["alignment_loss"][t])
        same(f"total_loss[{t}]", loss_rate * task_loss() + alignment_rate * value, arrays["total_loss"][t])
        for name, by_layer in br.metrics.readings(net, task_loss, ANGLES).items():
            for i, degrees in enumerate(by_layer.values(), start=1):
                same(f"{name}{i}[{t}]", degrees, arrays[f"{name}{i}"][t])
        optimizer.zero_grad()
        with br.alignment_scale(net, alignment_rate):
            (loss_rate * task_loss()).backward()
        optimizer.step()
