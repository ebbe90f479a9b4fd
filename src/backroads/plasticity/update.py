"""A linear layer with weights of its own in each lifetime, and the change of these weights in a step, as defined."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def plastic_update(
    W: Tensor, P: Tensor, a: Tensor, q: Tensor, *, oja: bool, mu: float = 1.0, power: bool = False
) -> Tensor:
    """W + mu P o D, the weights after one step.

    Hebb: D = sum_m q a^T. Oja: D = sum_m q a^T - diag(sum_m q^2) W, that is q_i (a_j - q_i W_ij) for each sample.

    Args:
        W: weights of E lifetimes, (E, n_out, n_in).
        P: plasticity, of a shape that broadcasts to (n_out, n_in).
        a: presynaptic activity, (E, m, n_in).
        q: shifted postsynaptic activity, (E, m, n_out).
        oja: whether by Oja's rule; else by Hebb's.
        mu: factor on the change.
        power: whether D is divided by sum_m |a|^2 + |q|^2, so that no weight moves by more than mu P (1/2 + |W|); as
            in the normalised rule of least mean squares (Nagumo, Noda, IEEE Trans. Autom. Control 12, 1967), which
            divides by |a|^2. Ours has |q|^2 beside it, which bounds the decay of Oja's rule, too.

    Returns:
        (E, n_out, n_in).

    Source: Oja, "A simplified neuron model as a principal component analyzer", 1982; in this form Lindsey and
    Litwin-Kumar 2020.
    """
    D = torch.bmm(q.mT, a)
    if oja:
        D = D - q.square().sum(1).unsqueeze(2) * W
    if power:
        D = D / power_of(a, q)
    return torch.addcmul(W, P, D, value=mu)


def power_of(a: Tensor, q: Tensor) -> Tensor:
    """sum_m |a|^2 + |q|^2 of activities (E, m, n_in) and (E, m, n_out), at least 1e-8, for silent layers: (E, 1, 1)."""
    both = a.square().sum((1, 2), keepdim=True) + q.square().sum((1, 2), keepdim=True)
    return both.clamp(min=1e-8)


def linear(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """x W^T + b: x (E, N, n_in) -> (E, N, n_out), with one W and b for all, or (E, n_out, n_in) and (E, n_out)."""
    if W.dim() == 2 and b.dim() == 1:
        return F.linear(x, W, b)
    W = W if W.dim() == 3 else W.expand(len(x), *W.shape)
    if not torch.is_grad_enabled():
        return torch.baddbmm(b.unsqueeze(-2), x, W.mT)
    return _Linear.apply(x, W, b)  # type: ignore[no-any-return, no-untyped-call]


class _Linear(torch.autograd.Function):
    """Autograd's own gradient of W lies transposed in memory, which makes all that follows several times as slow."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, W)
        ctx.own_bias = b.dim() == 2
        return torch.baddbmm(b.unsqueeze(-2), x, W.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        x, W = ctx.saved_tensors
        dx = torch.bmm(dz, W) if ctx.needs_input_grad[0] else None
        dW = torch.bmm(dz.mT, x) if ctx.needs_input_grad[1] else None
        db = dz.sum(1 if ctx.own_bias else (0, 1)) if ctx.needs_input_grad[2] else None
        return dx, dW, db
