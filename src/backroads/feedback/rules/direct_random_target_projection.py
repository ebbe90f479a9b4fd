"""Direct random target projection: hidden layers learn from the label alone."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from backroads.feedback.checks import checked_options
from backroads.feedback.rules.direct import DirectRule


@dataclasses.dataclass(frozen=True)
class DirectRandomTargetProjection(DirectRule):
    """``dx = D^T t / N``, D fixed and random; see :func:`direct_random_target_projection`."""

    kind: ClassVar[str] = "direct_random_target_projection"

    def signal(self, e: Tensor) -> Tensor:
        return (e < 0).to(e.dtype) * (self.scale / max(len(e), 1))

    def __repr__(self) -> str:
        return "direct random target projection: dx = D^T t / N, D fixed and random"


@checked_options
def direct_random_target_projection(outputs: int | None = None) -> DirectRandomTargetProjection:
    """Direct random target projection: ``dx = D^T t / N``: the one-hot target t, straight to each hidden layer.

    With a softmax or sigmoid read-out the error is negative at the target and nowhere else, whatever its size. So its
    sign, which the label tells as soon as the input is there, takes the place of the error: hidden layers need no error
    and no output. Here t is read off the error that comes back, as e < 0, which is the label for cross-entropy (without
    label smoothing) and for the squared error of outputs within (0, 1). The read-out learns from its own error.

    D is (K, features of x), for K outputs; N is the batch, of whose mean the loss is taken to be. A sign does not say
    how the loss was scaled: for gradients accumulated over parts of a batch, :class:`backroads.alignment_scale` does.

    Args:
        outputs: K; None reads it off the last layer that is converted.

    Raises:
        RuleError: ``outputs`` is no whole number >= 1.

    Source: Frenkel, Lefebvre, Bol, Frontiers in Neuroscience 15 (2021), arXiv 1909.01311.
    """
    return DirectRandomTargetProjection(outputs)
