"""The formulas of receptive fields: closed forms, and derivatives against automatic differentiation and differences."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from backroads.contrib.streams import lwpr, rfwr
from backroads.contrib.streams.fields import Array, Fields, Kernel, MetricRule
from backroads.contrib.streams.rfwr import recursive_least_squares

RULE = MetricRule(diag_only=False, penalty=0.0, meta=False, meta_rate=0.0, negative_too=True, takes_large_steps=False)


def batch(N: int = 30, n: int = 3, o: int = 2) -> tuple[Array, Array, Array]:
    """Inputs (N, n), targets (N, o) and weights (N,)."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, n)), rng.normal(size=(N, o)), rng.uniform(0.1, 1, N)


def recursion(z: Array, t: Array, w: Array, ridge: float) -> tuple[Array, Array]:
    """P and B after the samples, without forgetting."""
    P, B = np.eye(z.shape[1])[None] / ridge, np.zeros((1, z.shape[1], t.shape[1]))
    for zi, ti, wi in zip(z, t, w, strict=True):
        P, B, _ = recursive_least_squares(P, B, zi[None], ti[None], np.array([wi]), np.ones(1))
    return P[0], B[0]


def solved(z: Array, t: Array, w: Array, ridge: float) -> Array:
    """Weighted ridge regression in closed form."""
    return np.linalg.solve(z.T @ (w[:, None] * z) + ridge * np.eye(z.shape[1]), z.T @ (w[:, None] * t))


def test_the_recursion_is_weighted_ridge_regression() -> None:
    z, t, w = batch()
    P, B = recursion(z, t, w, 0.5)
    np.testing.assert_allclose(B, solved(z, t, w, 0.5), rtol=0, atol=1e-11)
    np.testing.assert_allclose(P, np.linalg.inv(z.T @ (w[:, None] * z) + 0.5 * np.eye(3)), rtol=0, atol=1e-11)


def test_the_error_before_a_sample_is_that_of_a_fit_without_it() -> None:
    z, t, w = batch()
    P, B = recursion(z, t, w, 0.5)
    for i in range(len(z)):
        others = np.arange(len(z)) != i
        left_out = t[i] - solved(z[others], t[others], w[others], 0.5).T @ z[i]
        h = w[i] * z[i] @ P @ z[i]
        np.testing.assert_allclose((t[i] - B.T @ z[i]) / (1 - h), left_out, rtol=0, atol=1e-11)
    P, B = np.eye(3)[None] / 0.5, np.zeros((1, 3, 2))
    for i in range(len(z)):  # and the recursion returns just that
        P, B, e_cv = recursive_least_squares(P, B, z[i][None], t[i][None], w[i : i + 1], np.ones(1))
        np.testing.assert_allclose(e_cv[0], t[i] - solved(z[:i], t[:i], w[:i], 0.5).T @ z[i], rtol=0, atol=1e-11)


def test_the_ridge_that_is_restored_does_not_fade() -> None:
    """All coordinates are restored in turn: the information matrix holds the ridge, at the mean over a round, exactly
    where nothing comes in."""
    model = rfwr.RFWRRegressor(ridge=0.3)
    f = rfwr.RFWRFields.zeros(1, {"n": 2, "o": 1})
    f.P[0], f.lam[0] = np.eye(2) / 0.3, 0.99
    expected, turn = 0.3 * np.eye(2), 0
    for _ in range(5000):
        # Forgetting alone is a sample of weight next to nothing.
        f.P, f.B, _ = recursive_least_squares(f.P, f.B, np.zeros((1, 2)), np.zeros((1, 1)), np.ones(1), f.lam)
        model._restore_ridge(f)
        expected = 0.99 * expected
        expected[turn, turn] += 2 * (1 - 0.99) * 0.3
        turn = 1 - turn
    np.testing.assert_allclose(np.linalg.inv(f.P[0]), expected, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.inv(f.P[0]), 0.3 * np.eye(2), rtol=0.01)


