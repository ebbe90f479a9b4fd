"""The terms of B that an imperfect view of W teaches; see :class:`backroads.feedback.rules.WeightEstimate`."""

from __future__ import annotations

import torch
from torch import Tensor

from backroads.feedback.rules.alignment import Alignment
from backroads.feedback.rules.estimate import WeightEstimate


def estimate_gradient(W: Tensor, B: Tensor, rule: Alignment) -> Tensor:
    """``decay B - self V`` where an estimate V of W arrives, 0 elsewhere; in the layout and dtype of B.

    Args:
        W: the weight that the estimate is made from: W, or W of ``delay_steps`` passes before. B: backward weight.
        rule: with an ``estimate``.
    """
    estimate = rule.estimate
    assert estimate is not None
    dB = B * rule.decay - seen(W.to(B.dtype), estimate) * rule.self_
    if estimate.keep_probability < 1:
        shape = B.shape if estimate.sparse_in == "synapses" else ()
        dB = dB * (torch.rand(shape, dtype=B.dtype, device=B.device) < estimate.keep_probability)
    return dB


def seen(W: Tensor, estimate: WeightEstimate) -> Tensor:
    """W with the estimate's noise, then rounded to its bits; a fresh draw from torch's global generator."""
    if estimate.noise_std:
        W = W + torch.randn_like(W) * (estimate.noise_std * W.square().mean().sqrt())
    if estimate.bits is None or W.numel() == 0:
        return W
    # Levels in the middle of 2^bits equal steps, so that one bit is a sign.
    levels = 2**estimate.bits
    largest = W.abs().max()
    step = 2 * largest / levels
    index = (W / step.where(step > 0, torch.ones_like(step))).floor().clamp(-levels // 2, levels // 2 - 1)
    return torch.mul(index + 0.5, step)
