"""What the two regressors share: checks, passes over the data, predictions, and files to go on from."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from backroads.contrib.streams.fields import Array, Fields, Kernel, MetricRule, blend
from backroads.errors import ConfigError, ShapeError, StateError
from backroads.extras import extra_named
from backroads.runs.files import write_atomically

with extra_named("RFWR and LWPR"):
    from sklearn.base import BaseEstimator, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_array, check_is_fitted, check_X_y, validate_data

F = TypeVar("F", bound=Fields)
CHUNK = 2_000_000  # numbers in the largest array of a prediction


class FieldRegressor(RegressorMixin, BaseEstimator, Generic[F]):  # type: ignore[misc]
    """Base of regressors made of receptive fields. A subclass says what a field is and how it learns a sample."""

    fields_: list[F]
    _fields: type[F]
    _reach: ClassVar[float]  # of the kernel "bisquare"
    _takes_large_steps: ClassVar[bool]  # what the reference code does, and ``compat`` with it

    def _take(self, given: dict[str, Any]) -> None:
        """Keep the arguments of ``__init__`` as they are, under their names: scikit-learn copies and shows them."""
        for name in self._get_param_names():
            setattr(self, name, given[name])

    # --- scikit-learn's interface ---

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Forget everything and learn from samples, one after another, ``passes`` times.

        Args:
            X: (N, n_in). y: (N,) or (N, n_out).

        Raises:
            ValueError: for a setting or data that make no sense; nothing is forgotten then.
        """
        inputs, targets, one = self._checked(X, y)
        order = check_random_state(self.random_state)
        validate_data(self, X, y, skip_check_array=True)
        self._start(targets.shape[1], one)
        for _ in range(self.passes):
            rows = order.permutation(len(inputs)) if self.shuffle else np.arange(len(inputs))
            self._learn(inputs[rows], targets[rows])
        return self

    def partial_fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Go on learning from samples, one after another, in their order.

        Args:
            X: (N, n_in). y: (N,) or (N, n_out), as before.

        Raises:
            ValueError: for a setting or data that make no sense; nothing has changed then.
        """
        inputs, targets, one = self._checked(X, y)
        begins = not self.__sklearn_is_fitted__()
        if not begins and targets.shape[1] != self.n_outputs_:
            raise ShapeError(f"y: expected {self.n_outputs_} columns, as before, got {targets.shape[1]}")
        validate_data(self, X, y, skip_check_array=True, reset=begins)
        if begins:
            self._start(targets.shape[1], one)
        self._learn(inputs, targets)
        return self

    def predict(self, X: ArrayLike) -> Array:
        """The value at each input, (N,) or (N, n_out); 0 where no field is active."""
        return self._blended(X, "value")

    def activation(self, X: ArrayLike) -> Array:
        """How well each input is covered: the largest weight of a field there, 0 where no field is active.

        Args:
            X: (N, n_in).

        Returns:
            (N,), or (N, n_out) where outputs have fields of their own.
        """
        return self._blended(X, "activation")

    def jacobian(self, X: ArrayLike) -> Array:
        """The derivative of the prediction by the input, (N, n_out, n_in)."""
        return self._blended(X, "jacobian") * (self._norm_out()[:, None] / self._norm_in())

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "fields_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        # The fields have a size of their own, so inputs of an unknown range may be covered by none.
        tags.regressor_tags.poor_score = True
        return tags

    # --- checks ---

    def _checked(self, X: ArrayLike, y: ArrayLike) -> tuple[Array, Array, bool]:
        """Inputs and targets as (N, n_in) and (N, n_out) float64, and whether y had one axis; checks the settings."""
        kwargs: dict[str, Any] = {"dtype": np.float64, "ensure_all_finite": False, "estimator": self}
        if y is not None:  # its own check tells no place
            _check_finite("y", check_array(y, ensure_2d=False, input_name="y", **kwargs))
        inputs, targets = check_X_y(X, y, multi_output=True, y_numeric=True, **kwargs)
        _check_finite("X", inputs)
        targets = np.asarray(targets, np.float64)
        one = targets.ndim == 1
        targets = targets.reshape(len(inputs), -1)
        self._check_settings(inputs.shape[1], targets.shape[1])
        return inputs, targets, one

    def _check_settings(self, n_in: int, n_out: int) -> None:
        name = type(self).__name__
        for key, low, high in (
            ("w_gen", 0.0, 1.0),
            ("init_lambda", 0.0, 1.0),
            ("final_lambda", 0.0, 1.0),
            ("tau_lambda", 0.0, 1.0),
            ("penalty", 0.0, np.inf),
            ("init_alpha", 0.0, np.inf),
            ("meta_rate", 0.0, np.inf),
            ("cutoff", 0.0, 1.0),
            *self._own_settings(),
        ):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not low <= value <= high:
                raise ConfigError(f"{name}: {key}: expected a number from {low:g} to {high:g}, got {value!r}")
            if not np.isfinite(value):
                raise ConfigError(f"{name}: {key}: expected a finite number, got {value!r}")
        for key in ("init_lambda", "w_gen"):
            if getattr(self, key) == 0:
                raise ConfigError(f"{name}: {key}: expected a number above 0, got 0")
        if not self.w_gen < self.w_prune:
            raise ConfigError(
                f"{name}: w_prune: expected more than w_gen = {self.w_gen!r}, got {self.w_prune!r}; "
                f"a field would be removed as soon as it is added"
            )
        for key in ("passes", "max_rf"):
            value = getattr(self, key)
            if value is None and key == "max_rf":
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ConfigError(f"{name}: {key}: expected a whole number from 1 up, got {value!r}")
        if self.kernel not in ("gaussian", "bisquare"):
            raise ConfigError(f"{name}: kernel: expected 'gaussian' or 'bisquare', got {self.kernel!r}")
        self._start_metric(n_in)
        for key, length in (("norm_in", n_in), ("norm_out", n_out)):
            norm = getattr(self, key)
            if norm is None:
                continue
            found = np.asarray(norm, np.float64)
            if found.shape not in ((), (length,)) or not (np.isfinite(found) & (found > 0)).all():
                raise ConfigError(
                    f"{name}: {key}: expected a number above 0 or {length} of them, "
                    f"the range of each column, got {norm!r}"
                )

    def _own_settings(self) -> tuple[tuple[str, float, float], ...]:
        """Names and limits of the numbers that a subclass has besides."""
        return ()

    # --- settings as numbers ---

    def _start_metric(self, n_in: int) -> tuple[Array, Array]:
        """D and M of a field without a template."""
        given = np.asarray(self.init_D, np.float64)
        D = given * np.eye(n_in) if given.shape in ((), (n_in,)) else given
        if D.shape != (n_in, n_in):
            problem = f"one of shape {given.shape}"
        elif not np.isfinite(D).all() or not np.allclose(D, D.T):
            problem = "one that is not finite and symmetric"
        else:
            try:
                return D, np.asarray(np.linalg.cholesky(D).T, np.float64)
            except np.linalg.LinAlgError:
                problem = "one that is not positive definite"
        raise ConfigError(
            f"{type(self).__name__}: init_D: expected a positive number, {n_in} of them, or a positive definite "
            f"matrix {n_in} x {n_in}, got {problem}: {self.init_D!r}"
        )

    def _norm_in(self) -> Array:
        return np.broadcast_to(np.asarray(1.0 if self.norm_in is None else self.norm_in, float), self.n_features_in_)

    def _norm_out(self) -> Array:
        return np.broadcast_to(np.asarray(1.0 if self.norm_out is None else self.norm_out, float), self.n_outputs_)

    def _kernel(self) -> Kernel:
        return Kernel(self.kernel, self._reach)

    def _metric_rule(self) -> MetricRule:
        taken = self._takes_large_steps and self.compat
        return MetricRule(self.diag_only, self.penalty, self.meta, self.meta_rate, not self.compat, taken)

    # --- learning ---

    def _start(self, n_out: int, one: bool) -> None:
        self.n_outputs_ = n_out
        self._one = one
        self._warned = False
        self.fields_ = [self._fields.zeros(0, sizes) for sizes in self._sizes()]
        self.n_pruned_ = [0] * len(self.fields_)

    def _sizes(self) -> list[dict[str, int]]:
        """Lengths of the axes of each set of fields."""
        raise NotImplementedError

    def _learn(self, inputs: Array, targets: Array) -> None:
        """Learn samples that have been checked, in the data's units."""
        inputs, targets = inputs / self._norm_in(), targets / self._norm_out()
        kernel, rule = self._kernel(), self._metric_rule()
        for x, y in zip(inputs, targets, strict=True):
            self._learn_one(x, y, kernel, rule)

    def _learn_one(self, x: Array, y: Array, kernel: Kernel, rule: MetricRule) -> None:
        """Learn one sample (n_in,), (n_out,) in units of the norms."""
        raise NotImplementedError

    def _may_add(self, number: int) -> bool:
        """Whether a field may be added to ``number``; warns once where not."""
        if self.max_rf is None or number < self.max_rf:
            return True
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(self).__name__}: max_rf = {self.max_rf} receptive fields are there, and no more are added; "
                f"raise max_rf, or lower init_D or w_gen",
                RuntimeWarning,
                stacklevel=2,
            )
        return False

    # --- predictions ---

    def _inputs(self, X: ArrayLike) -> Array:
        check_is_fitted(self)
        found: Array = check_array(X, dtype=np.float64, ensure_all_finite=False, estimator=self)
        validate_data(self, X, skip_check_array=True, reset=False)
        _check_finite("X", found)
        return found / self._norm_in()

    def _blended(self, X: ArrayLike, what: str) -> Array:
        """One entry of :func:`blend` for all inputs and sets of fields; values and their spread in the data's units."""
        inputs = self._inputs(X)
        found = np.concatenate([self._of_set(inputs, number, what) for number in range(len(self.fields_))], axis=1)
        if what in ("value", "std"):
            found = found * self._norm_out()
        flat = self._one if what != "activation" else found.shape[1] == 1
        return found[:, 0] if flat and what != "jacobian" else found

    def _of_set(self, inputs: Array, number: int, what: str) -> Array:
        fields = self.fields_[number]
        parts = []
        for part in _chunks(inputs, max(1, len(fields)) * (self.n_features_in_ + self.n_outputs_)):
            found = blend(part, fields, self._kernel(), self.cutoff, self._spread(number))
            if what == "activation":
                parts.append(np.where(found["active"] | self.compat, found["activation"], 0.0)[:, None])
            else:
                parts.append(found[what])
        return np.concatenate(parts)

    def _spread(self, number: int) -> Any:
        """The argument of :func:`blend` of that name."""
        return None

    # --- files ---

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write settings and all that was learned to a file of plain arrays (npz), all or nothing.

        Args:
            path: of the file; one of this name is replaced.

        Raises:
            NotFittedError: nothing was learned yet. ConfigError: a setting is no plain value; no file was touched.
        """
        check_is_fitted(self)
        settings = {name: np.asarray(v).tolist() for name, v in self.get_params(deep=False).items()}
        state = {
            "n_in": int(self.n_features_in_),
            "n_out": self.n_outputs_,
            "one": self._one,
            "warned": self._warned,
            "n_pruned": self.n_pruned_,
            "names": [str(name) for name in getattr(self, "feature_names_in_", [])],
        }
        try:
            text = json.dumps({"class": type(self).__name__, "settings": settings, "state": state})
        except TypeError as error:
            raise ConfigError(f"{type(self).__name__}.save: expected settings of plain numbers: {error}") from error
        arrays: dict[str, Any] = {
            f"{k}.{name}": a for k, fields in enumerate(self.fields_) for name, a in fields.arrays().items()
        }
        buffer = io.BytesIO()
        np.savez(buffer, about=np.array(text), **arrays)
        write_atomically(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """A regressor as :meth:`save` wrote it; learning goes on exactly where it ended. Executes nothing.

        Raises:
            StateError: for a file that is damaged or of another class. OSError: it cannot be read.
        """
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                arrays = {name: file[name] for name in file.files if name != "about"}
            if about["class"] != cls.__name__:
                raise ValueError(f"it is of {about['class']}")
            made = cls(**about["settings"])
            made._restore(about["state"], arrays)
        except OSError:
            raise
        except Exception as error:  # whatever a damaged file makes of zip, JSON or the arrays
            raise StateError(
                f"{os.fspath(path)}: expected a file written by {cls.__name__}.save, and it is not one or is damaged "
                f"({error}); nothing was loaded"
            ) from error
        return made

    def _restore(self, state: dict[str, Any], arrays: dict[str, Any]) -> None:
        self.n_features_in_ = int(state["n_in"])
        if state["names"]:
            self.feature_names_in_ = np.array(state["names"], dtype=object)
        self._start(int(state["n_out"]), bool(state["one"]))
        self._check_settings(self.n_features_in_, self.n_outputs_)
        self._warned = bool(state["warned"])
        self.n_pruned_ = [int(number) for number in state["n_pruned"]]
        for k, sizes in enumerate(self._sizes()):
            number = len(arrays[f"{k}.c"])
            expected = self._fields.zeros(number, self._stored_sizes(sizes, k, arrays))
            for name, like in expected.arrays().items():
                array = arrays.pop(f"{k}.{name}")
                if array.shape != like.shape or array.dtype != like.dtype or not np.isfinite(array).all():
                    raise ValueError(f"{name} of set {k} is not finite {like.dtype} of shape {like.shape}")
                setattr(expected, name, array)
            self.fields_[k] = expected
        if arrays or len(self.n_pruned_) != len(self.fields_):
            raise ValueError(f"unknown arrays {sorted(arrays)}")

    def _stored_sizes(self, sizes: dict[str, int], k: int, arrays: dict[str, Any]) -> dict[str, int]:
        """The lengths of the axes of set ``k`` in a file."""
        return sizes


def _check_finite(name: str, array: Array) -> None:
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        where = tuple(int(i) for i in bad[0])
        value = "NaN" if np.isnan(array[where]) else f"{array[where]}"
        raise ValueError(
            f"{name}: expected finite numbers, got {value} at {name}[{', '.join(map(str, where))}] "
            f"(the first of {len(bad)} NaN or infinity); leave such samples out"
        )


def _chunks(inputs: Array, numbers_each: int) -> Iterator[Array]:
    size = max(1, CHUNK // numbers_each)
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size]