def test_the_slope_of_the_leave_one_out_error_is_that_of_the_batch() -> None:
    z, t, w = batch()
    k = 7
    others = np.arange(len(z)) != k

    def errors(weight: float) -> tuple[Array, Array, Array, Array]:
        """e_cv, e, h and P of the batch when sample k has this weight."""
        u = w.copy()
        u[k] = weight
        P, B = recursion(z, t, u, 0.5)
        e = t - z @ B
        h = u * np.einsum("ni,ij,nj->n", z, P, z)
        return e / (1 - h)[:, None], e, h, P

    def J(weight: float) -> float:
        u = w.copy()
        u[k] = weight
        return float((u * (errors(weight)[0] ** 2).sum(1)).sum() / u.sum())

    e_cv, e, h, P = errors(w[k])
    square = (e_cv**2).sum(1)
    H = np.einsum("n,ni,no->io", (w / (1 - h))[others], z[others], e_cv[others])
    R = np.einsum("n,ni,nj->ij", (w**2 * square / (1 - h))[others], z[others], z[others])
    E, W = np.array([(w * square).sum()]), np.array([w.sum()])
    found, _ = rfwr.error_slopes(E, W, square[[k]], e[[k]], z[[k]], (z @ P)[[k]], H[None], R[None])
    d = 1e-5
    assert found[0] == pytest.approx((J(w[k] + d) - J(w[k] - d)) / (2 * d), rel=1e-6)
    # One direction is a regression on a single input: LWPR's slope is the same there.
    s, Ps = z[[k]] @ np.eye(3)[:, :1], (z[[k]] / (w @ z**2))[:, :1]
    one = lwpr.error_slopes(E, W, np.sqrt(square[[k]]), e[[k], 0], s, Ps, H[None, :1, 0], R[None, :1, 0])[0]
    other = rfwr.error_slopes(E, W, square[[k]], e[[k], :1], s, Ps, H[None, :1, :1], R[None, :1, :1])[0]
    np.testing.assert_allclose(one, other, rtol=1e-12)


def test_the_second_slope_is_that_of_the_mean_where_a_sample_moves_no_other() -> None:
    """Without H, R and an error after the update, E / W depends on w through both sums alone."""
    E, W, e_cv2 = 1.7, 5.0, 0.4
    w = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    J = (E + (w - 0.6) * e_cv2) / (W + (w - 0.6))
    (first,) = torch.autograd.grad(J, w, create_graph=True)
    (second,) = torch.autograd.grad(first, w)
    zero, one = np.zeros((1, 1)), np.ones((1, 1))
    sums = np.array([E]), np.array([W])
    of_rfwr = rfwr.error_slopes(*sums, np.array([e_cv2]), zero, one, one, zero[..., None], zero[..., None])
    of_lwpr = lwpr.error_slopes(*sums, np.array([e_cv2**0.5]), zero[0], one, one, zero, zero)
    for found in (of_rfwr, of_lwpr):
        np.testing.assert_allclose(np.ravel(found), [first.item(), second.item()], rtol=1e-12)
    half = lwpr.error_slopes(*sums, np.array([e_cv2**0.5]), zero[0], one, one, zero, zero, half=True)
    assert half[1][0] == pytest.approx(second.item() - E / W**3)


@pytest.mark.parametrize("diag_only", [False, True])
@pytest.mark.parametrize("kernel", [Kernel("gaussian", 2.0), Kernel("bisquare", 2.0), Kernel("bisquare", 4.0)], ids=str)
def test_the_gradient_of_the_metric_is_that_of_automatic_differentiation(kernel: Kernel, diag_only: bool) -> None:
    rng = np.random.default_rng(1)
    n, dJ, d2J, penalty, W = 3, 0.7, -0.4, 0.05, 2.5
    M0 = np.triu(rng.normal(size=(n, n))) * 0.6
    if diag_only:
        M0 = np.diag(np.diag(M0))
    dx = rng.normal(size=n) * 0.5
    fields = Fields.zeros(1, {"n": n})
    fields.M[0], fields.D[0] = M0, M0.T @ M0
    weights = kernel(np.array([dx @ M0.T @ M0 @ dx]))
    w0 = weights[0][0]
    assert 0.01 < w0 < 1

    def cost(entries: torch.Tensor) -> torch.Tensor:
        M = torch.as_tensor(M0).clone()
        rows, columns = (np.diag_indices if diag_only else np.triu_indices)(n)
        M = M.index_put((torch.as_tensor(rows), torch.as_tensor(columns)), entries)
        q = ((M @ torch.as_tensor(dx)) ** 2).sum()
        w = torch.exp(-q / 2) if kernel.name == "gaussian" else (1 - q / kernel.reach) ** 2
        D = M.T @ M
        return dJ * (w - w0) + d2J / 2 * (w - w0) ** 2 + w0 / W * penalty / n * (D**2).sum()

    at = torch.as_tensor(M0[(np.diag_indices if diag_only else np.triu_indices)(n)])
    gradient = torch.autograd.functional.jacobian(cost, at)
    second = torch.autograd.functional.hessian(cost, at).diagonal()
    rule = dataclasses.replace(RULE, diag_only=diag_only, penalty=penalty)
    found = rule.gradients(fields, dx[None], *weights, np.array([W]), np.array([dJ]), np.array([d2J]))
    learned = (np.diag_indices if diag_only else np.triu_indices)(n)
    for array, expected in zip(found, (gradient, second), strict=True):
        np.testing.assert_allclose(array[0][learned], expected.numpy(), rtol=1e-10, atol=1e-12)
        array[0][learned] = 0.0
        assert not array.any()


