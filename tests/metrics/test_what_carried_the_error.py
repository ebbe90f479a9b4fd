"""The gradient's angle and norm describe the error that a layer really sent back, whatever it went through."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import LAYERWISE, batch, small_network
from torch import Tensor

import backroads as br
from backroads.metrics import angle, norm_ratio, readings

DRAWN = {
    "exact_probing, a part of the weights": br.rules.exact_probing(rows_per_input=0.4),
    "exact_probing, on every third step": br.rules.exact_probing(0.5, every=3),
    "exact_probing, a sum that is not W": br.Alignment(
        amp=0.6, sparse=0.3, reduction="per_tap_mean", drive=br.Impulses(rows_per_input=0.4)
    ),
    "white_noise_mirror": br.rules.white_noise_mirror(),
    "error_correcting_mirror": br.rules.error_correcting_mirror(),
}
RULES: dict[str, br.FeedbackRule] = {**LAYERWISE, **DRAWN}
NAMES = ("gradient_angle", "gradient_norm_ratio")


def sent_back(net: torch.nn.Module, x: Tensor, y: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each layer in an ordinary backward pass: the error that it returned, and what W would have returned."""
    seen: dict[str, dict[str, Tensor]] = {}
    for name, layer in br.aligned_layers(net):
        use = seen[name] = {}

        def before(_: Any, args: tuple[Any, ...], use: dict[str, Tensor] = use) -> tuple[Tensor]:
            use["x"] = args[0].detach()
            own = args[0].view_as(args[0])  # what nothing but this layer sends an error to
            own.register_hook(lambda dx: use.__setitem__("dx", dx))
            return (own,)

        def after(_: Any, args: Any, output: Tensor, use: dict[str, Tensor] = use) -> None:
            output.register_hook(lambda dy: use.__setitem__("dy", dy))

        layer.register_forward_pre_hook(before)
        layer.register_forward_hook(after)
    F.cross_entropy(net(x), y).backward()
    found = {}
    for name, layer in br.aligned_layers(net):
        use = seen[name]
        x = use["x"].requires_grad_()
        out = layer.operator.project(layer.operand(x), layer.weight.detach())
        found[name] = use["dx"], torch.autograd.grad(out, x, use["dy"])[0]
    return found


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("name", RULES)
def test_it_is_the_error_of_a_real_backward_pass_from_the_same_random_state(name: str, steps: int) -> None:
    model = small_network(RULES[name])
    x, y = batch()
    x.requires_grad_()  # the first layer too sends an error back
    for _ in range(steps):
        F.cross_entropy(model(x), y).backward()
    torch.manual_seed(11)
    errors = sent_back(copy.deepcopy(model), x, y)
    torch.manual_seed(11)
    found = readings(model, lambda: F.cross_entropy(model(x), y), NAMES)
    assert list(found["gradient_angle"]) == list(errors) == ["0", "2", "6", "8"]
    for layer, (dx, by_W) in errors.items():
        assert found["gradient_angle"][layer] == pytest.approx(angle(dx, by_W), rel=1e-6, abs=1e-5)
        assert found["gradient_norm_ratio"][layer] == pytest.approx(norm_ratio(dx, by_W), rel=1e-9)
    if name == "exact_probing, a part of the weights":
        assert any(1 < degrees < 80 for degrees in found["gradient_angle"].values())


def test_where_every_weight_was_read_the_error_is_that_of_w_whatever_b_is() -> None:
    model = small_network(br.rules.exact_probing(rows_per_input=40.0))
    x, y = batch()
    before = br.metrics.weight_angles(model)
    found = readings(model, lambda: F.cross_entropy(model(x), y), (*NAMES, "weight_angle", "norm_ratio"))
    assert found["gradient_angle"] == dict.fromkeys("0268", 0.0)
    assert found["gradient_norm_ratio"] == dict.fromkeys("0268", 1.0)
    assert found["weight_angle"] == before
    for name, layer in br.aligned_layers(model):
        assert found["weight_angle"][name] == angle(layer.backward_weight, layer.weight)
        assert found["weight_angle"][name] > 30
        assert layer.memory.carried is None


def test_each_use_of_a_layer_has_what_carried_its_own_error() -> None:
    """Two uses in a pass draw two sets of impulses."""
    torch.manual_seed(0)
    layer = br.nn.Linear(8, 8, rule=br.rules.exact_probing(images=3), dtype=torch.float64)
    net = torch.nn.Sequential(layer, torch.nn.Tanh(), layer)
    x = torch.randn(1, 8, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(5)
    x1 = x.view_as(x)
    y1 = layer(x1)
    x2 = torch.tanh(y1)
    y2 = layer(x2)
    dx2, dy1, dx1 = torch.autograd.grad(y2.sum(), (x2, y1, x1))
    W, dy2 = layer.weight.detach(), torch.ones_like(y2)
    torch.manual_seed(5)
    found = readings(net, lambda: net(x).sum(), NAMES)["gradient_angle"]["0"]
    assert found == pytest.approx(angle([dx1, dx2], [dy1 @ W, dy2 @ W]), rel=1e-9)
