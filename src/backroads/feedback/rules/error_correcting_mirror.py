"""The error-correcting mirror: activation alignment on white noise."""

from __future__ import annotations

from backroads.errors import RuleError
from backroads.feedback.checks import check_positive, checked_options
from backroads.feedback.drive import WhiteNoise
from backroads.feedback.rules.alignment import Alignment
from backroads.feedback.rules.cadence import Cadence


@checked_options
def error_correcting_mirror(
    rate: float = 0.3,
    *,
    rows_per_input: float = 1.0,
    images: int | None = None,
    noise: str = "normal",
    std: float = 1.0,
    most: float = 8.0,
    every: int = 1,
) -> Alignment:
    """Error-correcting mirror: ``dB = rate M[(B xi - y) xi^T] / std^2``, y = W xi. Weight estimation by noise.

    White noise xi drives each layer apart from the stimulus, as in :func:`backroads.rules.white_noise_mirror`, and B
    learns from the difference of the two answers to it. The noise of a step shrinks with B - W, which allows a fast
    rate on little noise: for normal noise and many inputs the mean square of B - W changes by the factor
    (1 - rate)^2 + rate^2 / rows_per_input in a step. W xi and B xi have to be at hand at the same place, so it is not
    local in the strict sense.

    Args:
        rate: share of the way to W covered in a step of rate 1, > 0 and <= 1.
        rows_per_input: rows of noise (images times positions) in a step for each input of a neuron, > 0.
        images: a number of images of noise in every layer, in place of ``rows_per_input``.
        noise: "normal" or "uniform".
        std: standard deviation of the noise, in units of the activity; > 0.
        most: with ``rows_per_input``: at most so many images of noise for each example of the batch; a layer that
            would need more is slowed in proportion.
        every: on every k-th training pass only, times k; see :class:`backroads.Cadence`.

    Raises:
        RuleError: for values out of range, and for a rate that so little noise does not stand:
            ``rate every (1 + 1 / rows_per_input)`` must stay below 2.

    Source: activation alignment of Kunin et al. 2020; on noise, and the amount of it, ours.
    """
    check_positive("error_correcting_mirror", "rate", rate, most=1.0)
    check_positive("error_correcting_mirror", "rows_per_input", rows_per_input)
    drive = WhiteNoise(noise, std, images, rows_per_input if images is None else None, most)
    gain = rate / std**2
    rule = Alignment(amp=gain, sparse=gain, reduction="per_tap_mean", drive=drive, cadence=Cadence(every))
    if images is None and rate * every * (1 + 1 / rows_per_input) >= 2:
        raise RuleError(
            f"error_correcting_mirror: rate every (1 + 1 / rows_per_input) must be below 2, or B explodes; got rate "
            f"{rate:g}, every {every}, rows_per_input {rows_per_input:g}; lower the rate or raise rows_per_input"
        )
    return rule
