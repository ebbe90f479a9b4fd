"""Weight estimation under bad conditions: what self sees of W is late, noisy, quantised and sparse."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from problems import PROBLEMS, agree, batch, small_network
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import backroads as br
from backroads.errors import RuleError, StateError
from backroads.feedback.conversion.groups import local_gradients
from backroads.feedback.nn import AlignedLayer

Estimate = br.WeightEstimate


def rule(decay: float = 0.25, self_: float = 0.25, **fields: Any) -> br.Alignment:
    return br.rules.symmetric_alignment(decay, self_, view=Estimate(**fields))


def gradient(layer: AlignedLayer, x: Tensor) -> Tensor:
    layer.zero_grad()
    layer(x).sum().backward()
    return layer.backward_weight.grad.clone()


def linear(rule: br.FeedbackRule, I: int = 40, O: int = 30) -> tuple[br.nn.Linear, Tensor]:  # noqa: E741
    torch.manual_seed(0)
    return br.nn.Linear(I, O, rule=rule, dtype=torch.float64), torch.ones(2, I, dtype=torch.float64)


# --- exact ---


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_perfect_estimate_is_w(problem: str) -> None:
    p = PROBLEMS[problem]
    agree(
        gradient(p.layer(rule()), p.input()),
        gradient(p.layer(br.rules.symmetric_alignment(0.25, 0.25)), p.input()),
    )


def test_only_decay_and_self_see_the_estimate() -> None:
    """amp, null, sparse and the task's gradient see W: under an estimate that loses it they are what they were."""
    p = PROBLEMS["conv2d"]
    data = {"amp": 0.3, "null": 0.1, "sparse": 0.4, "tie_grad": True}
    torch.manual_seed(0)
    with_both = gradient(p.layer(br.Alignment(0.2, self_=0.5, view=Estimate(noise_std=3.0), **data)), p.input())
    torch.manual_seed(0)
    elementwise = gradient(p.layer(br.Alignment(0.2, self_=0.5, view=Estimate(noise_std=3.0))), p.input())
    agree(with_both, elementwise + gradient(p.layer(br.Alignment(**data)), p.input()), 1e-10)
    centred = {"amp": 0.3, "operations": br.Operations(center_forward_output=True)}
    torch.manual_seed(0)
    by_differentiation = gradient(
        p.layer(br.Alignment(0.2, self_=0.5, view=Estimate(noise_std=3.0), **centred)), p.input()
    )
    agree(by_differentiation, elementwise + gradient(p.layer(br.Alignment(**centred)), p.input()), 1e-10)


@pytest.mark.parametrize("delay", [1, 2, 5])
def test_a_late_estimate_is_the_w_of_so_many_passes_before(delay: int) -> None:
    layer, x = linear(rule(1, 1, delay_steps=delay))
    history = [layer.weight.detach().clone()] * delay
    for _ in range(2 * delay + 3):
        history.append(layer.weight.detach().clone())
        agree(gradient(layer, x), (layer.backward_weight - history[-1 - delay]).detach())
        with torch.no_grad():
            layer.weight.add_(torch.randn_like(layer.weight))


def test_passes_that_only_look_do_not_count_for_the_delay() -> None:
    layer, x = linear(rule(1, 1, delay_steps=1))
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.add_(1)
        layer(x)
    layer.eval()
    layer(x)
    layer.train()
    agree(gradient(layer, x), (layer.backward_weight - start).detach())


