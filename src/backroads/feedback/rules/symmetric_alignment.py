"""Symmetric alignment."""

from __future__ import annotations

from typing import Any

from backroads.feedback.rules.alignment import Alignment


def symmetric_alignment(decay: float = 0.3, self_: float = 0.3, **options: Any) -> Alignment:
    """Symmetric alignment: ``dB = decay B - self W``. Reads W (weight estimation); for any input B settles at
    ``(self / decay) W``, and ``decay = self_`` is the fraction of the way covered in a step of rate 1.

    At 1, B is the W of the step before. The default also stands a layer that is used several times in a step, or
    gradients accumulated over several passes without :class:`backroads.alignment_scale`: these sum, and above 2 B grows
    without bound.

    Args:
        decay, self_: coefficients, >= 0. options: others of :class:`backroads.Alignment`, such as
            ``view=br.WeightEstimate(noise_std=0.1)``.

    Source: Kunin et al. 2020.
    """
    return Alignment(decay=decay, self_=self_, **options)
