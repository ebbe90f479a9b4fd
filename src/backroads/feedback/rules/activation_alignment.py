"""Activation alignment."""

from __future__ import annotations

from typing import Any

from backroads.feedback.checks import checked_options
from backroads.feedback.primitives import Operations
from backroads.feedback.rules.alignment import Alignment
from backroads.feedback.rules.cadence import Cadence

# Steps as long as is best in each layer, away from the mean that activities after a ReLU share.
_PROJECTED: dict[str, Any] = {
    "reduction": "projected_step",
    "operations": Operations(center_input=True),
    "cadence": Cadence(fraction=0.125),
}


@checked_options
def activation_alignment(amp: float = 0.5, sparse: float = 0.5, **options: Any) -> Alignment:
    """Activation alignment: ``dB = sparse M[z x^T] - amp M[y x^T]``: makes B x follow W x (weight estimation).

    B settles at ``(amp / sparse) W`` where C = M[x x^T] has full rank, as slowly as C is ill-conditioned; with plain
    sums a step of rate 1 is stable while ``sparse`` times the largest eigenvalue of C is below 2. By default each
    example is centred, and each row's step is as long as brings it nearest to W (``reduction="projected_step"``): there
    is nothing to tune, for any layer and any scale of the input. ``sparse = amp`` is then the share of that step; below
    2 no step leads away from W, and one half stands momentum up to 0.7 and a layer that is used several times. What
    centring takes away, the mean over an example's features, B learns slowly or not at all. An eighth of the batch is
    enough: docs/cost.md.

    Args:
        amp, sparse: coefficients, >= 0.
        options: others of :class:`backroads.Alignment`, in place of the defaults above.

    Source: Kunin et al. 2020; for the step, which is ours here, the sources are in the code.
    """
    return Alignment(amp=amp, sparse=sparse, **{**_PROJECTED, **options})
