"""Information alignment."""

from __future__ import annotations

from typing import Any

from backroads.feedback.checks import checked_options
from backroads.feedback.rules.alignment import Alignment
from backroads.feedback.rules.weight_mirror import DIMENSIONLESS


@checked_options
def information_alignment(amp: float = 0.001, null: float = 0.001, decay: float = 0.001, **options: Any) -> Alignment:
    """Information alignment: ``dB = decay B - amp M[y x^T] + null M[y r^T]``, r = B^T y. Local.

    null bounds what amp alone lets explode: with W held and equal coefficients (reduction "sum", no operations), B
    settles at the ridge pseudo-inverse ``(W C W^T + I)^-1 W C``. Reduction, centring and fraction are the weight
    mirror's. A step of rate 1 is stable while null times the largest eigenvalue of the output's second moment (over its
    power) is below 2. Wide convolutions whose channels move together exceed that: there, take smaller coefficients.

    Args:
        amp, null, decay: coefficients, >= 0.
        options: others of :class:`backroads.Alignment`.

    Source: Kunin et al. 2020.
    """
    return Alignment(amp=amp, null=null, decay=decay, **{**DIMENSIONLESS, **options})
