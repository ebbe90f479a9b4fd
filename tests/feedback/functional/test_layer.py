"""The autograd Functions: what comes back through a layer, in which dtype, and what it may not disturb."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import ALIGNMENTS, PROBLEMS, agree
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import backroads as br
from backroads.feedback.functional import LinearMap, Operator, alignment_value, propagate

FEEDBACK_ALIGNMENT = br.rules.feedback_alignment()
TIED_AND_FORWARD = br.Alignment(0.2, 0.3, 0.1, 0.4, 0.5, tie_grad=True, update_forward=True)
RULES = {**ALIGNMENTS, "all five, tied, update_forward": TIED_AND_FORWARD}
# A linear layer and a convolution that leaves a rest at the border, both with a bias.
TWO = ("linear", "conv2d strided with a rest")

each_rule = pytest.mark.parametrize("rule", [pytest.param(rule, id=name) for name, rule in RULES.items()])
each_of_two = pytest.mark.parametrize("problem", TWO)


@dataclasses.dataclass
class Operands:
    """Leaves for one pass. ``Operands.of(name)`` draws the same numbers every time."""

    op: Operator
    x: Tensor
    W: Tensor
    B: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, problem: str, dtype: torch.dtype = torch.float64, weights: torch.dtype | None = None) -> Operands:
        layer = PROBLEMS[problem].layer(FEEDBACK_ALIGNMENT)
        x = layer.operand(PROBLEMS[problem].input()).detach().to(dtype).requires_grad_()
        W, B, bias = (
            None if v is None else v.detach().to(weights or dtype).requires_grad_()
            for v in (layer.weight, layer.backward_weight, layer.bias)
        )
        return cls(layer.operator, x, W, B, bias)

    def output(self, rule: br.Alignment) -> Tensor:
        return propagate(self.x, self.W, self.bias, self.op, rule, {"backward_weight": self.B})

    def plain(self, W: Tensor) -> Tensor:
        """Differentiable by torch alone."""
        return self.op.project(self.x, W, self.bias)

    @property
    def leaves(self) -> list[Tensor]:
        return [v for v in (self.x, self.W, self.B, self.bias) if v is not None]

    @property
    def gradients(self) -> list[Tensor | None]:
        return [v.grad for v in self.leaves]


def error_of(y: Tensor) -> Tensor:
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(y.dtype)


# --- gradients against explicit formulas ---


@each_rule
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_error_goes_back_through_b_and_r_teaches_b(problem: str, rule: br.Alignment) -> None:
    o = Operands.of(problem)
    y = o.output(rule)
    dy = error_of(y)
    y.backward(dy)

    true = o.plain(o.W)
    agree(y, true)
    agree(o.x.grad, torch.autograd.grad(o.plain(o.B), o.x, dy)[0])  # B^T dy
    dW = torch.autograd.grad(true, o.W, dy, retain_graph=True)[0]  # dy x^T
    if o.bias is not None:
        agree(o.bias.grad, torch.autograd.grad(true, o.bias, dy)[0])
    R = alignment_value(o.x, o.W, o.B, o.bias, rule, o.op)
    dR_dB, dR_dW = torch.autograd.grad(R, (o.B, o.W), materialize_grads=True)
    agree(o.B.grad, dR_dB + dW if rule.tie_grad else dR_dB)
    agree(o.W.grad, dW + dR_dW if rule.update_forward else dW)


def test_symmetric_alignment_and_its_errors_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    W, B = torch.tensor([[3.0, 5.0]], requires_grad=True), torch.tensor([[7.0, 11.0]], requires_grad=True)
    y = propagate(x, W, None, LinearMap(), br.Alignment(decay=0.5, self_=0.25), {"backward_weight": B})
    assert y.item() == 13
    (10 * y).sum().backward()
    assert x.grad.tolist() == [[70.0, 110.0]]
    assert W.grad.tolist() == [[10.0, 20.0]]
    assert B.grad.tolist() == [[3.5 - 0.75, 5.5 - 1.25]]


@each_rule
@each_of_two
def test_the_alignment_gradient_does_not_depend_on_the_error(problem: str, rule: br.Alignment) -> None:
    if rule.tie_grad:
        rule = dataclasses.replace(rule, tie_grad=False)
    gradients = []
    for factor in (0.0, 1.0, 1000.0):
        o = Operands.of(problem)
        y = o.output(rule)
        y.backward(factor * error_of(y))
        gradients.append(o.B.grad)
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


# --- nothing after the layer changes what it learns ---


IN_PLACE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "relu": (torch.relu_, torch.relu),
    "leaky_relu": (F.leaky_relu_, F.leaky_relu),
    "scaling": (lambda y: y.mul_(3), lambda y: y * 3),
}


@each_rule
@each_of_two
@pytest.mark.parametrize("change", IN_PLACE)
def test_an_in_place_operation_after_the_layer_changes_no_gradient(
    change: str, problem: str, rule: br.Alignment
) -> None:
    in_place, out_of_place = IN_PLACE[change]
    ours, theirs = Operands.of(problem), Operands.of(problem)
    y = in_place(ours.output(rule))
    y.backward(error_of(y))
    out_of_place(theirs.output(rule)).backward(error_of(y))
    agree(ours.gradients, theirs.gradients)


@each_rule
@each_of_two
@pytest.mark.parametrize("in_place", [False, True])
def test_a_second_backward_pass_gives_the_same_gradients(in_place: bool, problem: str, rule: br.Alignment) -> None:
    o = Operands.of(problem)
    y = o.output(rule)
    y = torch.relu_(y) if in_place else torch.relu(y)
    first = torch.autograd.grad(y, o.leaves, error_of(y), retain_graph=True, materialize_grads=True)
    agree(torch.autograd.grad(y, o.leaves, error_of(y), materialize_grads=True), first)


NEVER_READ_W = {
    "feedback_alignment": br.rules.feedback_alignment(),
    "kolen_pollack": br.rules.kolen_pollack(),
    "decay": br.Alignment(decay=0.1),
    "sparse": br.Alignment(sparse=0.1),  # M[z x^T] with z = B x
}
READ_W = {
    **{name: br.get_rule(f"{name}_alignment") for name in ("symmetric", "activation", "information")},
    "weight_mirror": br.rules.weight_mirror(),
    "update_forward": br.Alignment(decay=0.1, update_forward=True),
    "noise": br.Alignment(amp=0.1, drive=br.WhiteNoise(std=1.0)),
}


@pytest.mark.parametrize("rule", [pytest.param(rule, id=name) for name, rule in NEVER_READ_W.items()])
@each_of_two
def test_w_may_change_before_the_backward_pass_of_a_rule_that_does_not_read_it(
    problem: str, rule: br.Alignment
) -> None:
    o, untouched = Operands.of(problem), Operands.of(problem)
    y, expected = o.output(rule), untouched.output(rule)
    with torch.no_grad():
        o.W.add_(1)
    y.backward(error_of(y))
    expected.backward(error_of(y))
    agree(o.gradients, untouched.gradients)


@pytest.mark.parametrize("rule", [pytest.param(rule, id=name) for name, rule in READ_W.items()])
def test_w_may_change_before_the_backward_pass_if_nothing_learns_from_it(rule: br.Alignment) -> None:
    o = Operands.of("linear")
    for frozen in (o.B, o.W):
        frozen.requires_grad_(False)
    y = o.output(rule)
    o.W.add_(1)
    y.backward(torch.ones_like(y))
    agree(o.x.grad, o.B.sum(0).expand_as(o.x))


@pytest.mark.parametrize("rule", [pytest.param(rule, id=name) for name, rule in READ_W.items()])
def test_w_changed_before_the_backward_pass_of_a_rule_that_reads_it_is_an_error(rule: br.Alignment) -> None:
    o = Operands.of("linear")
    y = o.output(rule)
    with torch.no_grad():
        o.W.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(error_of(y))


@pytest.mark.parametrize("changed", ["x", "B"])
def test_x_and_b_changed_before_the_backward_pass_are_an_error(changed: str) -> None:
    o = Operands.of("linear")
    y = o.output(FEEDBACK_ALIGNMENT)
    with torch.no_grad():
        getattr(o, changed).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(error_of(y))


# --- only what is needed ---


NORMALISED = br.Alignment(amp=1, operations=br.Operations(normalize_forward_output=True))


class Spy(LinearMap):
    """Counts the products with a matrix."""

    def __init__(self) -> None:
        object.__setattr__(self, "calls", [])

    def project(self, *args: Any) -> Tensor:
        self.calls.append("project")
        return super().project(*args)

    def pullback(self, *args: Any) -> Tensor:
        self.calls.append("pullback")
        return super().pullback(*args)

    def weight_gradient(self, *args: Any) -> Tensor:
        self.calls.append("weight_gradient")
        return super().weight_gradient(*args)


@pytest.mark.parametrize(
    ("rule", "needs", "products"),
    [
        # the forward pass, B^T dy, dy x^T
        (FEEDBACK_ALIGNMENT, "xW", {"project": 1, "pullback": 1, "weight_gradient": 1}),
        (FEEDBACK_ALIGNMENT, "W", {"project": 1, "weight_gradient": 1}),
        (FEEDBACK_ALIGNMENT, "x", {"project": 1, "pullback": 1}),
        (br.Alignment(decay=1, self_=1), "xWB", {"project": 1, "pullback": 1, "weight_gradient": 1}),
        (br.Alignment(decay=1, self_=1), "B", {"project": 1}),
        (br.Alignment(decay=1, tie_grad=True), "WB", {"project": 1, "weight_gradient": 1}),
        # y is kept, so y x^T is all that is new; what R is needs no error for x
        (br.Alignment(decay=1, amp=1), "xWB", {"project": 1, "pullback": 1, "weight_gradient": 2}),
        (br.Alignment(decay=1, amp=1), "B", {"project": 1, "weight_gradient": 1}),
        (br.Alignment(decay=1, amp=1, drive=br.Activity(keep_output=False)), "B", {"project": 2, "weight_gradient": 1}),
        (br.Alignment(decay=1, amp=1), "xW", {"project": 1, "pullback": 1, "weight_gradient": 1}),
        (NORMALISED, "xW", {"project": 1, "pullback": 1, "weight_gradient": 1}),
        # (sparse B - amp W) x and one outer product; B^T y and one outer product
        (br.Alignment(amp=1, sparse=1), "B", {"project": 2, "weight_gradient": 1}),
        (br.Alignment(decay=1, amp=1, null=1), "B", {"project": 1, "pullback": 1, "weight_gradient": 1}),
        # a frozen W learns nothing from R either
        (br.Alignment(decay=1, amp=1, update_forward=True), "B", {"project": 1, "weight_gradient": 1}),
        (br.Alignment(decay=1, amp=1, update_forward=True), "x", {"project": 1, "pullback": 1}),
    ],
    ids=str,
)
def test_only_what_is_needed_is_computed(rule: br.Alignment, needs: str, products: dict[str, int]) -> None:
    o = Operands.of("linear")
    spy = Spy()
    for name in "xWB":
        getattr(o, name).requires_grad_(name in needs)
    y = propagate(o.x, o.W, None, spy, rule, {"backward_weight": o.B})
    y.backward(error_of(y))
    assert {name: spy.calls.count(name) for name in sorted(set(spy.calls))} == dict(sorted(products.items()))
    assert "".join(name for name in "xWB" if getattr(o, name).grad is not None) == needs


def test_a_layer_that_needs_no_gradient_builds_no_graph() -> None:
    o = Operands.of("linear")
    with torch.no_grad():
        assert not o.output(TIED_AND_FORWARD).requires_grad


# --- mixed precision ---

MIXED = {
    **RULES,
    "with bias": br.Alignment(amp=0.3, operations=br.Operations(use_bias_forward=True, use_bias_backward=True)),
    "noise": br.Alignment(decay=0.1, drive=br.WhiteNoise(std=1.0)),
}


@pytest.mark.parametrize(
    ("compute", "weights"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)], ids=str
)
@pytest.mark.parametrize("rule", [pytest.param(rule, id=name) for name, rule in MIXED.items()])
@each_of_two
def test_gradients_come_in_the_dtype_of_the_weights_and_close_to_those_of_float32(
    problem: str, rule: br.Alignment, compute: torch.dtype, weights: torch.dtype
) -> None:
    mixed, full = Operands.of(problem, compute, weights), Operands.of(problem, torch.float32)
    y, expected = mixed.output(rule), full.output(rule)
    assert y.dtype == compute
    y.backward(error_of(y))
    expected.backward(error_of(expected))
    for leaf, reference in zip(mixed.leaves, full.leaves, strict=True):
        assert leaf.grad.dtype == leaf.dtype
        error = (leaf.grad.float() - reference.grad).norm()
        # bfloat16 has 8 bits, and the derivative of normalising is a difference of like parts.
        assert error <= (0.02 if rule.operations == br.Operations() else 0.2) * reference.grad.norm()


# --- noise in place of the activity ---


@pytest.mark.parametrize("update_forward", [False, True])
@each_of_two
def test_the_alignment_sees_one_draw_of_noise_and_the_task_sees_none(problem: str, update_forward: bool) -> None:
    rule = br.Alignment(0.2, 0.3, 0.1, 0.4, 0.5, drive=br.WhiteNoise(std=0.7), update_forward=update_forward)
    o = Operands.of(problem)
    torch.manual_seed(3)
    y = o.output(rule)
    dy = error_of(y)
    y.backward(dy)
    torch.manual_seed(3)
    xi = 0.7 * torch.randn_like(o.x)
    # With xi in its place as the activity, rows y = W xi and z = B xi and the gradients of both weights share xi.
    R = alignment_value(xi, o.W, o.B, o.bias, dataclasses.replace(rule, drive=br.Activity()), o.op)
    dB, dR_dW = torch.autograd.grad(R, (o.B, o.W))
    agree(o.B.grad, dB)
    agree(o.x.grad, torch.autograd.grad(o.plain(o.B), o.x, dy)[0])
    dW = torch.autograd.grad(o.plain(o.W), o.W, dy)[0]
    agree(o.W.grad, dW + dR_dW if update_forward else dW)


def test_noise_is_drawn_afresh_in_every_pass() -> None:
    gradients = []
    for _ in range(2):
        o = Operands.of("linear")
        o.output(br.Alignment(amp=1.0, drive=br.WhiteNoise("uniform"))).sum().backward()
        gradients.append(o.B.grad)
    assert not torch.allclose(*gradients)


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_noise_has_the_distribution_its_name_says(distribution: str) -> None:
    torch.manual_seed(0)
    xi = br.WhiteNoise(distribution, 0.5).sample(torch.empty(400, 500, dtype=torch.float64))
    assert abs(xi.mean()) < 0.005
    assert xi.std().item() == pytest.approx(0.5, rel=0.01)
    # E[xi^4] / E[xi^2]^2 is 3 for the normal distribution and 9/5 for the uniform one.
    assert (xi**4).mean().item() / 0.5**4 == pytest.approx(3 if distribution == "normal" else 1.8, rel=0.05)


def test_noise_drives_a_mirror_to_the_weights_of_the_layer() -> None:
    # E[y xi^T] = std^2 W for white noise, whatever the activity is: here it is zero.
    o = Operands.of("linear")
    torch.manual_seed(0)
    x = torch.zeros(20000, 5, dtype=torch.float64)
    propagate(
        x, o.W, None, o.op, br.Alignment(amp=1.0, drive=br.WhiteNoise(std=0.5)), {"backward_weight": o.B}
    ).sum().backward()
    agree(o.B.grad, -0.25 * o.W, tolerance=0.02)


# --- direct feedback ---


PARTS = {
    "sum": br.Alignment(0.2, 0.3, 0.1, 0.4, 0.5),
    "mean": br.Alignment(0.2, 0.3, 0.1, 0.4, 0.5, reduction="mean"),
    "overlap, normalised": br.Alignment(
        amp=0.3, sparse=0.4, reduction="overlap", operations=br.Operations(normalize_input=True)
    ),
    "y not kept": br.Alignment(amp=0.3, null=0.4, drive=br.Activity(keep_output=False)),
    "by differentiation": br.Alignment(amp=0.3, operations=br.Operations(center_backward_output=True)),
}


@pytest.mark.parametrize("rule", [pytest.param(rule, id=name) for name, rule in PARTS.items()])
@pytest.mark.parametrize("problem", ["linear", "linear over tokens", "conv2d"])
@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.75])
def test_a_part_of_the_batch_is_unbiased(
    fraction: float, problem: str, rule: br.Alignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradients of B over all places that the part may begin at have the whole batch's for their mean, exactly."""
    p = PROBLEMS[problem]

    layer, n = p.layer(rule), p.shape[0]

    def gradient(rule: br.Alignment) -> Tensor:
        layer.rule, layer.backward_weight.grad = rule, None
        layer(p.input()).sum().backward()
        return layer.backward_weight.grad

    whole = gradient(rule)
    found = []
    for start in range(n):
        monkeypatch.setattr(torch, "randint", lambda high, shape, device, at=start: torch.full(shape, at))
        found.append(gradient(dataclasses.replace(rule, cadence=br.Cadence(fraction=fraction))))
    agree(torch.stack(found).mean(0), whole)
    assert not torch.allclose(found[0], found[1])  # each from its own part


