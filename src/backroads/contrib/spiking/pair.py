"""Two neurons with correlated drives, for a test that an estimate tells causation from correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from backroads.contrib.spiking.circuit import Cells, Filter, Recording
from backroads.contrib.spiking.settings import Neuron
from backroads.errors import RuleError
from backroads.feedback.checks import check_number, check_positive


class Pair:
    """Two neurons driven by correlated noise, and a signal that is the weighted sum of the effects of their spikes.

    ``b_j = mean + std (sqrt(c) s + sqrt(1 - c) e_j)`` with s and e_j Ornstein-Uhlenbeck noise of power 1, and
    ``q(t) = sum over j of w_j (kappa * spikes_j)(t - 1)``. So the effect of a neuron is proportional to its own w_j,
    and a neuron that is correlated with the other one seems to share its effect.

    Args:
        weights: (w_1, w_2).
        correlation: c, of the drives, 0 to 1.
        mean: of the drives.
        std: standard deviation of the drives.
        tau: correlation time of the noise, s.
        copies: number of independent pairs.
        neuron: of both neurons.
        generator: CPU generator; None is torch's global one.

    Raises:
        RuleError: for values that make no sense.

    Source: the experiment is that of Lansdell, Kording, "Spiking allows neurons to estimate their causal effect"
    (2019), with a signal that is linear, so that the true effects are known.
    """

    inputs, outputs, groups = 2, 1, 1

    def __init__(
        self,
        weights: Sequence[float],
        correlation: float,
        *,
        mean: float = 0.6,
        std: float = 0.4,
        tau: float = 0.010,
        copies: int = 1,
        neuron: Neuron | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_number("Pair", "correlation", correlation)
        check_positive("Pair", "std", std)
        check_positive("Pair", "tau", tau)
        if correlation > 1 or len(weights) != 2:
            raise RuleError(f"Pair: expected two weights and a correlation <= 1, got {weights!r} and {correlation!r}")
        self.neuron = Neuron() if neuron is None else neuron
        self.weights = torch.tensor(list(weights), dtype=torch.float32)
        self._mean, self._shares = mean, (std * math.sqrt(correlation), std * math.sqrt(1 - correlation))
        self._stay = math.exp(-self.neuron.dt / tau)
        self._generator, self._copies = generator, copies
        cpu = torch.device("cpu")
        self._noise = torch.randn(copies, 3, generator=generator)
        self._cells = Cells(self.neuron, (copies, 2), cpu)
        self._filter = Filter(self.neuron.kernel(), 100, (copies, 1), cpu)
        self._late = torch.zeros(1, copies, 1)

    def record(self, steps: int) -> Recording:
        """Simulate ``steps`` more."""
        fresh = torch.randn(steps, self._copies, 3, generator=self._generator) * math.sqrt(1 - self._stay**2)
        for row in fresh.unbind(0):
            self._noise = row.add_(self._noise, alpha=self._stay)
        common, own = self._shares
        b = self._mean + common * fresh[..., 2:] + own * fresh[..., :2]
        spikes, v = self._cells.run(b)
        acting = (spikes * self.weights).sum(-1, keepdim=True)
        q = torch.cat([self._late, *(self._filter.run(part) for part in acting.split(100))])
        self._late = q[-1:]
        return Recording(spikes, v, b, q[:-1])
