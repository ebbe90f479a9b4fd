"""The named rules, each with defaults that work; the defaults and how they were chosen: docs/defaults.md.

The reference is Kunin et al., "Two Routes to Scalable Credit Assignment without Weight Symmetry", ICML 2020
(arXiv 2003.01513), and its public code. Letters: x input, W forward, B backward weights, y = W x, z = B x,
M[.] the mean over the batch. The defaults of the alignment rules expect plain SGD with rate 1 on B.
"""

from __future__ import annotations

from typing import Any

from backroads.errors import RuleError
from backroads.feedback.rules.alignment import Alignment, Operations
from backroads.feedback.rules.base import Backprop, DirectFeedback, SignSymmetry, check_number
from backroads.feedback.rules.noise import Noise

# Steps as long as is best in each layer, away from the mean that activities after a ReLU share.
_NEAREST: dict[str, Any] = {
    "reduction": "nearest",
    "operations": Operations(center_input=True),
    "fraction": 0.125,
}
# Coefficients without units, the same gain in every layer, and covariances in place of second moments.
_DIMENSIONLESS: dict[str, Any] = {
    "reduction": "power",
    "operations": Operations(batch_center_backward_input=True),
    "fraction": 0.125,
}


def backprop() -> Backprop:
    """Backpropagation: ``dx = W^T dy``. The comparator, and the rule for layers to leave as they are.

    Source: Rumelhart, Hinton, Williams, Nature 323 (1986).
    """
    return Backprop()


def feedback_alignment() -> Alignment:
    """Feedback alignment: ``dx = B^T dy`` with B fixed and random. R = 0.

    Source: Lillicrap, Cownden, Tweed, Akerman, Nature Communications 7 (2016).
    """
    return Alignment()


def sign_symmetry(variant: str = "uniform", scale: str = "filter") -> SignSymmetry:
    """Sign symmetry: B shares the signs of W and has magnitudes of its own.

    - "uniform" (uSF): ``B = g sign(W)``;
    - "batch_random" (brSF): ``B = g |R| sign(W)``, R drawn anew in each forward pass from N(0, 1);
    - "fixed_random" (frSF): ``B = g |R| sign(W)``, R drawn once, from the distribution of W.

    ``scale="filter"``: g is a number for each filter (row of W), such that <B, W> = <W, W>: along W, B has W's own
    gain, whatever becomes of W. ``scale="initial"``: g is fixed: the root mean square of the layer's initial W (its
    standard deviation, as initialisers have mean 0), and 1 for frSF. That is the definition in the literature; it
    reads nothing but signs, but as filters grow and shrink, their errors come back too weak or too strong.

    Sources: Liao, Leibo, Poggio, AAAI 2016; Moskovitz, Litwin-Kumar, Abbott, arXiv 1812.06488 (2018), who bring B to
    the norm of W in each step.

    Raises:
        RuleError: for another variant or scale.
    """
    return SignSymmetry(variant, scale)


