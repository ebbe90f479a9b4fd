"""A layer that is used several times in a step, and gradients accumulated over parts of a batch: what B is taught."""

from __future__ import annotations

import pytest
import torch
from problems import RULES, batch, small_network
from torch import Tensor

import backroads as br

UNTIED = [
    name
    for name, rule in RULES.items()
    if rule.learns and not rule.broadcasts and rule.averages("backward_weight") and isinstance(rule, br.Alignment)
]


def square(rule: br.FeedbackRule | str) -> br.nn.Linear:
    torch.manual_seed(0)
    return br.nn.Linear(6, 6, rule=rule, dtype=torch.float64)


def unrolled(layer: torch.nn.Module, uses: int, x: Tensor) -> Tensor:
    """The loss of a recurrent pass: h <- tanh(W h + x), ``uses`` times."""
    h = x
    for _ in range(uses):
        h = torch.tanh(layer(h) + x)
    return h.square().sum() / len(x)


@pytest.mark.parametrize("uses", [1, 2, 3, 7, 20])
def test_symmetric_alignment_at_its_default_is_exact_for_any_number_of_uses(uses):
    """After a step of rate 1, B is the W before the step, as for a layer that is used once."""
    x = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    layer = square("symmetric_alignment")
    opt = torch.optim.SGD([layer.backward_weight], lr=1.0)
    for _ in range(3):
        opt.zero_grad()
        unrolled(layer, uses, x).backward()
        opt.step()
        torch.testing.assert_close(layer.backward_weight, layer.weight, rtol=0, atol=1e-14)
        with torch.no_grad():
            layer.weight.add_(torch.randn_like(layer.weight))


