"""A layer whose weight is stored transposed is the linear layer of the transpose, under every rule."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from problems import LAYERWISE
from torch import Tensor, nn

import backroads as br
from backroads.errors import ShapeError


class Conv1D(nn.Module):
    """Written after the class of this name in transformers, by whose full name conversion knows it."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.empty(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))
        nn.init.normal_(self.weight, std=0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


Conv1D.__module__ = "transformers.pytorch_utils"


class Own(Conv1D):
    """A subclass may compute something else."""


def pair() -> tuple[nn.Module, nn.Module]:
    """A network with transposed weights, and that of linear layers with the same W."""
    torch.manual_seed(0)
    net = nn.Sequential(Conv1D(4, 5), nn.Tanh(), Conv1D(3, 4)).double()
    twin = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for a, b in ((net[0], twin[0]), (net[2], twin[2])):
            b.weight.copy_(a.weight.t())
            b.bias.copy_(a.bias)
    return net, twin


def transposed(name: str, value: Tensor) -> Tensor:
    return value.t() if name in ("0.weight", "2.weight") else value


@pytest.mark.parametrize("rule", LAYERWISE)
def test_it_learns_as_the_linear_layer_of_its_transpose(rule: str) -> None:
    net, twin = pair()
    for model in (net, twin):
        br.convert(model, LAYERWISE[rule], generator=1)
        optimiser = torch.optim.SGD(br.param_groups(model, 0.1, weight_decay=0.01))
        torch.manual_seed(2)
        for x in torch.randn(3, 6, 2, 5, dtype=torch.float64):
            optimiser.zero_grad()
            model(x).square().mean().backward()
            optimiser.step()
    expected = twin.state_dict()
    assert set(net.state_dict()) == set(expected)
    for name, value in net.state_dict().items():
        shown = transposed(name, value)
        # The draw of B picks entries of W in the order in which they are read; W is read as (O, I) in both.
        torch.testing.assert_close(shown, expected[name], rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    x = torch.randn(6, 5, dtype=torch.float64)
    names = [name for name in br.metrics.list_metrics() if name != "error_norm"]
    found, same = (br.metrics.readings(m, lambda m=m: m(x).square().mean(), names) for m in (net, twin))
    assert found.keys() == same.keys()
    for name in found:
        assert found[name] == pytest.approx(same[name], rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("rule", ["symmetric_alignment", "backprop", "sign_symmetry"])
def test_it_computes_the_same_to_the_bit_and_comes_back_as_it_was(rule: str) -> None:
    net, _ = pair()
    before, x = copy.deepcopy(net), torch.randn(6, 5, dtype=torch.float64)
    attributes = {name: set(vars(module)) for name, module in net.named_modules()}
    weight = net[0].weight
    br.convert(net, rule)
    assert type(net[0]) is br.nn.TransposedLinear
    assert net[0].weight is weight
    assert torch.equal(net(x), before(x))
    br.revert(net)
    assert type(net[0]) is Conv1D
    assert net[0].weight is weight
    assert {name: set(vars(module)) for name, module in net.named_modules()} == attributes
    assert torch.equal(net(x), before(x))


def test_plain_and_converted_state_dicts_load() -> None:
    net, _ = pair()
    plain = copy.deepcopy(net.state_dict())
    br.convert(net, "symmetric_alignment")
    assert net[0].backward_weight.shape == (4, 5)
    again = br.convert(pair()[0], "symmetric_alignment", generator=5)
    again.load_state_dict(net.state_dict())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())
    with pytest.warns(UserWarning, match="drawn anew"):
        again.load_state_dict(plain)


def test_direct_feedback_counts_its_outputs() -> None:
    net = br.convert(pair()[0], "direct_feedback_alignment")
    assert net[0].backward_weight.shape == (3, 5)
    net(torch.randn(6, 5, dtype=torch.float64)).square().mean().backward()


def test_an_input_of_another_width_is_refused_and_so_is_a_subclass() -> None:
    net = br.convert(pair()[0], "symmetric_alignment")
    with pytest.raises(ShapeError, match=r"\(\.\.\., 5\), got \(2, 4\)"):
        net(torch.zeros(2, 4, dtype=torch.float64))
    rows: Any = br.plan(nn.Sequential(Own(3, 2)), "symmetric_alignment").select("cannot convert")
    assert ["subclass (Own)" in row.why for row in rows] == [True]
