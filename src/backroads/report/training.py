"""What the page of a training says: how it stands, its figures, its layers, and how to repeat it or go on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from backroads.report import text
from backroads.report.figures import is_stretched
from backroads.report.page import render
from backroads.report.training_figures import RIGHT_ANGLE
from backroads.report.training_panels import (
    LINES,
    accuracy_curves,
    accuracy_figure,
    angle_figure,
    loss_figure,
    median_speed,
    speed_figure,
    step_figure,
    unrelated,
)
from backroads.report.training_run import Training
from backroads.report.training_summary import headline, problems_of


@dataclass(frozen=True)
class Layer:
    """One line of the table of layers."""

    number: int
    name: str
    rule: str
    angle: str
    note: str


def training_page(training: Training) -> str:
    """The whole page."""
    split = str(training.config.get("split", "evaluation"))
    layers = _layers(training)
    return render(
        "training.html.j2",
        title=_title(training),
        facts=_facts(training),
        headline=headline(training, split),
        problems=problems_of(training),
        split=split,
        accuracy=accuracy_figure(training, split),
        stretched=is_stretched(accuracy_curves(training)),
        loss=loss_figure(training, split),
        angle=angle_figure(training),
        is_map=len(layers) > LINES,
        no_angle=_no_angle(training),
        unrelated=unrelated(training),
        steps=step_figure(training),
        speed=speed_figure(training),
        layers=layers,
        ended=training.results is not None,
        right_angle=RIGHT_ANGLE,
        settings=text.settings(training.config),
        environment=[(key, text.setting(value)) for key, value in training.environment.items()],
        command=training.environment.get("command"),
        commit=training.environment.get("commit"),
        dirty=training.environment.get("uncommitted_changes") is True,
        status=training.status,
        resume=_resume(training),
        outdated=None if training.results is not None else training.last_results,
        cut_off=training.cut_off,
        unreadable=training.unreadable,
        files=text.listing(training.files),
    )


def _title(training: Training) -> str:
    model, data, rule = (training.config.get(key) for key in ("model", "data", "rule"))
    words = [str(model) if isinstance(model, str) else "Training"]
    words += [f"on {data}"] if isinstance(data, str) else []
    words += [f"with {rule}"] if isinstance(rule, str) else []
    return " ".join(words)


def _facts(training: Training) -> list[str]:
    start, results, speed = training.start, training.results, median_speed(training)
    memory = max((one.memory_mb for one in training.speeds if one.memory_mb is not None), default=None)
    since = " since it was taken up again" if training.resumes else ""
    facts = [
        None if start.parameters is None else f"{start.parameters:,} parameters",
        None if start.train_images is None else f"{start.train_images:,} training images",
        None if start.eval_images is None else f"{start.eval_images:,} for evaluation",
        None if speed is None else f"{text.whole(speed)} images a second",
        None if memory is None else f"{text.memory(memory)} of memory at most",
        None if results is None or results.seconds is None else f"{text.duration(results.seconds)}{since}",
        str(training.environment.get("started", ""))[:10],
    ]
    return [fact.replace(" ", text.NBSP) for fact in facts if fact]


def _layers(training: Training) -> Sequence[Layer]:
    angles, results = training.last_angles(), training.results
    collapsed, dead = ((), ()) if results is None else (results.collapsed, results.dead)
    return [
        Layer(
            number,
            name,
            training.start.rules.get(name, text.DASH),
            text.degrees(angles.get(name)),
            ", ".join(word for word, names in (("collapsed", collapsed), ("dead", dead)) if name in names),
        )
        for number, name in enumerate(training.layers, 1)
    ]


def _no_angle(training: Training) -> str:
    """Why there is no angle to be seen."""
    if not training.angles:
        return "No angle was measured yet."
    if not training.layers:
        return "No layer of this model has backward weights."
    if any(found.weight_angle for found in training.angles):
        return "No angle was finite."
    return "No layer has backward weights that can be compared with W."


def _resume(training: Training) -> str:
    """The command that goes on, given beside the folder of the run."""
    name = training.name if not training.name.startswith("-") else f"./{training.name}"
    return f"backroads train --resume --out {shlex.quote(name)}"
