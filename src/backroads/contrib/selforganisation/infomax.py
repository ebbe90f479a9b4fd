"""Linear infomax: a layer that keeps as much information on its input as its noise allows.

    y = W (x + n) + e,   C, R_n, R_e the covariances of x, n, e
    I = ln det Q_s / 2 - ln det Q_n / 2,   Q_s = W (C + R_n) W^T + R_e,   Q_n = W R_n W^T + R_e
    dI/dW = Q_s^-1 W (C + R_n) - Q_n^-1 W R_n

Sources: R. Linsker, "Self-organization in a perceptual network", Computer 21, 1988; "Local synaptic learning rules
suffice to maximize mutual information in a linear network", Neural Computation 4, 1992. Everything is float64.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from backroads.contrib.selforganisation.checks import check_steps, checked, covariance, positive
from backroads.errors import ConfigError, ShapeError


def information(W: Tensor, C: Tensor, R_n: Tensor, R_e: Tensor) -> Tensor:
    """Mutual information of x and y in nats, a scalar; differentiable in W.

    Args:
        W: (O, I).
        C: covariance of the inputs, (I, I).
        R_n: of the noise on the inputs, (I, I).
        R_e: of the noise on the outputs, (O, O).

    Raises:
        ShapeError: a tensor of another shape or dtype, or not finite; a covariance that is none; noise of the outputs
            that is singular, as where R_n = 0 and R_e is.
    """
    _, Q_s, Q_n = _outputs(W, C, R_n, R_e)
    return (torch.logdet(Q_s) - torch.logdet(Q_n)) / 2


def information_gradient(W: Tensor, C: Tensor, R_n: Tensor, R_e: Tensor) -> Tensor:
    """dI/dW in closed form, (O, I). Args and Raises: as :func:`information`."""
    W, Q_s, Q_n = _outputs(W, C, R_n, R_e)
    change: Tensor = torch.linalg.solve(Q_s, W @ (C + R_n).double()) - torch.linalg.solve(Q_n, W @ R_n.double())
    return change


def _outputs(W: Tensor, C: Tensor, R_n: Tensor, R_e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """W, and the covariances of the outputs with and without the signal."""
    W = checked("W", W, None, None)
    C, R_n = covariance("C", C, W.shape[1]), covariance("R_n", R_n, W.shape[1])
    R_e = covariance("R_e", R_e, W.shape[0])
    Q_n = W @ R_n @ W.T + R_e
    lowest = torch.linalg.eigvalsh(Q_n.detach())
    if float(lowest[0]) <= 1e-14 * float(lowest[-1]):
        raise ShapeError(
            "R_e: expected noise in every direction of the outputs, got a singular W R_n W^T + R_e, under which "
            "information is infinite; give R_e, or R_n, without eigenvalues of 0"
        )
    return W, W @ C @ W.T + Q_n, Q_n


def water_filling(eigenvalues: Tensor, power: float, noise: float) -> Tensor:
    """Gains of the best W^T W on the axes of the inputs, under tr W W^T = power.

    Without noise on the inputs and with noise of this variance on each output: [nu - noise / lambda]_+, with nu such
    that they add up to the power.

    Args:
        eigenvalues: variances of the inputs along their axes, (I,), 0 or more, one at least above 0.
        power: above 0.
        noise: variance, above 0.

    Returns:
        (I,).
    """
    positive(power=power, noise=noise)
    values = checked("eigenvalues", eigenvalues, None)
    if float(values.min()) < 0 or float(values.max()) == 0:
        raise ShapeError(f"eigenvalues: expected 0 or more, and one above 0, got {values.tolist()}")
    floor = noise / values  # infinite where nothing can be learned
    rising = floor.sort().values
    levels = (power + rising.cumsum(0)) / torch.arange(
        1, len(values) + 1, device=values.device
    )  # nu, if so many axes are used
    used = int((levels > rising).sum())
    return (levels[used - 1] - floor).clamp_min(0)


def settle(u: Tensor, Q: Tensor, a: float, steps: int) -> Tensor:
    """a v after v <- u + (I - a Q) v, lateral synapses alone; it comes to Q^-1 u.

    Args:
        u: what the units receive, (n, O).
        Q: positive definite, (O, O).
        a: above 0 and below 2 / its largest eigenvalue, else v would grow without end.
        steps: 1 or more, from v = 0.

    Raises:
        ShapeError: a tensor of another shape or dtype, or not finite. ConfigError: a or steps out of range.
    """
    Q = covariance("Q", Q)
    u = checked("u", u, None, len(Q))
    check_steps(steps)
    bound = 2 / float(torch.linalg.eigvalsh(Q)[-1].clamp_min(torch.finfo(Q.dtype).tiny))
    if not 0 < a < bound:
        raise ConfigError(f"a: expected above 0 and below 2 / (largest eigenvalue of Q) = {bound:.6g}, got {a!r}")
    F = torch.eye(len(Q), dtype=Q.dtype, device=Q.device) - a * Q
    v = torch.zeros_like(u)
    for _ in range(steps):
        v = u + v @ F
    return a * v


@dataclasses.dataclass(frozen=True)
class Infomax:
    """A layer that ascends its information by what is present at its synapses, as frozen state.

    In a phase with the signal, x + n, and in one with the noise alone, n, the lateral synapses learn Q, the covariance
    of the outputs, and the outputs settle to z = Q^-1 y (:func:`settle`). Then W changes by

        rate * (mean of z (x + n)^T in the phase with the signal - mean of z n^T in the phase without)

    whose expectation is dI/dW.

    Attributes:
        W: (O, I). Q_s, Q_n: what the lateral synapses hold in either phase, (O, O).
    """

    W: Tensor
    Q_s: Tensor
    Q_n: Tensor

    @torch.no_grad()
    def step(
        self, signal: Tensor, noise: Tensor, *, R_e: Tensor, rate: float, memory: float, a: float, steps: int = 100
    ) -> Infomax:
        """The state after a batch of each phase; this one stays as it is.

        Args:
            signal: x + n, (n, I).
            noise: n alone, (n, I).
            R_e: covariance of the noise on the outputs, (O, O).
            rate: of W, above 0.
            memory: batches over which Q is tracked, 1 or more: Q += (mean of y y^T + R_e - Q) / memory, y = W x.
            a, steps: of :func:`settle`.

        Raises:
            ShapeError: a tensor of another shape or dtype, or not finite. ConfigError: a number out of range.
        """
        positive(rate=rate)
        if not memory >= 1:
            raise ConfigError(f"memory: expected a number of batches, 1 or more, got {memory!r}")
        W = checked("W", self.W, None, None)
        R_e = covariance("R_e", R_e, len(W))
        changes, tracked = [], []
        for name, x, Q in (("signal", signal, self.Q_s), ("noise", noise, self.Q_n)):
            x = checked(name, x, None, W.shape[1])
            y = x @ W.T
            Q = Q + (y.T @ y / len(y) + R_e - Q) / memory
            changes.append(settle(y, Q, a, steps).T @ x / len(x))
            tracked.append(Q)
        return Infomax(W + rate * (changes[0] - changes[1]), *tracked)
