"""Every optimiser that torch has, under every kind of rule: B gets what its rule needs, or is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import backroads as br
from backroads.errors import UsageError

X = torch.randn(64, 10, generator=torch.Generator().manual_seed(1))
Y = (X @ torch.randn(10, 3, generator=torch.Generator().manual_seed(2))).argmax(1)
STEPS = 200
# Class and arguments, rates of W that train the network below.
OPTIMISERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {"lr": 0.1}),
    "momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "Nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "Adam": (torch.optim.Adam, {"lr": 3e-3}),
    "AdamW": (torch.optim.AdamW, {"lr": 3e-3}),
    "NAdam": (torch.optim.NAdam, {"lr": 3e-3}),
    "RAdam": (torch.optim.RAdam, {"lr": 3e-3}),
    "Adamax": (torch.optim.Adamax, {"lr": 3e-3}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 1e-3}),
    "Adagrad": (torch.optim.Adagrad, {"lr": 0.03}),
    "Adadelta": (torch.optim.Adadelta, {"lr": 1.0}),
    "Adafactor": (torch.optim.Adafactor, {"lr": 1e-2}),
    "ASGD": (torch.optim.ASGD, {"lr": 0.1, "lambd": 0.0}),  # a decay of its own
    "Rprop": (torch.optim.Rprop, {"lr": 1e-3}),
}
if hasattr(torch.optim, "Muon"):  # from torch 2.9 on
    OPTIMISERS["Muon"] = (torch.optim.Muon, {"lr": 1e-2})
# One needs gradients that are sparse, the other the whole loss several times in a step and all parameters in one group.
OTHERS = {"Optimizer", "SparseAdam", "LBFGS"}
every_optimiser = pytest.mark.parametrize("name", OPTIMISERS)


def network(rule: str, bias: bool = True) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second, third = (torch.nn.Linear(i, o, bias=bias) for i, o in ((10, 20), (20, 20), (20, 3)))
        net = torch.nn.Sequential(first, torch.nn.Tanh(), second, torch.nn.Tanh(), third)
        return br.convert(net, rule, generator=0)


def made(name: str, rule: str, **more: Any) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    cls, options = OPTIMISERS[name]
    model = network(rule, bias=name != "Muon")  # which takes matrices alone
    return model, br.optimiser(model, cls, **options, **more)


def train(model: torch.nn.Module, optimiser: torch.optim.Optimizer, steps: int = STEPS) -> float:
    for _ in range(steps):
        optimiser.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        optimiser.step()
    return float(loss.detach())


def differences(model: torch.nn.Module) -> list[Tensor]:
    """B - W of the layers in which B is of the shape of W."""
    pairs = [(layer.backward_weight.detach(), layer.weight.detach()) for _, layer in br.aligned_layers(model)]
    return [B - W for B, W in pairs if B.shape == W.shape]


def test_the_table_has_all_optimisers_of_torch() -> None:
    known = {n for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, torch.optim.Optimizer)}
    assert known - OTHERS == {cls.__name__ for cls, _ in OPTIMISERS.values()}


# --- symmetric alignment ---


@every_optimiser
def test_b_of_symmetric_alignment_stays_within_a_degree_of_w(name: str) -> None:
    model, optimiser = made(name, "symmetric_alignment")
    first = train(model, optimiser, 20)
    assert max(br.metrics.weight_angles(model).values()) < 6  # W moves by more of its length at the start
    assert train(model, optimiser) < first
    assert max(br.metrics.weight_angles(model).values()) < 1


@pytest.mark.parametrize(
    ("cls", "kind", "lr"),
    [(torch.optim.SGD, "sgd", 0.1), (torch.optim.Adam, "adamw", 3e-3), (torch.optim.AdamW, "adamw", 3e-3)],
)
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_so_it_does_in_one_optimiser_with_w(cls: Any, kind: str, lr: float, decay: float) -> None:
    model = network("symmetric_alignment")
    train(model, cls(br.param_groups(model, lr, weight_decay=decay, optimiser=kind)))
    assert max(br.metrics.weight_angles(model).values()) < 1


# --- Kolen-Pollack ---


@every_optimiser
@pytest.mark.parametrize("rule", ["kolen_pollack", "direct_kolen_pollack"])
def test_kolen_pollacks_difference_stays_as_it_is_without_weight_decay(name: str, rule: str) -> None:
    """Equal gradients make equal steps. Under direct feedback D and W have the same in the last layer alone."""
    if name == "Adafactor":
        with pytest.raises(UsageError, match=r"Adafactor depend on the weight.*AdamW or SGD"):
            made(name, rule)
        return
    model, optimiser = made(name, rule)
    before, first = differences(model), train(model, optimiser, 1)
    assert train(model, optimiser) < first
    assert len(before) == {"kolen_pollack": 3, "direct_kolen_pollack": 1}[rule]
    largest = max(float(p.detach().abs().max()) for p in model.parameters())
    rounding = (STEPS + 1) * torch.finfo(torch.float32).eps * largest  # of W and of B, once each in a step
    torch.testing.assert_close(differences(model), before, rtol=0, atol=rounding)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_recommended_optimisers_make_it_fall_by_weight_decay_alone(name: str) -> None:
    model, optimiser = made(name, "kolen_pollack", weight_decay=0.1)
    before = differences(model)
    train(model, optimiser)
    factor = (1 - OPTIMISERS[name][1]["lr"] * 0.1) ** STEPS
    torch.testing.assert_close(differences(model), [d * factor for d in before], rtol=1e-3, atol=2e-5)


# --- all rules ---


@pytest.mark.parametrize("rule", br.list_rules())
@pytest.mark.parametrize("name", [name for name in ("Adam", "RMSprop", "Muon") if name in OPTIMISERS])
def test_what_a_rule_teaches_takes_the_step_of_sgd_and_the_rest_that_of_the_class(rule: str, name: str) -> None:
    """The first step: B moves by -rate g, without momentum; the others as in an optimiser of the class alone."""
    model, optimiser = made(name, rule)
    other = copy.deepcopy(model)
    for net in (model, other):
        torch.manual_seed(3)  # noise
        F.cross_entropy(net(X), Y).backward()
    of_taught = {id(p): g for g in optimiser.param_groups if g["name"] in ("taught", "constant") for p in g["params"]}
    cls, options = OPTIMISERS[name]
    before = [p.detach().clone() for p in model.parameters()]
    cls(
        [q for p, q in zip(model.parameters(), other.parameters(), strict=True) if id(p) not in of_taught],
        **options,
        weight_decay=0.0,
    ).step()
    optimiser.step()
    assert bool(of_taught) == any(
        not layer.rule.optimiser(key, 0.9).follows
        for _, layer in br.aligned_layers(model)
        for key, p in layer.state.items()
        if p.requires_grad
    )
    for p, q, start in zip(model.parameters(), other.parameters(), before, strict=True):
        group = of_taught.get(id(p))
        if group is not None and p.grad is not None:
            torch.testing.assert_close(p.detach(), start - group["lr"] * p.grad)
        else:
            assert torch.equal(p, q)


# --- one optimiser ---


def test_a_rule_without_taught_weights_has_the_optimiser_itself() -> None:
    _, optimiser = made("RMSprop", "kolen_pollack")
    assert type(optimiser) is torch.optim.RMSprop
    assert [g["name"] for g in optimiser.param_groups] == ["weights", "vectors", "tied"]


@pytest.mark.parametrize("how", ["state dict", "deepcopy"])
def test_a_saved_optimiser_goes_on_as_if_it_had_not_stopped(how: str) -> None:
    model, optimiser = made("RMSprop", "symmetric_alignment")
    train(model, optimiser, 5)
    if how == "deepcopy":
        again, other = copy.deepcopy((model, optimiser))
    else:
        again, other = made("RMSprop", "symmetric_alignment")
        again.load_state_dict(model.state_dict())
        other.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for part in ((model, optimiser), (again, other)):
        train(*part, 5)
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
    assert not {id(p) for p in model.parameters()} & {id(p) for g in other.param_groups for p in g["params"]}


def test_a_state_dict_of_another_model_changes_nothing() -> None:
    model, optimiser = made("RMSprop", "symmetric_alignment")
    train(model, optimiser, 2)
    before = copy.deepcopy(optimiser.state_dict())
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimiser.load_state_dict(made("RMSprop", "kolen_pollack")[1].state_dict() | {"param_groups": []})
    assert repr(optimiser.state_dict()) == repr(before)


def test_schedulers_closures_and_later_groups_reach_both_parts() -> None:
    model, optimiser = made("Adagrad", "symmetric_alignment")
    before = [g["lr"] for g in optimiser.param_groups]
    scheduler = torch.optim.lr_scheduler.StepLR(optimiser, 1, gamma=0.5)
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        optimiser.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        loss.backward()
        return loss

    weights = [p.detach().clone() for p in model.parameters()]
    assert optimiser.step(closure).requires_grad
    assert calls == 1
    assert all(not torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    scheduler.step()
    assert [g["lr"] for g in optimiser.param_groups] == [0.5 * lr for lr in before]
    late = torch.nn.Parameter(torch.ones(2))
    optimiser.add_param_group({"params": [late]})
    late.grad = torch.ones(2)
    optimiser.step()
    assert not torch.equal(late, torch.ones(2))
    optimiser.zero_grad()
    assert late.grad is None


def test_weight_decay_that_a_class_does_not_take_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Rprop takes no weight decay, got 0\.1"):
        made("Rprop", "symmetric_alignment", weight_decay=0.1)


# --- groups in another optimiser ---


@pytest.mark.parametrize("rule", ["symmetric_alignment", "mirrored_kolen_pollack"])
@pytest.mark.parametrize(
    ("cls", "kind", "advice"),
    [
        (torch.optim.Adam, "sgd", r"optimiser='adamw'\), br\.optimiser\(model, torch\.optim\.Adam, "),
        (torch.optim.RMSprop, "sgd", r"use br\.optimiser\(model, torch\.optim\.RMSprop, "),
        (torch.optim.RAdam, "adamw", r"use br\.optimiser\(model, torch\.optim\.RAdam, "),
        (torch.optim.SGD, "adamw", r"use br\.optimiser\(model, torch\.optim\.SGD, "),
    ],
    ids=["Adam", "RMSprop", "RAdam", "SGD"],
)
def test_groups_for_another_optimiser_are_refused_before_anything_moves(
    rule: str, cls: Any, kind: str, advice: str
) -> None:
    """B at rate 1 of Adam, or at 1e8 of any but Adam: it was trained without a word."""
    model = network(rule)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UsageError, match=f"{cls.__name__}: the settings of its group.*are for '{kind}'.*{advice}"):
        train(model, cls(br.param_groups(model, 1e-3, optimiser=kind)), 1)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])


def test_groups_without_taught_weights_go_into_any_optimiser() -> None:
    model = network("kolen_pollack")
    train(model, torch.optim.RMSprop(br.param_groups(model, 1e-3)), 1)


@pytest.mark.parametrize("made", ["param_groups", "fused", "optimiser"])
def test_the_first_step_of_what_a_rule_teaches_takes_no_momentum(made: str) -> None:
    """Symmetric alignment at rate 1: B is W after one step, then W of a step before and m of the step to it."""
    torch.manual_seed(0)
    layer = br.convert(torch.nn.Linear(4, 3, dtype=torch.float64), "symmetric_alignment")
    if made == "optimiser":
        opt = br.optimiser(layer, torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True)
    else:
        opt = torch.optim.SGD(br.param_groups(layer, lr=0.1, momentum=0.9), fused=made == "fused")
    W = [layer.weight.detach().clone()]
    for step in range(4):
        if step == 2:  # a state dict says that it has begun
            again = copy.deepcopy(opt.state_dict())
            opt.load_state_dict(again)
        opt.zero_grad()
        layer(torch.randn(5, 4, dtype=torch.float64)).square().sum().backward()
        opt.step()
        expected = W[-1] + 0.9 * (W[-1] - W[-2]) if step else W[-1]
        torch.testing.assert_close(layer.backward_weight.detach(), expected, rtol=1e-12, atol=1e-12)
        W.append(layer.weight.detach().clone())
    (taught,) = (group for group in opt.param_groups if group["name"] == "taught")
    assert (taught["momentum"], taught["nesterov"]) == (0.9, True)
