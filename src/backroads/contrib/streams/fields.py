"""Receptive fields: where each is active, what its local linear model says, and how its size and shape are learned.

A field has a centre c, a distance metric D = M^T M with M upper triangular, and a linear model of its own. Every array
here has a row for each field, so that all fields that a sample activates are updated at once; no row ever reads
another one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def column(shape: str = "", dtype: type = np.float64) -> Any:
    """A dataclass field that holds an array with a row for each receptive field.

    Args:
        shape: of a row, a letter an axis: "n" inputs, "o" outputs, "r" directions; "" for a single number.
        dtype: of the array.
    """
    return dataclasses.field(metadata={"shape": shape, "dtype": dtype})


@dataclasses.dataclass
class Fields:
    """What the fields of all learners have. K fields, n inputs.

    Attributes:
        c: centres, (K, n); they never move.
        D: distance metrics M^T M, (K, n, n).
        M: upper triangular, (K, n, n).
        alpha: learning rates of M, (K, n, n).
        b: ln(alpha) at the start, and what meta-learning makes of it, (K, n, n).
        h: memory of meta-learning, (K, n, n).
        mean_x: weighted means of the inputs, (K, n).
        var_x: weighted variances of the inputs, (K, n).
        trustworthy: whether a field takes part in predictions, (K,) bool.
    """

    c: Array = column("n")
    D: Array = column("nn")
    M: Array = column("nn")
    alpha: Array = column("nn")
    b: Array = column("nn")
    h: Array = column("nn")
    mean_x: Array = column("n")
    var_x: Array = column("n")
    trustworthy: NDArray[np.bool_] = column(dtype=np.bool_)

    @classmethod
    def zeros(cls, number: int, sizes: Mapping[str, int]) -> Self:
        """``number`` fields, all zeros, for the lengths of the axes in ``sizes``, as in {"n": 2, "o": 1}."""
        return cls(
            **{
                f.name: np.zeros((number, *(sizes[axis] for axis in f.metadata["shape"])), f.metadata["dtype"])
                for f in dataclasses.fields(cls)
            }
        )

    def __len__(self) -> int:
        return len(self.c)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays by name, not copied."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def take(self, rows: Any) -> Self:
        """A copy of some fields; ``rows`` are indices or a mask."""
        return type(self)(**{name: array[rows] for name, array in self.arrays().items()})

    def put(self, rows: Any, fields: Self) -> None:
        """Overwrite some fields with ``fields``, in place."""
        for name, array in self.arrays().items():
            array[rows] = getattr(fields, name)

    def join(self, fields: Self) -> Self:
        """These fields and ``fields`` after them."""
        return type(self)(**{n: np.concatenate([a, getattr(fields, n)]) for n, a in self.arrays().items()})

    def linear(self) -> tuple[Array, Array]:
        """The local models y = offset + slope^T (x - mean_x): offset (K, o) and slope (K, n, o)."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Kernel:
    """The weight of a field at squared distance q = (x - c)^T D (x - c).

    Attributes:
        name: "gaussian", w = exp(-q / 2), or "bisquare", w = (1 - q / reach)^2 for q < reach, else 0.
        reach: of "bisquare".
    """

    name: str
    reach: float

    def __call__(self, q: Array) -> tuple[Array, Array, Array]:
        """w, dw/dq and d2w/dq2 at each q."""
        if self.name == "gaussian":
            w = np.exp(-q / 2)
            return w, -w / 2, w / 4
        inside = q < self.reach
        root = np.where(inside, 1 - q / self.reach, 0.0)
        return root**2, -2 / self.reach * root, np.where(inside, 2 / self.reach**2, 0.0)


def distances(x: Array, fields: Fields) -> tuple[Array, Array, Array]:
    """x - c and D (x - c), (..., K, n), and q, (..., K), of inputs x (..., n)."""
    dx = x[..., None, :] - fields.c
    Ddx = (fields.D @ dx[..., None])[..., 0]
    return dx, Ddx, (dx * Ddx).sum(-1)


def blend(
    x: Array, fields: Fields, kernel: Kernel, cutoff: float, spread: Callable[[Array, Array], Array] | None = None
) -> dict[str, Array]:
    """What fields say together at N inputs: the mean of the local models, by weight, over trustworthy active fields.

    Args:
        x: (N, n).
        fields: K of them.
        kernel: their weights.
        cutoff: only fields with a larger weight take part.
        spread: from w (N, K) and x (N, n) to the variances (N, K) of the local models, for "std"; None: no "std".

    Returns:
        value: sum w y / sum w, (N, o); 0 where no field takes part.
        activation: the largest w of a field, (N,), whether or not it takes part; 0 without fields.
        active: whether a field takes part, (N,) bool.
        jacobian: the derivative of the value, (N, o, n).
        std: sqrt|sum w sigma^2 + sum w y^2 - (sum w y)^2 / sum w| / sum w, (N, o); inf where no field takes part.
    """
    _, Ddx, q = distances(x, fields)
    w, dwdq, _ = kernel(q)
    activation = w.max(-1, initial=0.0)
    part = (w > cutoff) & fields.trustworthy
    w = np.where(part, w, 0.0)
    dw = np.where(part, dwdq, 0.0)[..., None] * 2 * Ddx  # (N, K, n)
    offset, slope = fields.linear()
    y = offset + (((x[:, None] - fields.mean_x)[:, :, None] @ slope)[:, :, 0])  # (N, K, o)
    total = w.sum(-1)
    active = total > 0
    safe = np.where(active, total, 1.0)[:, None]
    wy = (w[..., None] * y).sum(1)
    value = wy / safe
    slopes = np.tensordot(w, slope, 1).swapaxes(1, 2)  # (N, o, n)
    moved = (y.swapaxes(1, 2) @ dw) - value[..., None] * dw.sum(1)[:, None]
    found = {
        "value": value,
        "activation": activation,
        "active": active,
        "jacobian": (slopes + moved) / safe[..., None],
    }
    if spread is not None:
        variance = (w * spread(w, x)).sum(-1, keepdims=True) + (w[..., None] * y**2).sum(1) - wy**2 / safe
        found["std"] = np.where(active[:, None], np.sqrt(np.abs(variance)) / safe, np.inf)
    return found


