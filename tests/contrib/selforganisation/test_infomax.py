"""Linear infomax against automatic differentiation, water filling, and the expectation of its local form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from backroads.contrib.selforganisation import Infomax, information, information_gradient, settle, water_filling
from backroads.errors import BackroadsError

D = torch.float64


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W (3, 5), and covariances of x, n and e."""
    generator = torch.Generator().manual_seed(0)

    def square(n: int, least: float) -> Tensor:
        A = torch.randn(n, n, dtype=D, generator=generator)
        return A @ A.T / n + least * torch.eye(n, dtype=D)

    return torch.randn(3, 5, dtype=D, generator=generator), square(5, 0.1), square(5, 0.2), square(3, 0.3)


def test_the_gradient_is_that_of_the_information() -> None:
    W, C, R_n, R_e = problem()
    W.requires_grad_()
    value = information(W, C, R_n, R_e)
    value.backward()
    torch.testing.assert_close(information_gradient(W.detach(), C, R_n, R_e), W.grad, rtol=1e-10, atol=1e-12)
    # I(x; y) of Gaussians from the joint covariance: ln(det Cov x det Cov y / det Cov xy) / 2
    w = W.detach()
    Q_s = w @ (C + R_n) @ w.T + R_e
    joint = torch.cat([torch.cat([C, C @ w.T], 1), torch.cat([w @ C, Q_s], 1)])
    expected = (torch.logdet(C) + torch.logdet(Q_s) - torch.logdet(joint)) / 2
    assert float(value.detach()) == pytest.approx(float(expected), abs=1e-12)


def test_one_unit_without_noise_on_inputs_finds_the_first_component() -> None:
    _, C, _, _ = problem()
    none, R_e = torch.zeros(5, 5, dtype=D), torch.eye(1, dtype=D)
    w = torch.ones(1, 5, dtype=D)
    for _ in range(2000):
        w = w + 0.1 * information_gradient(w, C, none, R_e)
        w = w / w.norm()
    assert float((w @ torch.linalg.eigh(C).eigenvectors[:, -1]).abs()) == pytest.approx(1, abs=1e-8)


def test_water_fills_the_axes_up_to_one_level() -> None:
    values = torch.tensor([4, 2, 1, 0.1], dtype=D)
    gains = water_filling(values, 1.5, 1.0)
    torch.testing.assert_close(gains, torch.tensor([5 / 6, 7 / 12, 1 / 12, 0], dtype=D))
    torch.testing.assert_close(water_filling(values.flip(0), 1.5, 1.0), gains.flip(0))
    torch.testing.assert_close(water_filling(torch.tensor([1.0, 0.0], dtype=D), 2.0, 1.0).tolist(), [2.0, 0.0])
    # At the best W, dI/dW is a multiple of W (Lagrange), and no other W of the same power has more information.
    C, none, R_e = values.diag(), torch.zeros(4, 4, dtype=D), torch.eye(4, dtype=D)
    W = gains.sqrt().diag()
    slope = information_gradient(W, C, none, R_e)
    level = 0.5 / 1.5 * float((slope * W).sum()) / 0.5
    torch.testing.assert_close(slope, level * W, rtol=1e-10, atol=1e-12)
    best = float(information(W, C, none, R_e))
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        other = W + 0.1 * torch.randn(4, 4, dtype=D, generator=generator)
        assert float(information(other * math.sqrt(1.5) / other.norm(), C, none, R_e)) < best


def test_lateral_synapses_settle_to_the_inverse_covariance() -> None:
    _, _, _, Q = problem()
    u = torch.randn(7, 3, dtype=D, generator=torch.Generator().manual_seed(1))
    a = 1.9 / float(torch.linalg.eigvalsh(Q)[-1])
    torch.testing.assert_close(settle(u, Q, a, 3000), torch.linalg.solve(Q, u.T).T)
    # After t steps, a v = (1 - (I - a Q)^t) Q^-1 u; at v = u after one.
    torch.testing.assert_close(settle(u, Q, a, 1), a * u)


