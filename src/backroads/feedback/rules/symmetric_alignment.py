"""Symmetric alignment."""

from __future__ import annotations

from typing import Any

from backroads.feedback.checks import checked_options
from backroads.feedback.rules.alignment import Alignment


@checked_options
def symmetric_alignment(decay: float = 1.0, self_: float = 1.0, **options: Any) -> Alignment:
    """Symmetric alignment: ``dB = decay B - self W``. Reads W (weight estimation); for any input B settles at
    ``(self / decay) W``, and ``decay = self_`` is the fraction of the way covered in a step of rate 1.

    At 1, the default, B is the W of the step before, and m of the step that led to it if W's optimiser has momentum m
    (:func:`backroads.param_groups`); a B that lags further behind costs speed at high rates of W. That holds for a
    layer that is used several times in a step and for accumulated parts of a batch too, whose gradients of B are
    averaged.

    Args:
        decay, self_: coefficients, >= 0.
        options: others of :class:`backroads.Alignment`, such as ``view=br.WeightEstimate(noise_std=0.1)``.

    Source: Kunin et al. 2020.
    """
    return Alignment(decay=decay, self_=self_, **options)