def test_a_part_costs_its_part() -> None:
    """Rows of the alignment's products: an eighth of the batch, and one example of a tiny batch."""
    rule = br.Alignment(amp=0.3, sparse=0.3, cadence=br.Cadence(fraction=0.125))
    layer = br.nn.Linear(5, 3, rule=rule)
    for n, rows in ((16, 2), (20, 2), (3, 1), (1, 1)):
        with FlopCounterMode(display=False) as whole:
            layer(torch.randn(n, 5)).sum().backward()
        # forward pass and dW of all rows, projection and outer product of some; no dx is asked for
        assert whole.get_total_flops() == 2 * 5 * 3 * (2 * n + 2 * rows)


def test_a_part_that_is_centred_has_two_examples_at_least() -> None:
    """The mean of one example is the example: a mirror would see nothing."""
    rule = br.Alignment(
        amp=0.3, operations=br.Operations(batch_center_backward_input=True), cadence=br.Cadence(fraction=0.125)
    )
    layer = br.nn.Linear(5, 3, rule=rule, bias=False, dtype=torch.float64)
    x = torch.stack([torch.zeros(5), torch.arange(5.0)]).double()
    layer(x).sum().backward()
    # x_B is x -+ half the difference d, y is 0 and W d: the mean of y x_B^T is W d d^T / 4
    agree(layer.backward_weight.grad, -0.3 * layer.weight @ x[1].outer(x[1]) / 4)


