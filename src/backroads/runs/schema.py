"""What a run writes and a report reads: events, one line of JSON each, and results. Declared here and nowhere else.

A run trains one or more *arms*: a training has one, a comparison one for each rule (or method) and seed. Events hold
nothing but what follows from the settings, so that two runs of the same settings write the same bytes; what the clock
decided (speed, interruptions) goes to ``system.jsonl``, in the same form. No torch in here.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, TypeAdapter

from backroads.runs.quantity import Quantity

VERSION = 2  # of this schema; written by Start, checked by readers


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _fraction(value: float) -> float | None:
    if value < 0 or value > 1:
        raise ValueError("a fraction from 0 to 1")
    return _finite(value)


Number = Annotated[float, AfterValidator(_finite)] | None
"""A number that may be missing; NaN and infinities are missing."""

Fraction = Annotated[float, AfterValidator(_fraction)] | None
"""A number from 0 to 1, such as an accuracy, that may be missing; NaN is missing."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
"""A number that must be there."""

Count = Annotated[int, Field(ge=0, lt=2**63)]
"""How many, or the number of a step, an epoch or a seed."""

ByLayer = dict[str, Number]
"""A number for each layer by its dotted name; the name "" stands for the whole network."""


@dataclass(frozen=True)
class Arm:
    """One training of a run.

    Attributes:
        name: of its rule or method, as the settings name it. seed: of weights, order and draws.
        formulas: what teaches each layer, in words, by dotted name; equal layers may share a line.
    """

    name: str
    seed: Count
    formulas: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """Base of all events: ``kind`` is what the line calls itself under "event"."""

    kind: ClassVar[str]


# -- events of events.jsonl --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start(Event):
    """What is known before the first step.

    Attributes:
        run: the kind of run: "train", "compare", "meta". steps: in all, of each arm. steps_per_epoch: None
            where there are no epochs. parameters: that the task teaches. metrics: what the readings are, by name.
        train_examples, eval_examples, test_examples: of the training split, of the validation part and of the test
            split; None where there is none. baseline: of a comparison, name of the arms to which the others are
            compared.
    """

    kind: ClassVar[str] = "start"
    run: str
    arms: tuple[Arm, ...]
    steps: Count
    version: Count = VERSION
    steps_per_epoch: Count | None = None
    parameters: Count | None = None
    train_examples: Count | None = None
    eval_examples: Count | None = None
    test_examples: Count | None = None
    metrics: dict[str, Quantity] = field(default_factory=dict)
    baseline: str | None = None


@dataclass(frozen=True)
class Step(Event):
    """Means over the steps since the line before, and the rates of the last of them."""

    kind: ClassVar[str] = "step"
    step: Count
    arm: Count = 0
    epoch: Number = None
    loss: Number = None
    accuracy: Fraction = None
    learning_rate: Number = None
    backward_rate: Number = None
    gradient_norm: Number = None
    coefficients: dict[str, Number] = field(default_factory=dict)
    skipped: Count = 0  # meta-steps so far whose gradient was not finite


@dataclass(frozen=True)
class Readings(Event):
    """Metrics of the model at a moment: by metric, then by layer."""

    kind: ClassVar[str] = "readings"
    step: Count
    values: dict[str, ByLayer]
    arm: Count = 0
    epoch: Number = None


@dataclass(frozen=True)
class Evaluation(Event):
    """An evaluation after an epoch; epoch 0 is before training. Accuracies are fractions.

    Attributes:
        train_loss, train_accuracy: means over the steps of the epoch. eval_loss, eval_accuracy, eval_top5: on the
            validation part. test_loss, test_accuracy, test_top5: on the test split, which is read once, after the last
            step. None where there is no such part, and where they are not finite.
    """

    kind: ClassVar[str] = "evaluation"
    step: Count
    epoch: Count
    arm: Count = 0
    train_loss: Number = None
    train_accuracy: Fraction = None
    eval_loss: Number = None
    eval_accuracy: Fraction = None
    eval_top5: Fraction = None
    test_loss: Number = None
    test_accuracy: Fraction = None
    test_top5: Fraction = None


@dataclass(frozen=True)
class Diverged(Event):
    """Numbers that were not finite ended an arm. layer: where they were met first."""

    kind: ClassVar[str] = "diverged"
    step: Count
    reason: str
    arm: Count = 0
    layer: str | None = None


@dataclass(frozen=True)
class Lifetimes(Event):
    """Meta-training: what came of some lifetimes on tasks.

    Attributes:
        measure: what mean, so_far and course are. lifetimes: how many. skipped: of them, those that were not finite.
        so_far: by number of tasks learned, over the tasks so far. course: by task learned (row) and task tested.
    """

    kind: ClassVar[str] = "lifetimes"
    measure: Literal["accuracy", "mean squared error"]
    lifetimes: Count
    step: Count = 0
    skipped: Count = 0
    mean: Number = None
    interval_95: Number = None
    so_far: list[Number] = field(default_factory=list)
    course: list[list[Number]] = field(default_factory=list)


