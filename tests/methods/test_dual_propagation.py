"""Dual propagation against backpropagation and against its equations, in float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import OUTPUTS, batch, plain_network
from torch import Tensor, nn

from backroads.errors import ConfigError
from backroads.methods.dual_propagation import DualPropagation
from backroads.methods.inference import output_cost


def network(activation: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3, stride=2), activation(), nn.Flatten(), nn.Linear(12, 6), activation()]
    return nn.Sequential(*layers, nn.Linear(6, 5), activation(), nn.Linear(5, OUTPUTS)).double()


def gradients(model: nn.Module, scalar: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    scalar.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def pair(method: DualPropagation, net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradients of the method, and those of backpropagation of the same cost."""
    x, y = batch()
    true = gradients(net, output_cost(method.output, net(x), y, F.cross_entropy) / len(x))
    model = method.prepare(net, x, 0)
    return gradients(model, method.objective(model, x, y, F.cross_entropy)[0]), true


def error(found: dict[str, Tensor], true: dict[str, Tensor]) -> float:
    a, b = (torch.cat([of[name].flatten() for name in true]) for of in (found, true))
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("sweeps", [1, 3])
@pytest.mark.parametrize("output", ["task", "squared"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.Hardtanh])
def test_piecewise_linear_networks_have_the_gradients_of_backpropagation(
    activation: type[nn.Module], output: str, sweeps: int
) -> None:
    """To rounding, as no unit passes a kink at so small a beta: the mean is then the forward pass in each sweep."""
    found, true = pair(DualPropagation(beta=1e-4, sweeps=sweeps, output=output), network(activation))
    assert error(found, true) < 1e-9


@pytest.mark.parametrize("sweeps", [1, 20])
def test_its_error_falls_as_the_square_of_beta_for_smooth_activations(sweeps: int) -> None:
    errors = [error(*pair(DualPropagation(beta=beta, sweeps=sweeps), network(nn.Sigmoid))) for beta in (4.0, 2.0, 1.0)]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert slopes == pytest.approx([2, 2], abs=0.1)


def test_settled_sweeps_are_stationary_in_the_lagrangian() -> None:
    """L of the docstring, with G written down for the logistic function and differentiated by autograd."""
    x, y = batch()
    beta, n = 0.5, len(x)
    net = network(nn.Sigmoid)
    method = DualPropagation(beta=beta)
    model = method.prepare(net, x, 0)
    sweep = method.sweep(model, x, y, F.cross_entropy, None)
    for _ in range(40):
        sweep = method.sweep(model, x, y, F.cross_entropy, sweep.back)
    us = [u.detach() for u in sweep.received]
    plus = [torch.sigmoid(u + p / 2).requires_grad_() for u, p in zip(us, sweep.back, strict=True)]
    minus = [torch.sigmoid(u - p / 2).requires_grad_() for u, p in zip(us, sweep.back, strict=True)]
    m1, m2, m3 = ((a + b) / 2 for a, b in zip(plus, minus, strict=True))
    received = [net[0](x), net[3](m1.flatten(1)), net[5](m2)]

    def G(s: Tensor) -> Tensor:
        return (s * s.log() + (1 - s) * (1 - s).log()).sum()

    L = n * F.cross_entropy(net[7](m3), y)
    for a, b, u in zip(plus, minus, received, strict=True):
        L = L + (G(a) - G(b) - ((a - b) * u).sum()) / beta
    for derivative in torch.autograd.grad(L, [*plus, *minus], retain_graph=True):
        torch.testing.assert_close(derivative, torch.zeros_like(derivative), rtol=0, atol=1e-11)
    expected = torch.autograd.grad(L / n, list(net.parameters()))
    settled = DualPropagation(beta=beta, sweeps=41)
    found = gradients(model, settled.objective(model, x, y, F.cross_entropy)[0])
    for (name, _), gradient in zip(net.named_parameters(), expected, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


class Residual(nn.Module):
    """The output of the first block passes to the sum before the second activation, and to the output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pool, self.second = nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.act1, self.act2 = nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.ReLU(inplace=True)
        self.readout = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(self.act1(self.first(x)))
        return self.readout(torch.cat([self.act2(self.norm(self.second(h)) + h), h], 1).flatten(1))


def test_batch_norm_max_pooling_and_residual_sums_pass_differences_back_as_they_pass_errors() -> None:
    torch.manual_seed(0)
    found, true = pair(DualPropagation(beta=1e-4, sweeps=2), Residual().double())
    assert error(found, true) < 1e-9


@pytest.mark.parametrize("sweeps", [1, 4])
def test_running_statistics_are_those_of_one_forward_pass(sweeps: int) -> None:
    x, y = batch()
    plain = plain_network()
    plain(x)
    method = DualPropagation(sweeps=sweeps)
    model = method.prepare(plain_network(), x, 0)
    method.objective(model, x, y, F.cross_entropy)
    for (name, expected), (_, buffer) in zip(plain.named_buffers(), model.named_buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, msg=name)


def test_dropout_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))
    with pytest.raises(ConfigError, match=r"without dropout.* got 2 with p = 0\.5"):
        DualPropagation().prepare(net, torch.zeros(2, 4), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, "beta: expected a number above 0, got 0"),
        ({"sweeps": 0}, "sweeps: expected a number of sweeps, 1 or more, got 0"),
        ({"output": "gauss"}, "output: expected one of task, squared"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DualPropagation(**options)
