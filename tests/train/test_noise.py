"""Noisy updates: weight += lr epsilon after each step of any optimiser."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import small_network
from torch import Tensor

import backroads as br
from backroads.errors import ConfigError, StateError
from backroads.methods.feedback import Feedback
from backroads.train.optimizers import Optimizers
from backroads.train.settings import resolve

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "sgd, fused": lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}


def weights(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[torch.nn.Parameter]:
    made = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
    for p in made:
        p.grad = torch.zeros_like(p)
    return made


def moved(make: Callable[..., Any], steps: int = 3, **options: Any) -> list[Tensor]:
    """Weights after steps with gradients of 0 and, with ``std``, noise."""
    params = weights((40, 50), (7,))
    optimizer = make(params)
    if options:
        br.noisy(optimizer, **options)
    for _ in range(steps):
        optimizer.step()
    return [p.detach() for p in params]


# --- what is added ---


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_noise_comes_on_top_of_any_optimisers_step(name: str) -> None:
    """With weights that the gradient does not read, a noisy step and a plain one differ by the noise alone."""
    params, others = (weights((40, 50), (7,)) for _ in range(2))
    noisy, plain = OPTIMIZERS[name](params), OPTIMIZERS[name](others)
    assert br.noisy(noisy, 0.5) is noisy
    for p, q in zip(params, others, strict=True):
        p.grad = q.grad = torch.ones_like(p)
    if name == "adamw":
        for optimizer in (noisy, plain):
            optimizer.param_groups[0]["weight_decay"] = 0.0
    noisy.step()
    plain.step()
    generator = torch.Generator().manual_seed(0)
    epsilon = 0.5 * torch.randn(2007, dtype=torch.float64, generator=generator)
    for p, q, e in zip(params, others, epsilon.split([2000, 7]), strict=True):
        torch.testing.assert_close(p - q, 0.1 * e.view(p.shape), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("distribution", "kurtosis"), [("normal", 3.0), ("uniform", 1.8)])
def test_the_noise_has_its_variance_times_the_rate_squared(distribution: str, kurtosis: float) -> None:
    (p,) = weights((400, 500))
    optimizer = br.noisy(torch.optim.SGD([p], lr=0.25), 2.0, distribution)
    optimizer.step()
    x = p.detach() / 0.25
    assert abs(x.mean().item()) < 0.02
    assert x.std().item() == pytest.approx(2.0, rel=0.01)
    assert (x**4).mean().item() / 16 == pytest.approx(kurtosis, rel=0.03)


def test_each_group_has_its_own_rate_and_dtype_and_the_rate_of_the_moment() -> None:
    a, b, c = weights((5000,)), weights((5000,)), weights((5000,), dtype=torch.float32)
    optimizer = br.noisy(torch.optim.SGD([{"params": a, "lr": 1.0}, {"params": b + c, "lr": 0.0}], lr=0.1), 1.0)
    optimizer.step()
    assert a[0].std().item() == pytest.approx(1.0, rel=0.05)
    assert not b[0].any()
    assert not c[0].any()
    optimizer.param_groups[1]["lr"] = 3.0
    optimizer.step()
    for p in (b[0], c[0]):
        assert p.std().item() == pytest.approx(3.0, rel=0.05)


def test_no_noise_is_the_optimiser_as_it_was() -> None:
    assert not any(p.any() for p in moved(OPTIMIZERS["sgd"], std=0.0))


@pytest.mark.parametrize("which", ["all", "forward", "backward"])
def test_the_noise_falls_on_the_weights_that_are_meant(which: Any) -> None:
    net = small_network("symmetric_alignment")
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    br.noisy(torch.optim.SGD(net.parameters(), lr=1.0), 1.0, which=which, model=net).step()
    changed = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    backward = {name for name in before if name.endswith("backward_weight")}
    assert changed == {"all": set(before), "forward": set(before) - backward, "backward": backward}[which]


# --- seeds and states ---


def test_the_same_seed_gives_the_same_noise_and_no_other_draw_matters() -> None:
    first = moved(OPTIMIZERS["sgd"], std=1.0, seed=3)
    torch.manual_seed(99)
    torch.testing.assert_close(moved(OPTIMIZERS["sgd"], std=1.0, seed=3), first, rtol=0, atol=0)
    assert not torch.equal(moved(OPTIMIZERS["sgd"], std=1.0, seed=4)[0], first[0])
    state = torch.get_rng_state()
    moved(OPTIMIZERS["sgd"], std=1.0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_saved_optimiser_goes_on_with_the_noise_it_would_have_had(name: str) -> None:
    params = weights((4, 3))
    optimizer = br.noisy(OPTIMIZERS[name](params), 1.0)
    for _ in range(3):
        optimizer.step()
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    others = copy.deepcopy(params)
    for p, q in zip(params, others, strict=True):
        q.grad = torch.zeros_like(p)
    again = br.noisy(OPTIMIZERS[name](others), 1.0, seed=7)
    again.load_state_dict(state)
    for _ in range(3):
        optimizer.step()
        again.step()
    torch.testing.assert_close(others, params, rtol=0, atol=0)


def test_the_state_of_a_training_without_noise_loads_and_the_noise_begins() -> None:
    (p,), (q,) = weights((4,)), weights((4,))
    plain, noisy = torch.optim.SGD([p], lr=1.0), br.noisy(torch.optim.SGD([q], lr=1.0), 1.0)
    noisy.step()
    first = q.detach().clone()
    noisy.load_state_dict(plain.state_dict())
    noisy.step()
    torch.testing.assert_close(q.detach(), 2 * first, rtol=0, atol=0)
    plain.load_state_dict(noisy.state_dict())  # and the other way round


def test_noise_of_another_device_is_refused_and_nothing_is_loaded() -> None:
    (p,) = weights((4,))
    optimizer = br.noisy(torch.optim.SGD([p], lr=1.0), 1.0)
    state = optimizer.state_dict()
    state["update_noise"] = {"cuda": torch.zeros(16, dtype=torch.uint8)}
    state["param_groups"][0]["lr"] = 5.0
    with pytest.raises(StateError, match="update noise drawn on cuda"):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_a_state_that_torch_refuses_leaves_the_noise_where_it_was() -> None:
    (p,), (q,) = weights((4,)), weights((4,))
    optimizer, twin = (br.noisy(torch.optim.SGD([of], lr=1.0), 1.0) for of in (p, q))
    with pytest.raises(ValueError, match="parameter group"):
        optimizer.load_state_dict(br.noisy(torch.optim.SGD(weights((4,), (3,)), lr=1.0), 1.0, seed=5).state_dict())
    optimizer.step()
    twin.step()
    torch.testing.assert_close(p, q, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"std": -1.0}, "std must be a finite number"),
        ({"std": float("nan")}, "std must be"),
        ({"std": "much"}, "std must be"),
        ({"std": 1.0, "distribution": "gauss"}, "unknown distribution 'gauss'"),
        ({"std": 1.0, "which": "foreward"}, "Did you mean 'forward'"),
        ({"std": 1.0, "which": "backward"}, "needs model="),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        br.noisy(torch.optim.SGD(weights((2,)), lr=1.0), **options)


def test_an_optimiser_is_made_noisy_once() -> None:
    optimizer = br.noisy(torch.optim.SGD(weights((2,)), lr=1.0), 1.0)
    with pytest.raises(ConfigError, match="noisy already"):
        br.noisy(optimizer, 1.0)


# --- in the trainer ---


@pytest.mark.parametrize("on", ["all", "forward", "backward"])
def test_the_trainer_puts_the_noise_where_its_settings_say(on: str) -> None:
    net = small_network("symmetric_alignment", torch.float32)
    config = resolve({"update_noise": 0.5, "update_noise_on": on, "weight_decay": 0.0, "momentum": 0.0})
    optimizers = Optimizers(net, config, 10, Feedback().parameter_groups(net))
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    rates = dict(zip(("forward", "backward"), optimizers.set_rates(0), strict=True))
    optimizers.forward.step()
    optimizers.backward.step()
    for name, p in net.named_parameters():
        own = "backward" if name.endswith("backward_weight") else "forward"
        change = (p - before[name]).detach()
        assert bool(change.any()) == (on in ("all", own))
        if change.any() and p.numel() > 100:
            assert change.std().item() == pytest.approx(0.5 * rates[own], rel=0.3)


@pytest.mark.parametrize("rule", ["symmetric_alignment", "kolen_pollack", "mirrored_kolen_pollack"])
def test_W_and_B_get_the_same_noise_where_the_rate_is_that_of_W(rule: str) -> None:
    """0.5 times the rate of W, whatever B's own is; a correction, which moves into B, gets none."""
    net = small_network(rule, torch.float32)
    config = resolve({"update_noise": 0.5, "update_noise_rate": "forward", "weight_decay": 0.0, "momentum": 0.0})
    optimizers = Optimizers(net, config, 10, Feedback().parameter_groups(net))
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    rate, _ = optimizers.set_rates(0)
    for optimizer in filter(None, (optimizers.forward, optimizers.backward)):
        optimizer.step()
    for name, p in net.named_parameters():
        change = (p - before[name]).detach()
        assert bool(change.any()) == (not name.endswith("correction"))
        if change.any() and p.numel() > 100:
            assert change.std().item() == pytest.approx(0.5 * rate, rel=0.3)


def test_noise_on_both_is_not_the_same_noise() -> None:
    """W and B of one layer are as large and move by noise alone: with the draws of one they would move alike."""
    layer = br.nn.Linear(30, 20, bias=False, rule="symmetric_alignment")
    settings = {"update_noise": 1.0, "weight_decay": 0.0, "momentum": 0.0, "schedule": "constant"}
    optimizers = Optimizers(layer, resolve(settings), 10, Feedback().parameter_groups(layer))
    W, B = layer.weight, layer.backward_weight
    assert B is not None
    assert optimizers.backward is not None
    rates = optimizers.set_rates(0)
    moves = []
    for p, optimizer, rate in zip((W, B), (optimizers.forward, optimizers.backward), rates, strict=True):
        before, p.grad = p.detach().clone(), torch.zeros_like(p)
        optimizer.step()
        moves.append((p.detach() - before).flatten() / rate)
    # Independent draws: the correlation of 600 pairs has a standard deviation of 0.04.
    assert abs(float(torch.corrcoef(torch.stack(moves))[0, 1])) < 0.2
