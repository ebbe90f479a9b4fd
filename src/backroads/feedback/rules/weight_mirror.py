"""The weight mirror."""

from __future__ import annotations

from typing import Any

from backroads.feedback.checks import checked_options
from backroads.feedback.primitives import Operations
from backroads.feedback.rules.alignment import Alignment
from backroads.feedback.rules.cadence import Cadence

# Coefficients without units, the same gain in every layer, and covariances in place of second moments.
DIMENSIONLESS: dict[str, Any] = {
    "reduction": "unit_power",
    "operations": Operations(batch_center_backward_input=True),
    "cadence": Cadence(fraction=0.125),
}


@checked_options
def weight_mirror(amp: float = 0.003, decay: float = 0.003, **options: Any) -> Alignment:
    """Weight mirror: ``dB = decay B - amp M[y x^T]``. Local.

    With W held, B settles at ``(amp / decay) W C``, C = M[x x^T]: the right direction only for white input. So by
    default x is centred over the batch, which makes C a covariance, and ``reduction="unit_power"`` divides C by the
    power of x, which makes the gain the same in every layer. ``decay`` is the fraction of the way covered in a step of
    rate 1. An eighth of the batch is enough: docs/cost.md.

    Args:
        amp, decay: coefficients, >= 0.
        options: others of :class:`backroads.Alignment`, in place of the defaults above, such as
            ``cadence=br.Cadence(fraction=1.0)``.

    Source: Akrout, Wilson, Humphreys, Lillicrap, Tweed, NeurIPS 2019; as a sum of primitives: Kunin et al. 2020.
    """
    return Alignment(amp=amp, decay=decay, **{**DIMENSIONLESS, **options})
