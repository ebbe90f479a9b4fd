"""What a layer computes, counted in operator calls: the arithmetic its rule needs, and no more."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch
from problems import OUTPUTS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import backroads as br

FORWARD, PULLBACK, OUTER = "project", "pullback", "weight gradient"
COPIES = (torch.ops.aten.clone.default, torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)

# What a rule's alignment computes beside the forward and backward pass of backpropagation.
EXTRA: dict[str, Counter[str]] = {
    "feedback_alignment": Counter(),
    "symmetric_alignment": Counter(),
    "kolen_pollack": Counter(),
    "sign_symmetry": Counter(),
    # these without operations on the activities
    "weight_mirror": Counter({OUTER: 1}),
    "information_alignment": Counter({PULLBACK: 1, OUTER: 1}),
    "activation_alignment": Counter({FORWARD: 1, OUTER: 1}),
}
every_rule = pytest.mark.parametrize("name", EXTRA)
inner_or_first = pytest.mark.parametrize("first", [False, True], ids=["inner layer", "first layer"])


class Calls(TorchDispatchMode):
    """Counts the calls that cost: linear maps, by the shape of what they make, and copies of weights."""

    def __init__(self, shapes: dict[tuple[int, ...], str], weight: tuple[int, ...]) -> None:
        super().__init__()
        self.shapes, self.weight = shapes, sorted(weight)
        self.maps: Counter[str] = Counter()
        self.kernels: Counter[str] = Counter()
        self.copies: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        aten = torch.ops.aten
        if func in (aten.mm.default, aten.addmm.default, aten.bmm.default):
            self.kernels["mm"] += 1
            self.maps[self.shapes.get(tuple(out.shape), f"mm to {tuple(out.shape)}")] += 1
        elif func is aten.convolution.default:
            self.kernels["convolution"] += 1
            self.maps[FORWARD] += 1
        elif func is aten.convolution_backward.default:
            self.kernels["convolution_backward"] += 1
            dx, dW, _ = args[-1]
            self.maps[PULLBACK] += dx
            self.maps[OUTER] += dW
        elif func in COPIES and sorted(args[0].shape) == self.weight:
            self.copies.append(func)
        return out


CASES = {
    "linear": (lambda **kw: torch.nn.Linear(5, 4, **kw), (3, 5)),  # few rows: second moments would cost more
    "conv2d": (lambda **kw: torch.nn.Conv2d(2, 3, 3, stride=2, **kw), (4, 2, 7, 5)),
}
every_case = pytest.mark.parametrize("case", CASES)


def counted(case: str, rule: br.FeedbackRule | None, first: bool, **kwargs: Any) -> tuple[Calls, Calls]:
    """Calls of a layer's forward and backward pass; without a rule, of torch's own layer."""
    make, shape = CASES[case]
    layer, x = make(**kwargs), torch.randn(shape, requires_grad=not first)
    shapes = {shape: PULLBACK, tuple(layer.weight.shape): OUTER, tuple(layer(x).shape): FORWARD}
    if rule is not None:
        br.convert(layer, rule)
    forward, backward = (Calls(shapes, tuple(layer.weight.shape)) for _ in range(2))
    with forward:
        y = layer(x)
    dy = torch.randn_like(y)
    with backward:
        y.backward(dy)  # the accumulation of the gradients included
    assert (x.grad is None) == first
    return forward, backward


@every_case
@inner_or_first
def test_torch_needs_one_map_forward_and_its_two_adjoints_backward(case, first):
    """What the counts below are measured by."""
    forward, backward = counted(case, None, first)
    assert forward.maps == {FORWARD: 1}
    assert +backward.maps == Counter({PULLBACK: int(not first), OUTER: 1})
    assert backward.kernels == ({"mm": 1 + (not first)} if case == "linear" else {"convolution_backward": 1})


@every_case
@every_rule
@inner_or_first
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_a_rule_computes_its_arithmetic_and_no_more(case, name, first, bias):
    rule = br.get_rule(name)
    if isinstance(rule, br.Alignment):
        rule = dataclasses.replace(rule, operations=br.Operations(), cadence=br.Cadence())
    forward, backward = counted(case, rule, first, bias=bias)
    extra = EXTRA[name]
    assert +forward.maps == Counter({FORWARD: 1})
    # A first layer takes no error back: what is left of its pullbacks is the alignment's.
    assert +backward.maps == Counter({PULLBACK: int(not first), OUTER: 1}) + extra
    if case == "conv2d":  # dx, dW and the bias in one call, as in backpropagation
        assert backward.kernels["convolution_backward"] == 1 + extra[PULLBACK] + extra[OUTER]
    # Kolen-Pollack's B and W have the same gradient, and each needs one of its own.
    assert forward.copies == []
    assert backward.copies == [torch.ops.aten.clone.default] * (name == "kolen_pollack")


@every_case
def test_all_five_primitives_share_what_they_can(case):
    """sparse B - amp W is one projection with one outer product; null is a pullback and another outer product."""
    _, backward = counted(case, br.Alignment(0.2, 0.3, 0.1, 0.4, 0.5), first=False)
    assert backward.maps == {FORWARD: 1, PULLBACK: 2, OUTER: 3}
    assert backward.copies == []


@every_case
def test_a_step_without_data_terms_costs_what_backpropagation_costs(case):
    rule = br.rules.information_alignment(cadence=br.Cadence(2))
    make, shape = CASES[case]
    layer, x = br.convert(make(), rule), torch.randn(shape, requires_grad=True)
    shapes = {shape: PULLBACK, tuple(layer.weight.shape): OUTER, tuple(layer(x).shape): FORWARD}  # step 0
    calls = Calls(shapes, tuple(layer.weight.shape))
    y = layer(x)  # step 1
    with calls:
        y.backward(torch.ones_like(y))
    assert calls.maps == {PULLBACK: 1, OUTER: 1}
    assert calls.copies == []


ROWS = 50
SHAPES = [(3, 8), (8, 3), (8, 8), (60, 60)]  # (inputs, outputs)


def multiplications(name: str, rows: int, I: int, O: int) -> int:  # noqa: E741
    """What the data terms need at least, y being at hand: by products of all rows, or by second moments."""
    direct, of_x, of_y = rows * I * O, I * I * (rows + O), O * O * (rows + I)
    return {
        "amp": min(direct, of_x),
        "sparse": min(2 * direct, of_x),
        "null": min(2 * direct, of_y),
        "amp, sparse": min(2 * direct, of_x),
        "amp, null": min(2 * direct, direct + of_y, of_x + of_y, of_x + 2 * direct),
        "sparse, null": min(2 * direct, of_x) + min(2 * direct, of_y),
        "amp, null, sparse": min(2 * direct, of_x) + min(2 * direct, of_y),
    }[name]


@pytest.mark.parametrize(("I", "O"), SHAPES)
@pytest.mark.parametrize("kind", ["linear", "conv2d 1x1"])
@pytest.mark.parametrize(
    "name", ["amp", "sparse", "null", "amp, sparse", "amp, null", "sparse, null", "amp, null, sparse"]
)
def test_second_moments_are_used_where_they_are_cheaper(name, kind, I, O):  # noqa: E741
    rule = br.Alignment(**dict.fromkeys(name.split(", "), 1.0))
    if kind == "linear":
        layer, x = br.nn.Linear(I, O, bias=False, rule=rule), torch.randn(ROWS, I)
    else:
        layer, x = br.nn.Conv2d(I, O, 1, bias=False, rule=rule), torch.randn(2, I, 5, 5)
    y = layer(x)
    with FlopCounterMode(display=False) as counted:
        y.sum().backward()
    task = ROWS * I * O  # dy x^T; x asks for no error
    assert counted.get_total_flops() == 2 * (task + multiplications(name, ROWS, I, O))


@every_case
def test_an_evaluation_pass_computes_the_map_alone(case):
    make, shape = CASES[case]
    layer = br.convert(make(), br.rules.information_alignment()).eval()
    with torch.no_grad(), Calls({}, tuple(layer.weight.shape)) as calls:
        layer(torch.randn(shape))
    assert sum(calls.kernels.values()) == 1
    assert calls.copies == []


@inner_or_first
def test_direct_feedback_takes_no_error_through_the_layers_weight(first):
    layer = br.nn.Conv2d(2, OUTPUTS, 3, rule=br.rules.direct_feedback_alignment(OUTPUTS))
    net = torch.nn.Sequential(layer, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    br.nn.broadcast_error(net)
    y = net(torch.randn(4, 2, 7, 5, requires_grad=not first))
    with Calls({(4, 2): "D^T e"}, tuple(layer.weight.shape)) as calls:
        y.sum().backward()
    assert +calls.maps == Counter({OUTER: 1, "D^T e": int(not first)})
    assert calls.kernels["convolution_backward"] == 1
