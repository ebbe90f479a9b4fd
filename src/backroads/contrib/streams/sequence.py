"""Learning of temporal sequences (ISO and ICO): a unit learns from early signals to act before a reflex is needed."""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from backroads.contrib.streams.fields import Array
from backroads.errors import ConfigError, DivergedError, ShapeError


def _check_whole(name: str, key: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name}: {key}: expected a whole number from 1 up, got {value!r}")


class Filters(Protocol):
    """Filters that a signal passes side by side."""

    @property
    def number(self) -> int:
        """How many there are."""

    def start(self) -> Array:
        """The state before any signal, all zeros."""

    def step(self, state: Array, x: float) -> Array:
        """The outputs (number,) when the signal is x; changes the state in place."""


@dataclasses.dataclass(frozen=True)
class Resonators:
    """Damped resonators, a bank of frequencies f, f / 2, f / 3, ...

    The impulse response of each is ``h(t) = (1/b) e^(-a t) sin(b t)`` with a = pi f / Q, b = sqrt((2 pi f)^2 - a^2), as
    a filter ``y[n] = x[n - delay] + 2 e^(-a) cos(b) y[n - 1] - e^(-2 a) y[n - 2]``. That one is not normalised: its
    impulse response is ``e^(-a (n - delay)) sin(b (n - delay + 1)) / sin(b)``.

    Args:
        f: highest frequency, in cycles a step, below 0.5.
        Q: quality, above 0.5.
        number: of resonators.
        delay: in steps: 0, 1 or 2; 2 is that of the reference code.
        unit_peak: divide each by the peak of its impulse response.

    Raises:
        ConfigError: for a value out of range.

    Source: code of B. Porr, github berndporr/ICO-learning.
    """

    f: float
    Q: float = 0.6
    number: int = 1
    delay: int = 2
    unit_peak: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.f < 0.5:
            raise ConfigError(f"Resonators: f: expected a frequency above 0 and below 0.5 a step, got {self.f!r}")
        if not (self.Q > 0.5 and math.isfinite(self.Q)):
            raise ConfigError(f"Resonators: Q: expected more than 0.5, below which nothing oscillates, got {self.Q!r}")
        _check_whole("Resonators", "number", self.number)
        if self.delay not in (0, 1, 2):
            raise ConfigError(f"Resonators: delay: expected 0, 1 or 2 steps, got {self.delay!r}")

    @property
    def poles(self) -> tuple[Array, Array]:
        """a and b of each, (number,)."""
        f = self.f / np.arange(1, self.number + 1)
        a = np.pi * f / self.Q
        return a, np.sqrt((2 * np.pi * f) ** 2 - a**2)

    def impulse_response(self, steps: int) -> Array:
        """Closed form, (steps, number)."""
        a, b = self.poles
        n = np.arange(steps)[:, None] - self.delay
        h = np.where(n >= 0, np.exp(-a * np.maximum(n, 0)) * np.sin(b * (n + 1)) / np.sin(b), 0.0)
        return np.asarray(h * self._gain())

    def _gain(self) -> Array:
        if not self.unit_peak:
            return np.ones(self.number)
        a, b = self.poles
        # The peak lies in the first half wave.
        n = np.arange(int(np.pi / b.min()) + 2)[:, None]
        peaks: Array = (np.exp(-a * n) * np.sin(b * (n + 1)) / np.sin(b)).max(0)
        return 1 / peaks

    def start(self) -> Array:
        """The state before any signal: rows y[n - 1], y[n - 2], x[n - 1], x[n - 2], and three of coefficients."""
        a, b = self.poles
        state = np.zeros((7, self.number))
        state[4:] = 2 * np.exp(-a) * np.cos(b), np.exp(-2 * a), self._gain()
        return state

    def step(self, state: Array, x: float) -> Array:
        """The outputs (number,) when the signal is x; changes the state in place."""
        delayed = (x, state[2, 0], state[3, 0])[self.delay]
        y: Array = delayed + state[4] * state[0] - state[5] * state[1]
        state[1], state[0] = state[0], y
        state[3], state[2] = state[2], x
        return np.asarray(y * state[6])


