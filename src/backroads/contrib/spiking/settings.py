"""Time constants and conductances of spiking neurons, and how they are driven."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from backroads.errors import RuleError
from backroads.feedback.checks import check_number, check_positive


@dataclasses.dataclass(frozen=True)
class Neuron:
    """A leaky integrate-and-fire neuron: ``dv/dt = -leak v + coupling (b - v)`` with membrane potential v and drive b.

    When v reaches ``threshold`` the neuron spikes, v is set to ``reset``, and no spike follows for ``refractory``. A
    spike acts on its targets through ``kappa(t) = (exp(-t / tau_leak) - exp(-t / tau_synapse)) / (tau_leak -
    tau_synapse)``, cut off after ``memory``, with times in units of ``dt``.

    Attributes:
        dt: length of a step, s.
        threshold: of v, without unit.
        reset: of v, without unit.
        refractory: s, rounded up to whole steps.
        tau_synapse: rise time of the effect of a spike, s.
        tau_leak: decay time of the effect of a spike, s.
        memory: time after which a spike has no effect, s.
        leak: conductance, 1/s.
        coupling: conductance, 1/s.

    Raises:
        RuleError: for a value that makes no sense, or a step too long for the conductances.

    Source: the defaults are those of the code of Guerguiev, Kording, Richards, "Spike-based causal inference for
    weight alignment", ICLR 2020.
    """

    dt: float = 0.001
    threshold: float = 1.0
    reset: float = -1.0
    refractory: float = 0.003
    tau_synapse: float = 0.003
    tau_leak: float = 0.010
    memory: float = 0.030
    leak: float = 100.0
    coupling: float = 600.0

    def __post_init__(self) -> None:
        for name in ("dt", "tau_synapse", "tau_leak", "coupling"):
            check_positive("Neuron", name, getattr(self, name))
        check_number("Neuron", "refractory", self.refractory)
        check_number("Neuron", "leak", self.leak)
        check_number("Neuron", "threshold", self.threshold, negative=True)
        check_number("Neuron", "reset", self.reset, negative=True)
        if self.reset >= self.threshold:
            raise RuleError(f"Neuron: reset must be below threshold, got {self.reset!r} and {self.threshold!r}")
        if self.tau_synapse == self.tau_leak:
            raise RuleError(f"Neuron: tau_synapse and tau_leak must differ, got {self.tau_leak!r} for both")
        if self.steps(self.memory) < 1:
            raise RuleError(f"Neuron: memory must be at least a step of {self.dt} s, got {self.memory!r}")
        if not 0 <= self.carry < 1:
            raise RuleError(
                f"Neuron: dt (leak + coupling) must be <= 1 and > 0, got {1 - self.carry:g}; take a shorter step dt"
            )

    def steps(self, seconds: float) -> int:
        """The nearest whole number of steps."""
        return round(seconds / self.dt)

    @property
    def carry(self) -> float:
        """The factor of v in a step, ``v <- carry v + pull b``."""
        return round(1 - self.dt * (self.leak + self.coupling), 12)

    @property
    def pull(self) -> float:
        """The factor of b in a step."""
        return self.dt * self.coupling

    @property
    def rest_steps(self) -> int:
        """Number of steps from a spike to the earliest next one."""
        return max(1, math.ceil(round(self.refractory / self.dt, 9)))

    def kernel(self) -> Tensor:
        """kappa after 1, 2, ... steps: (memory / dt,) float64."""
        x = torch.arange(1, self.steps(self.memory) + 1, dtype=torch.float64)
        slow, fast = self.tau_leak / self.dt, self.tau_synapse / self.dt
        return ((-x / slow).exp() - (-x / fast).exp()) / (slow - fast)


@dataclasses.dataclass(frozen=True)
class Drive:
    """What makes the neurons of a layer spike: Poisson spikes into a random part of them, apart from any stimulus.

    Attributes:
        rate: of the Poisson spikes into a driven neuron, Hz.
        fraction: of the neurons that are driven at a time.
        redraw: time after which other neurons are driven, s.
        weight: of a driving spike, without unit.

    Raises:
        RuleError: for a value that makes no sense.

    Source: the defaults are those of the code of Guerguiev et al. (2020).
    """

    rate: float = 200.0
    fraction: float = 0.2
    redraw: float = 0.1
    weight: float = 4.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            check_positive("Drive", name, value)
        if self.fraction > 1:
            raise RuleError(f"Drive: fraction must be <= 1, got {self.fraction!r}")
