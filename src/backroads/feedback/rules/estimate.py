"""What self sees of W when it does not see W itself."""

from __future__ import annotations

import dataclasses

from backroads.errors import RuleError, nearest
from backroads.feedback.rules.base import check_number

SPARSE_IN = ("synapses", "steps")
MOST_BITS = 16


@dataclasses.dataclass(frozen=True)
class WeightEstimate:
    """An imperfect view of W, for the self term: late, noisy, quantised and sparse, in this order.

    Symmetric alignment moves B by ``decay B - self V`` where V is what is seen of W::

        V_t = quantised(W_(t - delay_steps) + noise_std rms(W) epsilon),   epsilon ~ N(0, 1)

    and where no estimate arrives, B stands still: neither self nor decay acts there. Draws are fresh in each pass,
    from torch's global generator; under data parallelism each process has its own, and the gradients' mean is taken.

    Attributes:
        noise_std: standard deviation of the noise, in units of the root mean square of the layer's W.
        keep_probability: chance that an estimate arrives, > 0 and <= 1.
        sparse_in: whether that is drawn for each of the "synapses" or for all of a layer's at once ("steps").
        delay_steps: by how many training passes the view is late; before there were that many, the W at the start.
        bits: of each number: 2^bits levels in equal steps from -max|W| to max|W| of the layer; None does not round.

    Raises:
        RuleError: for values out of range.
    """

    noise_std: float = 0.0
    keep_probability: float = 1.0
    delay_steps: int = 0
    bits: int | None = None
    sparse_in: str = "synapses"

    def __post_init__(self) -> None:
        check_number("WeightEstimate", "noise_std", self.noise_std)
        check_number("WeightEstimate", "keep_probability", self.keep_probability)
        if not 0 < self.keep_probability <= 1:
            raise RuleError(f"WeightEstimate: keep_probability must be > 0 and <= 1, got {self.keep_probability!r}")
        if isinstance(self.delay_steps, bool) or not isinstance(self.delay_steps, int) or self.delay_steps < 0:
            raise RuleError(
                f"WeightEstimate: delay_steps must be a whole number of passes >= 0, got {self.delay_steps!r}"
            )
        bits = self.bits
        if bits is not None and (isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= MOST_BITS):
            raise RuleError(f"WeightEstimate: bits must be a whole number from 1 to {MOST_BITS}, or None, got {bits!r}")
        if not isinstance(self.sparse_in, str) or self.sparse_in not in SPARSE_IN:
            raise RuleError(
                f"WeightEstimate: unknown sparse_in {self.sparse_in!r}.{nearest(str(self.sparse_in), SPARSE_IN)} "
                f"Known: {', '.join(SPARSE_IN)}"
            )

    @property
    def draws(self) -> bool:
        """Whether anything about it is random."""
        return self.noise_std > 0 or self.keep_probability < 1