def weight_mirror(amp: float = 0.003, decay: float = 0.003, **options: Any) -> Alignment:
    """Weight mirror: ``dB = decay B - amp M[y x^T]``. Local.

    With W held, B settles at ``(amp / decay) W C``, C = M[x x^T]: the right direction only for white input. So by
    default x is centred over the batch, which makes C a covariance, and ``reduction="power"`` divides C by the power
    of x, which makes the gain the same in every layer. ``decay`` is the fraction of the way covered in a step of
    rate 1. An eighth of the batch is enough: docs/cost.md.

    Source: Akrout, Wilson, Humphreys, Lillicrap, Tweed, NeurIPS 2019; as a sum of primitives: Kunin et al. 2020.
    """
    return Alignment(amp=amp, decay=decay, **{**_DIMENSIONLESS, **options})


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
    really meets the input (``reduction="taps"``). It has three forms:

    - ``noise="impulses"``, the default: inputs take turns, one at a time in each receptive field. With x and y of such
      a moment, ``dB = rate (B - y / x)`` for the weight that x meets, and nothing for the others. No other input adds
      anything, so that there is no noise in the estimate, and a step may go the whole way to W.
      They come between the passes: the error of the same step already returns through what they told. A lag of a
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
        images, rows_per_input: how much of it; see :class:`Noise`. Neither: about 4 impulses for each weight of a
            neuron, so that hardly one is missed at a border or between strides; on white noise 8 rows for each input of
            a neuron, or 1 error-correcting, so that the error of B from the noise is about
            sqrt(rate / (2 rows_per_input)) of W, or vanishes with B - W.
        most: with ``rows_per_input``: at most so many images of white noise for each example of the batch; a layer
            that would need more is slowed in proportion.
        every: on every k-th step only, times k.

    Raises:
        RuleError: for values out of range, and for a rate that so little noise does not stand: error-correcting,
            ``rate every (1 + 1 / rows_per_input)`` must stay below 2, and on impulses ``rate every``.

    Source: the mirror of Akrout et al., NeurIPS 2019, and Kunin et al. 2020; the normalisation is ours.
    """
    if not isinstance(error_correcting, bool):
        raise RuleError(f"normalised_mirror: error_correcting must be True or False, got {error_correcting!r}")
    noise = ("normal" if error_correcting else "impulses") if noise is None else noise
    one_by_one = noise == "impulses"
    if rate is None:
        rate = 1.0 if one_by_one else 0.3 if error_correcting else 0.1
    check_number("normalised_mirror", "rate", rate)
    if not 0 < rate <= 1:
        raise RuleError(f"normalised_mirror: rate must be > 0 and <= 1, got {rate!r}")
    if images is None and rows_per_input is None:
        rows_per_input = 4.0 if one_by_one else 1.0 if error_correcting else 8.0
    driven_by = Noise(noise, std, images, rows_per_input, most)
    gain = rate / std**2
    shared: dict[str, Any] = {"reduction": "taps", "input_noise": driven_by, "every": every}
    if not (error_correcting or one_by_one):
        return Alignment(decay=rate, amp=gain, **shared)
    rule = Alignment(amp=gain, sparse=gain, **shared)
    if one_by_one and rate * every >= 2:
        raise RuleError(
            f"normalised_mirror: on impulses rate every must be below 2, or B explodes; got rate {rate:g}, every "
            f"{every}; lower the rate"
        )
    if not one_by_one and rows_per_input is not None and rate * every * (1 + 1 / rows_per_input) >= 2:
        raise RuleError(
            f"normalised_mirror: rate every (1 + 1 / rows_per_input) must be below 2, or B explodes; got rate "
            f"{rate:g}, every {every}, rows_per_input {rows_per_input:g}; lower the rate or raise rows_per_input"
        )
    return rule


def information_alignment(amp: float = 0.001, null: float = 0.001, decay: float = 0.001, **options: Any) -> Alignment:
    """Information alignment: ``dB = decay B - amp M[y x^T] + null M[y r^T]``, r = B^T y. Local.

    null bounds what amp alone lets explode: with W held and equal coefficients (reduction "sum", no operations), B
    settles at the ridge pseudo-inverse ``(W C W^T + I)^-1 W C``. Reduction, centring and fraction are the weight
    mirror's. A step of rate 1 is stable while null times the largest eigenvalue of the output's second moment (over its
    power) is below 2. Wide convolutions whose channels move together exceed that: there, take smaller coefficients.

    Source: Kunin et al. 2020.
    """
    return Alignment(amp=amp, null=null, decay=decay, **{**_DIMENSIONLESS, **options})


def symmetric_alignment(decay: float = 0.3, self_: float = 0.3, **options: Any) -> Alignment:
    """Symmetric alignment: ``dB = decay B - self W``. Reads W (weight estimation); for any input B settles at
    ``(self / decay) W``, and ``decay = self_`` is the fraction of the way covered in a step of rate 1. At 1, B is the W
    of the step before; the default also stands a layer that is used several times in a step, or gradients accumulated
    over several passes without :class:`backroads.alignment_scale`: these sum, and above 2 B grows without bound.

    Source: Kunin et al. 2020.
    """
    return Alignment(decay=decay, self_=self_, **options)


def activation_alignment(amp: float = 0.5, sparse: float = 0.5, **options: Any) -> Alignment:
    """Activation alignment: ``dB = sparse M[z x^T] - amp M[y x^T]``: makes B x follow W x (weight estimation).

    B settles at ``(amp / sparse) W`` where C = M[x x^T] has full rank, as slowly as C is ill-conditioned; with plain
    sums a step of rate 1 is stable while ``sparse`` times the largest eigenvalue of C is below 2. By default each
    example is centred, and each row's step is as long as brings it nearest to W (``reduction="nearest"``): there is
    nothing to tune, for any layer and any scale of the input. ``sparse = amp`` is then the share of that step; below 2
    no step leads away from W, and one half stands momentum up to 0.7 and a layer that is used several times. What
    centring takes away, the mean over an example's features, B learns slowly or not at all. An eighth of the batch is
    enough: docs/cost.md.

    Source: Kunin et al. 2020; for the step, which is ours here, the sources are in the code.
    """
    return Alignment(amp=amp, sparse=sparse, **{**_NEAREST, **options})


def kolen_pollack(decay: float = 5e-4, **options: Any) -> Alignment:
    """Kolen-Pollack: ``dB = dW_task + decay B``: the same increments and the same decay bring B and W together.

    W needs the same decay from its optimiser, and W and B the same effective rate: with W on SGD at rate lr and
    momentum m, B on plain SGD at rate lr / (1 - m), ``decay`` is W's ``weight_decay``.

    Sources: Kolen, Pollack, ICNN 1994; Akrout et al., NeurIPS 2019.
    """
    return Alignment(decay=decay, tie_grad=True, **options)


def direct_feedback_alignment(outputs: int | None = None) -> DirectFeedback:
    """Direct feedback alignment: ``dx = D^T e``: the error e of the network's output, straight to each layer.

    D is (K, features of x), fixed and random, for K outputs of the network; e is (N, K). Over the positions of a
    feature map the error is divided evenly: D is shared between positions as a convolution's weights are (Nokland
    has a row for every unit, which takes K numbers for every pixel).

    Args:
        outputs: K; None reads it off the last layer that is converted.

    Source: Nokland, NeurIPS 2016.
    """
    return DirectFeedback(outputs)
