"""Equilibrium propagation against implicit differentiation of its equilibrium, in float64."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import OUTPUTS, batch, network_without_norm
from torch import Tensor, nn

import backroads as br
from backroads.errors import ConfigError, DivergedError
from backroads.methods.equilibrium_propagation import EquilibriumPropagation
from backroads.methods.inference import output_cost

SETTLED: dict[str, Any] = {"free_steps": 300, "nudged_steps": 300}


def tanh_network(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Smooth, so that errors have one order in beta."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, 6),
        nn.Sigmoid(),
        nn.Linear(6, 5),
        nn.Tanh(),
        nn.Linear(5, OUTPUTS),
    ).to(dtype)


def update(method: EquilibriumPropagation, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    method.objective(model, x, y, F.cross_entropy)[0].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def implicit_gradient(
    method: EquilibriumPropagation, model: nn.Module, x: Tensor, y: Tensor, states: list[Tensor]
) -> dict[str, Tensor]:
    """dC/dtheta at the equilibrium s = g(s, theta), by a dense solve: C_theta + C_s (1 - g_s)^-1 g_theta.

    g is written down for the network above from its layers, apart from the library.
    """
    conv, linear1, linear2, readout = (model[i] for i in (0, 3, 5, 7))
    shapes = [s.shape for s in states]
    sizes = [s.numel() for s in states]

    def g(flat: Tensor) -> Tensor:
        s1, s2, s3 = (part.reshape(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True))
        down = (s2 @ linear1.weight).reshape(s1.shape)
        new = [
            torch.tanh(conv(x) + down),
            torch.sigmoid(linear1(s1.flatten(1)) + s3 @ linear2.weight),
            torch.tanh(linear2(s2)),
        ]
        return torch.cat([s.flatten() for s in new])

    flat = torch.cat([s.flatten() for s in states]).detach().requires_grad_()
    assert float((g(flat) - flat).detach().abs().max()) < 1e-12  # these states are an equilibrium
    C = output_cost(method.output, readout(flat.split(sizes)[2].reshape(shapes[2])), y, F.cross_entropy) / len(x)
    (C_s,) = torch.autograd.grad(C, flat, retain_graph=True)
    J = torch.autograd.functional.jacobian(g, flat.detach())
    adjoint = torch.linalg.solve(torch.eye(len(flat), dtype=J.dtype) - J.T, C_s)
    parameters = dict(model.named_parameters())
    total = C + (adjoint.detach() * g(flat.detach())).sum()
    return dict(zip(parameters, torch.autograd.grad(total, list(parameters.values())), strict=True))


def error(found: dict[str, Tensor], true: dict[str, Tensor]) -> float:
    a, b = (torch.cat([gradients[name].flatten() for name in true]) for gradients in (found, true))
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("output", ["task", "squared"])
@pytest.mark.parametrize(("two_sided", "order"), [(False, 1), (True, 2)])
def test_its_update_approaches_the_implicit_gradient_at_the_order_of_its_nudging(
    output: str, two_sided: bool, order: int
) -> None:
    x, y = batch()
    errors = []
    for beta in (0.008, 0.004, 0.002):
        method = EquilibriumPropagation(**SETTLED, beta=beta, two_sided=two_sided, output=output)
        model = method.prepare(tanh_network(), x, 0)
        states, _ = method.relax(model, x, method.start(model, x), 300)
        errors.append(error(update(method, model, x, y), implicit_gradient(method, model, x, y, states)))
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert slopes == pytest.approx([order, order], abs=0.1)
    assert errors[-1] < 0.05


def test_the_gradient_of_the_prediction_is_that_of_the_equilibrium() -> None:
    """Backpropagation through many free steps is implicit differentiation: what update angles are measured against."""
    x, y = batch()
    method = EquilibriumPropagation(**SETTLED)
    model = method.prepare(tanh_network(), x, 0)
    states, _ = method.relax(model, x, method.start(model, x), 300)
    F.cross_entropy(method.predict(model, x), y).backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    assert error(found, implicit_gradient(method, model, x, y, states)) < 1e-10


def test_the_prediction_is_the_free_equilibrium_and_not_the_forward_pass() -> None:
    x, _ = batch()
    method = EquilibriumPropagation(**SETTLED)
    model = method.prepare(tanh_network(), x, 0)
    states, moved = method.relax(model, x, method.start(model, x), 300)
    prediction = method.predict(model, x)
    torch.testing.assert_close(prediction, model[7](states[2]), rtol=1e-12, atol=1e-12)
    assert float(moved[-1]) < 1e-13 < float(moved[0])
    assert not torch.allclose(prediction, model(x), atol=1e-3)


def test_free_steps_are_the_written_iteration() -> None:
    """Two steps on two layers, by hand, with the nudging of the read-out."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.Sigmoid(), nn.Linear(6, OUTPUTS)).double()
    x, y = torch.randn(7, 4, dtype=torch.float64), torch.randint(OUTPUTS, (7,))
    (W1, b1), (W2, b2), (W3, b3) = ((net[i].weight.detach(), net[i].bias.detach()) for i in (0, 2, 4))
    s1 = torch.tanh(x @ W1.T + b1)
    s2 = torch.sigmoid(s1 @ W2.T + b2)
    method = EquilibriumPropagation(rate=0.3)
    model = method.prepare(net, x, 0)
    start = method.start(model, x)
    torch.testing.assert_close(start, [s1, s2], rtol=1e-12, atol=1e-12)
    states, _ = method.relax(model, x, start, 2, (0.2, y, F.cross_entropy))
    for _ in range(2):
        p = F.one_hot(y, OUTPUTS) - (s2 @ W3.T + b3).softmax(1)
        to1 = torch.tanh(x @ W1.T + b1 + s2 @ W2)
        to2 = torch.sigmoid(s1 @ W2.T + b2 + 0.2 * p @ W3)
        s1, s2 = s1 + 0.3 * (to1 - s1), s2 + 0.3 * (to2 - s2)
    torch.testing.assert_close(states, [s1, s2], rtol=1e-12, atol=1e-12)


