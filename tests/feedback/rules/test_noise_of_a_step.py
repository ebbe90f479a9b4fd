"""White noise in short supply slows B by what a whole step has of it: in all uses, accumulated parts and processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import results
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import backroads as br
from backroads.feedback.rules import error_correcting_mirror, white_noise_mirror

INPUTS, ROWS, RATE, DRAWS = 20, 24, 0.1, 400
# 2 rows for each of 20 inputs are 40; 24 examples give 24 of them.
SHARE = 24 / 40
MIRRORS = {"white_noise_mirror": white_noise_mirror, "error_correcting_mirror": error_correcting_mirror}
RULES = {name: make(RATE, rows_per_input=2.0, most=1.0) for name, make in MIRRORS.items()}


def layer_of(rule: br.FeedbackRule) -> br.nn.Linear:
    torch.manual_seed(0)
    return br.nn.Linear(INPUTS, INPUTS, rule=rule, dtype=torch.float64)


def in_parts(parts: int) -> Callable[[torch.nn.Module, Tensor], None]:
    def step(net: torch.nn.Module, x: Tensor) -> None:
        for part in x.chunk(parts):
            (net(part).sum() / parts).backward()

    return step


def in_uses(uses: int) -> Callable[[torch.nn.Module, Tensor], None]:
    def step(net: torch.nn.Module, x: Tensor) -> None:
        h = x[: len(x) // uses]
        for _ in range(uses):
            h = torch.tanh(net(h))
        h.sum().backward()

    return step


def shares(net: torch.nn.Module, layer: br.nn.Linear, step: Any, x: Tensor, draws: int) -> Tensor:
    """Of B's way to W, how much each of so many steps of rate 1 covers; all from one B. The first is left out."""
    B, W, found = layer.backward_weight.detach().clone(), layer.weight.detach(), []
    for _ in range(draws + 1):
        net.zero_grad()
        step(net, x)
        found.append(float((layer.backward_weight.grad * (B - W)).sum() / (B - W).square().sum()))
        with torch.no_grad():
            layer.backward_weight.copy_(B)  # a step of the optimiser that is taken back
    return torch.tensor(found[1:])


def is_the_rate(found: Tensor) -> None:
    error = float(found.std()) / len(found) ** 0.5
    assert error < 0.05 * SHARE * RATE
    assert abs(float(found.mean()) - SHARE * RATE) < 4 * error


STEPS = {"whole": in_parts(1), "two parts": in_parts(2), "four parts": in_parts(4), "four uses": in_uses(4)}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", RULES)
@pytest.mark.slow
def test_the_mean_step_is_that_of_the_whole_batch(name: str, step: str, scaled: bool) -> None:
    """``scaled``: with the factor that a user may give the gradients of accumulated parts."""
    layer = layer_of(RULES[name])
    if scaled:
        br.alignment_scale(layer, {"two parts": 0.5, "four parts": 0.25}.get(step, 1.0))
    is_the_rate(shares(layer, layer, STEPS[step], torch.zeros(ROWS, INPUTS, dtype=torch.float64), DRAWS))


@pytest.mark.parametrize("every", [1, 2, 4])
@pytest.mark.parametrize("name", RULES)
def test_passes_without_noise_do_not_count(name: str, every: int) -> None:
    """Of four parts every k-th has noise, times k: as much fewer rows in a step, and as much slower."""
    layer = layer_of(MIRRORS[name](RATE, rows_per_input=2.0, most=1.0, every=every))
    x = torch.zeros(ROWS, INPUTS, dtype=torch.float64)
    found = shares(layer, layer, in_parts(4), x, DRAWS)
    assert float(found.mean()) == pytest.approx(SHARE * RATE / every, rel=0.2)


def work(rank: int) -> dict[str, Tensor]:
    x = torch.zeros(ROWS, INPUTS, dtype=torch.float64).chunk(2)[rank]
    found = {}
    for name, rule in RULES.items():
        layer = layer_of(rule)
        net = DistributedDataParallel(layer)
        torch.manual_seed(rank)
        found[name] = shares(net, layer, in_parts(1), x, DRAWS)
    return found


@pytest.mark.slow
def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    of_rank = results(work, tmp_path)
    for name in RULES:
        assert torch.equal(of_rank[0][name], of_rank[1][name])
        is_the_rate(of_rank[0][name])


def test_a_training_that_is_taken_up_again_knows_the_uses_of_the_step_before() -> None:
    x = torch.zeros(ROWS, INPUTS, dtype=torch.float64)
    layer, other = layer_of(RULES["white_noise_mirror"]), layer_of(RULES["white_noise_mirror"])
    shares(layer, layer, in_parts(4), x, 1)
    other.load_state_dict(layer.state_dict())
    gradients = []
    for each in (layer, other):
        each.zero_grad()
        torch.manual_seed(3)
        in_parts(4)(each, x)
        gradients.append(each.backward_weight.grad)
    assert torch.equal(*gradients)