@pytest.mark.parametrize("bits", [1, 2, 5, 12])
def test_bits_round_to_so_many_levels_within_half_a_step(bits: int) -> None:
    W = torch.randn(60, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    V = Estimate(bits=bits).seen(W)
    step = 2 * W.abs().max() / 2**bits
    assert len(V.unique()) <= 2**bits
    assert bool(((V - W).abs() <= step / 2 * (1 + 1e-12)).all())
    if bits == 1:
        agree(V.sign(), W.sign())
        assert len(V.unique()) == 2
    agree(Estimate(bits=bits).seen(torch.zeros(3, 4)), torch.zeros(3, 4))


# --- drawn ---


def test_noise_has_its_standard_deviation_in_units_of_w() -> None:
    for scale in (1.0, 1e-3):
        W = scale * torch.ones(300, 400, dtype=torch.float64)
        torch.manual_seed(0)
        error = Estimate(noise_std=0.5).seen(W) - W
        assert error.std().item() == pytest.approx(0.5 * scale, rel=0.01)
        assert abs(error.mean().item()) < 0.01 * scale


@pytest.mark.parametrize("keep", [0.2, 0.7])
def test_a_synapse_whose_estimate_does_not_arrive_stands_still(keep: float) -> None:
    layer, x = linear(rule(keep_probability=keep), 200, 100)
    full = 0.25 * (layer.backward_weight - layer.weight).detach()
    found = gradient(layer, x)
    arrived = found != 0
    agree(found, torch.where(arrived, full, torch.zeros_like(full)))
    # 20,000 draws: a standard error of at most 0.0035.
    assert arrived.double().mean().item() == pytest.approx(keep, abs=0.018)
    assert not torch.equal(gradient(layer, x) != 0, arrived)


def test_sparse_in_time_all_of_a_layer_arrives_or_nothing() -> None:
    layer, x = linear(rule(keep_probability=0.3, sparse_in="steps"), 4, 3)
    full = 0.25 * (layer.backward_weight - layer.weight).detach()
    arrived = 0
    for _ in range(400):
        found = gradient(layer, x)
        if found.any():
            agree(found, full)
            arrived += 1
    assert arrived / 400 == pytest.approx(0.3, abs=0.12)  # 5 standard errors


@pytest.mark.parametrize("sparse_in", ["synapses", "steps"])
def test_a_sparse_estimate_still_brings_b_to_w(sparse_in: str) -> None:
    layer, x = linear(rule(0.5, 0.5, keep_probability=0.2, sparse_in=sparse_in))
    optimizer = torch.optim.SGD([layer.backward_weight], lr=1.0)
    for _ in range(400):
        optimizer.zero_grad()
        layer(x).sum().backward()
        optimizer.step()
    agree(layer.backward_weight, layer.weight, 1e-6)


def test_b_averages_the_noise_of_its_estimates() -> None:
    """B <- B + r (W + s e - B): at rest B - W has the variance r / (2 - r) s^2, in units of the mean square of W."""
    layer, x = linear(rule(0.2, 0.2, noise_std=0.5), 100, 100)
    optimizer = torch.optim.SGD([layer.backward_weight], lr=1.0)
    for _ in range(100):
        optimizer.zero_grad()
        layer(x).sum().backward()
        optimizer.step()
    ratio = (layer.backward_weight - layer.weight).square().mean() / layer.weight.square().mean()
    assert ratio.item() == pytest.approx(0.2 / 1.8 * 0.25, rel=0.06)  # 10,000 entries: 4 standard errors


def test_checkpointing_neither_draws_twice_nor_waits_twice() -> None:
    bad = rule(noise_std=0.3, keep_probability=0.5, delay_steps=2, bits=4)
    x, found = batch()[0].requires_grad_(), []
    for repeats in (False, True):
        net = small_network(bad)
        net[3] = torch.nn.Identity()
        torch.manual_seed(0)
        for _ in range(3):
            net.zero_grad()
            y = checkpoint(net, x, use_reentrant=False) if repeats else net(x)
            y.sum().backward()
            with torch.no_grad():
                for p in br.forward_parameters(net):
                    p.mul_(1.1)
        found.append(({n: p.grad for n, p in net.named_parameters()}, net.state_dict()))
    agree(found[0], found[1])


# --- state ---


def test_a_late_estimate_goes_on_from_a_state_dict_as_if_it_had_not_stopped() -> None:
    def passes(net: torch.nn.Module, n: int) -> list[dict[str, Tensor]]:
        grads = []
        for _ in range(n):
            net.zero_grad()
            net(x).sum().backward()
            grads.append({n: p.grad.clone() for n, p in net.named_parameters()})
            with torch.no_grad():
                for p in br.forward_parameters(net):
                    p.mul_(1.1)
        return grads

    x = batch()[0]
    net = small_network(rule(delay_steps=3))
    passes(net, 4)
    other = small_network(rule(delay_steps=3), seed=1)
    other.load_state_dict(copy.deepcopy(net.state_dict()))
    assert "0.late_weights" in net.state_dict()
    agree(passes(other, 5), passes(net, 5), 0)


def test_plain_weights_load_and_the_late_copies_are_theirs() -> None:
    plain = br.revert(small_network("backprop", seed=3)).state_dict()
    net = small_network(rule(1, 1, delay_steps=2))
    with pytest.warns(UserWarning, match="drawn anew"):
        net.load_state_dict(plain)
    for _, layer in br.aligned_layers(net):
        agree(layer.late_weights, layer.weight.detach().expand(2, *layer.weight.shape), 0)


def test_a_state_of_another_delay_is_refused_and_nothing_is_loaded() -> None:
    net = small_network(rule(delay_steps=2))
    before = copy.deepcopy(net.state_dict())
    for other in (rule(delay_steps=3), rule()):
        with pytest.raises(StateError):
            net.load_state_dict(small_network(other, seed=1).state_dict())
        agree(net.state_dict(), before, 0)


def test_revert_leaves_no_copies_behind() -> None:
    net = small_network(rule(delay_steps=2))
    assert set(br.revert(net).state_dict()) == set(br.revert(small_network("backprop")).state_dict())


def test_attention_has_late_estimates_too() -> None:
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(6, 2, batch_first=True, dtype=torch.float64)
    br.convert(attention, rule(1, 1, delay_steps=1))
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    start = attention.in_proj_weight.detach()[:6].clone()
    for _ in range(2):
        attention.zero_grad()
        attention(x, x, x)[0].sum().backward()
        agree(attention.q.backward_weight.grad, (attention.q.backward_weight - start).detach())
        with torch.no_grad():
            attention.in_proj_weight.add_(1)


def test_the_delay_of_a_layer_cannot_change_but_the_rest_can() -> None:
    layer, _ = linear(rule(delay_steps=2))
    layer.rule = rule(delay_steps=2, noise_std=0.1)
    with pytest.raises(RuleError, match=r"delay_steps=2.*cannot change to.*which keeps other weights"):
        layer.rule = rule()


# --- with others ---


def test_random_estimates_are_averaged_between_processes_and_others_need_not_be() -> None:
    def ignored(of: br.FeedbackRule) -> int:
        return len(local_gradients(small_network(of)))

    assert ignored(rule(bits=3, delay_steps=1)) == 4
    assert ignored(rule(noise_std=0.1)) == ignored(rule(keep_probability=0.5)) == 0


def test_the_trainer_gives_an_estimate_no_momentum() -> None:
    assert br.rules.symmetric_alignment().optimiser("backward_weight", 0.9).momentum == 0.9
    assert rule(noise_std=0.1).optimiser("backward_weight", 0.9).momentum == 0.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"noise_std": -1}, "noise_std must be a finite number >= 0"),
        ({"noise_std": "much"}, "noise_std must be"),
        ({"keep_probability": 0}, "keep_probability must be > 0 and <= 1"),
        ({"keep_probability": 1.5}, "keep_probability must be > 0 and <= 1"),
        ({"delay_steps": -1}, "delay_steps must be a whole number"),
        ({"delay_steps": 1.0}, "delay_steps must be a whole number"),
        ({"bits": 0}, "bits must be a whole number from 1 to 16"),
        ({"bits": 64}, "bits must be a whole number from 1 to 16"),
        ({"bits": True}, "bits must be"),
        ({"sparse_in": "synapse"}, "Did you mean 'synapses'"),
    ],
    ids=str,
)
def test_estimates_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RuleError, match=message):
        Estimate(**fields)


def test_an_estimate_is_read_from_data_and_belongs_to_b_alone() -> None:
    read = br.get_rule("symmetric_alignment", view={"bits": 3, "delay_steps": 2})
    assert read == br.rules.symmetric_alignment(view=Estimate(bits=3, delay_steps=2))
    with pytest.raises(RuleError, match="view: unknown field 'bit'"):
        br.get_rule("symmetric_alignment", view={"bit": 3})
    with pytest.raises(RuleError, match="view must be"):
        br.Alignment(decay=1, self_=1, view=3)
    with pytest.raises(RuleError, match="with update_forward W sees itself"):
        br.Alignment(decay=1, self_=1, update_forward=True, view=Estimate())
