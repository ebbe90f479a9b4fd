"""A local rule as a polynomial whose coefficients are meta-learned; Hebb's and Oja's rules are two of its points.

    W <- W + mu P o D,    D_ij = sum over k, n, p of  theta_knp  M[phi_k(z_i, f_i) x_j^n] W_ij^p

x_j is the presynaptic activity, z_i the postsynaptic one, f_i what feedback (or the signal itself) brings there; M sums
over the samples of a step; phi_k are the products of z and f up to the second degree, n and p are 0 or 1. All synapses
of a layer share theta, (6, 2, 2): a formula that can be read, and used in another network.

Sources, of rules whose coefficients are found by training: Bengio, Bengio, Cloutier, "Learning a synaptic learning
rule", IJCNN 1991; Confavreux et al., "A meta-learning approach to (re)discover plasticity rules that carry a desired
function into a neural network", NeurIPS 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor

PRODUCTS = ("1", "z", "f", "z^2", "z f", "f^2")
SHAPE = (len(PRODUCTS), 2, 2)  # of theta: phi, power of x, power of W


def products(z: Tensor, f: Tensor) -> Tensor:
    """phi of activities of one shape, (6, ...), in the order of PRODUCTS."""
    return torch.stack([torch.ones_like(z), z, f, z * z, z * f, f * f])


def polynomial_update(
    W: Tensor, P: Tensor, x: Tensor, z: Tensor, f: Tensor, theta: Tensor, *, mu: float = 1.0
) -> Tensor:
    """W + mu P o D, the weights after one step.

    Args:
        W: weights of E lifetimes, (E, n_out, n_in).
        P: plasticity, of a shape that broadcasts to (n_out, n_in).
        x: presynaptic activity, (E, m, n_in).
        z: postsynaptic activity, (E, m, n_out).
        f: what feedback brings, (E, m, n_out).
        theta: coefficients, (6, 2, 2).
        mu: factor on the change.

    Returns:
        (E, n_out, n_in).
    """
    U = torch.einsum("knp,kemi->npemi", theta, products(z, f))

    def of(p: int) -> Tensor:
        """sum_m U_0p + U_1p x^T, the coefficient of W^p at each synapse."""
        return U[0, p].sum(1).unsqueeze(2) + torch.bmm(U[1, p].mT, x)

    return torch.addcmul(W, P, of(0) + of(1) * W, value=mu)


def hebb(s: float) -> Tensor:
    """theta of Hebb's rule, D = M[q x^T] of the shifted activity q = s f + (1 - s) z."""
    theta = torch.zeros(SHAPE)
    theta[1:3, 1, 0] = torch.tensor([1 - s, s])
    return theta


def oja(s: float) -> Tensor:
    """theta of Oja's rule, D = M[q x^T] - diag(M[q^2]) W."""
    theta = hebb(s)
    theta[3:, 0, 1] = -torch.tensor([(1 - s) ** 2, 2 * s * (1 - s), s**2])
    return theta


def formula(theta: Tensor, share: float = 0.01) -> str:
    """D as a text, the largest terms first; those below a share of the largest one are left out.

    Example:
        >>> formula(oja(1.0))
        'D = 1 f x - 1 f^2 W'
    """
    theta = theta.detach()
    terms = [
        (float(theta[k, n, p]), " ".join([phi] * (k > 0) + ["x"] * n + ["W"] * p))
        for k, phi in enumerate(PRODUCTS)
        for n in (0, 1)
        for p in (0, 1)
    ]
    least = share * max(abs(value) for value, _ in terms)
    kept = sorted((term for term in terms if abs(term[0]) > least), key=lambda term: -abs(term[0]))
    text = "".join(f" {'-' if value < 0 else '+'} {abs(value):.3g} {name}".rstrip() for value, name in kept)
    return "D =" + (text.removeprefix(" +") or " 0")
