"""Receptive field weighted regression (RFWR): local linear models by recursive least squares."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from backroads.contrib.streams.base import FieldRegressor
from backroads.contrib.streams.fields import Array, Fields, Kernel, MetricRule, column, distances

SKIP_VIF, TRUST_VIF = 5.0, 10.0


@dataclasses.dataclass
class RFWRFields(Fields):
    """Fields whose local model is a weighted ridge regression. K fields, n inputs, o outputs.

    Attributes:
        b0: weighted means of the targets, (K, o).
        B: slopes, (K, n, o).
        P: inverse of the weighted sum of z z^T, (K, n, n).
        H: trace of w / (1 - h) z e_cv^T, (K, n, o).
        R: trace of w^2 |e_cv|^2 / (1 - h) z z^T, (K, n, n).
        vif: variance inflation, diag(P) var_x, (K, n).
        sum_w: W, (K,).
        sum_e_cv2: E_cv, weighted sum of squared leave-one-out errors, (K,).
        sum_e2: E, the same of the errors after the update, (K,).
        n_data: number of samples, older ones counting less, (K,).
        lam: forgetting factor, (K,).
        turn: which coordinate the ridge restores next, (K,) int.
    """

    b0: Array = column("o")
    B: Array = column("no")
    P: Array = column("nn")
    H: Array = column("no")
    R: Array = column("nn")
    vif: Array = column("n")
    sum_w: Array = column()
    sum_e_cv2: Array = column()
    sum_e2: Array = column()
    n_data: Array = column()
    lam: Array = column()
    turn: NDArray[np.int64] = column(dtype=np.int64)

    def linear(self) -> tuple[Array, Array]:
        """The local models: offset (K, o) and slope (K, n, o)."""
        return self.b0, self.B


def recursive_least_squares(P: Array, B: Array, z: Array, t: Array, w: Array, lam: Array) -> tuple[Array, Array, Array]:
    """One sample of K weighted regressions t = B^T z with forgetting.

    ``P <- (P - P z z^T P / (lam / w + z^T P z)) / lam``, then ``B <- B + w P z e_cv^T``.

    Args:
        P: (K, n, n). B: (K, n, o). z: (K, n). t: (K, o). w, lam: (K,).

    Returns:
        The new P and B, and e_cv = t - B^T z with the old B, (K, o).
    """
    e_cv = t - _times(B.swapaxes(1, 2), z)
    Pz = _times(P, z)
    scale = lam / w + (z * Pz).sum(-1)
    P = (P - Pz[:, :, None] * (Pz[:, None, :] / scale[:, None, None])) / lam[:, None, None]
    B = B + w[:, None, None] * _times(P, z)[:, :, None] * e_cv[:, None, :]
    return P, B, e_cv


def error_slopes(
    E: Array, W: Array, e_cv2: Array, e: Array, z: Array, Pz: Array, H: Array, R: Array
) -> tuple[Array, Array]:
    """Derivatives of the mean leave-one-out error E / W by the weight of one sample.

    The first one is exact where H and R are sums over the other samples; of the second, terms in R are left out.

    Args:
        E: sum of w |e_cv|^2, (K,). W: sum of w, (K,). e_cv2: the sample's |e_cv|^2, (K,). e: its error, (K, o).
        z: its input less the mean, (K, n). Pz: (K, n). H: sum of w / (1 - h) z e_cv^T, (K, n, o).
        R: sum of w^2 |e_cv|^2 / (1 - h) z z^T, (K, n, n).

    Returns:
        dJ/dw and d2J/dw2, (K,).
    """
    zPz = (z * Pz).sum(-1)
    PzeH = (Pz * _times(H, e)).sum(-1)
    PzRPz = (Pz * _times(R, Pz)).sum(-1)
    dJdw = -E / W**2 + (e_cv2 - 2 * PzeH - 2 * PzRPz) / W
    e2 = (e**2).sum(-1)
    d2J = (-2 * e_cv2 + 4 * PzeH) / W**2 + (4 * zPz * PzeH + 2 * e2 * zPz) / W + 2 * E / W**3
    return dJdw, d2J


class RFWRRegressor(FieldRegressor[RFWRFields]):
    """Receptive field weighted regression: learns from a stream of samples, without interference.

    Many local linear models, each with a field in which it is active. Each learns its weights, and the size and shape
    of its field, from its own data alone, by leave-one-out error. Where no field is active enough, one is added; of two
    that overlap too much, the narrower is removed. Predictions are means of the active fields, by weight.

    Args:
        init_D: distance metric of a new field; a number, (n_in,), or a positive definite (n_in, n_in). A field is
            about 1 / sqrt(D) wide, in units of ``norm_in``.
        norm_in: by what inputs are divided, such as their range; a number or (n_in,); None: 1.
        norm_out: the same of the targets, a number or (n_out,); None: 1.
        kernel: "gaussian", w = exp(-q / 2), or "bisquare", w = (1 - q / 2)^2 for q < 2.
        diag_only: whether only the diagonal of the metric is learned; the cost of a sample is then smaller.
        update_D: whether the metric is learned; False: it stays that of a new field.
        w_gen: a field is added where none has a larger weight than this.
        w_prune: a field is removed where two have larger weights than this; above w_gen.
        init_lambda: forgetting factor at the start, from 0 to 1; 1: nothing is forgotten.
        final_lambda: towards which it goes.
        tau_lambda: how slowly, ``lambda <- tau lambda + (1 - tau) final``.
        init_P: inverse of a small ridge that the first samples need; forgetting fades it.
        ridge: one that does not fade, in place of init_P; 0: none.
        penalty: gamma, on the squared entries of D; draws fields to be wide.
        init_alpha: learning rate of the metric.
        meta: whether the learning rates are learned, too.
        meta_rate: rate of that.
        cutoff: fields with a smaller weight neither learn nor predict.
        max_rf: most fields; then none are added, with one warning. None: no limit.
        passes: how often :meth:`fit` goes through the samples.
        shuffle: whether :meth:`fit` draws a new order in each pass; False: the order in which they come.
        random_state: seed of that; a number, or None for one that differs each time.
        compat: agree with the reference code to rounding. It takes steps of the metric that are too large, with half
            the rate, and does not look at negative ones; by default such a step halves the rate and is left out.

    Attributes:
        fields_: one :class:`RFWRFields`, in a list.
        n_pruned_: how many fields have been removed, in a list.
        n_outputs_: number of columns of y.

    Source: S. Schaal, C. Atkeson, "Constructive incremental learning from only local information", Neural
    Computation 10, 1998; code: rfwr.m of S. Schaal, 2002.
    """

    _fields = RFWRFields
    _reach = 2.0
    _takes_large_steps: ClassVar[bool] = True

    def __init__(
        self,
        *,
        init_D: float | Sequence[float] | Sequence[Sequence[float]] | Array = 25.0,
        norm_in: float | Sequence[float] | Array | None = None,
        norm_out: float | Sequence[float] | Array | None = None,
        kernel: str = "gaussian",
        diag_only: bool = False,
        update_D: bool = True,
        w_gen: float = 0.1,
        w_prune: float = 0.9,
        init_lambda: float = 0.999,
        final_lambda: float = 0.9999,
        tau_lambda: float = 0.99999,
        init_P: float = 1e10,
        ridge: float = 0.0,
        penalty: float = 1e-6,
        init_alpha: float = 100.0,
        meta: bool = False,
        meta_rate: float = 250.0,
        cutoff: float = 0.001,
        max_rf: int | None = None,
        passes: int = 1,
        shuffle: bool = False,
        random_state: int | None = None,
        compat: bool = False,
    ) -> None:
        self._take(locals())

    def _own_settings(self) -> tuple[tuple[str, float, float], ...]:
        return ("w_prune", 0.0, np.inf), ("init_P", 1e-300, np.inf), ("ridge", 0.0, np.inf)

    def _sizes(self) -> list[dict[str, int]]:
        return [{"n": self.n_features_in_, "o": self.n_outputs_}]

    def _learn_one(self, x: Array, y: Array, kernel: Kernel, rule: MetricRule) -> None:
        fields = self.fields_[0]
        dx, _, q = distances(x, fields)
        w, dwdq, d2wdq2 = kernel(q)
        active = np.flatnonzero(w > self.cutoff)
        if len(active):
            some = fields.take(active)
            self._update(some, x, y, dx[active], w[active], dwdq[active], d2wdq2[active], rule)
            fields.put(active, some)
        if not len(fields) or w.max() <= self.w_gen:
            if self._may_add(len(fields)):
                self.fields_[0] = fields.join(self._new(fields, x, y, w))
        elif len(fields) > 1:
            pair = np.argsort(w)[-2:]
            if w[pair[0]] > self.w_prune:
                narrower = max(pair, key=lambda k: float(fields.D[k].sum()))
                self.fields_[0] = fields.take(np.arange(len(fields)) != narrower)
                self.n_pruned_[0] += 1

    def _new(self, fields: RFWRFields, x: Array, y: Array, w: Array) -> RFWRFields:
        """A field at x, with the metric and offset of the nearest one if that is near and trustworthy."""
        new = RFWRFields.zeros(1, self._sizes()[0])
        new.c[0] = x
        new.D[0], new.M[0] = self._start_metric(len(x))
        new.alpha[0] = self.init_alpha
        new.b0[0] = y
        if len(fields) and w.max() > 0.1 * self.w_gen and fields.trustworthy[w.argmax()]:
            template = fields.take([w.argmax()])
            new.M, new.D, new.alpha, new.b0 = template.M, template.D, template.alpha, template.b0
        new.b = np.log(new.alpha + 1e-10)
        new.P[0] = np.eye(len(x)) / self.ridge if self.ridge else self.init_P * np.eye(len(x))
        new.lam[0] = self.init_lambda
        return new

    def _update(
        self, f: RFWRFields, x: Array, y: Array, dx: Array, w: Array, dwdq: Array, d2wdq2: Array, rule: MetricRule
    ) -> None:
        """Learn a sample in the fields ``f``, in place; dx (K, n), and w with its derivatives by q (K,)."""
        n, o = len(x), len(y)
        old = f.lam * f.sum_w
        W = old + w

        def mean(before: Array, now: Array) -> Array:
            return (old[:, None] * before + w[:, None] * now) / W[:, None]

        f.mean_x = mean(f.mean_x, x)
        f.var_x = mean(f.var_x, (x - f.mean_x) ** 2)
        f.b0 = mean(f.b0, y)
        z, t = x - f.mean_x, y - f.b0

        f.P, f.B, e_cv = recursive_least_squares(f.P, f.B, z, t, w, f.lam)
        if self.ridge:
            self._restore_ridge(f)
        e = t - _times(f.B.swapaxes(1, 2), z)
        f.vif = np.diagonal(f.P, axis1=1, axis2=2) * f.var_x
        f.trustworthy = f.trustworthy | ((f.vif.max(-1) < TRUST_VIF) & (f.n_data > 2 * n))

        known = np.asarray((f.vif <= SKIP_VIF).any(-1))
        Pz = _times(f.P, z)
        h = w * (z * Pz).sum(-1)
        e_cv2, e2 = (e_cv**2).sum(-1), (e**2).sum(-1)
        f.sum_e_cv2 = np.where(known, f.lam * f.sum_e_cv2 + w * e_cv2, f.sum_e_cv2)
        f.sum_e2 = np.where(known, f.lam * f.sum_e2 + w * e2, f.sum_e2)
        m = (f.sum_e2 / (f.sum_e_cv2 + 1e-10)) ** 4
        if self.update_D:
            dJdw, d2J = error_slopes(f.sum_e_cv2, W, e_cv2, e, z, Pz, f.H, f.R)
            g, g2 = rule.gradients(f, dx, w, dwdq, d2wdq2, W, dJdw / o, d2J / o)
            rule.step(f, g, g2, np.where(known, m, 0.0))
        trace = m * w / (1 - h)
        H = f.lam[:, None, None] * f.H + trace[:, None, None] * z[:, :, None] * e_cv[:, None, :]
        R = f.lam[:, None, None] * f.R + (trace * w * e_cv2)[:, None, None] * z[:, :, None] * z[:, None, :]
        f.H = np.where(known[:, None, None], H, f.H)
        f.R = np.where(known[:, None, None], R, f.R)

        f.sum_w = W
        f.n_data = f.lam * f.n_data + 1
        f.lam = self.tau_lambda * f.lam + (1 - self.tau_lambda) * self.final_lambda

    def _restore_ridge(self, f: RFWRFields) -> None:
        """Put back what forgetting takes from the ridge, one coordinate a sample: target 0 at a multiple of e_i."""
        n = f.c.shape[1]
        z = np.zeros_like(f.c)
        z[np.arange(len(f)), f.turn] = np.sqrt(n * (1 - f.lam) * self.ridge)
        one = np.ones(len(f))
        f.P, f.B, _ = recursive_least_squares(f.P, f.B, z, np.zeros_like(f.b0), one, one)
        f.turn = (f.turn + 1) % n


def _times(A: Array, v: Array) -> Array:
    """K matrices times K vectors."""
    return (A @ v[:, :, None])[:, :, 0]