@pytest.mark.parametrize("uses", [2, 7, 20])
@pytest.mark.parametrize("name", UNTIED)
def test_the_gradient_of_B_is_the_mean_of_those_of_its_uses(name, uses):
    """Each use alone, on the input it got, against all of them in one graph."""
    x = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    layer = square(RULES[name])
    inputs: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    unrolled(layer, uses, x).backward()
    hook.remove()
    mean, alone = layer.backward_weight.grad.clone(), []
    for h in inputs:
        layer.zero_grad()
        layer(h.clone().requires_grad_()).sum().backward()
        alone.append(layer.backward_weight.grad.clone())
    # W is one tensor for all of them, so that only B's gradient is compared.
    torch.testing.assert_close(mean, torch.stack(alone).mean(0), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("name", UNTIED)
def test_accumulated_parts_teach_B_their_mean_without_a_word_to_the_library(name, parts):
    nets = [small_network(RULES[name]) for _ in range(2)]
    batches = [batch(seed=seed) for seed in range(parts)]
    for x, y in batches:
        (torch.nn.functional.cross_entropy(nets[0](x), y) / parts).backward()
    with br.alignment_scale(nets[1], 1 / parts):
        for x, y in batches:
            (torch.nn.functional.cross_entropy(nets[1](x), y) / parts).backward()
    for (key, p), (_, q) in zip(nets[0].named_parameters(), nets[1].named_parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_step_of_the_optimiser_begins_a_new_mean(set_to_none):
    """Also where gradients are set to zero, and not to None."""
    net = small_network("symmetric_alignment")
    opt = torch.optim.SGD(br.param_groups(net, lr=0.05, momentum=0.0))
    for seed in range(3):
        opt.zero_grad(set_to_none=set_to_none)
        before = {name: layer.weight.detach().clone() for name, layer in br.aligned_layers(net)}
        for part in range(2):
            x, y = batch(seed=10 * seed + part)
            torch.nn.functional.cross_entropy(net(x), y).backward()
        opt.step()
        for name, layer in br.aligned_layers(net):
            torch.testing.assert_close(layer.backward_weight, before[name], rtol=0, atol=1e-13)


@pytest.mark.parametrize("parts", [1, 4])
def test_a_loop_that_gives_its_optimiser_a_closure_teaches_B_the_W_of_the_step_before(parts):
    """Lightning's order, accumulate_grad_batches being ``parts``: forward pass, zeros at the first part, backward pass;
    all of the last part within ``step``. Nothing in it knows of B.
    """
    net = small_network("symmetric_alignment")
    opt = torch.optim.SGD(br.param_groups(net, lr=0.05, momentum=0.0))
    for number in range(3 * parts):

        def closure(number=number):
            x, y = batch(seed=number)
            loss = torch.nn.functional.cross_entropy(net(x), y) / parts
            if number % parts == 0:
                opt.zero_grad()
            loss.backward()
            return loss

        if (number + 1) % parts:
            closure()
            continue
        before = {name: layer.weight.detach().clone() for name, layer in br.aligned_layers(net)}
        opt.step(closure)
        for name, layer in br.aligned_layers(net):
            torch.testing.assert_close(layer.backward_weight, before[name], rtol=0, atol=1e-13)


def test_two_graphs_before_their_backward_passes_share_a_step():
    net = small_network("symmetric_alignment")
    losses = [torch.nn.functional.cross_entropy(net(x), y) for x, y in (batch(seed=1), batch(seed=2))]
    for loss in losses:
        loss.backward()
    for _, layer in br.aligned_layers(net):
        expected = layer.backward_weight - layer.weight
        torch.testing.assert_close(layer.backward_weight.grad, expected, rtol=0, atol=1e-13)


def test_a_pass_that_nothing_goes_back_through_is_no_use():
    net, other = small_network("symmetric_alignment"), small_network("symmetric_alignment")
    x, y = batch()
    with torch.no_grad():
        net(x)
    net.eval()
    torch.nn.functional.cross_entropy(net(x), y)
    net.train()
    net(x)  # its graph is gone at once
    for module in (net, other):
        torch.nn.functional.cross_entropy(module(x), y).backward()
    for (_, a), (_, b) in zip(br.aligned_layers(net), br.aligned_layers(other), strict=True):
        assert torch.equal(a.backward_weight.grad, b.backward_weight.grad)


@pytest.mark.parametrize("name", UNTIED)
def test_in_evaluation_mode_b_is_taught_what_it_is_taught_in_training(name):
    """Dropout and batch norm stand still in many a fine-tuning: uses and parts are means there, too."""
    x = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    layers = [square(RULES[name]), square(RULES[name]).eval()]
    for layer in layers:
        torch.manual_seed(2)
        for _ in range(2):
            unrolled(layer, 3, x).backward()
    torch.testing.assert_close(layers[1].backward_weight.grad, layers[0].backward_weight.grad, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    "rule",
    [
        br.rules.weight_mirror(cadence=br.Cadence(every=3)),
        br.rules.symmetric_alignment(view=br.WeightEstimate(delay_steps=2)),
    ],
)
def test_what_counts_passes_rests_in_evaluation_mode(rule):
    layer = square(rule).eval()
    x = torch.randn(5, 6, dtype=torch.float64)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert layer.backward_weight.grad is None


def test_the_noise_of_the_mirrored_rule_rests_in_evaluation_mode():
    """B gets the increments of W all the same; what the filter believes stays as it is."""
    net = small_network("mirrored_kolen_pollack")
    x, y = batch()
    torch.nn.functional.cross_entropy(net(x), y).backward()
    net.zero_grad()
    before = {name: value.clone() for name, value in net.eval().state_dict().items()}
    torch.nn.functional.cross_entropy(net(x), y).backward()
    for name, layer in br.aligned_layers(net):
        torch.testing.assert_close(layer.backward_weight.grad, layer.weight.grad, msg=name)
        assert layer.correction.grad is None
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("uses", range(1, 21))
@pytest.mark.parametrize("name", [name for name in br.list_rules() if br.get_rule(name).for_network(3).learns])
@pytest.mark.slow
def test_no_rule_explodes_in_a_layer_that_is_used_often(name, uses):
    """W stands still, so that what moves B is the rule alone. (Their sum made |B| 3,000 times |W| from 7 uses on.)"""
    torch.manual_seed(uses)
    cell = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh())
    net = br.convert(Unrolled(cell, uses), br.get_rule(name))
    groups = br.param_groups(net, lr=1e-9, momentum=0.9)
    opt = torch.optim.SGD([group for group in groups if group["name"] in ("tied", "taught")])
    x, y = torch.randn(16, 6), torch.randint(3, (16,))
    layers = [layer for _, layer in br.aligned_layers(net) if layer.backward_weight is not None]
    start = [float(layer.backward_weight.detach().norm()) for layer in layers]
    for _ in range(60):
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        opt.step()
    for layer, norm in zip(layers, start, strict=True):
        assert float(layer.backward_weight.detach().norm()) <= 20 * max(norm, float(layer.weight.detach().norm()))


class Unrolled(torch.nn.Module):
    """h <- cell(h) + x, ``uses`` times, then a read-out to 3 classes. (N, 6) -> (N, 3)."""

    def __init__(self, cell: torch.nn.Module, uses: int) -> None:
        super().__init__()
        self.cell, self.uses, self.readout = cell, uses, torch.nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for _ in range(self.uses):
            h = self.cell(h) + x
        return self.readout(h)


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("name", UNTIED)
def test_gradients_of_the_input_alone_are_no_uses(name, set_to_none):
    """As of adversarial examples: torch.autograd.grad before each part of a batch brings no gradient to B."""
    nets = [small_network(RULES[name]) for _ in range(2)]
    for step in range(2):
        for net in nets:
            net.zero_grad(set_to_none=set_to_none)
        for part in range(2):
            x, y = batch(seed=2 * step + part)
            loss = torch.nn.functional.cross_entropy(nets[1](x.requires_grad_()), y)
            torch.autograd.grad(loss, x)
            for net in nets:
                torch.nn.functional.cross_entropy(net(x.detach()), y).backward()
        for (key, p), (_, q) in zip(nets[0].named_parameters(), nets[1].named_parameters(), strict=True):
            torch.testing.assert_close(
                p.grad, q.grad, rtol=1e-12, atol=1e-14, msg=lambda text, key=key: f"{key}: {text}"
            )
