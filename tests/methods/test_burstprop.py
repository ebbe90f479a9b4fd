"""Burst-dependent plasticity against its equations and against feedback alignment, in float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import OUTPUTS, batch, network_of_sigmoids
from torch import Tensor, nn

from backroads.errors import ConfigError
from backroads.feedback.conversion import aligned_layers
from backroads.methods.base import Method
from backroads.methods.burstprop import Burstprop
from backroads.methods.feedback import Feedback


def gradients(method: Method, model: nn.Module) -> dict[str, Tensor]:
    x, y = batch()
    model.zero_grad()
    method.objective(model, x, y, F.cross_entropy)[0].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("feedback", ["feedback_alignment", "backprop", "kolen_pollack"])
def test_linear_bursts_have_the_gradients_of_the_feedback_rule(feedback: str) -> None:
    """With its B: the same seed draws the same."""
    x, _ = batch()
    method, plain = Burstprop(coding="linear", feedback=feedback), Feedback(feedback)
    found = gradients(method, method.prepare(network_of_sigmoids(), x, 0))
    expected = gradients(plain, plain.prepare(network_of_sigmoids(), x, 0))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-14)


def test_the_slope_scales_what_linear_bursts_teach_by_its_power_of_the_depth() -> None:
    x, _ = batch()
    first, second = Burstprop(coding="linear"), Burstprop(coding="linear", slope=0.5)
    one = gradients(first, first.prepare(network_of_sigmoids(), x, 0))
    half = gradients(second, second.prepare(network_of_sigmoids(), x, 0))
    for name, power in {"8.weight": 0, "6.weight": 1, "2.weight": 2, "0.weight": 3}.items():
        torch.testing.assert_close(half[name], one[name] * 0.5**power, rtol=1e-10, atol=1e-15)


def test_sigmoidal_bursts_come_to_feedback_alignment_as_the_square_of_small_signals() -> None:
    """sigma(4 v) = 1/2 + v + O(v^3). All B are scaled, so that v is small; feedback alignment has the same B."""
    x, _ = batch()
    errors: dict[str, list[float]] = {"0.weight": [], "2.weight": [], "6.weight": []}
    for scale in (0.04, 0.02, 0.01):
        found = []
        for method in (Burstprop(), Feedback("feedback_alignment")):
            model = method.prepare(network_of_sigmoids(), x, 0)
            with torch.no_grad():
                for _, layer in aligned_layers(model):
                    layer.backward_weight.mul_(scale)
            found.append(gradients(method, model))
        for name, of_layer in errors.items():
            of_layer.append(float((found[0][name] - found[1][name]).norm() / found[1][name].norm()))
    for of_layer in errors.values():
        slopes = [math.log2(a / b) for a, b in itertools.pairwise(of_layer)]
        assert slopes == pytest.approx([2, 2], abs=0.1)
        assert of_layer[-1] < 1e-2


def test_its_changes_are_those_of_the_equations() -> None:
    """Two hidden layers, written down by hand, at signals that saturate."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 6), nn.Sigmoid(), nn.Linear(6, OUTPUTS)).double()
    x, y = torch.randn(7, 4, dtype=torch.float64), torch.randint(OUTPUTS, (7,))
    method = Burstprop(slope=1.5)
    model = method.prepare(net, x, 0)
    (W1, c1, _), (W2, c2, B2), (W3, c3, B3) = (
        (model[i].weight.detach(), model[i].bias.detach(), model[i].backward_weight.detach().mul_(3)) for i in (0, 2, 4)
    )
    e1 = torch.sigmoid(x @ W1.T + c1)
    e2 = torch.sigmoid(e1 @ W2.T + c2)
    e3 = (e2 @ W3.T + c3).softmax(1)
    bbar3 = e3 / 2
    b3 = bbar3 + F.one_hot(y, OUTPUTS) - e3
    b2, bbar2 = (torch.sigmoid(6 * (1 - e2) * (b @ B3)) * e2 for b in (b3, bbar3))
    b1, bbar1 = (torch.sigmoid(6 * (1 - e1) * (b @ B2)) * e1 for b in (b2, bbar2))
    method.objective(model, x, y, F.cross_entropy)[0].backward()
    for layer, b, bbar, before in ((0, b1, bbar1, x), (2, b2, bbar2, e1), (4, b3, bbar3, e2)):
        torch.testing.assert_close(model[layer].weight.grad, -(b - bbar).T @ before / 7, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(model[layer].bias.grad, -(b - bbar).sum(0) / 7, rtol=1e-10, atol=1e-13)


def test_bursts_do_not_touch_event_rates() -> None:
    """The multiplexing: with the label or without, what goes up is the forward pass."""
    x, y = batch()
    method = Burstprop()
    model = method.prepare(network_of_sigmoids(), x, 0)
    with torch.no_grad():
        expected = model(x)
    assert torch.equal(method.objective(model, x, y, F.cross_entropy)[1], expected)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), "end at a torch.nn.Sigmoid.* got 1, a ReLU"),
        (nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(5, 3)), "without dropout.* got 2"),
    ],
    ids=["relu", "dropout"],
)
def test_networks_without_event_rates_are_refused_untouched(net: nn.Module, message: str) -> None:
    before = list(net.state_dict())
    with pytest.raises(ConfigError, match=message):
        Burstprop().prepare(net, torch.zeros(2, 4), 0)
    assert list(net.state_dict()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coding": "sigmiod"}, "coding: expected one of sigmoid, linear, got 'sigmiod'. Did you mean 'sigmoid'"),
        ({"slope": 0.0}, "slope: expected a number above 0, got 0"),
        ({"feedback": "weight_mirror"}, "feedback: expected one of backprop, kolen_pollack, feedback_alignment"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Burstprop(**options)
