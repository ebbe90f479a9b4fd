"""``results.json`` of ``backroads reproduce``: claims and their verdicts. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from backroads.runs.schema import VERSION, Count, Finite, Number

Verdict = Literal["confirmed", "contradicted", "undecided", "not run", "not judged"]
"""What is said of a claim: "undecided" at this scale; "not run", or not to its end; "not judged", at scale smoke."""


@dataclass(frozen=True)
class Decided:
    """One decision of a claim.

    Attributes:
        says: what is decided, in words. value: what was read of each training. above: what the mean must exceed.
        differences, seeds: the number of each seed (or trial). mean, low, high: their mean and its 95 % interval.
    """

    says: str
    verdict: Verdict
    value: str
    above: Finite
    differences: tuple[Number, ...] = ()
    seeds: tuple[Count, ...] = ()
    mean: Number = None
    low: Number = None
    high: Number = None


@dataclass(frozen=True)
class Line:
    """A line of a claim's figure: means over n seeds, and half the width of their 95 % intervals."""

    name: str
    x: tuple[Finite, ...]
    labels: tuple[str, ...]
    mean: tuple[Number, ...]
    half: tuple[Number, ...]
    n: tuple[Count, ...] = ()


@dataclass(frozen=True)
class ClaimResult:
    """A claim and what came of it.

    Attributes:
        id, source, sentence, quantity, see: of the claim. over, value: what the lines are against, and of what.
        ordered: whether what they are against has an order, as depth has and a choice of networks has not.
        trainings, done, diverged, known: how many it needs, how many of them have ended, how many of those diverged,
            and how many came from the results of another campaign.
        problems: of those that cannot be read.
        petaflop, hours: what its trainings cost, counted, and on two CPU cores; None where that is not known.
        command: that runs it.
    """

    id: str
    source: str
    sentence: str
    quantity: str
    verdict: Verdict
    decisions: tuple[Decided, ...]
    command: str
    over: str = ""
    ordered: bool = True
    value: str = ""
    lines: tuple[Line, ...] = ()
    trainings: Count = 0
    done: Count = 0
    diverged: Count = 0
    known: Count = 0
    problems: tuple[str, ...] = ()
    petaflop: Number = None
    hours: Number = None
    see: str = ""


FolderName = Annotated[str, Field(pattern=r"\A(train|meta)-[0-9a-f]{16}\z")]  # it leads to no other place


@dataclass(frozen=True)
class Trained:
    """What came of a training of a campaign.

    Attributes:
        name: in words. values: numbers by name, see :func:`backroads.reproduce.outcome.outcome`. reason: why it ended,
            if it diverged.
    """

    name: str
    status: Literal["finished", "diverged"]
    values: dict[str, Number]
    reason: str = ""


@dataclass(frozen=True)
class Reproduction:
    """``results.json`` of ``backroads reproduce``.

    Attributes:
        settings: scale, claims, seeds and places of data. trainings: all that have ended, by the names of their
            folders, which follow from their settings.
    """

    kind: Literal["reproduce"]
    scale: Literal["smoke", "desk", "paper"]
    claims: tuple[ClaimResult, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    trainings: dict[FolderName, Trained] = field(default_factory=dict)
    version: Count = VERSION
