"""The normalised mirror: B is taught by noise of known power."""

from __future__ import annotations

from backroads.errors import RuleError
from backroads.feedback.checks import check_flag, check_positive, checked_options
from backroads.feedback.drive import Drive, Impulses, WhiteNoise
from backroads.feedback.rules.alignment import Alignment
from backroads.feedback.rules.cadence import Cadence


@checked_options
def normalised_mirror(
    rate: float | None = None,
    *,
    error_correcting: bool = False,
    noise: str | None = None,
    std: float = 1.0,
    images: int | None = None,
    rows_per_input: float | None = None,
    most: float = 8.0,
    every: int = 1,
) -> Alignment:
    """Normalised mirror: ``dB = rate (B - M[y xi^T] / std^2)``, y = W xi. Local, and no coefficient to tune.

    Each layer is driven by noise xi of its own and of known power, apart from the stimulus and drawn in the backward
    pass. E[y xi^T] = std^2 W, and with the decay matched to it the fixed point is W itself: in every layer, at any
    width, depth and scale of the activities. M is the mean over the noise and over the positions at which a weight
    really meets the input (``reduction="per_tap_mean"``). It has three forms:

    - ``noise="impulses"``, the default: inputs take turns, one at a time in each receptive field. With x and y of such
      a moment, ``dB = rate (B - y / x)`` for the weight that x meets, and nothing for the others. No other input adds
      anything, so that there is no noise in the estimate, and a step may go the whole way to W.
      They come between the passes: the error of the same step already returns through what was measured. A lag of a
      single step is harmful: the missing part of W is a sum of recent -dy x^T, so that dx is off by a sum of
      (dy'^T dy) x', which pushes the activities of all layers towards 0.
    - ``noise="normal"`` or "uniform": white, with nothing that all inputs have to agree on. What the others add calls
      for a low rate and much noise, and so B lags behind W.
    - ``error_correcting=True``, on white noise: ``dB = rate M[(B xi - y) xi^T] / std^2``, whose noise shrinks with
      B - W, which allows a fast rate on little noise. That is activation alignment on noise: it needs W xi and B xi at
      the same place, so it is not local in the strict sense.

    Args:
        rate: share of the way to W covered in a step of rate 1, > 0 and <= 1; None: 1 on impulses, 0.1 on white noise,
            0.3 error-correcting.
        error_correcting: see above; on impulses it makes no difference.
        noise, std: "impulses", "normal" or "uniform", and the height or standard deviation. None: "impulses", but
            "normal" if it is to be error-correcting.
        images, rows_per_input: how much of it; see :class:`backroads.WhiteNoise`. Neither: about 4 impulses for each
            weight of a neuron, so that hardly one is missed at a border or between strides; on white noise 8 rows for
            each input of a neuron, or 1 error-correcting, so that the error of B from the noise is about
            sqrt(rate / (2 rows_per_input)) of W, or vanishes with B - W.
        most: with ``rows_per_input``: at most so many images of white noise for each example of the batch; a layer
            that would need more is slowed in proportion.
        every: on every k-th step only, times k.

    Raises:
        RuleError: for values out of range, and for a rate that so little noise does not stand: error-correcting,
            ``rate every (1 + 1 / rows_per_input)`` must stay below 2, and on impulses ``rate every``.

    Source: the mirror of Akrout et al., NeurIPS 2019, and Kunin et al. 2020; the normalisation is ours.
    """
    check_flag("normalised_mirror", "error_correcting", error_correcting)
    noise = ("normal" if error_correcting else "impulses") if noise is None else noise
    impulses = noise == "impulses"
    if rate is None:
        rate = 1.0 if impulses else 0.3 if error_correcting else 0.1
    check_positive("normalised_mirror", "rate", rate, most=1.0)
    check_positive("normalised_mirror", "std", std)
    check_positive("normalised_mirror", "most", most)
    if images is None and rows_per_input is None:
        rows_per_input = 4.0 if impulses else 1.0 if error_correcting else 8.0
    drive: Drive
    if impulses:
        drive = Impulses(std, images, rows_per_input)
    else:
        drive = WhiteNoise(noise, std, images, rows_per_input, most)
    gain, cadence = rate / std**2, Cadence(every)
    if not (error_correcting or impulses):
        return Alignment(decay=rate, amp=gain, reduction="per_tap_mean", drive=drive, cadence=cadence)
    rule = Alignment(amp=gain, sparse=gain, reduction="per_tap_mean", drive=drive, cadence=cadence)
    if impulses and rate * every >= 2:
        raise RuleError(
            f"normalised_mirror: on impulses rate every must be below 2, or B explodes; got rate {rate:g}, every "
            f"{every}; lower the rate"
        )
    if not impulses and rows_per_input is not None and rate * every * (1 + 1 / rows_per_input) >= 2:
        raise RuleError(
            f"normalised_mirror: rate every (1 + 1 / rows_per_input) must be below 2, or B explodes; got rate "
            f"{rate:g}, every {every}, rows_per_input {rows_per_input:g}; lower the rate or raise rows_per_input"
        )
    return rule
