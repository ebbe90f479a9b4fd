"""How often, and on how much of the batch, the terms of a rule that need activities are computed."""

from __future__ import annotations

import dataclasses

from backroads.feedback.checks import Part, check_count, check_positive
from backroads.feedback.rules.memory import Memory


@dataclasses.dataclass(frozen=True, repr=False)
class Cadence(Part):
    """How often, and on how much of the batch, the terms that need activities are computed.

    Args:
        every: compute them on every k-th training pass of the layer only, times k. A step has one pass for each use of
            the layer, and for each part of a batch that is accumulated.
        fraction: compute them on so much of the batch only, > 0 and <= 1: at least one example (two under batch
            centring, whose mean is then the part's), neighbours from a random place on, so that M is unbiased.

    Raises:
        RuleError: for numbers out of range.
    """

    every: int = 1
    fraction: float = 1.0

    def __post_init__(self) -> None:
        check_count("Cadence", "every", self.every)
        check_positive("Cadence", "fraction", self.fraction, most=1.0)
        object.__setattr__(self, "fraction", float(self.fraction))

    def tick(self, memory: Memory, repeated: bool) -> bool:
        """Whether this training pass is one on which they are computed; counts modulo ``every``.

        (torch.compile takes the count for a constant, and makes one graph for each.)
        """
        if self.every == 1:
            return True
        if not repeated:
            memory.active = memory.step == 0
            memory.step = (memory.step + 1) % self.every
        return memory.active
