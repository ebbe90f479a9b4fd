"""The view that a rule has of W when it does not see W itself: late, noisy, quantised, sparse."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from backroads.errors import RuleError
from backroads.feedback.checks import Part, check_choice, check_count, check_number, check_positive
from backroads.feedback.rules.memory import Memory

SPARSE_IN = ("synapses", "steps")
MOST_BITS = 16


@dataclasses.dataclass(frozen=True, repr=False)
class WeightEstimate(Part):
    """An imperfect view of W, for the self term: late, noisy, quantised and sparse, in this order.

    Symmetric alignment moves B by ``decay B - self V`` where V is what is seen of W::

        V_t = quantised(W_(t - delay_steps) + noise_std rms(W) epsilon),   epsilon ~ N(0, 1)

    and where no estimate arrives, B stands still: neither self nor decay acts there. Draws are fresh in each pass,
    from torch's global generator; under data parallelism each process has its own, and the gradients' mean is taken.

    Attributes:
        noise_std: standard deviation of the noise, in units of the root mean square of the layer's W.
        keep_probability: chance that an estimate arrives, > 0 and <= 1.
        sparse_in: whether that is drawn for each of the "synapses" or for all of a layer's at once ("steps").
        delay_steps: by how many training passes the view is late; before there were that many, the W at the start.
        bits: of each number: 2^bits levels in equal steps from -max|W| to max|W| of the layer; None does not round.

    Raises:
        RuleError: for values out of range.
    """

    noise_std: float = 0.0
    keep_probability: float = 1.0
    delay_steps: int = 0
    bits: int | None = None
    sparse_in: str = "synapses"

    def __post_init__(self) -> None:
        check_number("WeightEstimate", "noise_std", self.noise_std)
        check_positive("WeightEstimate", "keep_probability", self.keep_probability, most=1.0)
        check_count("WeightEstimate", "delay_steps", self.delay_steps, least=0)
        bits = self.bits
        if bits is not None and (isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= MOST_BITS):
            raise RuleError(f"WeightEstimate: bits must be a whole number from 1 to {MOST_BITS}, or None, got {bits!r}")
        check_choice("WeightEstimate", "sparse_in", self.sparse_in, SPARSE_IN)

    @property
    def draws(self) -> bool:
        """Whether anything about it is random."""
        return self.noise_std > 0 or self.keep_probability < 1

    def pass_through(self, W: Tensor, copies: Tensor, memory: Memory, repeated: bool) -> Tensor:
        """W of ``delay_steps`` training passes before, whose place in the ring of copies W takes.

        Args:
            W: the present one, (O, ...).
            copies: (delay_steps, O, ...), changed in place.
            memory: of the layer.
            repeated: this pass repeats the last one, and sees what that saw.
        """
        if memory.late is None or not repeated:
            memory.late = copies[memory.place].clone()
            copies[memory.place].copy_(W.detach())
            memory.place = (memory.place + 1) % len(copies)
        return memory.late

    def gradient(self, W: Tensor, B: Tensor, decay: float, self_: float) -> Tensor:
        """``decay B - self V`` where an estimate V of W arrives, 0 elsewhere; in the layout and dtype of B.

        Args:
            W: what the estimate is made from: W, or W of ``delay_steps`` passes before.
            B: backward weight.
            decay, self_: coefficients.
        """
        dB = B * decay - self.seen(W.to(B.dtype)) * self_
        if self.keep_probability < 1:
            shape = B.shape if self.sparse_in == "synapses" else ()
            dB = dB * (torch.rand(shape, dtype=B.dtype, device=B.device) < self.keep_probability)
        return dB

    def seen(self, W: Tensor) -> Tensor:
        """W with the estimate's noise, then rounded to its bits; a fresh draw from torch's global generator."""
        if self.noise_std:
            W = W + torch.randn(W.shape, dtype=W.dtype, device=W.device) * (self.noise_std * W.square().mean().sqrt())
        if self.bits is None or W.numel() == 0:
            return W
        # Levels in the middle of 2^bits equal steps, so that one bit is a sign.
        levels = 2**self.bits
        largest = W.abs().max()
        step = 2 * largest / levels
        index = (W / step.where(step > 0, torch.ones_like(step))).floor().clamp(-levels // 2, levels // 2 - 1)
        return torch.mul(index + 0.5, step)