# -- events of system.jsonl --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speed(Event):
    """What the steps since the line before took."""

    kind: ClassVar[str] = "speed"
    step: Count
    examples_per_second: Number = None
    step_ms: Number = None
    memory_mb: Number = None
    corrupt_examples: Count = 0


@dataclass(frozen=True)
class Resumed(Event):
    """The run was resumed. problems: checkpoints that could not be used, and why."""

    kind: ClassVar[str] = "resumed"
    step: Count
    processes: Count = 1
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Saved(Event):
    """A checkpoint was written."""

    kind: ClassVar[str] = "saved"
    step: Count
    seconds: Number = None


@dataclass(frozen=True)
class Stopped(Event):
    """A signal asked the run to leave, and it did."""

    kind: ClassVar[str] = "stopped"
    step: Count
    signal: Count


EVENTS: dict[str, TypeAdapter[Any]] = {
    cls.kind: TypeAdapter(cls)
    for cls in (Start, Step, Readings, Evaluation, Diverged, Lifetimes, Speed, Resumed, Saved, Stopped)
}
"""How to read each kind of event."""


# -- results.json ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fields:
    """Weights of the units of a layer as small images, to be looked at.

    Attributes:
        layer: its dotted name. units: how many it has.
        shape: of the images: (units shown, height, width, channels), with 1 or 3 channels.
        values: base64 of one byte a number, 128 + 127 w / max |w| of the unit.

    Raises:
        ValueError: unless there are as many values as the shape says.
    """

    layer: str
    units: Count
    shape: tuple[Count, Count, Count, Literal[1, 3]]
    values: str

    def __post_init__(self) -> None:
        if len(base64.b64decode(self.values, validate=True)) != math.prod(self.shape) or not math.prod(self.shape):
            raise ValueError(f"as many bytes, in base64, as the shape {self.shape} says, and at least one")


@dataclass(frozen=True)
class ArmResult:
    """How one arm ended.

    Attributes:
        status: "finished" or "diverged". accuracy, loss: on the split of the results, after the last step; None if it
            diverged. best_accuracy, best_epoch: of the evaluations on the validation part, where there is one.
        readings: metrics at the end, by metric and layer. collapsed: layers whose B should have come to W and stands at
            a right angle to it. dead: layers whose W got no gradient. step_ms: median. step_ratio: of its steps' times
            to those of the baseline, measured interleaved: lower quartile, median, upper quartile.
        fields: weights of the layer that sees the images, of a training that has one.
    """

    name: str
    seed: Count
    status: Literal["finished", "diverged"]
    step: Count
    epochs: Number = None
    reason: str | None = None
    layer: str | None = None
    accuracy: Fraction = None
    loss: Number = None
    best_accuracy: Fraction = None
    best_epoch: Count | None = None
    readings: dict[str, ByLayer] = field(default_factory=dict)
    collapsed: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    step_ms: Number = None
    step_ratio: tuple[Finite, Finite, Finite] | None = None
    fields: Fields | None = None


@dataclass(frozen=True)
class TrainingResults:
    """``results.json`` of ``backroads train`` (one arm) and ``backroads compare`` (many; gaps are to ``baseline``).

    ``split`` is what accuracies are on: the test split if it was read, else the validation part. ``seconds`` are those
    of the process that ended the run, from where it was resumed.
    """

    kind: Literal["train", "compare"]
    split: Literal["test", "validation"]
    arms: tuple[ArmResult, ...]
    baseline: str | None = None
    corrupt_examples: dict[str, str] = field(default_factory=dict)
    seconds: Number = None
    version: Count = VERSION

    @property
    def names(self) -> list[str]:
        """The rules and methods, in order, each once."""
        return list(dict.fromkeys(arm.name for arm in self.arms))


@dataclass(frozen=True)
class MetaResults:
    """``results.json`` of ``backroads meta train``; ``seconds`` as in :class:`TrainingResults`."""

    kind: Literal["meta"]
    status: Literal["finished", "diverged"]
    step: Count
    reason: str | None = None
    validation: Number = None
    skipped: Count = 0
    skipped_by_parameter: dict[str, Count] = field(default_factory=dict)
    seconds: Number = None
    version: Count = VERSION


def printable(text: str) -> str:
    """Text that UTF-8 can hold: bytes of file names that are not UTF-8 are written as escapes, such as \\udcff."""
    return text.encode("utf-8", "backslashreplace").decode()


def as_data(value: Any) -> Any:
    """A dataclass of this module (or plain data) as JSON data: numbers that are not finite become None.

    What no encoding can hold, of the name of a file that is not UTF-8, becomes the text of its escape.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_data(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(key)): as_data(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_data(inner) for inner in value]
    return value
