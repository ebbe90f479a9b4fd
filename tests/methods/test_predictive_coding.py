"""Predictive coding against its equations and against backpropagation, in float64."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from gloo import results
from problems import OUTPUTS, batch, plain_network
from torch import Tensor, nn

from backroads.errors import ConfigError, DivergedError
from backroads.methods.predictive_coding import PredictiveCoding
from backroads.methods.processes import anywhere

BLOCKS = 3  # of the network below


def gradients(method: PredictiveCoding, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    method.objective(model, x, y, F.cross_entropy)[0].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_fixed_predictions_give_the_gradients_of_backpropagation() -> None:
    x, y = batch()
    plain = plain_network()
    F.cross_entropy(plain(x), y).backward()
    method = PredictiveCoding("fixed", steps=BLOCKS, rate=1.0)
    found = gradients(method, method.prepare(plain_network(), x, 0), x, y)
    for name, p in plain.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-10, atol=1e-12)


def test_fixed_predictions_with_one_step_too_few_do_not_reach_the_first_block() -> None:
    x, y = batch()
    method = PredictiveCoding("fixed", steps=BLOCKS - 1, rate=1.0)
    found = gradients(method, method.prepare(plain_network(), x, 0), x, y)
    assert not found["0.weight"].any()
    assert found["2.weight"].any()


@pytest.mark.parametrize("output", ["task", "squared"])
def test_inference_descends_on_the_energy_as_it_is_written_down(output: str) -> None:
    """Two hidden layers of tanh and a linear output: errors, derivatives, steps and weight updates by hand."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, OUTPUTS)).double()
    x, y = torch.randn(7, 4, dtype=torch.float64), torch.randint(OUTPUTS, (7,))
    method, rate, steps = PredictiveCoding(steps=8, rate=0.2, output=output), 0.2, 8
    (W1, b1), (W2, b2), (W3, b3) = ((net[i].weight.detach(), net[i].bias.detach()) for i in (0, 2, 4))
    Y = F.one_hot(y, OUTPUTS)
    x1 = torch.tanh(x @ W1.T + b1)
    x2 = torch.tanh(x1 @ W2.T + b2)
    for step in range(steps + 1):
        f1, f2, out = torch.tanh(x @ W1.T + b1), torch.tanh(x1 @ W2.T + b2), x2 @ W3.T + b3
        e1, e2, e3 = x1 - f1, x2 - f2, Y - (out.softmax(1) if output == "task" else out)
        if step < steps:
            x1 = x1 - rate * (e1 - (e2 * (1 - f2**2)) @ W2)
            x2 = x2 - rate * (e2 - e3 @ W3)
    expected = {
        "0.weight": -(e1 * (1 - f1**2)).T @ x / 7,
        "2.weight": -(e2 * (1 - f2**2)).T @ x1 / 7,
        "4.weight": -e3.T @ x2 / 7,
        "4.bias": -e3.sum(0) / 7,
    }
    found = gradients(method, method.prepare(net, x, 0), x, y)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-13)


def test_the_energy_never_rises_at_a_small_rate() -> None:
    x, y = batch(16)
    method = PredictiveCoding(steps=40, rate=0.05)
    values, energies, _ = method.infer(method.prepare(plain_network(), x, 0), x, y, F.cross_entropy)
    assert len(values) == BLOCKS
    assert all(b <= a for a, b in itertools.pairwise(energies))
    assert energies[-1] < 0.99 * energies[0]


def test_a_rate_that_is_too_large_is_told() -> None:
    x, y = batch()
    method = PredictiveCoding(rate=50.0)
    model = method.prepare(plain_network(), x, 0)
    with pytest.raises(DivergedError, match=r"at rate 50\.0 it went from .* take a smaller rate"):
        method.objective(model, x, y, F.cross_entropy)


def ask(rank: int) -> list[bool]:
    return [anywhere(torch.tensor(rank == 1)), anywhere(torch.tensor(False))]


@pytest.mark.slow
def test_all_processes_stop_where_one_has_a_larger_energy(tmp_path: Path) -> None:
    """Otherwise the others would wait for it."""
    assert results(ask, tmp_path) == [[True, False]] * 2
    assert anywhere(torch.tensor(True))
    assert not anywhere(torch.tensor(False))


@pytest.mark.parametrize("schedule", ["energy", "fixed"])
def test_without_steps_only_the_last_layer_learns(schedule: str) -> None:
    x, y = batch()
    method = PredictiveCoding(schedule, steps=0)
    found = gradients(method, method.prepare(plain_network(), x, 0), x, y)
    assert {name for name, gradient in found.items() if gradient.any()} == {"8.weight", "8.bias"}


def test_running_statistics_are_those_of_one_forward_pass() -> None:
    x, y = batch()
    plain = plain_network()
    plain(x)
    method = PredictiveCoding(steps=5)
    model = method.prepare(plain_network(), x, 0)
    gradients(method, model, x, y)
    for (name, expected), (_, buffer) in zip(plain.named_buffers(), model.named_buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, msg=name)
    assert model[3].momentum == plain[3].momentum


def test_the_update_of_a_block_depends_on_later_weights_through_the_values_alone() -> None:
    """Errors do come back, step by step: other later weights, another update."""
    x, y = batch()
    method = PredictiveCoding()
    model = method.prepare(plain_network(), x, 0)
    before = gradients(method, model, x, y)
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed[8].weight.normal_()
    assert not torch.equal(before["0.weight"], gradients(method, changed, x, y)["0.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "energie"}, "schedule: expected one of energy, fixed, got 'energie'. Did you mean 'energy'"),
        ({"output": "gauss"}, "output: expected one of task, squared"),
        ({"steps": -1}, "steps: expected a number of steps, 0 or more, got -1"),
        ({"rate": 0.0}, "rate: expected a number above 0, got 0"),
        ({"rate": "fast"}, "rate: expected a number above 0, got 'fast'"),
        ({"schedule": "fixed", "rate": 1.5}, "above 0 to 1 with schedule='fixed', got 1.5"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PredictiveCoding(**options)


def test_dropout_is_refused_where_the_network_runs_many_times_a_step() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))
    with pytest.raises(ConfigError, match=r"without dropout.* got 2 with p = 0\.5"):
        PredictiveCoding().prepare(net, torch.zeros(2, 4), 0)
    PredictiveCoding("fixed").prepare(net, torch.zeros(2, 4), 0)
