"""Optimiser groups: every rule's weights get the settings that the rule needs, under SGD and under AdamW."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import RULES, batch, small_network

import backroads as br
from backroads.errors import UsageError

OPTIMISERS: dict[str, Any] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
TIED = (
    "kolen_pollack",
    "mirrored_kolen_pollack",
    "all five, tied",
    "product_feedback_alignment",
    "direct_kolen_pollack",
)
every_optimiser = pytest.mark.parametrize("name", OPTIMISERS)


def train(model: torch.nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> None:
    x, y = batch()
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()


@every_optimiser
@pytest.mark.parametrize("rule", RULES)
def test_every_parameter_that_learns_is_in_one_group(rule: str, name: str) -> None:
    model = small_network(RULES[rule])
    groups = br.param_groups(model, 0.1, weight_decay=0.01, optimiser=name)
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    by_name = {group["name"]: group for group in groups}
    assert all(p.dim() > 1 for p in by_name["weights"]["params"])
    assert all(p.dim() == 1 for p in by_name["vectors"]["params"])
    assert (by_name["weights"]["weight_decay"], by_name["vectors"]["weight_decay"]) == (0.01, 0.0)
    assert ("tied" in by_name) == (rule in TIED)
    assert ("taught" in by_name) == (RULES[rule].learns and rule not in TIED)
    assert ("constant" in by_name) == (rule == "mirrored_kolen_pollack")
    train(model, OPTIMISERS[name](groups), 3)  # torch takes them as they are


@every_optimiser
@pytest.mark.parametrize("rule", ["symmetric_alignment", "kolen_pollack"])
def test_groups_of_a_model_whose_every_b_is_frozen_warn(rule: str, name: str) -> None:
    model = small_network(rule).requires_grad_(False)
    with pytest.warns(UserWarning, match="no backward weight learns.*before br.convert"):
        br.param_groups(model, 0.1, optimiser=name)
    next(iter(br.aligned_layers(model)))[1].backward_weight.requires_grad_(True)
    br.param_groups(model, 0.1, optimiser=name)  # one of them is enough: the others are frozen on purpose
    br.param_groups(small_network("feedback_alignment").requires_grad_(False), 0.1, optimiser=name)


@every_optimiser
def test_kolen_pollacks_difference_is_forgotten_by_weight_decay_alone(name: str) -> None:
    """B - W shrinks by the factor of the decay in each step, whatever the gradients were, under any optimiser."""
    model = small_network("kolen_pollack")
    before = [(layer.backward_weight - layer.weight).detach().clone() for _, layer in br.aligned_layers(model)]
    lr, decay, steps = 0.05, 0.2, 5
    options = {"momentum": 0.0} if name == "sgd" else {}
    groups = br.param_groups(model, lr, weight_decay=decay, optimiser=name, **options)
    train(model, OPTIMISERS[name](groups), steps)
    for (_, layer), start in zip(br.aligned_layers(model), before, strict=True):
        after = (layer.backward_weight - layer.weight).detach()
        torch.testing.assert_close(after, (1 - lr * decay) ** steps * start, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("rule", "name"),
    # Under Adam's steps, which are not linear in the gradient, R's are not Q^T times those of W.
    [("product_feedback_alignment", "sgd"), ("direct_kolen_pollack", "sgd"), ("direct_kolen_pollack", "adamw")],
)
def test_what_learns_with_w_forgets_its_difference_by_weight_decay_alone(rule: str, name: str) -> None:
    """R - Q^T W of a product, in every layer, and D - W of direct feedback, in the last, whose dD is dW."""
    model = small_network(rule)
    layers = [layer for _, layer in br.aligned_layers(model)]

    def differences() -> list[torch.Tensor]:
        if rule == "direct_kolen_pollack":
            return [(layers[-1].backward_weight - layers[-1].weight).detach()]
        return [
            (layer.learned_weight.flatten(1) - layer.fixed_weight[0].T @ layer.weight.flatten(1)).detach()
            for layer in layers
        ]

    before, lr, decay, steps = differences(), 0.05, 0.2, 5
    options = {"momentum": 0.0, "nesterov": False} if name == "sgd" else {}
    train(model, OPTIMISERS[name](br.param_groups(model, lr, weight_decay=decay, optimiser=name, **options)), steps)
    for after, start in zip(differences(), before, strict=True):
        torch.testing.assert_close(after, (1 - lr * decay) ** steps * start, rtol=1e-9, atol=1e-12)


def test_under_adamw_symmetric_alignment_takes_the_steps_of_sgd() -> None:
    rule = br.rules.symmetric_alignment(0.3, 0.3)
    model = small_network(rule)
    expected = copy.deepcopy(model)
    groups = br.param_groups(model, 1e-3, optimiser="adamw")
    (taught,) = (group for group in groups if group["name"] == "taught")
    rate = rule.optimiser("backward_weight", 0.9).rate
    adam = torch.optim.AdamW(groups)
    for _ in range(4):
        for (_, layer), (_, other) in zip(br.aligned_layers(model), br.aligned_layers(expected), strict=True):
            gradient = 0.3 * (other.backward_weight - layer.weight).detach()
            with torch.no_grad():
                other.backward_weight.sub_(rate * gradient)
        train(model, adam, 1)
    assert taught["params"]
    for (_, layer), (_, other) in zip(br.aligned_layers(model), br.aligned_layers(expected), strict=True):
        torch.testing.assert_close(layer.backward_weight, other.backward_weight, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("rule", "momentum"),
    [
        ("symmetric_alignment", 0.9),
        ("activation_alignment", 0.7),
        ("weight_mirror", 0.0),
        ("error_broadcast", 0.0),
        # An entry that gets no impulse any more goes m + m^2 + ... = m / (1 - m) times its last step further, which
        # ends at W and not past it up to m = 1/2.
        ("exact_probing", 0.5),
        ("error_correcting_mirror", 0.5),
        ("white_noise_mirror", 0.0),  # momentum would add up the noise of the estimate
    ],
)
def test_momentum_of_b_is_what_its_rule_stands(rule: str | br.FeedbackRule, momentum: float) -> None:
    (taught,) = (g for g in br.param_groups(small_network(rule), 0.1, 0.9) if g["name"] == "taught")
    assert (taught["lr"], taught["momentum"], taught["weight_decay"]) == (1.0, momentum, 0.0)


def test_a_plain_model_has_groups_too() -> None:
    groups = br.param_groups(torch.nn.Linear(3, 2), 0.1, momentum=0.0, weight_decay=0.1, decay_vectors=True)
    assert [(g["name"], len(g["params"]), g["nesterov"]) for g in groups] == [("weights", 2, False)]


def test_another_optimiser_is_refused() -> None:
    with pytest.raises(UsageError, match="expected optimiser 'sgd' or 'adamw', got 'lion'"):
        br.param_groups(torch.nn.Linear(3, 2), 0.1, optimiser="lion")
