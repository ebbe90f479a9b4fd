"""Data parallelism: two processes hold the same gradients, for B as well as for W, and those of the joined batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from gloo import results
from problems import RULES, batch, small_network
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import backroads as br

pytestmark = pytest.mark.slow  # all read what two processes found

WORLD, ROWS = 2, 8
# Each process has noise, or an estimate, of its own.
NOISY = {
    "weight_mirror, noise": br.rules.weight_mirror(drive=br.WhiteNoise(std=1.0)),
    "white-noise mirror": br.rules.white_noise_mirror(images=3),
    "error-correcting mirror": br.rules.error_correcting_mirror(),
    "mirrored Kolen-Pollack": br.rules.mirrored_kolen_pollack(every=2),
    "exact probing": br.rules.exact_probing(images=1),
    "symmetric alignment, estimated": br.rules.symmetric_alignment(
        view=br.WeightEstimate(noise_std=0.1, keep_probability=0.5)
    ),
}
NOW_AND_THEN = "weight_mirror, every 2"


def is_mean_over_batch(rule: br.FeedbackRule) -> bool:
    """Whether the halves' mean gradient must be the whole's: no power of a batch, no batch statistics, no draws."""
    if isinstance(rule, br.rules.MirroredKolenPollack):
        return rule.rows < 1
    if not isinstance(rule, br.Alignment):
        return True
    centered = rule.operations.batch_center_backward_input or rule.operations.batch_center_forward_output
    draws = not isinstance(rule.drive, br.Activity) or (rule.view is not None and rule.view.draws)
    return (
        rule.reduction not in ("unit_power", "projected_step")
        and not draws
        and rule.cadence.fraction == 1
        and not centered
    )


CASES: dict[str, br.FeedbackRule] = {
    **RULES,
    # One example of noise, the same everywhere, in every step.
    "mirrored_kolen_pollack": br.rules.mirrored_kolen_pollack(rows=1e-9, every=1),
    # Rules that look at the batch as a whole, made means over it.
    **{
        f"{name}, a mean": dataclasses.replace(rule, reduction="mean", operations=br.Operations())
        for name, rule in RULES.items()
        if isinstance(rule, br.Alignment) and not is_mean_over_batch(rule)
    },
    **NOISY,
    "all five, on a part": br.Alignment(0.2, 0.3, 0.1, 0.4, 0.5, cadence=br.Cadence(fraction=0.5)),
    NOW_AND_THEN: br.Alignment(decay=1, amp=1, reduction="mean", cadence=br.Cadence(2)),
    "batch centering": br.Alignment(
        amp=1, sparse=1, operations=br.Operations(batch_center_backward_input=True, batch_center_forward_output=True)
    ),
}
MEANS = [name for name, rule in CASES.items() if is_mean_over_batch(rule)]


def network(name: str) -> torch.nn.Module:
    """The small network without batch norm, which couples the examples of a batch."""
    net = small_network(CASES[name])
    net[3] = torch.nn.Identity()
    return net


def backward(net: torch.nn.Module, x: Tensor, labels: Tensor, seed: int = 0, factor: float = 1.0) -> None:
    torch.manual_seed(seed)
    (factor * F.cross_entropy(net(x), labels)).backward()


def learned(net: torch.nn.Module) -> dict[str, Tensor]:
    return {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}


def seen(name: str, rank: int) -> dict[str, Any]:
    """What one process sees of one rule: gradients of its half, accumulated ones, and weights after steps."""
    x, labels = (t.chunk(WORLD)[rank] for t in batch(ROWS))
    # Noise must differ between processes; the draw of "batch_random" is a B, which they must share.
    seed = rank if name in NOISY else 0

    net = network(name)
    parallel = DistributedDataParallel(net)
    backward(parallel, x, labels, seed)
    gradients = learned(net)

    net = network(name)
    parallel = DistributedDataParallel(net)
    with br.alignment_scale(net, 0.5):
        with parallel.no_sync():
            backward(parallel, x[:2], labels[:2], seed, factor=0.5)
        backward(parallel, x[2:], labels[2:], seed, factor=0.5)
    accumulated = learned(net)

    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for step in range(3):
        opt.zero_grad()
        backward(parallel, x, labels, seed + 2 * step)
        opt.step()
    return {"gradients": gradients, "accumulated": accumulated, "weights": net.state_dict()}


def work(rank: int) -> dict[str, dict[str, Any]]:
    """One process: all rules, one after another."""
    return {name: seen(name, rank) for name in CASES}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    return results(work, tmp_path_factory.mktemp("distributed"), WORLD)


def exactly(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_all_processes_hold_the_same_gradients_and_stay_together(ranks, name):
    first, second = (of_rank[name] for of_rank in ranks)
    exactly(first, second)  # gradients, accumulated gradients, and weights after steps
    before = network(name)
    learning = {k for k, p in before.named_parameters() if p.requires_grad}
    assert set(first["gradients"]) == set(first["accumulated"]) == learning
    moved = {k for k, v in before.state_dict().items() if not torch.equal(v, first["weights"][k])}
    of_a_filter = ("rule_memory", "variance", "drift", "gain", "power", "innovation")
    assert moved - {k for k in moved if k.endswith(of_a_filter)} == learning


@pytest.mark.parametrize("name", MEANS)
def test_two_processes_have_the_gradients_of_one_on_the_joined_batch(ranks, name):
    net = network(name)
    backward(net, *batch(ROWS))
    torch.testing.assert_close(ranks[0][name]["gradients"], learned(net), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", NOISY)
def test_the_gradient_of_two_processes_is_the_mean_over_their_draws(ranks, name):
    x, labels = batch(ROWS)
    alone = []
    for rank in range(WORLD):
        net = network(name)
        backward(net, x.chunk(WORLD)[rank], labels.chunk(WORLD)[rank], seed=rank)
        alone.append(learned(net))
    mean = {key: (alone[0][key] + alone[1][key]) / 2 for key in alone[0]}
    drawn = "0.correction" if "0.correction" in mean else "0.backward_weight"
    assert not torch.allclose(alone[0][drawn], alone[1][drawn])
    torch.testing.assert_close(ranks[0][name]["gradients"], mean, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", [n for n in MEANS if n != NOW_AND_THEN])
def test_gradients_accumulated_without_synchronisation_are_those_of_the_joined_batch(ranks, name):
    """Two micro-batches on each of two processes, the alignment and the loss scaled by 1/2."""
    net = network(name)
    backward(net, *batch(ROWS))
    torch.testing.assert_close(ranks[0][name]["accumulated"], learned(net), rtol=1e-10, atol=1e-13)
