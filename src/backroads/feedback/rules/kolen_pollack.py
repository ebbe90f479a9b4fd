"""Kolen-Pollack."""

from __future__ import annotations

from typing import Any

from backroads.feedback.checks import checked_options
from backroads.feedback.rules.alignment import Alignment


@checked_options
def kolen_pollack(decay: float = 0.0, **options: Any) -> Alignment:
    """Kolen-Pollack: ``dB = dW_task``: the same increments and the same decay bring B and W together.

    B needs the settings of W's optimiser (rate, momentum, weight decay), whatever that is:
    :func:`backroads.param_groups` gives it those. B - W then shrinks as fast as weight decay forgets it.

    Args:
        decay: adds ``decay B`` to the gradient of B, for an optimiser of B that has no weight decay.
        options: others of :class:`backroads.Alignment`.

    Sources: Kolen, Pollack, ICNN 1994; Akrout et al., NeurIPS 2019.
    """
    return Alignment(decay=decay, tie_grad=True, **options)
