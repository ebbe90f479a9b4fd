"""What a measured number is, for the axis of its figure, the column of its table and the sentence that defines it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """What a metric measures.

    Attributes:
        title: as in "weight angle".
        unit: "degrees", "%", or "" for a ratio.
        ideal: its value under backpropagation, drawn as a line; None for none.
        log: whether its axis is logarithmic.
        about: one sentence that defines the number, for captions.
    """

    title: str
    unit: str = ""
    ideal: float | None = None
    log: bool = False
    about: str = ""