@pytest.mark.parametrize("problem", [name for name in PROBLEMS if name != "conv2d circular"])
def test_direct_feedback_brings_the_error_of_the_output_to_the_input(problem: str) -> None:
    o = Operands.of(problem)
    spatial = o.x.shape[-len(o.op.stride) :] if problem.startswith("conv") else o.x.shape[1:-1]
    alone = o.op.unbatched(o.x)
    features = o.x.shape[-1 - (len(spatial) if problem.startswith("conv") else 0)]
    D = torch.randn(7, features, dtype=torch.float64, generator=torch.Generator().manual_seed(6), requires_grad=True)
    y, carrier = propagate(o.x, o.W, o.bias, o.op, br.rules.direct_feedback_alignment(), {"backward_weight": D})
    agree(y, o.plain(o.W))
    assert not carrier.any()
    assert carrier.shape == (1 if alone else o.x.shape[0], 7)

    dy, e = error_of(y), error_of(carrier)
    torch.autograd.backward([y, carrier], [dy, e])
    # Every position of an example gets its part of D^T e; dy reaches the weights only.
    fed_back = (e @ D / math.prod(spatial)).detach()
    if problem.startswith("conv"):
        expected = fed_back[(...,) + (None,) * len(spatial)].expand(-1, -1, *spatial)
    else:
        expected = fed_back[(slice(None),) + (None,) * len(spatial)].expand(-1, *spatial, -1)
    agree(o.x.grad, expected[0] if alone else expected)
    assert D.grad is None
    true = o.plain(o.W)
    agree(o.W.grad, torch.autograd.grad(true, o.W, dy, retain_graph=True)[0])
    if o.bias is not None:
        agree(o.bias.grad, torch.autograd.grad(true, o.bias, dy)[0])


def test_a_carrier_added_to_the_output_of_the_network_carries_its_error() -> None:
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    W, D, readout = (torch.randn(shape, dtype=torch.float64) for shape in ((3, 5), (2, 5), (2, 3)))
    y, carrier = propagate(x, W, None, LinearMap(), br.rules.direct_feedback_alignment(), {"backward_weight": D})
    output = torch.tanh(y) @ readout.t() + carrier
    output.retain_grad()
    output.square().sum().backward()
    agree(x.grad, output.grad @ D)
