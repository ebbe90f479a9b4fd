"""What a training writes, as typed values: its events, what its clock decided, and its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from backroads.report.files import Measured


@dataclass(frozen=True)
class Start:
    """What was known before the first step; ``rules`` has the formula of each layer."""

    rules: dict[str, str] = field(default_factory=dict)
    steps_per_epoch: int | None = None
    epochs: int | None = None
    parameters: int | None = None
    train_images: int | None = None
    eval_images: int | None = None


@dataclass(frozen=True)
class Angles:
    """Degrees between W and B by layer."""

    step: int
    epoch: Measured
    weight_angle: dict[str, Measured]


@dataclass(frozen=True)
class Evaluation:
    """What was measured after an epoch; epoch 0 is before training. Accuracies are fractions."""

    epoch: int
    step: int
    train_loss: Measured = None
    train_accuracy: Measured = None
    eval_loss: Measured = None
    eval_accuracy: Measured = None
    eval_top5: Measured = None


@dataclass(frozen=True)
class LogLine:
    """Means over the steps since the line before, and the rates of the last of them."""

    step: int
    epoch: Measured
    loss: Measured = None
    accuracy: Measured = None
    learning_rate: Measured = None
    backward_rate: Measured = None
    gradient_norm: Measured = None
    coefficients: dict[str, Measured] | None = None


@dataclass(frozen=True)
class Divergence:
    """Numbers that were not finite, which ended the training."""

    step: int
    reason: str
    layer: str | None = None


@dataclass(frozen=True)
class Speed:
    """What the steps since the line before took."""

    step: int
    images_per_second: Measured = None
    step_ms: Measured = None
    memory_mb: Measured = None
    corrupt_images: int = 0


@dataclass(frozen=True)
class Resume:
    """The training was taken up again; ``problems`` are checkpoints that could not be used."""

    step: int
    processes: int = 1
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint was saved."""

    step: int


@dataclass(frozen=True)
class Stopped:
    """A signal asked the training to leave, and it did."""

    step: int
    signal: int


@dataclass(frozen=True)
class Results:
    """``results.json`` of ``backroads train``."""

    kind: Literal["train"]
    status: Literal["finished", "diverged"]
    step: int
    reason: str | None = None
    layer: str | None = None
    epochs: Measured = None
    eval_accuracy: Measured = None
    best_accuracy: Measured = None
    best_epoch: int | None = None
    weight_angles: dict[str, Measured] = field(default_factory=dict)
    collapsed: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    corrupt_images: dict[str, str] = field(default_factory=dict)
    seconds: Measured = None


EVENTS: Mapping[str, TypeAdapter[Any]] = {
    "start": TypeAdapter(Start),
    "angles": TypeAdapter(Angles),
    "epoch": TypeAdapter(Evaluation),
    "step": TypeAdapter(LogLine),
    "diverged": TypeAdapter(Divergence),
}
"""The events of ``events.jsonl`` by their kind."""

SYSTEM: Mapping[str, TypeAdapter[Any]] = {
    "speed": TypeAdapter(Speed),
    "resume": TypeAdapter(Resume),
    "checkpoint": TypeAdapter(Checkpoint),
    "stopped": TypeAdapter(Stopped),
}
"""The events of ``system.jsonl`` by their kind."""

RESULTS = TypeAdapter(Results)
