"""A layer as spiking neurons. The simulator holds W; its recordings have only what could be measured in a circuit."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from backroads.contrib.spiking.settings import Drive, Neuron
from backroads.errors import ShapeError
from backroads.feedback.checks import check_count, check_positive


@dataclasses.dataclass(frozen=True)
class Recording:
    """T steps of N circuits, each of I neurons that project to O neurons.

    Attributes:
        spikes: (T, N, I) bool, of the projecting neurons.
        potential: (T, N, I), their v after each step.
        drive: (T, N, I), their input drive b in each step.
        signal: (T, N, O), q, which comes back from the O neurons: their spikes through kappa, one step late.
    """

    spikes: Tensor
    potential: Tensor
    drive: Tensor
    signal: Tensor


class Cells:
    """Leaky integrate-and-fire neurons; their state is kept between calls."""

    def __init__(self, neuron: Neuron, shape: tuple[int, ...], device: torch.device) -> None:
        self.neuron = neuron
        self.v = torch.full(shape, neuron.reset, device=device)
        # The latest spikes, after which no other may follow yet.
        self.recent = torch.zeros(neuron.rest_steps - 1, *shape, dtype=torch.bool, device=device)

    def run(self, b: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes (bool) and v of every step, for an input drive b of shape (T, ...)."""
        threshold, reset, carry, kept = self.neuron.threshold, self.neuron.reset, self.neuron.carry, len(self.recent)
        spikes = torch.cat([self.recent, torch.empty(b.shape, dtype=torch.bool, device=b.device)])
        path = b * self.neuron.pull
        rows, v = spikes.unbind(0), self.v
        for t, now in enumerate(path.unbind(0)):
            fired = rows[kept + t]
            now.add_(v, alpha=carry)
            torch.ge(now, threshold, out=fired)
            if kept:
                resting = rows[t] if kept == 1 else torch.logical_or(rows[t], rows[t + 1])
                for row in rows[t + 2 : t + kept]:
                    resting |= row
                torch.gt(fired, resting, out=fired)  # and not
            now.masked_fill_(fired, reset)
            v = now
        self.v, self.recent = v.clone(), spikes[len(b) :].clone()
        return spikes[kept:], path


class Filter:
    """The effect of spikes, ``p(t) = sum over s <= t of kappa(t - s + 1) spikes(s)``, computed in blocks of time.

    A block of L steps is one product with a banded (L, L + memory - 1) matrix.
    """

    def __init__(self, kernel: Tensor, longest: int, shape: tuple[int, ...], device: torch.device) -> None:
        memory = len(kernel)
        band = torch.zeros(longest, longest + memory - 1, dtype=torch.float64)
        for row in range(longest):
            band[row, row : row + memory] = kernel.flip(0)
        self.band = band.float().to(device)
        self.past = torch.zeros(memory - 1, *shape, device=device)

    def run(self, spikes: Tensor) -> Tensor:
        """(T, ...) -> (T, ...), with T at most ``longest``; goes on from the call before."""
        T = len(spikes)
        known = torch.cat([self.past, spikes.to(self.past.dtype)])
        self.past = known[T:]
        return (self.band[:T, : len(known)] @ known.flatten(1)).view(T, *spikes.shape[1:])


class Circuit:
    """I neurons, driven by independent noise, that project through W to O neurons, whose spikes come back as q.

    Args:
        weight: W, (O, I), or (G, O, I) for G independent groups. It is scaled to the standard deviation ``spread``.
        neuron: of all neurons.
        drive: of the I neurons.
        spread: standard deviation of the scaled W; None: 0.2 I, as in the reference, but at least 20, as fewer or
            weaker neurons would not make the O neurons spike.
        copies: number of independent circuits with the same W that run in parallel, such as positions of a
            convolution. A linear layer has one.
        generator: of all draws, on the device of ``weight``; None is torch's global generator.

    Attributes:
        inputs: I.
        outputs: O.
        groups: G.
        copies: as given.
        neuron: as given.

    Raises:
        ShapeError: for a W of another shape, or whose entries are all alike.
        RuleError: for other values that make no sense.

    Source: the equations and their order in a step are those of the code of Guerguiev et al. (2020).
    """

    def __init__(
        self,
        weight: Tensor,
        neuron: Neuron | None = None,
        drive: Drive | None = None,
        *,
        spread: float | None = None,
        copies: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        W = weight.detach().float()
        W = W[None] if W.dim() == 2 else W
        if W.dim() != 3 or W.numel() == 0:
            raise ShapeError(f"Circuit: expected W of shape (O, I) or (groups, O, I), got {tuple(weight.shape)}")
        own = float(W.std(correction=0))
        if not 0 < own < float("inf"):
            raise ShapeError("Circuit: expected a finite W with some spread, got one whose spread is 0 or not finite")
        if spread is not None:
            check_positive("Circuit", "spread", spread)
        check_count("Circuit", "copies", copies)
        self.neuron = Neuron() if neuron is None else neuron
        self.drive = Drive() if drive is None else drive
        self.copies, (self.groups, self.outputs, self.inputs) = copies, W.shape
        self.weight = W * ((max(20.0, 0.2 * self.inputs) if spread is None else spread) / own)
        self.generator = generator
        self._block = max(1, self.neuron.steps(self.drive.redraw))
        self._left = 0  # steps until other neurons are driven
        device, kernel = W.device, self.neuron.kernel()
        pre, post = (copies, self.groups, self.inputs), (copies, self.groups, self.outputs)
        self._pre, self._post = Cells(self.neuron, pre, device), Cells(self.neuron, post, device)
        self._driving = Filter(kernel, self._block, pre, device)
        self._forth = Filter(kernel, self._block, pre, device)
        self._back = Filter(kernel, self._block, post, device)
        self._late = torch.zeros(1, *post, device=device)
        self._driven = torch.zeros(pre, device=device)

    def record(self, steps: int) -> Recording:
        """Simulate ``steps`` more; N is copies times groups, ordered by copy and then by group."""
        blocks: list[tuple[Tensor, ...]] = []
        while steps > 0:
            if self._left == 0:
                self._choose_driven()
            taken = min(steps, self._left)
            blocks.append(self._advance(taken))
            steps, self._left = steps - taken, self._left - taken
        return Recording(*(torch.cat(parts).flatten(1, 2) for parts in zip(*blocks, strict=True)))

    def _choose_driven(self) -> None:
        """Choose the neurons that are driven: ``fraction`` of them, at least one, in each circuit."""
        count = max(1, int(self.drive.fraction * self.inputs))
        order = torch.rand(self._driven.shape, generator=self.generator, device=self._driven.device).argsort(-1)
        self._driven = (order < count).to(self._driven.dtype)
        self._left = self._block

    def _advance(self, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``steps`` within a block of time in which the same neurons are driven."""
        expected = (self.drive.rate * self.neuron.dt) * self._driven
        noise = torch.poisson(expected.expand(steps, *expected.shape), generator=self.generator)
        b = self.drive.weight * self._driving.run(noise)
        spikes, v = self._pre.run(b)
        arrived = torch.einsum("tcgi,goi->tcgo", self._forth.run(spikes), self.weight)
        answers, _ = self._post.run(arrived)
        q = torch.cat([self._late, self._back.run(answers)])
        self._late = q[-1:]
        return spikes, v, b, q[:-1]
