"""The white-noise mirror: a weight mirror on noise of known power, whose fixed point is W."""

from __future__ import annotations

from backroads.feedback.checks import check_positive, checked_options
from backroads.feedback.drive import WhiteNoise
from backroads.feedback.rules.alignment import Alignment
from backroads.feedback.rules.cadence import Cadence


@checked_options
def white_noise_mirror(
    rate: float = 0.1,
    *,
    rows_per_input: float = 8.0,
    images: int | None = None,
    noise: str = "normal",
    std: float = 1.0,
    most: float = 8.0,
    every: int = 1,
) -> Alignment:
    """White-noise mirror: ``dB = rate (B - M[y xi^T] / std^2)``, y = W xi. Local, and no coefficient to tune.

    Each layer is driven by white noise xi of its own and of known power, apart from the stimulus and drawn in the
    backward pass. E[y xi^T] = std^2 W, and with the decay matched to it the fixed point is W itself: in every layer, at
    any width, depth and scale of the activities. M is the mean over the noise and over the positions at which a weight
    really meets the input (``reduction="per_tap_mean"``). What the other inputs add to the estimate of a weight calls
    for a low rate and much noise, and so B lags 1 / rate steps behind W. The error of B from the noise is about
    sqrt(rate / (2 rows_per_input)) of W.

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
        RuleError: for values out of range.

    Source: the mirror of Akrout et al., NeurIPS 2019, and Kunin et al. 2020; the normalisation is ours.
    """
    check_positive("white_noise_mirror", "rate", rate, most=1.0)
    check_positive("white_noise_mirror", "rows_per_input", rows_per_input)
    drive = WhiteNoise(noise, std, images, rows_per_input if images is None else None, most)
    return Alignment(decay=rate, amp=rate / std**2, reduction="per_tap_mean", drive=drive, cadence=Cadence(every))
