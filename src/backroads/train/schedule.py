"""Schedules: numbers that depend on the training step alone.

Two frozen dataclasses, each called with a step (an integer, the first step is 0): the coefficient of a
primitive (``CoefficientSchedule``), and the weights of the task loss and the alignment loss (``RateSchedule``). They
follow the training schedules of Kunin et al.,
"Two Routes to Scalable Credit Assignment without Weight Symmetry", ICML 2020 (arXiv 2003.01513), with the
settings of the public code neuroailab/Neural-Alignment, below called the reference.

An epoch is a real number here, ``step / steps_per_epoch``, so a boundary can fall inside an epoch. Epochs are
rounded to float32 as in the reference, so that a boundary falls on the same step as there (0.7 * 90 is
62.99999999999999 in float64 and 63 in float32). Everything else is float64, so that a constant schedule
returns its value unchanged.

Where we deviate from the reference:

- Bad settings raise ``ConfigError`` when the schedule is made.
- Alternation counts steps as integers, which is the same up to step 2**24, where float32 stops telling steps
  apart.
- We divide by the steps in an epoch. So does the reference's code, but TensorFlow, when it optimises the
  graph, turns that into a multiplication by the rounded reciprocal. For some numbers of steps (7, 235, 468,
  but not 4 or 5004) this moves a boundary by one step; with a division, boundaries at whole epochs are exact.
"""

from __future__ import annotations

import math
import numbers
import operator
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import numpy as np

from backroads.errors import ConfigError, UsageError, nearest

DROPS: tuple[tuple[float, float], ...] = ((30.0, 0.1), (60.0, 0.01), (80.0, 0.001))
"""(epoch, factor): from this epoch on, a decaying rate is its base value times the factor."""

# exp(88.7) is the largest power that float32 can hold, and losses are float32.
_LARGEST_EXPONENT = 88.0
# The smallest normal float32, because epochs are divided in float32.
_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class CoefficientSchedule:
    """The coefficient of a primitive, in effect during part of training, constant, growing, or cycling.

    Outside ``start * epochs <= epoch <= stop * epochs`` (both ends included) the coefficient is 0. Inside,
    with t the epochs since ``start * epochs``, it is ``value`` without growth, ``value + rate * t`` with
    linear growth, and ``value * exp(rate * t)`` with exponential growth. With a cycle, t is a triangle: it
    rises from 0 to ``cycle / 2`` during half a cycle, falls back to 0 during the other half, and so on.

    As in the reference, ``rate`` and ``cycle`` have no effect without ``growth``, and a coefficient that
    falls linearly becomes negative when it has passed 0.

    Args:
        value: the coefficient at the start (reference: ``value``).
        start: fraction of training, 0 to 1, at which the coefficient becomes non-zero (``start``).
        stop: fraction of training, ``start`` to 1, after which it is 0 again (``stop``).
        cycle: period of the triangle in epochs, at least a step; 0 for none (``cycle``).
        rate: growth an epoch, may be negative (``schedule_rate``).
        growth: None, "linear" or "exponential" (``schedule_type``).
        steps_per_epoch: steps in an epoch, need not be whole (``num_batches_per_epoch``).
        epochs: length of the training in epochs (``train_epochs``).

    Raises:
        ConfigError: a field is out of range, or the growth would overflow float32.
    """

    value: float
    _: KW_ONLY
    start: float = 0.0
    stop: float = 1.0
    cycle: float = 0.0
    rate: float = 0.0
    growth: Literal["linear", "exponential"] | None = None
    steps_per_epoch: float
    epochs: float

    def __post_init__(self) -> None:
        advice = "give a fraction of the training, not an epoch"
        _check_number(self, "value", "a finite number")
        _check_number(self, "start", "a number from 0 to 1", low=0.0, high=1.0, advice=advice)
        _check_number(self, "stop", "a number from 0 to 1", low=0.0, high=1.0, advice=advice)
        _check_number(self, "cycle", "a number of epochs, at least 0", low=0.0, advice="use 0 for no cycle")
        _check_number(self, "rate", "a finite number")
        _check_number(self, "steps_per_epoch", "a number above 0", low=_SMALLEST)
        _check_number(self, "epochs", "a number above 0", low=_SMALLEST)
        if 0 < self.cycle * self.steps_per_epoch < 1:
            raise ConfigError(
                "CoefficientSchedule.cycle must be 0 or last at least a step, "
                f"got {self.cycle!r} epochs of {self.steps_per_epoch!r} steps; use 0 for no cycle"
            )
        if self.start > self.stop:
            raise ConfigError(
                "CoefficientSchedule.start must be at most stop, "
                f"got start {self.start!r} and stop {self.stop!r}; exchange them, "
                "or set value to 0 for a coefficient that is never in effect"
            )
        if self.growth not in (None, "linear", "exponential"):
            hint = nearest(str(self.growth), ("linear", "exponential"))
            raise ConfigError(
                "CoefficientSchedule.growth must be None, 'linear' or 'exponential', "
                f"got {self.growth!r}; use one of these.{hint}"
            )
        if self.growth == "exponential":
            longest = (self.stop - self.start) * self.epochs
            if self.cycle > 0:
                longest = min(longest, self.cycle / 2)
            if self.rate * longest > _LARGEST_EXPONENT:
                raise ConfigError(
                    "CoefficientSchedule.rate times the epochs of growth must be at most "
                    f"{_LARGEST_EXPONENT:g}, got {self.rate!r} times {longest:g} epochs, which overflows "
                    "float32; lower the rate, or shorten the growth with stop or cycle"
                )

    def __call__(self, step: int) -> float:
        """The coefficient at ``step``.

        Raises ``UsageError`` if ``step`` is not a whole number of at least 0.
        """
        epoch = _epoch(_checked_step(step), self.steps_per_epoch)
        first = _float32(self.start * self.epochs)
        last = _float32(self.stop * self.epochs)
        if not first <= epoch <= last:
            return 0.0
        if self.growth is None:
            return float(self.value)
        grown = _float32(epoch - first)
        if self.cycle > 0:
            half = self.cycle / 2
            # Rounded before the remainder is taken, as in the reference: late in training and at a high rate,
            # the rounding is visible in the sixth digit.
            halves = _float32(grown / _float32(half))
            grown = half * (1.0 - abs(halves % 2.0 - 1.0))
        if self.growth == "linear":
            return self.value + self.rate * grown
        return self.value * math.exp(self.rate * grown)