@dataclasses.dataclass(frozen=True)
class ExponentialTraces:
    """Filters of finite length whose impulse responses are exponentials.

    That of the filter with index j is ``e^(-i tau / (j + 1))`` for i < ``int(taps / (j + 1))``, then 0.

    Args:
        taps: length of the first one, in steps.
        tau: decay a step of the first one, above 0.
        number: of filters, at most ``taps``.

    Raises:
        ConfigError: for a value out of range.
    """

    taps: int
    tau: float
    number: int = 1

    def __post_init__(self) -> None:
        _check_whole("ExponentialTraces", "taps", self.taps)
        _check_whole("ExponentialTraces", "number", self.number)
        if not (self.tau > 0 and math.isfinite(self.tau)):
            raise ConfigError(
                f"ExponentialTraces: tau: expected a number above 0, got {self.tau!r}; at 0 there is no decay"
            )
        if self.number > self.taps:
            raise ConfigError(f"ExponentialTraces: number: expected at most taps = {self.taps}, got {self.number!r}")

    def impulse_response(self, steps: int) -> Array:
        """(steps, number)."""
        n, j = np.arange(steps)[:, None], np.arange(self.number)
        return np.where(n < self.taps // (j + 1), np.exp(-n * self.tau / (j + 1)), 0.0)

    def start(self) -> Array:
        """The state before any signal: the last signals in the first column, beside the impulse responses."""
        return np.hstack([np.zeros((self.taps, 1)), self.impulse_response(self.taps)])

    def step(self, state: Array, x: float) -> Array:
        """The outputs (number,) when the signal is x; changes the state in place."""
        state[1:, 0] = state[:-1, 0]
        state[0, 0] = x
        return state[:, 0] @ state[:, 1:]


@dataclasses.dataclass(frozen=True)
class SequenceRecord:
    """What a unit did in T steps.

    Attributes:
        v: output, with the weights from before the step, (T,).
        u0: the filtered reflex, (T,).
        du0: its backward difference, (T,).
        u: the filtered early signals, (T, inputs, filters).
        w: their weights after the step, (T, inputs, filters).
        w0: weight of the reflex after the step, (T,).
    """

    v: Array
    u0: Array
    du0: Array
    u: Array
    w: Array
    w0: Array


class SequenceUnit:
    """One unit ``v = w0 u0 + sum w u`` that sees a late reflex and early signals, all filtered, in time.

    - "ico": ``dw/dt = mu u u0'``. The weights of the early signals follow the change of the reflex; w0 stays 1. Where
      the reflex does not change, nothing does, exactly.
    - "iso": ``dw/dt = mu u v'``. All weights, w0 as well, follow the change of the output, which they make themselves:
      that is unstable.

    In a step: filters, output with the weights from before, differences to the step before, weights.

    Args:
        mu: learning rate, above or equal 0.
        rule: "ico" or "iso".
        reflex: filter of the reflex, a single one.
        predictors: filters of each early signal.
        inputs: number of early signals.
        trapezoid: take the mean of u u0' of this step and the last one, as the reference code does; False: this one's.
        bound: an output beyond it ends the run.

    Attributes:
        w: weights of the early signals, (inputs, filters); 0 at the start.
        w0: weight of the reflex, 1 at the start.
        steps: how many there have been.

    Raises:
        ConfigError: for a value out of range.

    Source: B. Porr, F. Wörgötter, "Isotropic sequence order learning", Neural Computation 15, 2003; "Strongly improved
    stability and faster convergence of temporal sequence learning by using input correlations only", 18, 2006; code:
    github berndporr/ICO-learning.

    Example:
        >>> unit = SequenceUnit(1e-4, predictors=Resonators(0.1, number=10))
        >>> early, late = np.zeros(200), np.zeros(200)
        >>> early[50], late[75] = 1, 1
        >>> bool(unit.run(late, early).w[-1].any())
        True
    """

    def __init__(
        self,
        mu: float,
        rule: str = "ico",
        reflex: Filters = Resonators(0.01),
        predictors: Filters = Resonators(0.1, number=10),
        inputs: int = 1,
        trapezoid: bool = True,
        bound: float = 1e6,
    ) -> None:
        if rule not in ("ico", "iso"):
            raise ConfigError(f"SequenceUnit: rule: expected 'ico' or 'iso', got {rule!r}")
        if not (mu >= 0 and math.isfinite(mu)):
            raise ConfigError(f"SequenceUnit: mu: expected a finite number from 0 up, got {mu!r}")
        if not bound > 0:
            raise ConfigError(f"SequenceUnit: bound: expected a number above 0, got {bound!r}")
        if reflex.number != 1:
            raise ConfigError(f"SequenceUnit: reflex: expected a single filter, got {reflex.number}")
        _check_whole("SequenceUnit", "inputs", inputs)
        self.mu, self.rule, self.trapezoid, self.bound = mu, rule, trapezoid, bound
        self.reflex, self.predictors, self.inputs = reflex, predictors, inputs
        self.w, self.w0, self.steps = np.zeros((inputs, predictors.number)), 1.0, 0
        self._states = [reflex.start(), *(predictors.start() for _ in range(inputs))]
        self._u0 = self._v = 0.0
        self._change: tuple[float, Array] = 0.0, np.zeros_like(self.w)

    def step(self, reflex: float, early: ArrayLike) -> float:
        """The output of one step.

        Args:
            reflex: the late signal. early: the early ones, (inputs,).

        Raises:
            ShapeError: there are not as many early signals as expected; nothing has changed then.
            DivergedError: the output is not finite or beyond ``bound``; it says in which step.
        """
        x = np.ravel(np.asarray(early, np.float64))
        if len(x) != self.inputs:
            raise ShapeError(f"SequenceUnit.step: expected {self.inputs} early signals, got {len(x)}")
        return self._step(float(reflex), x)[0]

    def run(self, reflex: ArrayLike, early: ArrayLike) -> SequenceRecord:
        """Go on for T steps.

        Args:
            reflex: the late signal, (T,). early: the early ones, (T,) or (T, inputs).

        Raises:
            ValueError: the signals do not fit or are not finite; nothing has changed then.
            DivergedError: an output is beyond ``bound``; it says in which step.
        """
        late = np.asarray(reflex, np.float64)
        signals = np.asarray(early, np.float64)
        signals = signals[:, None] if signals.ndim == 1 else signals
        if late.ndim != 1 or not len(late) or signals.shape != (len(late), self.inputs):
            raise ShapeError(
                f"SequenceUnit.run: expected a reflex (T,) and early signals (T, {self.inputs}) of the same length "
                f"T > 0, got {late.shape} and {np.shape(early)}"
            )
        for name, array in (("reflex", late), ("early", signals)):
            bad = np.argwhere(~np.isfinite(array))
            if len(bad):
                raise ValueError(
                    f"SequenceUnit.run: {name}: expected finite numbers, got {array[tuple(bad[0])]} in step {bad[0][0]}"
                )
        rows = []
        for x0, x in zip(late, signals, strict=True):
            v, du0, u = self._step(float(x0), x)
            rows.append((v, self._u0, du0, u, self.w.copy(), self.w0))
        return SequenceRecord(*(np.array(column) for column in zip(*rows, strict=True)))

    def _step(self, x0: float, x: Array) -> tuple[float, float, Array]:
        """Output, change of the filtered reflex, and the filtered early signals (inputs, filters)."""
        u0 = float(self.reflex.step(self._states[0], x0)[0])
        u = np.stack([self.predictors.step(state, float(xi)) for state, xi in zip(self._states[1:], x, strict=True)])
        v = self.w0 * u0 + float((self.w * u).sum())
        du0, dv = u0 - self._u0, v - self._v
        if not abs(v) <= self.bound:
            raise DivergedError(
                f"SequenceUnit: the output is {v:g} in step {self.steps}, beyond the bound of {self.bound:g}; "
                f"take a smaller mu than {self.mu:g}"
            )
        change = (0.0, u * du0) if self.rule == "ico" else (u0 * dv, u * dv)
        before = self._change if self.trapezoid else change
        self.w0 += self.mu * (change[0] + before[0]) / 2
        self.w = self.w + self.mu * (change[1] + before[1]) / 2
        self._u0, self._v, self._change = u0, v, change
        self.steps += 1
        return v, du0, u


def timing_kernel(T: ArrayLike, f: float, Q: float = 0.6, mu: float = 1.0) -> Array:
    """What a pair of impulses changes in a weight, where reflex and early signal have the same resonator.

    ``dw(T) = sign(T) (mu / 4 a) h(|T|)``, in continuous time: antisymmetric, as spike-timing dependent plasticity.

    Args:
        T: by how many steps the early impulse comes first, any shape. f, Q: of :class:`Resonators`. mu: learning rate.
    """
    a, b = (float(value[0]) for value in Resonators(f, Q).poles)
    t = np.abs(np.asarray(T, np.float64))
    return np.asarray(np.sign(T) * mu / (4 * a) * np.exp(-a * t) * np.sin(b * t) / b)


@dataclasses.dataclass(frozen=True)
class ReflexRecord:
    """What a unit did in the reflex task, by trial.

    Attributes:
        peaks: largest x0 of each trial.
        norms: length of w after it.
        diverged: the trial in which the output went beyond the unit's bound, which ends the task; None: it did not.
    """

    peaks: list[float]
    norms: list[float]
    diverged: int | None


def reflex_task(
    unit: SequenceUnit, trials: int, period: int = 400, at: int = 50, width: int = 21, lead: int = 25
) -> ReflexRecord:
    """A disturbance can be avoided by acting in time: ``x0(t) = max(0, x1(t - lead) - v(t - 1))``.

    The early signal x1 is half a sine of height 1. It tells of a disturbance of the same form, ``lead`` steps later;
    the unit's output is taken from it, and what is left is the reflex x0.

    Args:
        unit: with one early signal; goes on learning.
        trials: how many.
        period: steps of a trial.
        at: where x1 begins. width: its length. lead: of x1 before the disturbance; all in steps.

    Raises:
        ConfigError: the signals do not fit into a period, or the unit has several early signals.
    """
    if unit.inputs != 1:
        raise ConfigError(f"reflex_task: expected a unit with one early signal, got {unit.inputs}")
    if not (width > 1 and at >= 0 and lead >= 0 and at + lead + width <= period):
        raise ConfigError(f"reflex_task: expected at + lead + width <= period = {period}, got {at} + {lead} + {width}")
    early, late = np.zeros(period), np.zeros(period)
    early[at : at + width] = late[at + lead : at + lead + width] = np.sin(np.pi * np.arange(width) / (width - 1))
    peaks: list[float] = []
    norms: list[float] = []
    v = 0.0
    for trial in range(trials):
        peak = 0.0
        for x1, disturbance in zip(early, late, strict=True):
            x0 = max(0.0, disturbance - v)
            peak = max(peak, x0)
            try:
                v = unit.step(x0, x1)
            except DivergedError:
                return ReflexRecord(peaks, norms, trial)
        peaks.append(peak)
        norms.append(float(np.linalg.norm(unit.w)))
    return ReflexRecord(peaks, norms, None)
