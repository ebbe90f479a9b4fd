"""Exact probing: impulses read W entry by entry. An upper bound, not a rule that learns."""

from __future__ import annotations

from backroads.errors import RuleError
from backroads.feedback.checks import check_positive, checked_options
from backroads.feedback.drive import Impulses
from backroads.feedback.rules.alignment import Alignment
from backroads.feedback.rules.cadence import Cadence


@checked_options
def exact_probing(
    rate: float = 1.0,
    *,
    rows_per_input: float = 4.0,
    images: int | None = None,
    height: float = 1.0,
    every: int = 1,
) -> Alignment:
    """Exact probing: impulses read W entry by entry, and the error returns through what was read. An upper bound.

    In each step the inputs of a layer take turns, one at a time in each receptive field. With an impulse of height h
    the answer y is one weight's doing, y / h = W_ij, without an error of estimation. The impulses come between the
    forward and the backward pass: where a weight met one, the error of the same step returns through y / h, elsewhere
    through B, and ``dB = rate (B - y / h)``.

    Where every weight meets an impulse in every step, which is the case in linear layers at one row for each input, the
    training is that of backpropagation, by construction: B, its rate and its optimiser have no effect. So its gap to
    backpropagation is no result; it says what a rule could reach that knew W.

    Args:
        rate: share of the way to W that B covers in a step of rate 1, > 0 and <= 1.
        rows_per_input: impulses in a step for each input of a neuron, > 0. About 4 leave hardly a weight unmet at a
            border or between strides; below 1 only that share of the inputs has its turn.
        images: a number of images of impulses in every layer, in place of ``rows_per_input``.
        height: of an impulse, in units of the activity; > 0.
        every: on every k-th training pass only, times k; see :class:`backroads.Cadence`.

    Raises:
        RuleError: for values out of range, and unless ``rate every`` is below 2.

    Source: ours.
    """
    check_positive("exact_probing", "rate", rate, most=1.0)
    check_positive("exact_probing", "rows_per_input", rows_per_input)
    drive = Impulses(height, images, rows_per_input if images is None else None)
    gain = rate / height**2
    rule = Alignment(amp=gain, sparse=gain, reduction="per_tap_mean", drive=drive, cadence=Cadence(every))
    if rate * every >= 2:
        raise RuleError(
            f"exact_probing: rate every must be below 2, or B explodes; got rate {rate:g}, every {every}; lower the "
            f"rate"
        )
    return rule