@dataclasses.dataclass(frozen=True)
class MetricRule:
    """Gradient descent of M on the leave-one-out error of a field's own data, with a penalty on D.

    The cost is ``J = (1/W) sum_i w_i |e_i|^2 / (1 - w_i z_i^T P z_i)^2 + (penalty / n) sum D_ij^2``.

    Attributes:
        diag_only: only the diagonal of M is learned.
        penalty: gamma in the papers.
        meta: whether the rates alpha are learned, too (incremental delta-bar-delta).
        meta_rate: the rate of that.
        negative_too: whether a step of an entry that is below minus a tenth of max|M| is too large, besides one above
            a tenth. A step that is too large halves its alpha.
        takes_large_steps: such a step is still taken, with the halved rate; otherwise it is left out.
    """

    diag_only: bool
    penalty: float
    meta: bool
    meta_rate: float
    negative_too: bool
    takes_large_steps: bool

    def gradients(
        self, fields: Fields, dx: Array, w: Array, dwdq: Array, d2wdq2: Array, W: Array, dJdw: Array, d2Jdw2: Array
    ) -> tuple[Array, Array]:
        """g, the derivative of a sample's share in J by M, and its diagonal second derivative; (K, n, n) both.

        ``g = dw/dM dJ/dw + (w/W) dJ2/dM`` with J2 the penalty, and by the chain rule once more the second one.

        Args:
            fields: K of them.
            dx: x - c, (K, n).
            w, dwdq, d2wdq2: weight of the sample and its derivatives by q, (K,).
            W: sums of weights, (K,).
            dJdw, d2Jdw2: derivatives of the error's share by w, (K,).
        """
        n = dx.shape[1]
        M, D = fields.M, fields.D
        w, dwdq, d2wdq2, dJdw, d2Jdw2 = (a[:, None, None] for a in (w, dwdq, d2wdq2, dJdw, d2Jdw2))
        share = w / W[:, None, None]
        learned = np.eye(n, dtype=bool) if self.diag_only else np.tri(n, dtype=bool).T
        dqdM = 2 * (M @ dx[..., None]) * dx[:, None, :]
        dwdM = dwdq * dqdM
        g = dwdM * dJdw + share * (4 * self.penalty / n) * (M @ D)
        d2w = d2wdq2 * dqdM**2 + 2 * dwdq * dx[:, None, :] ** 2
        diagonal = np.diagonal(D, axis1=1, axis2=2)[:, None, :]
        d2J2 = (4 * self.penalty / n) * (diagonal + (M**2).sum(-1, keepdims=True) + M**2)
        g2 = d2w * dJdw + dwdM**2 * d2Jdw2 + share * d2J2
        return np.where(learned, g, 0.0), np.where(learned, g2, 0.0)

    def step(self, fields: Fields, g: Array, g2: Array, m: Array) -> None:
        """Change M, D and alpha in place.

        Args:
            fields: K of them.
            g, g2: of :meth:`gradients`.
            m: factor of each field's step, (K,); 0 leaves the field as it is.
        """
        moves = m > 0
        m = m[:, None, None]
        if self.meta:
            b = fields.b - np.clip(self.meta_rate * m * g * fields.h, -0.1, 0.1)
            fields.b = np.where(moves[:, None, None] & (g != 0), np.clip(b, -10.0, 10.0), fields.b)
            fields.alpha = np.where(moves[:, None, None] & (g != 0), np.exp(fields.b), fields.alpha)
            fields.h = fields.h * np.maximum(1 - fields.alpha * g2 * m, 0.0) - fields.alpha * g * m
        step = fields.alpha * m * g
        limit = 0.1 * np.abs(fields.M).max((1, 2), keepdims=True)
        large = (np.abs(step) if self.negative_too else step) > limit
        fields.alpha = np.where(large, fields.alpha / 2, fields.alpha)
        step = fields.alpha * m * g if self.takes_large_steps else np.where(large, 0.0, step)
        fields.M = fields.M - step
        # A field that does not move keeps its D to the last bit.
        fields.D = np.where(moves[:, None, None], fields.M.swapaxes(1, 2) @ fields.M, fields.D)
