"""Locally weighted projection regression (LWPR): local linear models by partial least squares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from backroads.contrib.streams.base import FieldRegressor
from backroads.contrib.streams.fields import Array, Kernel, MetricRule, distances
from backroads.contrib.streams.projection import LWPRFields


def error_slopes(
    E: Array, W: Array, e_cv: Array, e: Array, s: Array, Ps: Array, H: Array, r: Array, half: bool = False
) -> tuple[Array, Array]:
    """Derivatives of the mean leave-one-out error E / W by the weight of one sample, as those of RFWR.

    Args:
        E: sum of w e_cv^2, (K,). W: sum of w, (K,). e_cv: the sample's leave-one-out error, (K,). e: its error, (K,).
        s: its coordinates along the directions, (K, R). Ps: s / SSs2, (K, R). H: sum of w / (1 - h) s e_cv, (K, R).
        r: sum of w^2 e_cv^2 / (1 - h) s^2, (K, R).
        half: half of the term 2 E / W^3 in the second derivative, as in the reference code.

    Returns:
        dJ/dw and d2J/dw2, (K,).
    """
    sPs, PsH = (s * Ps).sum(-1), (Ps * H).sum(-1)
    dJdw = (-E / W + e_cv**2 - 2 * e * PsH - 2 * (Ps**2 * r).sum(-1)) / W
    last = (1 if half else 2) * E / W**2
    return dJdw, (2 * (e**2 * sPs - e_cv**2 / W) + last + 4 * e * (1 / W + sPs) * PsH) / W


class LWPRRegressor(FieldRegressor[LWPRFields]):
    """Locally weighted projection regression: RFWR for many inputs, of which few matter in any one place.

    As :class:`RFWRRegressor`, with two differences. A local model is a regression along a few directions, found by
    partial least squares and added as long as they help, so that the cost of a sample is linear in the number of inputs
    (with ``diag_only``). And each output has a set of fields of its own. Predictions come with a confidence.

    Args:
        init_D: distance metric of a new field; a number, (n_in,), or a positive definite (n_in, n_in). A field is
            about 1 / sqrt(D) wide, in units of ``norm_in``.
        norm_in: by what inputs are divided, best their expected range; a number or (n_in,); None: 1.
        norm_out: the same of the targets, a number or (n_out,); None: 1.
        kernel: "gaussian", w = exp(-q / 2), or "bisquare", w = (1 - q / 4)^2 for q < 4.
        diag_only: whether only the diagonal of the metric is learned.
        update_D: whether the metric is learned; False: it stays that of a new field.
        w_gen: a field is added where none has a larger weight than this.
        w_prune: a field is removed where two have larger weights than this; above w_gen. 1: none is removed.
        init_lambda: forgetting factor at the start, from 0 to 1; at 1 the errors are never looked at, so that neither
            the metric nor the number of directions is learned.
        final_lambda: towards which it goes.
        tau_lambda: how slowly, ``lambda <- tau lambda + (1 - tau) final``.
        init_S2: start of the sums of s^2, a small ridge.
        add_threshold: a direction is added while the last one has reduced the error to less than this part.
        penalty: gamma, on the squared entries of D; draws fields to be wide.
        init_alpha: learning rate of the metric.
        meta: whether the learning rates are learned, too.
        meta_rate: rate of that.
        cutoff: fields with a smaller weight neither learn nor predict.
        max_rf: most fields of an output; then none are added, with one warning. None: no limit.
        passes: how often :meth:`fit` goes through the samples.
        shuffle: whether :meth:`fit` draws a new order in each pass; False: the order in which they come.
        random_state: seed of that; a number, or None for one that differs each time.
        compat: agree with the reference code to rounding. Its second derivative for meta-learning has half of one term,
            steps of the metric that are too large are left out only if they make an entry of M smaller, and a
            confidence is 1e20 where no field is active. By default none of this.

    Attributes:
        fields_: one :class:`LWPRFields` for each output.
        n_pruned_: how many fields of each output have been removed.
        n_outputs_: number of columns of y.

    Source: S. Vijayakumar, A. D'Souza, S. Schaal, "Incremental online learning in high dimensions", Neural Computation
    17, 2005; code: the LWPR library 1.2.6 of S. Klanke, S. Vijayakumar, S. Schaal.
    """

    _fields = LWPRFields
    _reach = 4.0
    _takes_large_steps: ClassVar[bool] = False

    def __init__(
        self,
        *,
        init_D: float | Sequence[float] | Sequence[Sequence[float]] | Array = 25.0,
        norm_in: float | Sequence[float] | Array | None = None,
        norm_out: float | Sequence[float] | Array | None = None,
        kernel: str = "gaussian",
        diag_only: bool = True,
        update_D: bool = True,
        w_gen: float = 0.1,
        w_prune: float = 1.0,
        init_lambda: float = 0.999,
        final_lambda: float = 0.99999,
        tau_lambda: float = 0.9999,
        init_S2: float = 1e-10,
        add_threshold: float = 0.5,
        penalty: float = 1e-6,
        init_alpha: float = 50.0,
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

    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:
        """The value at each input, 0 where no field is active.

        Args:
            X: (N, n_in).
            return_std: whether to return the confidence as well, one standard deviation; inf where no field is active.

        Returns:
            (N,) or (N, n_out), or a tuple of two such arrays.
        """
        value = super().predict(X)
        if not return_std:
            return value
        std = self._blended(X, "std")
        return value, np.where(np.isinf(std), 1e20, std) if self.compat else std

    def _own_settings(self) -> tuple[tuple[str, float, float], ...]:
        return ("w_prune", 0.0, np.inf), ("init_S2", 1e-300, np.inf), ("add_threshold", 0.0, np.inf)

    def _sizes(self) -> list[dict[str, int]]:
        return [{"n": self.n_features_in_, "r": min(2, self.n_features_in_)}] * self.n_outputs_

    def _stored_sizes(self, sizes: dict[str, int], k: int, arrays: dict[str, Any]) -> dict[str, int]:
        return sizes | {"r": arrays[f"{k}.beta"].shape[1]}

    def _spread(self, number: int) -> Callable[[Array, Array], Array]:
        fields = self.fields_[number]

        def variances(w: Array, x: Array) -> Array:
            """sigma^2 = E_cv / (W - SSp) (1 + w sum s^2 / SS2) of each model at each input, (N, K)."""
            s = (fields.axes() @ (x[:, None] - fields.mean_x)[..., None])[..., 0]  # (N, K, R)
            live = np.arange(fields.beta.shape[1]) < fields.last[:, None]
            own = fields.at_last(fields.sum_e_cv2) / (fields.sum_w[:, 0] - fields.SSp)
            h: Array = w * np.where(live, s**2 / fields.SSs2, 0.0).sum(-1)
            return own * (1 + h)

        return variances

    # --- learning ---

    def _learn_one(self, x: Array, y: Array, kernel: Kernel, rule: MetricRule) -> None:
        for number, target in enumerate(y):
            self._learn_output(number, x, float(target), kernel, rule)

    def _learn_output(self, number: int, x: Array, y: float, kernel: Kernel, rule: MetricRule) -> None:
        fields = self.fields_[number]
        dx, _, q = distances(x, fields)
        w, dwdq, d2wdq2 = kernel(q)
        active = np.flatnonzero(w > self.cutoff)
        fields.w = np.where(w > self.cutoff, w, 0.0)
        if len(active):
            some = fields.take(active)
            self._update(some, x, y, dx[active], w[active], dwdq[active], d2wdq2[active], rule)
            fields = self._with_direction(fields, some, active)
            self.fields_[number] = fields
        if not len(fields) or w.max() <= self.w_gen:
            if self._may_add(len(fields)):
                new = self._new(fields, x, y, w)
                self.fields_[number] = fields.join(new)
        elif len(fields) > 1:
            pair = np.argsort(w)[-2:]
            if w[pair[0]] > self.w_prune:
                narrower = max(pair, key=lambda k: float(np.trace(fields.D[k])))
                order = np.arange(len(fields))
                order[narrower] = order[-1]  # the last field takes the place
                self.fields_[number] = fields.take(order[:-1])
                self.n_pruned_[number] += 1

    def _new(self, fields: LWPRFields, x: Array, y: float, w: Array) -> LWPRFields:
        """A field at x, with the metric, offset and directions of the nearest one if that is near and trustworthy."""
        n = len(x)
        new = LWPRFields.zeros(1, {"n": n, "r": fields.beta.shape[1]})
        new.SSs2[:] = 1.0
        new.c[0] = x
        new.D[0], new.M[0] = self._start_metric(n)
        new.alpha[0] = self.init_alpha
        new.beta0[0] = y
        new.directions[0] = min(2, n)
        if len(fields) and w.max() > 0.1 * self.w_gen and fields.trustworthy[w.argmax()]:
            like = fields.take([w.argmax()])
            new.M, new.D, new.alpha, new.beta0, new.directions = like.M, like.D, like.alpha, like.beta0, like.directions
        new.b = np.where(np.tri(n, dtype=bool).T, np.log(new.alpha + 1e-10), 0.0)
        for r in range(int(new.directions[0])):
            self._start_direction(new, 0, r)
            new.n_data[0, r] = 1e-10
        return new

    def _start_direction(self, f: LWPRFields, k: int, r: int) -> None:
        f.U[k, r, r] = f.P[k, r, r] = 1.0
        f.SSs2[k, r] = self.init_S2
        f.sum_w[k, r] = 1e-10
        f.lam[k, r] = self.init_lambda

    def _with_direction(self, fields: LWPRFields, some: LWPRFields, active: NDArray[np.intp]) -> LWPRFields:
        """``fields`` with the updated ``some`` in their rows, which have one more direction where that helps."""
        last = np.maximum(some.directions - 1, 0)[:, None]
        before = np.maximum(last - 1, 0)

        def at(values: Array, index: NDArray[np.int64]) -> Array:
            return np.take_along_axis(values, index, 1)[:, 0]

        error, error_before = (at(some.sum_e_cv2, i) / at(some.sum_w, i) for i in (last, before))
        n_data = at(some.n_data, last)
        more = (
            (some.directions < some.c.shape[1])
            & (error < self.add_threshold * error_before)
            & (n_data > 0.99 * some.n_data[:, 0])
            & (n_data * (1 - at(some.lam, last)) > 0.5)
        )
        # Only now, as what stands above is from before this sample.
        live = np.arange(some.beta.shape[1]) < some.directions[:, None]
        some.n_data = np.where(live, some.lam * some.n_data + 1, 0.0)
        some.lam = np.where(live, self.tau_lambda * some.lam + (1 - self.tau_lambda) * self.final_lambda, 0.0)
        if more.any():
            room = int(some.directions[more].max()) + 1
            fields, some = fields.widened(room), some.widened(room)
            for k in np.flatnonzero(more):
                self._start_direction(some, int(k), int(some.directions[k]))
            some.directions = some.directions + more
        fields.put(active, some)
        return fields

    def _update(
        self, f: LWPRFields, x: Array, y: float, dx: Array, w: Array, dwdq: Array, d2wdq2: Array, rule: MetricRule
    ) -> None:
        """Learn a sample in the fields ``f``, in place; dx (K, n), and w with its derivatives by q (K,)."""
        n = len(x)
        live = np.arange(f.beta.shape[1]) < f.directions[:, None]
        wr = np.where(live, w[:, None], 0.0)
        old = f.lam[:, 0] * f.sum_w[:, 0]
        W = old + w
        f.mean_x = (old[:, None] * f.mean_x + w[:, None] * x) / W[:, None]
        f.var_x = (old[:, None] * f.var_x + w[:, None] * (x - f.mean_x) ** 2) / W[:, None]
        f.beta0 = (old * f.beta0 + w * y) / W
        f.sum_w = f.lam * f.sum_w + wr
        z, t = x - f.mean_x, y - f.beta0

        # Directions: each regresses what earlier ones have left of the target on what they have left of the input.
        s, seen = f.project(z)
        e_cv_r = t[:, None] - np.cumsum(f.beta * s, axis=1)
        target = np.concatenate([t[:, None], e_cv_r[:, :-1]], axis=1)
        slow = np.where(live, 0.9 + 0.1 * f.lam, 0.0)[..., None]
        f.SXresYres = slow * f.SXresYres + (wr * target)[..., None] * seen
        square = (f.SXresYres**2).sum(-1, keepdims=True)
        turned = square > 1e-24
        f.U = np.where(turned, f.SXresYres / np.sqrt(np.where(turned, square, 1.0)), f.U)
        f.SSs2 = np.where(live, f.lam * f.SSs2 + wr * s**2, 1.0)
        f.SSYres = f.lam * f.SSYres + wr * s * target
        f.SSXres = f.lam[..., None] * f.SSXres + (wr * s)[..., None] * seen
        last_lam = np.take_along_axis(f.lam, f.directions[:, None] - 1, 1)[:, 0]
        f.SSp = last_lam * f.SSp + (wr**2 * s**2 / f.SSs2).sum(-1)
        f.beta = f.SSYres / f.SSs2
        f.P = f.SSXres / f.SSs2[..., None]
        f.s, _ = f.project(z)
        predicts = np.arange(f.beta.shape[1]) < f.last[:, None]
        e = t - np.where(predicts, f.beta * f.s, 0.0).sum(-1)
        e_cv = f.at_last(e_cv_r)
        measured = live & (f.n_data * (1 - f.lam) > 0.1)
        f.sum_e_cv2 = np.where(measured, f.lam * f.sum_e_cv2 + wr * e_cv_r**2, f.sum_e_cv2)
        f.sum_e2 = np.where(measured[:, 0], last_lam * f.sum_e2 + w * e**2, f.sum_e2)
        f.trustworthy = f.trustworthy | (f.n_data[:, 0] > 2 * n)
        known = live & (f.n_data * (1 - f.lam[:, :1]) > 0.1)
        self._update_metric(f, dx, w, dwdq, d2wdq2, e, e_cv, known, rule)

    def _update_metric(
        self,
        f: LWPRFields,
        dx: Array,
        w: Array,
        dwdq: Array,
        d2wdq2: Array,
        e: Array,
        e_cv: Array,
        known: NDArray[np.bool_],
        rule: MetricRule,
    ) -> None:
        """The metric and its traces; known (K, R): directions with enough samples; errors e, e_cv (K,)."""
        moves = known[:, 0]
        Ps = np.where(known, f.s / f.SSs2, 0.0)
        h = w * (f.s * Ps).sum(-1)
        E, W = f.at_last(f.sum_e_cv2), f.sum_w[:, 0]
        m = np.where(moves, np.minimum((f.sum_e2 / (E + 1e-10)) ** 4, 1.0), 0.0)
        if self.update_D:
            dJdw, d2J = error_slopes(E, W, e_cv, e, f.s, Ps, f.H, f.r, half=self.compat)
            g, g2 = rule.gradients(f, dx, w, dwdq, d2wdq2, W, dJdw, d2J)
            rule.step(f, g, g2, m)
        trace = np.where(known, (m * w / (1 - h))[:, None], 0.0)
        f.H = np.where(known, f.lam * f.H + trace * f.s * e_cv[:, None], f.H)
        f.r = np.where(known, f.lam * f.r + trace * (w * e_cv**2)[:, None] * f.s**2, f.r)
