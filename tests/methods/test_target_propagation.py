"""Difference target propagation against its equations and against Gauss-Newton, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import OUTPUTS, batch, plain_network
from torch import Tensor, nn

from backroads.errors import ConfigError
from backroads.methods.target_propagation import TargetPropagation
from backroads.train.optimizers import Optimizers
from backroads.train.settings import resolve

WIDTH = 5


def network(seed: int = 0) -> nn.Sequential:
    """Three square blocks of tanh with weights near a rotation, which have exact inverses, and a linear output."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(3):
        linear = nn.Linear(WIDTH, WIDTH)
        with torch.no_grad():
            nn.init.orthogonal_(linear.weight)
            linear.weight.mul_(0.7).add_(0.05 * torch.randn(WIDTH, WIDTH))
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, OUTPUTS)).double()


def data(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, WIDTH, dtype=torch.float64, generator=generator)
    return x, torch.randint(OUTPUTS, (n,), generator=generator)


class Exact(nn.Module):
    """The inverse of a linear layer and tanh: g(h) = W^-1 (artanh h - b)."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = [layer]

    def forward(self, h: Tensor) -> Tensor:
        (layer,) = self.layer
        return torch.linalg.solve(layer.weight, (torch.atanh(h) - layer.bias).T).T


def test_with_exact_inverses_and_small_steps_targets_are_those_of_gauss_newton() -> None:
    """t_l - h_l = step J^+ (t_L - h_L) / step, J the derivative of the last hidden values in those of block l."""
    net, (x, y) = network(), data(4)
    method = TargetPropagation(step=1e-6)
    method.prepare(net, x, 0)
    heads = method.prepared(net).heads
    heads[1], heads[2] = Exact(net[2]), Exact(net[4])
    h1 = net[:2](x).detach()
    h2, h3 = net[2:4](h1).detach(), net[2:6](h1).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(net[6](h3), y, reduction="sum"), h3)
    values = [h1, h2, h3.detach()]
    found = method.targets(net, values, h3.detach() - method.step * gradient)
    for after, h, target in ((2, h1, found[0]), (4, h2, found[1])):
        for n in range(len(x)):
            J = torch.autograd.functional.jacobian(net[after:6], h[n])
            expected = -torch.linalg.pinv(J) @ gradient[n]
            direction = (target[n] - h[n]) / method.step
            assert float(F.cosine_similarity(direction, expected, dim=0)) > 1 - 1e-8
            torch.testing.assert_close(direction, expected, rtol=1e-4, atol=1e-6)
            assert float(F.cosine_similarity(direction, -J.T @ gradient[n], dim=0)) < 0.9999  # no gradient descent


def test_the_update_of_a_block_is_the_gradient_of_the_distance_to_its_target() -> None:
    """By hand: g(h) = tanh(V h + c), the difference correction, and the weight updates."""
    net, (x, y) = network(), data(6)
    method = TargetPropagation(step=0.3)
    method.prepare(net, x, 0)
    (V2, c2), (V3, c3) = ((head.map.weight, head.map.bias) for head in method.prepared(net).heads[1:])
    h1 = torch.tanh(net[0](x))
    h2 = torch.tanh(net[2](h1))
    h3 = torch.tanh(net[4](h2))
    P = (net[6](h3)).softmax(1) - F.one_hot(y, OUTPUTS)
    t3 = h3 - 0.3 * P @ net[6].weight
    t2 = h2 + torch.tanh(t3 @ V3.T + c3) - torch.tanh(h3 @ V3.T + c3)
    t1 = h1 + torch.tanh(t2 @ V2.T + c2) - torch.tanh(h2 @ V2.T + c2)
    expected = {
        "0.weight": ((h1 - t1) / 0.3 * (1 - h1**2)).T @ x / 6,
        "2.weight": ((h2 - t2) / 0.3 * (1 - h2**2)).T @ h1 / 6,
        "4.weight": ((h3 - t3) / 0.3 * (1 - h3**2)).T @ h2 / 6,
        "6.weight": P.T @ h3 / 6,
    }
    method.objective(net, x, y, F.cross_entropy)[0].backward()
    for name, gradient in expected.items():
        torch.testing.assert_close(net.get_parameter(name).grad, gradient.detach(), rtol=1e-10, atol=1e-13)


def test_one_block_learns_by_backpropagation() -> None:
    x, y = batch()
    plain, net = plain_network(), plain_network()
    F.cross_entropy(plain(x), y).backward()
    method = TargetPropagation(blocks=("7",), step=0.7)
    method.prepare(net, x, 0)
    method.objective(net, x, y, F.cross_entropy)[0].backward()
    for name, p in plain.named_parameters():
        torch.testing.assert_close(net.get_parameter(name).grad, p.grad, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("reconstruction", ["plain", "difference"])
def test_inverses_learn_to_invert_by_plain_steps_at_a_rate_of_one(reconstruction: str) -> None:
    """What is left of a small change at the input of block 3 after f and g, before and after they have learned."""
    net, (x, y) = network(), data(64)
    method = TargetPropagation(reconstruction, noise=0.3)
    method.prepare(net, x, 0)
    optimizer = torch.optim.SGD(method.parameter_groups(net)["backward"], lr=1.0)
    h2 = net[:4](x).detach()
    change = 0.05 * torch.randn(h2.shape, dtype=h2.dtype, generator=torch.Generator().manual_seed(2))

    @torch.no_grad()
    def left() -> float:
        inverse = method.prepared(net).heads[2]
        carried = inverse(net[4:6](h2 + change)) - inverse(net[4:6](h2))
        return float((carried - change).norm() / change.norm())

    before = left()
    for step in range(600):
        optimizer.zero_grad()
        torch.manual_seed(step)
        method.objective(net, x, y, F.cross_entropy)[0].backward()
        optimizer.step()
    assert before > 0.8
    assert left() < 0.45


def test_inverses_have_an_optimiser_of_their_own_in_training() -> None:
    net, (x, _) = plain_network(torch.float32), batch(2, torch.float32)
    method = TargetPropagation()
    method.prepare(net, x, 0)
    groups = method.parameter_groups(net)
    assert len(groups["backward"]) == 4
    config = resolve({"data": "digits", "learning_rate": 0.3, "backward_rate": 0.7, "schedule": "constant"})
    optimizers = Optimizers(net, config, 10, groups)
    assert optimizers.backward is not None
    optimizers.set_rates(0)
    for optimizer, name, rate in ((optimizers.forward, "forward", 0.3), (optimizers.backward, "backward", 0.7)):
        held = [p for group in optimizer.param_groups for p in group["params"]]
        assert {id(p) for p in held} == {id(p) for p in groups[name]}
        assert {group["lr"] for group in optimizer.param_groups} == {rate}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reconstruction": "diference"}, "expected one of difference, plain, .* Did you mean 'difference'"),
        ({"step": 0.0}, "step: expected a number above 0, got 0"),
        ({"step": "small"}, "step: expected a number above 0, got 'small'"),
        ({"noise": -1.0}, "noise: expected a number above 0, got -1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TargetPropagation(**options)


@pytest.mark.parametrize(
    ("between", "options", "message"),
    [
        ([nn.MaxPool2d(2)], {}, "such as pooling, has no inverse; take convolutions with a stride"),
        ([nn.Dropout(0.1)], {}, r"without dropout.* got 2 with p = 0\.1"),
        ([], {"blocks": ("1", "2")}, "expected blocks of one linear layer or 2-d convolution"),
    ],
    ids=["pooling", "dropout", "no activation"],
)
def test_networks_without_inverses_are_refused_untouched(
    between: list[nn.Module], options: dict[str, Any], message: str
) -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        *between,
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(3),
    )
    x = torch.randn(2, 2, 8, 8)
    net(x)
    before = list(net.state_dict())
    with pytest.raises(ConfigError, match=message):
        TargetPropagation(**options).prepare(net, x, 0)
    assert list(net.state_dict()) == before
