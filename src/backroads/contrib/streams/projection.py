"""Fields whose local model is a partial least squares regression, for LWPR."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from backroads.contrib.streams.fields import Array, Fields, column


@dataclasses.dataclass
class LWPRFields(Fields):
    """Fields whose local model is a partial least squares regression along a few directions. K fields, n inputs.

    Directions that a field does not have are zeros (``SSs2``: ones), up to R, the largest number of any field.

    Attributes:
        beta0: weighted mean of the target, (K,).
        U: directions, (K, R, n).
        P: what of the input a direction explains, (K, R, n).
        beta: slope along each direction, (K, R).
        s: coordinates of the last sample along the directions, (K, R).
        SXresYres, SSXres: weighted sums of t z, (K, R, n), and of s z, (K, R, n), where each direction sees the input z
            and the target t that earlier ones have left.
        SSs2, SSYres: weighted sums of s^2 and s t, (K, R).
        H, r: traces of w / (1 - h) s e_cv, and of w^2 e_cv^2 / (1 - h) s^2, (K, R).
        sum_w: W, (K, R).
        sum_e_cv2: E_cv, weighted sum of squared leave-one-out errors with this and all earlier directions, (K, R).
        n_data: number of samples, older ones counting less, (K, R).
        lam: forgetting factor, (K, R).
        sum_e2: E, weighted sum of squared errors after the update, (K,).
        SSp: degrees of freedom of the fit, sum of w^2 s^2 / SSs2, (K,).
        w: weight of the last sample, 0 if it was below the cutoff, (K,).
        directions: how many there are, (K,) int.
    """

    beta0: Array = column()
    U: Array = column("rn")
    P: Array = column("rn")
    beta: Array = column("r")
    s: Array = column("r")
    SXresYres: Array = column("rn")
    SSXres: Array = column("rn")
    SSs2: Array = column("r")
    SSYres: Array = column("r")
    H: Array = column("r")
    r: Array = column("r")
    sum_w: Array = column("r")
    sum_e_cv2: Array = column("r")
    n_data: Array = column("r")
    lam: Array = column("r")
    sum_e2: Array = column()
    SSp: Array = column()
    w: Array = column()
    directions: NDArray[np.int64] = column(dtype=np.int64)

    @property
    def last(self) -> NDArray[np.int64]:
        """How many directions predict, (K,): the last one does not before it has seen 2 n samples."""
        index = np.maximum(self.directions - 1, 0)[:, None]
        young = np.take_along_axis(self.n_data, index, 1)[:, 0] <= 2 * self.c.shape[1]
        predict: NDArray[np.int64] = np.maximum(self.directions - young, 1)
        return predict

    def at_last(self, values: Array) -> Array:
        """Of values (K, R), those at the last direction that predicts, (K,)."""
        return np.take_along_axis(values, self.last[:, None] - 1, 1)[:, 0]

    def project(self, z: Array) -> tuple[Array, Array]:
        """Coordinates s (K, R) of K inputs z (K, n) along the directions, and what each direction sees, (K, R, n)."""
        seen, s = np.zeros_like(self.U), np.zeros_like(self.beta)
        for r in range(self.U.shape[1]):
            seen[:, r] = z
            s[:, r] = (self.U[:, r] * z).sum(-1)
            z = z - self.P[:, r] * s[:, r, None]
        return s, seen

    def axes(self) -> Array:
        """Vectors A, (K, R, n), with s = A (x - mean_x): the directions in terms of the input itself."""
        columns = [self.project(np.broadcast_to(e, self.c.shape))[0] for e in np.eye(self.c.shape[1])]
        return np.stack(columns, axis=-1)

    def linear(self) -> tuple[Array, Array]:
        """The local models: offset (K, 1) and slope (K, n, 1)."""
        predicts = np.arange(self.beta.shape[1]) < self.last[:, None]
        slope = (np.where(predicts, self.beta, 0.0)[:, None, :] @ self.axes())[:, 0]
        return self.beta0[:, None], slope[:, :, None]

    def widened(self, directions: int) -> LWPRFields:
        """The same fields with room for so many directions."""
        missing = directions - self.beta.shape[1]
        if missing <= 0:
            return self
        wide = {}
        for f in dataclasses.fields(self):
            array = getattr(self, f.name)
            if f.metadata["shape"].startswith("r"):
                room = [(0, 0), (0, missing), *[(0, 0)] * (array.ndim - 2)]
                array = np.pad(array, room, constant_values=1.0 if f.name == "SSs2" else 0.0)
            wide[f.name] = array
        return LWPRFields(**wide)
