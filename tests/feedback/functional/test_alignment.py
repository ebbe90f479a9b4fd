"""The alignment's value and its closed-form gradients: against the table of the five primitives, written out here
as plain sums, against automatic differentiation, and against the order of the operations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import ALIGNMENTS, SUBSETS, agree, randn
from torch import Tensor

import backroads as br
from backroads.feedback.functional import (
    ConvolutionMap,
    LinearMap,
    Operator,
    alignment_value,
    backward_gradient,
    forward_gradient,
    propagate,
)

PRIMITIVES = ("decay", "amp", "null", "sparse", "self_")
# "projected_step" and "per_tap_mean" are not for all primitives: they are in the table of rules, and their meaning in
# tests/rules/test_fixed_points.py and tests/rules/test_mirrors.py.
REDUCTIONS = ("sum", "overlap", "mean", "unit_power")
LINEAR = LinearMap()


# --- the table, written out ---


def center(v: Tensor) -> Tensor:
    return v - v.flatten(1).mean(1).reshape(-1, *[1] * (v.dim() - 1))


def normalize(v: Tensor) -> Tensor:
    v = center(v)
    squares = v.flatten(1).square().sum(1).clamp(min=1e-12)
    return v / squares.sqrt().reshape(-1, *[1] * (v.dim() - 1))


def batch_center(v: Tensor) -> Tensor:
    return v - v.mean(0)


@dataclasses.dataclass(frozen=True)
class Flat:
    """A layer problem as plain matrices: rows X (N, T, I) of what W (O, I) is applied to, at T positions.

    For a convolution a row is a patch, and ``patches`` takes an image to its rows, ``image`` sums rows back to one.
    """

    op: Operator
    x: Tensor
    W: Tensor
    B: Tensor
    patches: Callable[[Tensor], Tensor]
    image: Callable[[Tensor], Tensor]

    def map(self, x: Tensor, W: Tensor) -> Tensor:
        return torch.einsum("oi,nti->nto", W.flatten(1), self.patches(x))

    def back(self, B: Tensor, y: Tensor) -> Tensor:
        return self.image(torch.einsum("oi,nto->nti", B.flatten(1), y))

    def outer(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.einsum("nto,nti->oi", y, self.patches(x)).reshape(self.W.shape)


def flat_linear(*leading: int) -> Flat:
    def rows(x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1, 4)

    return Flat(
        LINEAR,
        randn(*leading, 4, seed=0),
        randn(3, 4, seed=1),
        randn(3, 4, seed=2),
        rows,
        lambda v: v.reshape(*leading, 4),
    )


def flat_convolution() -> Flat:
    geometry: dict[str, Any] = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}  # leaves a rest at the border
    size, kernel = (6, 7), (3, 2)
    return Flat(
        ConvolutionMap(**geometry, groups=1),
        randn(4, 2, *size, seed=0),
        randn(3, 2, *kernel, seed=1),
        randn(3, 2, *kernel, seed=2),
        lambda x: F.unfold(x, kernel, **geometry).transpose(1, 2),
        lambda v: F.fold(v.transpose(1, 2), size, kernel, **geometry),
    )


FLAT = {"linear": flat_linear(5), "linear over tokens": flat_linear(3, 2, 2), "conv2d": flat_convolution()}


def table(
    p: Flat, rule: br.Alignment, x: Tensor | None = None, W: Tensor | None = None, B: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(R, dR/dB, dR/dW with ``update_forward``) of the table; differentiable in x, W and B.

    What the operations do to the input comes first; u is the input of the B projection.
    """
    x, W, B = (p.x if x is None else x), (p.W if W is None else W), (p.B if B is None else B)
    x = center(x) if rule.operations.center_input else x
    x = normalize(x) if rule.operations.normalize_input else x
    u = batch_center(x) if rule.operations.batch_center_backward_input else x
    y, z = p.map(x, W), p.map(u, B)
    r = p.back(B, y)
    # How many rows the most often met pixel is in.
    ones = torch.ones_like(x)
    met = round(float(p.image(p.patches(ones)).max()))
    terms = {"sum": 1, "overlap": met}.get(rule.reduction, y.shape[1])
    m_x = m_y = 1 / (x.shape[0] * terms)
    if rule.reduction == "unit_power":
        m_x, m_y = m_x / u.detach().square().mean(), m_y / y.detach().square().mean()
    m_rows = m_x  # the same, shaped to multiply W
    if rule.reduction == "projected_step":
        gap = (rule.sparse * B - rule.amp * W).detach().flatten(1)
        g = p.outer(rule.sparse * z - rule.amp * y, u).detach().flatten(1)
        m_x = (gap * g).sum(1) / (g * g).sum(1)
        m_rows = m_x.reshape(-1, *[1] * (W.dim() - 1))
    R_amp, R_sparse = (m_x * y * z).sum(), (m_x * z.square()).sum()
    if rule.reduction == "per_tap_mean":
        # How many rows have each entry inside the image; every entry of M[v u^T] is a mean over its own.
        m_rows = 1 / p.patches(ones).sum((0, 1)).reshape(W.shape[1:])
        R_amp, R_sparse = (m_rows * p.outer(y, u) * B).sum(), (m_rows * p.outer(z, u) * B).sum()

    R = rule.decay * B.square().sum() / 2 - rule.self_ * (W * B).sum()
    R = R - rule.amp * R_amp
    R = R + rule.null * m_y * r.square().sum() / 2 + rule.sparse * R_sparse / 2
    dB = rule.decay * B - rule.amp * m_rows * p.outer(y, u) + rule.null * m_y * p.outer(y, r)
    dB = dB + rule.sparse * m_rows * p.outer(z, u) - rule.self_ * W
    dW = rule.decay * W - rule.amp * m_rows * p.outer(z, x) + rule.null * m_y * p.outer(p.map(r, B), x)
    dW = dW + rule.sparse * m_rows * p.outer(y, x) - rule.self_ * B
    return R, dB, dW


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("primitive", PRIMITIVES)
@pytest.mark.parametrize("layer", FLAT)
def test_each_primitive_is_that_of_the_table(layer: str, primitive: str, reduction: str) -> None:
    p = FLAT[layer]
    rule = br.Alignment(**{primitive: 0.7}, reduction=reduction)
    R, dB, dW = table(p, rule)
    agree(alignment_value(p.x, p.W, p.B, None, rule, p.op), R)
    agree(backward_gradient(p.x, None, p.W, p.B, rule, p.op), dB)
    agree(forward_gradient(p.x, None, p.W, p.B, dataclasses.replace(rule, update_forward=True), p.op), dW)