def test_the_local_rule_is_the_gradient_of_the_information() -> None:
    """Samples whose second moments are exactly C + R_n and R_n, and lateral synapses that remember one batch."""
    W, C, R_n, R_e = problem()
    generator = torch.Generator().manual_seed(2)
    z = torch.linalg.qr(torch.randn(40, 5, dtype=D, generator=generator)).Q * math.sqrt(40)
    signal, noise = (z @ torch.linalg.cholesky(M).T for M in (C + R_n, R_n))
    state = Infomax(W, torch.zeros(3, 3, dtype=D), torch.eye(3, dtype=D))
    a = 1 / float(torch.linalg.eigvalsh(W @ (C + R_n) @ W.T + R_e)[-1])
    found = state.step(signal, noise, R_e=R_e, rate=0.01, memory=1.0, a=a, steps=5000)
    W.requires_grad_()
    information(W, C, R_n, R_e).backward()
    torch.testing.assert_close(found.W - W.detach(), 0.01 * W.grad, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.Q_s, W.detach() @ (C + R_n) @ W.detach().T + R_e)
    torch.testing.assert_close(found.Q_n, W.detach() @ R_n @ W.detach().T + R_e)
    slower = state.step(signal, noise, R_e=R_e, rate=0.01, memory=4.0, a=a, steps=10)
    torch.testing.assert_close(slower.Q_s, found.Q_s / 4)  # from 0


def test_the_local_rule_gains_information_from_samples() -> None:
    W, C, R_n, R_e = problem()
    generator = torch.Generator().manual_seed(3)
    roots = [torch.linalg.cholesky(M).T for M in (C, R_n)]
    state = Infomax(0.1 * W, R_e, R_e)
    before = float(information(state.W, C, R_n, R_e))
    for _ in range(200):
        x, n, other = (torch.randn(100, 5, dtype=D, generator=generator) for _ in range(3))
        signal, noise = x @ roots[0] + n @ roots[1], other @ roots[1]
        state = state.step(signal, noise, R_e=R_e, rate=0.02, memory=10.0, a=0.1, steps=50)
    assert float(information(state.W, C, R_n, R_e)) > before + 0.5


W2, I2, Z2 = torch.ones(1, 2, dtype=D), torch.eye(2, dtype=D), torch.zeros(2, 2, dtype=D)
I1, Z1 = torch.eye(1, dtype=D), torch.zeros(1, 1, dtype=D)
STATE = Infomax(W2, I1, I1)
STEP: dict[str, Any] = {"R_e": I1, "rate": 0.1, "memory": 2.0, "a": 0.1}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: information(W2, I2, Z2, Z1), "R_e: expected noise in every direction of the outputs, got a singular"),
        (lambda: information_gradient(W2, I2, Z2, Z1), "R_e: expected noise in every direction"),
        (lambda: information(W2, -I2, Z2, I1), "C: expected a covariance, without negative eigenvalues"),
        (lambda: information(W2, I1, Z2, I1), r"C: expected a tensor .* of shape \(2, 2\)"),
        (lambda: information(W2.half(), I2, Z2, I1), "W: expected a tensor in float32 or float64"),
        (lambda: water_filling(torch.tensor([1.0, -1.0]), 1.0, 1.0), "eigenvalues: expected 0 or more"),
        (lambda: water_filling(torch.ones(2), 0, 1.0), "power: expected a number above 0, got 0"),
        (lambda: settle(W2, 4 * I2, 0.5, 10), r"a: expected above 0 and below 2 / .* = 0.5, got 0.5"),
        (lambda: settle(W2, I2, -0.1, 10), "a: expected above 0"),
        (lambda: settle(W2, I2, 0.1, 2.5), "steps: expected a whole number, 1 or more, got 2.5"),
        (lambda: STATE.step(W2, W2 * math.inf, **STEP), r"noise: expected finite numbers, got inf at index \(0, 0\)"),
        (lambda: STATE.step(W2[:0], W2, **STEP), "signal: expected .* not empty"),
        (lambda: STATE.step(W2, W2, **{**STEP, "rate": -1.0}), "rate: expected a number above 0"),
        (lambda: STATE.step(W2, W2, **{**STEP, "memory": 0.5}), "memory: expected a number of batches, 1 or more"),
        (lambda: STATE.step(9 * W2, W2, **{**STEP, "a": 1.0}), "a: expected above 0 and below"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(call: Any, message: str) -> None:
    with pytest.raises(BackroadsError, match=message) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    torch.testing.assert_close([STATE.W, STATE.Q_s, STATE.Q_n], [torch.ones(1, 2, dtype=D), I1, I1])
