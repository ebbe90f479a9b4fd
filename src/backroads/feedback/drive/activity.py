"""The layer's own activity."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from backroads.feedback.checks import check_flag
from backroads.feedback.drive.base import Activities, Drive, rows_of_part
from backroads.feedback.operators import Operator


@dataclasses.dataclass(frozen=True, repr=False)
class Activity(Drive):
    """The layer's own activity, on the batch that it is trained on.

    Args:
        keep_output: keep y = W x from the forward pass where amp or null needs it. False computes it again in the
            backward pass: one projection more, one activation less in memory.

    Raises:
        RuleError: ``keep_output`` is no bool.
    """

    kind: ClassVar[str] = "activity"
    keep_output: bool = True

    def __post_init__(self) -> None:
        check_flag("Activity", "keep_output", self.keep_output)

    def draw(self, x: Tensor, y: Tensor | None, W: Tensor, op: Operator, fraction: float, least: int) -> Activities:
        n, rows = rows_of_part(x, op, fraction, least)
        if rows < n:
            # Neighbours from a random place on: each example is as likely as the others. As indices, so that a compiler
            # need not know the draw.
            picks = (torch.arange(rows, device=x.device) + torch.randint(n, (1,), device=x.device)) % n
            x, y = x[picks], None if y is None else y[picks]
        return Activities(x, y)