ON_INPUT = {
    "x as it is": br.Operations(),
    "x centered over the batch": br.Operations(batch_center_backward_input=True),
    "x normalised and centered": br.Operations(normalize_input=True, batch_center_backward_input=True),
}


@pytest.mark.parametrize("operations", ON_INPUT.values(), ids=ON_INPUT.keys())
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("layer", FLAT)
def test_every_subset_of_the_primitives_adds_up(layer: str, reduction: str, operations: br.Operations) -> None:
    p = FLAT[layer]
    y = p.op.project(p.x, p.W)
    for subset in SUBSETS:
        rule = dataclasses.replace(subset, reduction=reduction, operations=operations, update_forward=True)
        _, dB, dW = table(p, rule)
        for known in (None, y):
            agree(backward_gradient(p.x, known, p.W, p.B, rule, p.op), dB)
            agree(forward_gradient(p.x, known, p.W, p.B, rule, p.op), dW)


# --- closed form = automatic differentiation of the value, for any geometry ---


@st.composite
def geometries(draw: st.DrawFn) -> tuple[Operator, tuple[int, ...], tuple[int, ...]]:
    """(map, shape of x, shape of W): linear with any number of position axes, or any convolution."""
    small = st.integers(1, 3)
    n = draw(st.integers(0, 3))
    d = draw(st.integers(0, 3))
    if d == 0:
        I, O = draw(small), draw(small)  # noqa: E741
        return LINEAR, (n, *draw(st.lists(small, max_size=2)), I), (O, I)
    axes = range(d)
    kernel, stride, dilation = ([draw(small) for _ in axes] for _ in range(3))
    padding, border = [draw(st.integers(0, 2)) for _ in axes], [draw(st.integers(0, 1)) for _ in range(2 * d)]
    groups = draw(st.integers(1, 2))
    I, O = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))  # noqa: E741
    size = [max(dilation[i] * (kernel[i] - 1) + 1 - 2 * padding[i], 1) + draw(st.integers(0, 2)) for i in axes]
    op = ConvolutionMap(tuple(stride), tuple(padding), tuple(dilation), groups, tuple(border) if any(border) else ())
    return op, (n, I, *size), (O, I // groups, *kernel)


coefficients = st.fixed_dictionaries({name: st.just(0.0) | st.floats(0.01, 2) for name in PRIMITIVES})
# What is done to the input alone leaves the closed form.
on_input = st.sets(st.sampled_from(["center_input", "normalize_input", "batch_center_backward_input"]))


seeds = st.integers(0, 999)


@settings(deadline=None, max_examples=100)
@given(geometries(), coefficients, st.just(set()) | on_input, st.sampled_from(REDUCTIONS), st.booleans(), seeds)
def test_closed_form_is_the_derivative_of_the_value(
    geometry: tuple[Operator, tuple[int, ...], tuple[int, ...]],
    coefficients: dict[str, float],
    on_input: set[str],
    reduction: str,
    y_is_known: bool,
    seed: int,
) -> None:
    op, x_shape, W_shape = geometry
    assume(not on_input or math.prod(x_shape[1:]) > 2)  # two numbers normalise to the same two in every example
    x = randn(*x_shape, seed=seed)
    W, B = (randn(*W_shape, seed=seed + s).requires_grad_() for s in (1, 2))
    operations = br.Operations(**dict.fromkeys(on_input, True))
    rule = br.Alignment(**coefficients, reduction=reduction, operations=operations)
    both = dataclasses.replace(rule, update_forward=True)
    y = op.project(x, W) if y_is_known else None
    # `update_forward` adds terms in W to the value; they are none of B's business.
    for value_rule in (rule, both):
        dB = torch.autograd.grad(alignment_value(x, W, B, None, value_rule, op), B)[0]
        agree(backward_gradient(x, y, W, B, value_rule, op), dB)
    dW = torch.autograd.grad(alignment_value(x, W, B, None, both, op), W, materialize_grads=True)[0]
    agree(forward_gradient(x, y, W, B, both, op), dW)


@pytest.mark.parametrize("rows", [3, 200])  # directly, and by the second moment of x
@pytest.mark.parametrize("terms", [{"amp": 0.3}, {"sparse": 0.4}, {"amp": 0.3, "sparse": 0.4}])
def test_a_projected_step_of_either_term_is_that_of_the_value(terms: dict[str, float], rows: int) -> None:
    rule = br.Alignment(decay=0.2, reduction="projected_step", **terms)
    x, W, B = randn(rows, 6, seed=0), randn(40, 6, seed=1), randn(40, 6, seed=2).requires_grad_()
    (dB,) = torch.autograd.grad(alignment_value(x, W, B, None, rule, LINEAR), B)
    found = backward_gradient(x, None, W, B, rule, LINEAR)
    agree(found, dB)
    assert not torch.allclose(found, 0.2 * B)


@pytest.mark.parametrize("rule", [br.rules.weight_mirror(), br.rules.information_alignment()])
def test_sums_over_a_batch_may_be_beyond_the_range_of_half_precision(rule: br.Alignment) -> None:
    """4096 inputs of 8^2: their sum is 262,144, and the largest float16 65,504. Their mean fits."""
    x, W, B = (randn(n, 16, seed=n) for n in (4096, 64, 65))
    x, B = 8 * x, B[:64]
    expected = backward_gradient(x, None, W, B, rule, LINEAR)
    found = backward_gradient(x.half(), None, W.half(), B.half(), rule, LINEAR)
    torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


def test_an_example_alone_is_a_batch_of_one() -> None:
    rule = br.Alignment(0.2, 0.3, 0.1, 0.4, 0.5)
    for reduction in REDUCTIONS:
        rule = dataclasses.replace(rule, reduction=reduction, update_forward=True)
        for p in (FLAT["linear"], FLAT["conv2d"]):
            one = p.x[:1]
            for function in (backward_gradient, forward_gradient):
                agree(function(one[0], None, p.W, p.B, rule, p.op), function(one, None, p.W, p.B, rule, p.op))
            alone = alignment_value(one[0], p.W, p.B, None, rule, p.op)
            agree(alone, alignment_value(one, p.W, p.B, None, rule, p.op))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_an_empty_batch_leaves_only_the_terms_without_data(reduction: str) -> None:
    rule = br.Alignment(0.2, 0.3, 0.1, 0.4, 0.5, reduction=reduction, update_forward=True)
    for p in FLAT.values():
        agree(backward_gradient(p.x[:0], None, p.W, p.B, rule, p.op), 0.2 * p.B - 0.5 * p.W)
        agree(forward_gradient(p.x[:0], None, p.W, p.B, rule, p.op), 0.2 * p.W - 0.5 * p.B)


# --- "unit_power": coefficients without a dimension ---

DATA_TERMS = ("amp", "null", "sparse")


def data_gradient(term: str, x: Tensor, W: Tensor, B: Tensor, reduction: str, op: Operator = LINEAR) -> Tensor:
    return backward_gradient(x, None, W, B, br.Alignment(**{term: 1.0}, reduction=reduction), op)


@pytest.mark.parametrize("layer", FLAT)
@pytest.mark.parametrize("term", DATA_TERMS)
def test_power_takes_the_scale_of_the_activity_out_of_each_term(term: str, layer: str) -> None:
    p = FLAT[layer]
    for reduction, factor in (("unit_power", 1), ("mean", 100), ("sum", 100)):
        expected = factor * data_gradient(term, p.x, p.W, p.B, reduction, p.op)
        agree(data_gradient(term, 10 * p.x, p.W, p.B, reduction, p.op), expected)
    # null is quadratic in y = W x, amp bilinear in (W, B), sparse does not know W.
    factor = {"null": 1, "amp": 10, "sparse": 1}[term]
    expected = factor * data_gradient(term, p.x, p.W, p.B, "unit_power", p.op)
    agree(data_gradient(term, p.x, 10 * p.W, p.B, "unit_power", p.op), expected)


@pytest.mark.parametrize(("reduction", "factor"), [("unit_power", 1), ("mean", 1), ("sum", 3)])
@pytest.mark.parametrize("term", DATA_TERMS)
def test_only_a_sum_grows_with_the_number_of_positions(term: str, reduction: str, factor: int) -> None:
    p = FLAT["linear over tokens"]
    expected = factor * data_gradient(term, p.x, p.W, p.B, reduction)
    agree(data_gradient(term, p.x.repeat(1, 3, 1, 1), p.W, p.B, reduction), expected)
    twice_the_batch = data_gradient(term, p.x.repeat(2, 1, 1, 1), p.W, p.B, reduction)
    agree(twice_the_batch, data_gradient(term, p.x, p.W, p.B, reduction))


@pytest.mark.parametrize("term", DATA_TERMS)
def test_power_does_not_grow_with_the_width_of_a_layer(term: str) -> None:
    p = FLAT["linear"]
    once = data_gradient(term, p.x, p.W, p.B, "unit_power")
    # Every input twice and weights halved: the same y and z; each copy of a weight learns as the one did.
    wide_in = data_gradient(term, p.x.repeat(1, 2), p.W.repeat(1, 2) / 2, p.B.repeat(1, 2) / 2, "unit_power")
    half = 0.5 if term == "null" else 1  # r = B^T y is then half as large in each copy
    agree(wide_in, half * once.repeat(1, 2))
    # Every output twice: each copy of a weight learns as the one did, from the same B^T y if B is halved.
    scale = {"amp": 1, "null": 1, "sparse": 0.5}[term]
    wide_out = data_gradient(term, p.x, p.W.repeat(2, 1), p.B.repeat(2, 1) / 2, "unit_power")
    agree(wide_out, scale * once.repeat(2, 1))


@pytest.mark.parametrize("coefficient", [1.0, 1e4])
@pytest.mark.parametrize("term", DATA_TERMS)
def test_power_of_a_silent_activity_is_zero_and_finite(term: str, coefficient: float) -> None:
    W, B = FLAT["linear"].W.float(), FLAT["linear"].B.float()
    rule = br.Alignment(**{term: coefficient}, reduction="unit_power")
    agree(backward_gradient(torch.zeros(1, 4), None, W, B, rule, LINEAR), torch.zeros_like(B))


# --- operations on the activities: each value written out in the documented order ---


CONV = ConvolutionMap((1, 1), (1, 1), (1, 1), 1)
OPERANDS: dict[str, tuple[Operator, Tensor, Tensor, Tensor, Tensor]] = {
    "linear": (LINEAR, randn(6, 4, seed=3) + 0.5, randn(3, 4, seed=4), randn(3, 4, seed=5), randn(3, seed=6)),
    "conv2d": (
        CONV,
        randn(4, 2, 5, 4, seed=3) + 0.5,
        randn(3, 2, 3, 3, seed=4) / 3,
        randn(3, 2, 3, 3, seed=5) / 3,
        randn(3, seed=6),
    ),
}


class Written:
    """The activities of a problem under an expression, with ``M`` the mean over the batch."""

    def __init__(self, op: Operator, x: Tensor, W: Tensor, B: Tensor, bias: Tensor) -> None:
        self.op, self.x, self.W, self.B, self.b = op, x, W, B, bias.reshape(-1, *[1] * (x.dim() - 2))

    def W_(self, x: Tensor) -> Tensor:
        return self.op.project(x, self.W)

    def B_(self, x: Tensor) -> Tensor:
        return self.op.project(x, self.B)

    def back(self, B: Tensor, y: Tensor) -> Tensor:
        return self.op.pullback(y, B, self.x)

    def M(self, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).flatten(1).sum(1).mean()


AMP, NULL, SPARSE = ({name: 1.0} for name in ("amp", "null", "sparse"))
# name: (coefficients, operations, the value as one formula)
WRITTEN: dict[str, tuple[dict[str, float], dict[str, Any], Callable[[Written], Tensor]]] = {
    "center_input": (AMP, {"center_input": True}, lambda s: -s.M(s.W_(center(s.x)), s.B_(center(s.x)))),
    "normalize_input": (AMP, {"normalize_input": True}, lambda s: -s.M(s.W_(normalize(s.x)), s.B_(normalize(s.x)))),
    "batch centering is of B's input only": (
        AMP,
        {"batch_center_backward_input": True},
        lambda s: -s.M(s.W_(s.x), s.B_(batch_center(s.x))),
    ),
    "the input is normalised before it is batch centered": (
        AMP,
        {"normalize_input": True, "batch_center_backward_input": True},
        lambda s: -s.M(s.W_(normalize(s.x)), s.B_(batch_center(normalize(s.x)))),
    ),
    "bias before activation, forward": (
        AMP,
        {"use_bias_forward": True, "activation": "tanh", "activation_forward": True},
        lambda s: -s.M(torch.tanh(s.W_(s.x) + s.b), s.B_(s.x)),
    ),
    "bias before activation, backward": (
        AMP,
        {"use_bias_backward": True, "activation": "sigmoid", "activation_backward": True},
        lambda s: -s.M(s.W_(s.x), torch.sigmoid(s.B_(s.x) + s.b)),
    ),
    "an activation alone does nothing": (AMP, {"activation": "tanh"}, lambda s: -s.M(s.W_(s.x), s.B_(s.x))),
    "forward output: activated, normalised, batch centered": (
        AMP,
        {
            "use_bias_forward": True,
            "activation": "tanh",
            "activation_forward": True,
            "normalize_forward_output": True,
            "batch_center_forward_output": True,
        },
        lambda s: -s.M(batch_center(normalize(torch.tanh(s.W_(s.x) + s.b))), s.B_(s.x)),
    ),
    "forward output: centered, batch centered": (
        AMP,
        {"center_forward_output": True, "batch_center_forward_output": True},
        lambda s: -s.M(batch_center(center(s.W_(s.x))), s.B_(s.x)),
    ),
    "backward output: activated, then normalised": (
        AMP,
        {"activation": "tanh", "activation_backward": True, "normalize_backward_output": True},
        lambda s: -s.M(s.W_(s.x), normalize(torch.tanh(s.B_(s.x)))),
    ),
    "backward output: centered": (
        SPARSE,
        {"center_backward_output": True},
        lambda s: s.M(center(s.B_(s.x)), center(s.B_(s.x))) / 2,
    ),
    "sparse reads the batch centered input": (
        SPARSE,
        {"batch_center_backward_input": True},
        lambda s: s.M(s.B_(batch_center(s.x)), s.B_(batch_center(s.x))) / 2,
    ),
    "B^T y: of the activated y, which is not yet centered; then treated as forward outputs are": (
        NULL,
        {
            "activation": "tanh",
            "activation_forward": True,
            "center_forward_output": True,
            "batch_center_forward_output": True,
            "normalize_backward_output": True,
        },
        lambda s: batch_center(center(s.back(s.B, torch.tanh(s.W_(s.x))))).square().flatten(1).sum(1).mean() / 2,
    ),
    "W^T z: of the activated z, which is not yet centered; then treated as backward outputs are": (
        NULL,
        {
            "reconstruction_reversal": True,
            "activation": "tanh",
            "activation_backward": True,
            "center_backward_output": True,
            "normalize_forward_output": True,
            "batch_center_forward_output": True,
        },
        lambda s: center(s.back(s.W, torch.tanh(s.B_(s.x)))).square().flatten(1).sum(1).mean() / 2,
    ),
    "reconstruction_amp: the normalised x, not the batch centered one": (
        AMP,
        {"reconstruction_amp": True, "normalize_input": True, "batch_center_backward_input": True},
        lambda s: -s.M(normalize(s.x), s.back(s.B, s.W_(normalize(s.x)))),
    ),
    "reconstruction_amp with W^T z of the batch centered input": (
        AMP,
        {"reconstruction_amp": True, "reconstruction_reversal": True, "batch_center_backward_input": True},
        lambda s: -s.M(s.x, s.back(s.W, s.B_(batch_center(s.x)))),
    ),
    "centering adds nothing to normalising": (
        AMP,
        {f"{what}_{where}": True for what in ("center", "normalize") for where in ("input", "forward_output")},
        lambda s: -s.M(normalize(s.W_(normalize(s.x))), s.B_(normalize(s.x))),
    ),
}


@pytest.mark.parametrize("operands", OPERANDS)
@pytest.mark.parametrize("case", WRITTEN)
def test_operations_act_in_the_documented_order(case: str, operands: str) -> None:
    op, x, W, B, bias = OPERANDS[operands]
    terms, operations, formula = WRITTEN[case]
    rule = br.Alignment(**terms, operations=br.Operations(**operations), update_forward=True)
    W, B, bias = (v.clone().requires_grad_() for v in (W, B, bias))
    expected = formula(Written(op, x, W, B, bias))
    if "sparse" in terms:  # with update_forward, sparse has its twin 1/2 M|Wx|^2
        expected = expected + op.project(x, W).square().flatten(1).sum(1).mean() / 2
    agree(alignment_value(x, W, B, bias, rule, op), expected)
    dW, dB = torch.autograd.grad(expected, (W, B), materialize_grads=True)

    # The layer teaches by the same operations, and R is no business of the bias.
    propagate(x, W, bias, op, rule, {"backward_weight": B}).mul(0).sum().backward()
    agree(B.grad, dB)
    agree(W.grad, dW)
    agree(bias.grad, torch.zeros_like(bias))


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ([], [-1.0, -2.0, -6.0]),
        (["center_input"], [-2.0, -1.0, 3.0]),
        (["normalize_input"], [-2 / 14, -1 / 14, 3 / 14]),
        (["batch_center_backward_input"], [-1.0, -1.0, -1.0]),
        (["center_input", "batch_center_backward_input"], [0.0, 0.0, 0.0]),
    ],
)
def test_the_gradient_of_amp_by_hand(operations: list[str], expected: list[float]) -> None:
    # Both examples center to (-2, -1, 3), whose square is 14; their mean is (0, 1, 5). W picks the second entry.
    x = torch.tensor([[1.0, 2.0, 6.0], [-1.0, 0.0, 4.0]])
    W, B = torch.tensor([[0.0, 1.0, 0.0]]), torch.ones(1, 3, requires_grad=True)
    rule = br.Alignment(amp=1.0, operations=br.Operations(**dict.fromkeys(operations, True)))
    propagate(x, W, None, LINEAR, rule, {"backward_weight": B}).mul(0).sum().backward()
    torch.testing.assert_close(B.grad, torch.tensor([expected]))


