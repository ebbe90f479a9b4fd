"""The cost of a step, against the arithmetic on paper."""

from __future__ import annotations

import copy

import pytest
import torch

import backroads as br
from backroads.feedback.rules.mirrored_kolen_pollack import WATCHED
from backroads.metrics.cost import cost

N, I, M, O = 16, 6, 5, 3  # noqa: E741 - the letters of the field

RULES = [
    "backprop",
    "feedback_alignment",
    "sign_symmetry",
    "symmetric_alignment",
    "kolen_pollack",
    "weight_mirror",
    "information_alignment",
    "activation_alignment",
]


def extra(rule: str, inputs: int, outputs: int) -> int:
    """Multiplications of the data terms of a Linear on N examples, in the cheaper of their forms."""
    product = N * inputs * outputs  # of a projection, a pullback or an outer product
    of_x = N * inputs**2 + outputs * inputs**2  # M[x x^T], and a matrix times it
    of_y = N * outputs**2 + outputs**2 * inputs
    return {
        "weight_mirror": product,  # y is kept: y x^T
        "information_alignment": min(2 * product, product + of_y),  # r = B^T y and y (r - x)^T, or y x^T and (y y^T) B
        "activation_alignment": min(2 * product, of_x),  # v = (B - W) x and v x^T, or (B - W) (x x^T)
    }.get(rule, 0)


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(I, M), torch.nn.ReLU(), torch.nn.Linear(M, O))


@pytest.mark.parametrize("rule", RULES)
def test_flops_are_those_on_paper(rule: str) -> None:
    made = br.get_rule(rule)
    if isinstance(made, br.Alignment):  # without operations on the activities: some need a y of their own
        made = br.Alignment(**made.coefficients, tie_grad=made.tie_grad)
    first, second = 2 * N * I * M, 2 * N * M * O
    counted = cost(net(), made, (I,), N)
    assert counted.forward_flops == first + second
    # The first layer takes no error back.
    assert counted.backward_flops == first + 2 * second + 2 * (extra(rule, I, M) + extra(rule, M, O))


def test_memory_is_that_on_paper() -> None:
    weights, biases = I * M + M * O, M + O
    plain = cost(net(), None, (I,), N)
    assert plain.parameters == weights + biases
    assert plain.weight_bytes == plain.gradient_bytes == 4 * (weights + biases)
    assert plain.activation_bytes == 4 * N * (I + M)  # the input and what the ReLU keeps, which the next layer shares
    watched = min(WATCHED, M) * I + min(WATCHED, O) * M
    for rule, held, learned in (
        ("feedback_alignment", weights, 0),
        ("symmetric_alignment", weights, weights),
        ("sign_symmetry", 0, 0),
        ("product_feedback_alignment", weights + M * M + O * O, weights),  # R as W, Q as W W^T
        ("mirrored_kolen_pollack", 2 * weights + watched + 2 * 4, 2 * weights),  # B, C and what the filter keeps
    ):
        counted = cost(net(), rule, (I,), N)
        assert counted.backward_parameters == held
        assert counted.weight_bytes - plain.weight_bytes == 4 * held
        assert counted.gradient_bytes - plain.gradient_bytes == 4 * learned
    mirror = cost(net(), br.Alignment(amp=0.1, decay=0.1), (I,), N)
    assert mirror.activation_bytes == plain.activation_bytes + 4 * N * (M + O)  # y


def test_the_model_is_left_as_it_was() -> None:
    model = net()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    cost(model, "activation_alignment", (I,), N)
    assert type(model[0]) is torch.nn.Linear
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_convolutions_and_attention_are_counted() -> None:
    conv = cost(torch.nn.Conv2d(2, 4, 3, stride=2, groups=2), None, (2, 9, 9), N)
    assert conv.forward_flops == 2 * N * 4 * 4 * (4 * 1 * 9)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    plain, ours = cost(layer, None, (5, 8), N), cost(layer, "symmetric_alignment", (5, 8), N)
    assert ours.flops == plain.flops
