"""Direct feedback alignment."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from backroads.feedback.checks import checked_options
from backroads.feedback.rules.direct import DirectRule


@dataclasses.dataclass(frozen=True)
class DirectFeedback(DirectRule):
    """``dx = D^T e``, D fixed and random; see :func:`direct_feedback_alignment`."""

    kind: ClassVar[str] = "direct_feedback_alignment"

    def __repr__(self) -> str:
        return "direct feedback alignment: dx = D^T e, D fixed and random"


@checked_options
def direct_feedback_alignment(outputs: int | None = None) -> DirectFeedback:
    """Direct feedback alignment: ``dx = D^T e``: the error e of the network's output, straight to each layer.

    D is (K, features of x), fixed and random, for K outputs of the network; e is (N, K). Over the positions of a
    feature map the error is divided evenly: D is shared between positions as a convolution's weights are (Nokland
    has a row for every unit, which takes K numbers for every pixel).

    Args:
        outputs: K; None reads it off the last layer that is converted.

    Raises:
        RuleError: ``outputs`` is no whole number >= 1.

    Source: Nokland, NeurIPS 2016.
    """
    return DirectFeedback(outputs)
