"""What a rule is: frozen data that says where a layer's backward weights come from and what teaches them.

A rule holds no tensors and does no work; the layers in :mod:`backroads.feedback.nn` read it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

from backroads.errors import RuleError, nearest


@dataclasses.dataclass(frozen=True)
class Rule:
    """Base of all rules.

    Attributes:
        kind: the name under which the class is written to TOML and JSON.
    """

    kind: ClassVar[str] = "rule"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for TOML and JSON: only what differs from the class's defaults, plus ``kind``.

        :func:`backroads.feedback.rules.from_dict` reads it back.
        """
        data: dict[str, Any] = {"kind": self.kind}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                value = {
                    f.name: getattr(value, f.name)
                    for f in dataclasses.fields(value)
                    if getattr(value, f.name) != f.default
                }
            data[field.name] = value
        return data


def check_number(owner: str, name: str, value: object, *, negative: bool = False) -> None:
    """Raise :class:`RuleError` unless ``value`` is a finite number, and not negative unless allowed."""
    expected = "a finite number" if negative else "a finite number >= 0"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RuleError(f"{owner}: {name} must be {expected}, got {value!r} of type {type(value).__name__}")
    try:
        finite = math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        finite = False
    if not finite or (value < 0 and not negative):
        raise RuleError(f"{owner}: {name} must be {expected}, got {value!r}; leave it out to switch it off")


@dataclasses.dataclass(frozen=True)
class Backprop(Rule):
    """Backpropagation: B is W itself. ``dx = W^T dy``; there is nothing to learn on the way back."""

    kind: ClassVar[str] = "backprop"

    def __repr__(self) -> str:
        return "backprop: B = W"


SIGN_VARIANTS = ("uniform", "batch_random", "fixed_random")
SIGN_SCALES = ("filter", "initial")


@dataclasses.dataclass(frozen=True)
class SignSymmetry(Rule):
    """B has the signs of W and magnitudes of its own; see :func:`backroads.feedback.rules.sign_symmetry`."""

    kind: ClassVar[str] = "sign_symmetry"
    variant: str = "uniform"
    scale: str = "filter"

    def __post_init__(self) -> None:
        for what, value, known in (("variant", self.variant, SIGN_VARIANTS), ("scale", self.scale, SIGN_SCALES)):
            if value not in known:
                raise RuleError(
                    f"sign_symmetry: unknown {what} {value!r}.{nearest(str(value), known)} Known: {', '.join(known)}"
                )

    def __repr__(self) -> str:
        magnitude = {"uniform": "", "batch_random": "|fresh draw| ", "fixed_random": "|fixed draw| "}[self.variant]
        scale = "g" if self.scale == "filter" else "s" if self.variant == "uniform" else ""
        return f"sign symmetry: B = {f'{scale} ' if scale else ''}{magnitude}sign(W)"


@dataclasses.dataclass(frozen=True)
class DirectFeedback(Rule):
    """The output's error goes straight to each layer; see
    :func:`backroads.feedback.rules.direct_feedback_alignment`."""

    kind: ClassVar[str] = "direct_feedback_alignment"
    outputs: int | None = None

    def __post_init__(self) -> None:
        if self.outputs is not None and (
            isinstance(self.outputs, bool) or not isinstance(self.outputs, int) or self.outputs < 1
        ):
            raise RuleError(
                f"direct_feedback_alignment: outputs must be the network's number of outputs, a whole number >= 1, "
                f"or None to read it off the last layer; got {self.outputs!r}"
            )

    def __repr__(self) -> str:
        return "direct feedback alignment: dx = D^T e, D fixed and random"
