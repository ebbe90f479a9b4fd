"""The causal effect of a neuron's spike, from times at which it barely spiked and times at which it barely did not."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch
from torch import Tensor

from backroads.contrib.spiking.circuit import Recording
from backroads.contrib.spiking.settings import Neuron
from backroads.errors import RuleError, ShapeError
from backroads.feedback.checks import check_count, check_number, check_positive


class Simulator(Protocol):
    """What the estimator may ask of a circuit: nothing that has to do with weights."""

    inputs: int
    outputs: int
    groups: int
    neuron: Neuron

    def record(self, steps: int) -> Recording:
        """Simulate ``steps`` more."""


@dataclasses.dataclass
class Evidence:
    """Sums over windows that least squares needs, for windows without (index 0) and with a spike (index 1).

    A window has the abscissa x = u - threshold, where u is its largest drive, and the response r.

    Attributes:
        moments: (2, 3, G, I) float64, the number of windows, the sums of x and of x^2.
        responses: (2, 2, G, I, O) float32, the sums of r and of x r.
        seconds: simulated so far.
    """

    moments: Tensor
    responses: Tensor
    seconds: float = 0.0

    @classmethod
    def none(cls, groups: int, inputs: int, outputs: int, device: torch.device | str = "cpu") -> Evidence:
        """Evidence without any window."""
        return cls(
            torch.zeros(2, 3, groups, inputs, dtype=torch.float64, device=device),
            torch.zeros(2, 2, groups, inputs, outputs, device=device),
        )

    def fade(self, keep: float) -> None:
        """Multiply all sums by ``keep``, in place, so that later windows count more."""
        self.moments *= keep
        self.responses *= keep
        self.seconds *= keep

    def intercepts(self, shrinkage: float = 0.0) -> Tensor:
        """The values of the two fitted lines at the threshold, (2, G, I, O) float64; NaN where no line can be fitted.

        ``(sum x^2 sum r - sum x sum x r) / (n sum x^2 - (sum x)^2)``, with ``shrinkage`` added to sum x^2.
        """
        n, x, xx = self.moments.unsqueeze(-1).unbind(1)
        xx = xx + shrinkage
        r, xr = self.responses.double().unbind(1)
        determinant = n * xx - x * x
        possible = determinant > 1e-9 * n * xx
        values: Tensor = (xx * r - x * xr) / determinant
        return values.where(possible, torch.full_like(values, torch.nan))


@dataclasses.dataclass(frozen=True)
class RegressionDiscontinuity:
    """Estimate a neuron's effect on its targets from its spikes, its drive and the signal q that comes back.

    A window opens when the potential of a neuron comes within ``onset`` of the threshold. From then on u follows the
    potential without any reset, so that u does not depend on the spikes that it causes. Each window gives one pair:
    its largest u, and the response r, the mean of q in the window less q when it opened. A neuron that ended barely
    above the threshold and one that ended barely below differ by a spike and by nothing else, whatever drove them and
    their neighbours. So two lines are fitted, ``r = c1 u + c2`` over the windows without a spike and ``r = c3 u + c4``
    over those with one; the jump at the threshold is the effect of the spike::

        beta = (c3 threshold + c4) - (c1 threshold + c2)

    for every pair of neurons at once.

    Attributes:
        window: length of a window, s.
        onset: distance of the potential from the threshold at which a window opens.
        bandwidth: windows whose largest u is farther than this from the threshold are left out.
        shrinkage: draws the slopes c1 and c3 to 0, as strongly as so many windows with x = 1 and no response would. Its
            influence falls as windows come in. 0: plain least squares, which takes many more windows, as those without
            a spike lie within ``onset`` of the threshold and tell next to nothing about a slope.
        least: windows needed on either side of the threshold; with fewer, beta is 0.
        block: seconds that are evaluated at once, limited by memory; windows that a block's end cuts are left out.

    Raises:
        RuleError: for a value that makes no sense.

    Source: Guerguiev, Kording, Richards, "Spike-based causal inference for weight alignment", ICLR 2020; Lansdell,
    Kording, "Spiking allows neurons to estimate their causal effect" (2019). The defaults of window, onset and
    bandwidth are those of the former's code. Two things differ. The code fits the lines by gradient descent, window
    by window, with a rate of 0.001 from 0, which hardly changes the slopes in a hundred windows. Here they are fitted
    by least squares, without a rate or a start, and ``shrinkage`` limits the slopes. Where a window opens in the step
    in which another ends, the code takes the baseline of q from the earlier window; here each window has its own.
    """

    window: float = 0.030
    onset: float = 0.1
    bandwidth: float = 10.0
    shrinkage: float = 10.0
    least: int = 10
    block: float = 2.0

    def __post_init__(self) -> None:
        name = "RegressionDiscontinuity"
        for field in ("window", "onset", "bandwidth", "block"):
            check_positive(name, field, getattr(self, field))
        check_number(name, "shrinkage", self.shrinkage)
        check_count(name, "least", self.least, 3)
        if self.block < 2 * self.window:
            raise RuleError(f"{name}: block must hold some windows, at least {2 * self.window:g} s, got {self.block!r}")

    def watch(self, simulator: Simulator, seconds: float, evidence: Evidence | None = None) -> Evidence:
        """Simulate ``seconds`` of a circuit and add its windows to ``evidence``, in place if it is given; return it.

        Raises:
            RuleError: for a time that is not a finite number > 0.
            ShapeError: for evidence of another circuit.
        """
        check_number("watch", "seconds", seconds)
        neuron = simulator.neuron
        left, longest = neuron.steps(seconds), max(1, neuron.steps(self.block))
        if left < 1:
            raise RuleError(f"watch: seconds must be at least a step of {neuron.dt} s, got {seconds!r}")
        shape = (simulator.groups, simulator.inputs, simulator.outputs)
        if evidence is not None and evidence.responses.shape[2:] != shape:
            raise ShapeError(
                f"watch: expected evidence of shape (groups, inputs, outputs) = {shape}, "
                f"got {tuple(evidence.responses.shape[2:])}; give each layer its own"
            )
        while left > 0:
            steps = min(left, longest)
            recording = simulator.record(steps)
            if evidence is None:
                evidence = Evidence.none(*shape, device=recording.signal.device)
            self.add(evidence, recording, neuron)
            evidence.seconds += steps * neuron.dt
            left -= steps
        assert evidence is not None
        return evidence

    def add(self, evidence: Evidence, recording: Recording, neuron: Neuron) -> None:
        """Find the windows of a recording and add them to the sums."""
        T, N, inputs = recording.potential.shape
        W = neuron.steps(self.window)
        G, outputs = evidence.responses.shape[2], recording.signal.shape[2]
        v, b = recording.potential.reshape(T, N * inputs), recording.drive.reshape(T, N * inputs)
        opened, unit = _windows((v - neuron.threshold).abs() <= self.onset, W)
        if not len(opened):
            return

        spikes, carry, pull = recording.spikes.reshape(T, N * inputs), neuron.carry, neuron.pull
        u = v[opened, unit]
        largest, spiked = u, spikes[opened, unit]
        for step in range(1, W):
            u = carry * u + pull * b[opened + step, unit]
            largest = torch.maximum(largest, u)
            spiked |= spikes[opened + step, unit]
        total, circuit = recording.signal.double().cumsum(0), unit // inputs
        summed = torch.cat([torch.zeros_like(total[:1]), total])  # of all steps before each
        mean = (summed[opened + W + 1, circuit] - summed[opened + 1, circuit]) / W
        response = mean.float() - recording.signal[opened, circuit]

        x = largest - neuron.threshold
        near = x.abs() <= self.bandwidth
        # The neuron's index within the G groups; windows of all copies are pooled.
        row = (spiked.long() * G * inputs + unit % (G * inputs))[near]
        x, response = x[near], response[near]
        exact = x.double()
        moments = torch.stack([torch.ones_like(exact), exact, exact * exact], dim=1)
        found = torch.zeros(2 * G * inputs, 3, dtype=torch.float64, device=x.device).index_add_(0, row, moments)
        evidence.moments += found.view(2, G, inputs, 3).permute(0, 3, 1, 2)
        for power, part in enumerate((response, x[:, None] * response)):
            sums = torch.zeros(2 * G * inputs, outputs, device=x.device).index_add_(0, row, part)
            evidence.responses[:, power] += sums.view(2, G, inputs, outputs)

    def jumps(self, evidence: Evidence) -> Tensor:
        """beta, the jump of each response at the threshold, (G, O, I) float32; 0 where there are too few windows."""
        below, above = evidence.intercepts(self.shrinkage)
        enough = (evidence.moments[:, 0] >= self.least).all(0)[..., None]  # (G, I, 1)
        beta: Tensor = (above - below).where(enough, torch.zeros_like(above))
        return beta.nan_to_num(0.0).transpose(1, 2).float()


def _windows(opens: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """First steps and columns of the windows of ``length`` steps: one opens wherever ``opens`` (T, M) allows it and no
    other is open in that column. Goes from window to window in all columns at once.
    """
    T, M = opens.shape
    steps = torch.arange(T, device=opens.device)
    # (M, T + 1): the next step that may open one.
    following = torch.where(opens.t(), steps, T).flip(1).cummin(1).values.flip(1)
    following = torch.cat([following, following.new_full((M, 1), T)], dim=1)
    columns = torch.arange(M, device=opens.device)
    at = torch.zeros(M, dtype=torch.long, device=opens.device)
    found = []
    for _ in range(T // length + 1):
        at = following[columns, at]
        whole = at + length < T
        found.append(torch.stack([at[whole], columns[whole]]))
        at = (at + length).clamp_(max=T)
    opened, unit = torch.cat(found, dim=1)
    return opened, unit