class Residual(nn.Module):
    """The output of the first block passes to the sum before the second activation, and to the output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pool, self.second = nn.Conv2d(2, 3, 3), nn.AvgPool2d(2), nn.Conv2d(3, 3, 3, padding=1)
        self.act1, self.act2, self.readout = nn.Tanh(), nn.Tanh(), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(self.act1(self.first(x)))
        return self.readout(torch.cat([self.act2(self.second(h) + h), h], 1).flatten(1))


def test_pooling_and_residual_sums_before_activations_are_part_of_the_energy() -> None:
    x, y = batch()
    torch.manual_seed(0)
    net = Residual().double()
    method = EquilibriumPropagation(**SETTLED, beta=0.003)
    model = method.prepare(net, x, 0)
    found = update(method, model, x, y)
    model.zero_grad()
    F.cross_entropy(method.predict(model, x), y).backward()
    assert error(found, {name: p.grad for name, p in model.named_parameters()}) < 1e-4


def test_separate_weights_move_by_the_increments_of_W_and_carry_the_states_back() -> None:
    x, y = batch()
    method = EquilibriumPropagation(feedback="kolen_pollack")
    model = method.prepare(network_without_norm(), x, 0)
    plain = EquilibriumPropagation()
    symmetric = plain.prepare(network_without_norm(), x, 0)
    found, other = update(method, model, x, y), update(plain, symmetric, x, y)
    pairs = [name.removesuffix(".backward_weight") for name in found if name.endswith("backward_weight")]
    assert pairs == ["0", "2", "6", "8"]
    for name in pairs:
        assert torch.equal(found[f"{name}.weight"], found[f"{name}.backward_weight"])
    assert not torch.allclose(found["0.weight"], other["0.weight"])
    with torch.no_grad():  # with B = W the two are one
        for name in pairs:
            model.get_parameter(f"{name}.backward_weight").copy_(model.get_parameter(f"{name}.weight"))
    found = update(method, model, x, y)
    for name, gradient in other.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_separate_weights_become_symmetric_under_decay_and_the_update_that_of_the_implicit_gradient() -> None:
    """Each step shrinks W - B by 1 - rate decay; the error of the update falls with it, down to that of beta."""
    x, y = batch()
    method = EquilibriumPropagation(**{**SETTLED, "nudged_steps": 100}, beta=0.01, feedback="kolen_pollack")
    model = method.prepare(tanh_network(), x, 0)
    groups = br.param_groups(model, lr=0.1, momentum=0.0, weight_decay=1.0, nesterov=False)
    optimizer = torch.optim.SGD(groups, lr=0.1)
    names = [name for name, _ in model.named_parameters() if not name.endswith("backward_weight")]

    def differences() -> list[float]:
        layers = [m for m in model.modules() if getattr(m, "backward_weight", None) is not None]
        return [float((layer.weight - layer.backward_weight).detach().norm()) for layer in layers]

    def gradient_error() -> float:
        """Of the update, beside the implicit gradient of the network with W both ways."""
        found, plain, symmetric = update(method, model, x, y), tanh_network(), EquilibriumPropagation(**SETTLED)
        plain.load_state_dict({name: model.get_parameter(name) for name in names})
        symmetric.prepare(plain, x, 0)
        states, _ = symmetric.relax(plain, x, symmetric.start(plain, x), 300)
        return error(found, implicit_gradient(symmetric, plain, x, y, states))

    before, first = differences(), gradient_error()
    for _ in range(20):
        optimizer.zero_grad()
        method.objective(model, x, y, F.cross_entropy)[0].backward()
        optimizer.step()
    for a, b in zip(before, differences(), strict=True):
        assert b == pytest.approx(a * 0.9**20, rel=1e-9)
    assert gradient_error() < 0.3 * first


def test_states_that_grow_without_bound_are_told() -> None:
    x, y = batch()
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        net[3].weight.copy_(3 * torch.eye(8))
    method = EquilibriumPropagation()
    model = method.prepare(net, x, 0)
    with pytest.raises(DivergedError, match=r"must settle, and the states moved by .* take smaller weights"):
        method.objective(model, x, y, F.cross_entropy)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)), "without batch norm.* got 1"),
        (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3)), r"without dropout.* got 2"),
        (nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 3)), "got 0, 1 in the one that ends"),
        (nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)), "got 0, 1 in the one that ends"),
    ],
    ids=["batch norm", "dropout", "layer norm", "two layers"],
)
def test_networks_without_an_energy_of_this_form_are_refused_untouched(net: nn.Module, message: str) -> None:
    before = list(net.state_dict())
    with pytest.raises(ConfigError, match=message):
        EquilibriumPropagation(feedback="kolen_pollack").prepare(net, torch.randn(2, 4), 0)
    assert list(net.state_dict()) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_an_end_that_is_no_activation_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(ConfigError, match=r"blocks that end at an activation module.* got 0, a Linear"):
        EquilibriumPropagation(blocks=("0",)).prepare(net, torch.randn(2, 4), 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"free_steps": 0}, "free_steps: expected a number of steps, 1 or more, got 0"),
        ({"nudged_steps": 2.5}, "nudged_steps: expected a number of steps, 1 or more, got 2.5"),
        ({"rate": 1.5}, "rate: expected a number above 0 to 1, got 1.5"),
        ({"beta": 0.0}, "beta: expected a number above 0, got 0"),
        ({"two_sided": "yes"}, "two_sided: expected true or false, got 'yes'"),
        ({"output": "gauss"}, "output: expected one of task, squared"),
        ({"feedback": "kolen_polack"}, "feedback: expected one of .* Did you mean 'kolen_pollack'"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EquilibriumPropagation(**options)
