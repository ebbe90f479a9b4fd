"""Each layer's map and its two adjoints, against inner products and against torch's own functions."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import PROBLEMS
from torch import Tensor

import backroads as br
from backroads.feedback.functional import ConvolutionMap, LinearMap, Operator
from backroads.feedback.nn import AlignedLayer


class Setting(NamedTuple):
    layer: AlignedLayer
    op: Operator
    x: Tensor  # as the map sees it
    W: Tensor
    B: Tensor
    y: Tensor
    dy: Tensor


def setting(name: str) -> Setting:
    layer = PROBLEMS[name].layer(br.rules.feedback_alignment())
    op, x = layer.operator, layer.operand(PROBLEMS[name].input())
    W, B = layer.weight.detach(), layer.backward_weight.detach()
    y = op.project(x, W)
    return Setting(layer, op, x, W, B, y, random_like(y))


def random_like(v: Tensor, seed: int = 2) -> Tensor:
    return torch.randn(v.shape, dtype=v.dtype, generator=torch.Generator().manual_seed(seed))


def exactly(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


each_problem = pytest.mark.parametrize("name", PROBLEMS)


@each_problem
def test_pullback_and_weight_gradient_are_the_adjoints_of_project(name: str) -> None:
    _, op, x, W, _, y, dy = setting(name)
    pulled, outer = op.pullback(dy, W, x), op.weight_gradient(x, dy, W)
    assert pulled.shape == x.shape
    assert outer.shape == W.shape
    inner = (dy * y).sum()
    exactly((pulled * x).sum(), inner)
    exactly((outer * W).sum(), inner)
    if x.shape[0]:
        assert abs(inner) > 1e-3  # the identities are about something


@each_problem
def test_adjoints_do_not_read_the_values_of_the_tensors_they_take_for_their_shape(name: str) -> None:
    _, op, x, W, _, _, dy = setting(name)
    exactly(op.pullback(dy, W, torch.full_like(x, torch.nan)), op.pullback(dy, W, x))
    exactly(op.weight_gradient(x, dy, torch.full_like(W, torch.nan)), op.weight_gradient(x, dy, W))


@each_problem
def test_the_map_and_its_errors_are_those_of_the_torch_layer(name: str) -> None:
    layer, op, _, _, B, _, dy = setting(name)
    raw = PROBLEMS[name].input().requires_grad_()
    x = layer.operand(raw)
    weights = {"weight": B.clone().requires_grad_()}
    if layer.bias is not None:
        weights["bias"] = random_like(layer.bias, seed=3).requires_grad_()
    # torch's own layer with B for its weight: its errors are B^T dy, sum dy x^T and sum dy.
    y = torch.func.functional_call(br.revert(layer), weights, raw)
    exactly(op.project(x, B, weights.get("bias")), y)
    expected = torch.autograd.grad(y, [raw, *weights.values()], dy)

    dx, dW, db = op.backward(dy, x.detach(), B, (True, True, True))
    exactly(torch.autograd.grad(x, raw, dx)[0], expected[0])
    exactly(dW, expected[1])
    if layer.bias is not None:
        exactly(db, expected[2])


@each_problem
def test_backward_gives_what_is_needed_and_nothing_else(name: str) -> None:
    _, op, x, _, B, _, dy = setting(name)
    everything = op.backward(dy, x, B, (True, True, True))
    for needs in itertools.product((False, True), repeat=3):
        for need, part, whole in zip(needs, op.backward(dy, x, B, needs), everything, strict=True):
            if need:
                exactly(part, whole)
            else:
                assert part is None


@each_problem
def test_positions_is_the_number_of_places_in_the_output(name: str) -> None:
    _, op, x, W, _, y, _ = setting(name)
    if isinstance(op, LinearMap):
        places = 1 if x.dim() == 1 else math.prod(y.shape[1:-1])
    else:
        places = math.prod(y.shape[-len(op.stride) :])
    assert op.positions(x, W) == places


@settings(max_examples=60, deadline=None, derandomize=True)
@given(*[st.integers(1, 5)] * 2, st.integers(1, 4))
def test_overlap_is_the_most_positions_that_meet_one_pixel(kernel: int, stride: int, dilation: int) -> None:
    op, W = ConvolutionMap((stride,), (0,), (dilation,), 1), torch.ones(1, 1, kernel)
    x = torch.zeros(1, 1, 60)  # long enough for a pixel to meet all it can
    met = op.pullback(torch.ones_like(op.project(x, W)), W, x)
    assert op.overlap(W) == met.max()
    square = ConvolutionMap((stride, 1), (0, 0), (dilation, 1), 1)
    assert square.overlap(torch.ones(1, 1, kernel, 3)) == 3 * met.max()


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name != "linear over tokens"])  # (6, 5) is a batch too
def test_examples_alone_are_the_examples_of_the_batch(name: str) -> None:
    _, op, x, W, B, y, dy = setting(name)
    if op.unbatched(x):
        exactly(op.project(x.unsqueeze(0), W)[0], y)
        exactly(op.pullback(dy.unsqueeze(0), B, x.unsqueeze(0))[0], op.pullback(dy, B, x))
        return
    pulled, outer = op.pullback(dy, B, x), torch.zeros_like(W)
    for n in range(x.shape[0]):
        exactly(op.project(x[n], W), y[n])
        exactly(op.pullback(dy[n], B, x[n]), pulled[n])
        outer += op.weight_gradient(x[n], dy[n], W)
    exactly(op.weight_gradient(x, dy, W), outer)


@each_problem
def test_the_bias_is_added_over_batch_and_positions_and_taken_off_again(name: str) -> None:
    _, op, x, W, _, y, _ = setting(name)
    bias = torch.arange(1, W.shape[0] + 1, dtype=W.dtype)
    exactly(op.add_bias(y, bias), op.project(x, W, bias))
    exactly(op.add_bias(op.project(x, W, bias), bias, -1), y)


@each_problem
def test_spread_divides_a_feature_vector_evenly_over_the_positions(name: str) -> None:
    _, op, x, *_ = setting(name)
    features = -1 if isinstance(op, LinearMap) else x.dim() - len(op.stride) - 1
    rows = x.unsqueeze(0) if op.unbatched(x) else x
    v = torch.randn(rows.shape[0], x.shape[features], dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    spread = op.spread(v, x)
    assert spread.shape == x.shape
    # Rows of (example, position), each with all the features.
    flat = spread.reshape(rows.shape).movedim(features if features < 0 else features + rows.dim() - x.dim(), -1)
    flat = flat.reshape(rows.shape[0], -1, v.shape[1]) if rows.shape[0] else v.new_zeros(0, 1, v.shape[1])
    exactly(flat.sum(1), v)
    exactly(flat, flat[:, :1].expand_as(flat))


BORDERS = {
    "1d": ((2,), (0,), (1,), 1, (1, 2), (3, 2, 7), (4, 2, 3)),
    "2d, one side each": ((2, 2), (0, 0), (1, 1), 1, (0, 1, 0, 1), (3, 2, 6, 8), (4, 2, 3, 3)),
    "2d, on top of a padding": ((1, 2), (1, 0), (2, 1), 2, (2, 0, 1, 3), (2, 4, 5, 6), (6, 2, 2, 3)),
    "3d": ((1, 2, 1), (0, 1, 0), (1, 1, 1), 1, (0, 1, 1, 0, 2, 0), (2, 2, 3, 4, 3), (3, 2, 2, 2, 2)),
}


@pytest.mark.parametrize("case", BORDERS)
def test_a_border_is_zeros_around_the_input_that_never_show_outside_the_map(case: str) -> None:
    stride, padding, dilation, groups, border, x_shape, W_shape = BORDERS[case]
    op = ConvolutionMap(stride, padding, dilation, groups, border)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(x_shape, dtype=torch.float64, generator=generator, requires_grad=True)
    W = torch.randn(W_shape, dtype=torch.float64, generator=generator, requires_grad=True)
    conv = (F.conv1d, F.conv2d, F.conv3d)[len(stride) - 1]
    y = conv(F.pad(x, border), W, None, stride, padding, dilation, groups)
    dy = random_like(y)
    dx, dW = torch.autograd.grad(y, (x, W), dy)
    exactly(op.project(x, W), y)
    exactly(op.pullback(dy, W, x), dx)
    exactly(op.weight_gradient(x, dy, W), dW)
    assert op.positions(x, W) == math.prod(y.shape[2:])