def test_an_example_without_variation_normalises_to_zero() -> None:
    _, _, W, B, _ = OPERANDS["linear"]
    rule = br.Alignment(amp=1.0, null=1.0, operations=br.Operations(normalize_input=True))
    B = B.clone().requires_grad_()
    propagate(torch.full((2, 4), 7.0, dtype=torch.float64), W, None, LINEAR, rule, {"backward_weight": B}).mul(
        0
    ).sum().backward()
    agree(B.grad, torch.zeros_like(B))


def test_normalising_divides_by_no_less_than_the_root_of_1e_12() -> None:
    _, _, W, B, _ = OPERANDS["linear"]
    x = 1e-8 * randn(5, 4, seed=7)
    rule = br.Alignment(amp=1.0, operations=br.Operations(normalize_input=True))
    floored = center(x) / 1e-6
    agree(alignment_value(x, W, B, None, rule, LINEAR), -(floored @ W.t() * (floored @ B.t())).sum() / 5)


# --- double backward ---


def second(first: tuple[Tensor, ...], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Derivatives of a fixed random combination of first-order gradients."""
    total = sum((g * randn(*g.shape, seed=20 + i)).sum() for i, g in enumerate(first))
    return torch.autograd.grad(total, inputs, materialize_grads=True)


def written_alignment(p: Flat, rule: br.Alignment, x: Tensor, W: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """(dR/dB, dR/dW), differentiable: by the table, or for the rule with operations from its value written out."""
    if rule.closed_form:
        return table(p, rule, x, W, B)[1:]
    assert rule.operations == br.Operations(center_input=True, normalize_backward_output=True)
    y, z = p.op.project(center(x), W), normalize(p.op.project(center(x), B))
    R = (rule.sparse * z.square() / 2 - rule.amp * y * z).sum() / x.shape[0]
    assert rule.reduction == "sum"
    assert not rule.update_forward
    dB = torch.autograd.grad(R, B, create_graph=True)[0]
    return dB, torch.zeros_like(W)


@pytest.mark.parametrize("layer", ["linear", "conv2d"])
@pytest.mark.parametrize("name", ALIGNMENTS)
def test_double_backward_is_that_of_the_gradients_written_out(name: str, layer: str) -> None:
    # Under "unit_power" the mean square is a constant of R, here as there.
    p, rule = FLAT[layer], ALIGNMENTS[name]
    bias = randn(3, seed=8)
    dy = randn(*p.op.project(p.x, p.W).shape, seed=9)
    x, W, B, bias, dy = (v.clone().requires_grad_() for v in (p.x, p.W, p.B, bias, dy))
    first = torch.autograd.grad(
        propagate(x, W, bias, p.op, rule, {"backward_weight": B}), (x, W, B, bias), dy, create_graph=True
    )

    rows = dy if layer == "linear" else dy.flatten(2).transpose(1, 2)
    rows = rows.reshape(dy.shape[0], -1, 3)
    dW, (dB, dW_alignment) = p.outer(rows, x), written_alignment(p, rule, x, W, B)
    plain = (
        p.back(B, rows),
        dW + dW_alignment if rule.update_forward else dW,
        dB + dW if rule.tie_grad else dB,
        rows.sum((0, 1)),
    )
    for ours, theirs in zip(first, plain, strict=True):
        agree(ours, theirs)
    for ours, theirs in zip(second(first, (x, W, B, dy)), second(plain, (x, W, B, dy)), strict=True):
        agree(ours, theirs)


@pytest.mark.parametrize("operations", [{}, {"use_bias_forward": True, "use_bias_backward": True}])
def test_double_backward_is_what_finite_differences_say(operations: dict[str, bool]) -> None:
    rule = br.Alignment(
        0.2, 0.3, 0.1, 0.4, 0.5, update_forward=True, tie_grad=True, operations=br.Operations(**operations)
    )

    def first(x: Tensor, W: Tensor, B: Tensor, bias: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            propagate(x, W, bias, LINEAR, rule, {"backward_weight": B}), (x, W, B, bias), dy, create_graph=True
        )

    operands = (randn(3, 2, seed=0), randn(2, 2, seed=1), randn(2, 2, seed=2), randn(2, seed=3), randn(3, 2, seed=4))
    assert torch.autograd.gradcheck(first, tuple(v.requires_grad_() for v in operands))