def one_field(M: Array, alpha: float = 1.0) -> Fields:
    n = len(M)
    fields = Fields.zeros(1, {"n": n})
    fields.M[0], fields.D[0], fields.alpha[0], fields.b[0] = M, M.T @ M, alpha, np.log(alpha)
    return fields


@pytest.mark.parametrize("sign", [1, -1])
def test_a_step_that_is_too_large_is_left_out_and_halves_its_rate(sign: int) -> None:
    M = np.array([[2.0, 0.1], [0.0, 1.0]])
    g = np.array([[0.3 * sign, 0.1], [0.0, 0.0]])[None]  # the limit is 0.2
    fields = one_field(M)
    RULE.step(fields, g, g, np.ones(1))
    np.testing.assert_allclose(fields.M[0], [[2.0, 0.0], [0.0, 1.0]], atol=1e-15)
    np.testing.assert_array_equal(fields.alpha[0], [[0.5, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(fields.D[0], fields.M[0].T @ fields.M[0])
    # rfwr.m takes it, with the half rate, and looks at positive ones alone.
    fields = one_field(M)
    reference = dataclasses.replace(RULE, negative_too=False, takes_large_steps=True)
    reference.step(fields, g, g, np.ones(1))
    assert fields.M[0, 0, 0] == pytest.approx(2.0 - 0.15 if sign > 0 else 2.3)
    assert fields.alpha[0, 0, 0] == (0.5 if sign > 0 else 1.0)


def test_a_field_whose_factor_is_0_keeps_its_metric_to_the_last_bit() -> None:
    fields = one_field(np.array([[1.1, 0.3], [0.0, 0.7]]))
    fields.D[0] = [[1.0, 0.2], [0.2, 2.0]]
    before = {name: array.copy() for name, array in fields.arrays().items()}
    g = np.full((1, 2, 2), 0.01)
    dataclasses.replace(RULE, meta=True, meta_rate=10.0).step(fields, g, g, np.zeros(1))
    for name, array in fields.arrays().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_meta_learning_raises_a_rate_whose_gradients_agree_and_lowers_one_whose_do_not() -> None:
    """Three steps of incremental delta-bar-delta, by its definition, one number at a time."""
    rule = dataclasses.replace(RULE, meta=True, meta_rate=40.0)
    for signs in ((1, 1, 1), (1, -1, 1)):
        fields = one_field(np.array([[5.0]]), alpha=2.0)
        M, b, memory = 5.0, np.log(2.0), 0.0
        for sign in signs:
            g, g2, m = 0.05 * sign, 0.1, 0.5
            rule.step(fields, np.full((1, 1, 1), g), np.full((1, 1, 1), g2), np.array([m]))
            b = min(max(b - min(max(40.0 * m * g * memory, -0.1), 0.1), -10), 10)
            alpha = np.exp(b)
            memory = memory * max(1 - alpha * g2 * m, 0) - alpha * g * m
            M -= alpha * m * g
            np.testing.assert_allclose(
                [fields.b.item(), fields.alpha.item(), fields.h.item(), fields.M.item()],
                [b, alpha, memory, M],
                rtol=1e-12,
            )
        # Agreeing gradients: the memory is opposite to the gradient, and b grows.
        assert (fields.b.item() > np.log(2.0)) == (signs == (1, 1, 1))


def test_kernels_have_their_derivatives() -> None:
    q: Any = torch.linspace(0, 5, 41, dtype=torch.float64, requires_grad=True)
    for kernel in (Kernel("gaussian", 2.0), Kernel("bisquare", 2.0), Kernel("bisquare", 4.0)):
        inside = q < kernel.reach
        w = torch.exp(-q / 2) if kernel.name == "gaussian" else torch.where(inside, (1 - q / kernel.reach) ** 2, 0.0)
        (first,) = torch.autograd.grad(w.sum(), q, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), q, allow_unused=True)
        for found, expected in zip(kernel(q.detach().numpy()), (w, first, second), strict=True):
            np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-15)