@dataclass(frozen=True)
class RateSchedule:
    """The weights of the two losses, a pair: ``(loss_rate, alignment_rate)``.

    What is minimised at a step is ``loss_rate * task_loss + alignment_rate * alignment_loss``.

    - Delay: while ``epoch < delay_epochs`` the loss rate is 0 and the alignment rate is in effect at every
      step, so only the alignment loss teaches.
    - Alternation with frequency f: a step with ``step % (f + 1) == 0`` is an alignment step (loss rate 0),
      the others are task steps (alignment rate 0). Step 0 is an alignment step. The delay wins: alignment at
      every step.
    - Decay, if not ``constant``: both rates fall as in ``DROPS``. These epochs count from step 0, whatever
      the delay and the alternation.

    Args:
        loss_rate: weight of the task loss, at least 0 (reference: ``loss_rate``).
        alignment_rate: weight of the alignment loss, at least 0 (``alignment_rate``).
        delay_epochs: epochs of alignment alone, or None (``delay_epochs``).
        alternate_step_freq: task steps for each alignment step, at least 1, or None to take both losses at
            every step (``alternate_step_freq``).
        constant: False to let both rates fall (``constant_rate``).
        steps_per_epoch: steps in an epoch, need not be whole (``num_batches_per_epoch``).

    Raises:
        ConfigError: a field is out of range.
    """

    loss_rate: float = 1.0
    alignment_rate: float = 1.0
    _: KW_ONLY
    delay_epochs: float | None = None
    alternate_step_freq: int | None = None
    constant: bool = True
    steps_per_epoch: float

    def __post_init__(self) -> None:
        advice = "use 0 to switch that loss off"
        _check_number(self, "loss_rate", "a number of at least 0", low=0.0, advice=advice)
        _check_number(self, "alignment_rate", "a number of at least 0", low=0.0, advice=advice)
        if self.delay_epochs is not None:
            _check_number(self, "delay_epochs", "a number of epochs, at least 0, or None", low=0.0)
        freq = self.alternate_step_freq
        if freq is not None and (not isinstance(freq, int) or isinstance(freq, bool) or freq < 1):
            raise ConfigError(
                "RateSchedule.alternate_step_freq must be a whole number of at least 1, or None, "
                f"got {freq!r}; give the task steps for each alignment step, or None to take both losses at "
                "every step"
            )
        if not isinstance(self.constant, bool):
            raise ConfigError(f"RateSchedule.constant must be True or False, got {self.constant!r}; change it")
        _check_number(self, "steps_per_epoch", "a number above 0", low=_SMALLEST)

    def __call__(self, step: int) -> tuple[float, float]:
        """(loss rate, alignment rate) at ``step``.

        Raises ``UsageError`` if ``step`` is not a whole number of at least 0.
        """
        step = _checked_step(step)
        epoch = _epoch(step, self.steps_per_epoch)
        delayed = self.delay_epochs is not None and epoch < _float32(self.delay_epochs)
        if self.alternate_step_freq is None:
            task, align = True, True
        else:
            align = step % (self.alternate_step_freq + 1) == 0
            task = not align
        factor = 1.0
        if not self.constant:
            for start, dropped in DROPS:
                if epoch >= start:
                    factor = dropped
        return (
            self.loss_rate * factor if task and not delayed else 0.0,
            self.alignment_rate * factor if align or delayed else 0.0,
        )


def _float32(number: float) -> float:
    return float(np.float32(number))


def _epoch(step: int, steps_per_epoch: float) -> float:
    return _float32(_float32(step) / _float32(steps_per_epoch))


def _checked_step(step: int) -> int:
    # index() also takes the integers of NumPy and PyTorch, and refuses floats: 0.5 steps are probably epochs.
    try:
        whole = operator.index(step)
    except TypeError:
        whole = -1
    if whole < 0:
        raise UsageError(
            f"a schedule takes a step, a whole number of at least 0, got {step!r}; count the optimiser's steps from 0"
        )
    return whole


def _check_number(
    owner: object,
    name: str,
    expected: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    advice: str = "change it",
) -> None:
    value = getattr(owner, name)
    # bool counts as a number in Python, but True is never meant as one here.
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not (is_number and low <= value <= high):
        raise ConfigError(f"{type(owner).__name__}.{name} must be {expected}, got {value!r}; {advice}")
