"""What came of a training, read from the files of its run folder."""

from __future__ import annotations

import dataclasses
import math
import statistics
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from backroads.runs.results import MetaAnalysis, MetaEvaluation
from backroads.runs.schema import Lifetimes, MetaResults, TrainingResults
from backroads.runs.statistics import overall
from backroads.runs.verdicts import Trained

Values = dict[str, float | None]
_TRAINING, _META = TypeAdapter(TrainingResults), TypeAdapter(MetaResults)
_EVALUATION, _ANALYSIS = TypeAdapter(MetaEvaluation), TypeAdapter(MetaAnalysis)
_KNOWN = TypeAdapter(Trained)
# The mean squared error of always answering 0 to A sin(x + phi): half of the mean of A^2, with A uniform in [0.1, 5.1).
OF_ZERO = (5.1**3 - 0.1**3) / (5.1 - 0.1) / 3 / 2


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training stands.

    Attributes:
        status: "missing", "unfinished", "damaged", "finished" or "diverged". values: numbers by name.
        problem: what is wrong with a damaged one, or why it ended. known: whether it ran in another campaign.
    """

    status: Literal["missing", "unfinished", "damaged", "finished", "diverged"]
    values: Values = dataclasses.field(default_factory=dict)
    problem: str = ""
    known: bool = False

    @property
    def done(self) -> bool:
        """Whether it has ended, and its numbers can be read."""
        return self.status in ("finished", "diverged")


def outcome(folder: Path, kind: str, *, analysed: bool = False) -> Outcome:
    """What came of the training in a run folder.

    Of a training: ``accuracy`` and ``loss``, and each metric at the end, as the mean over layers. Of a meta-training,
    on lifetimes of the test split: ``score``, the accuracy, or minus the logarithm of the mean squared error;
    ``retention``, the score of each task but the last at the end of a lifetime, less that right after it was learned;
    and if its updates were compared with gradients, ``gradient_angle``, degrees between an update and minus the
    gradient of its own loss, and ``interference``, by how much a step of one task raises the loss of another.

    Args:
        folder: of the run. kind: "train" or "meta". analysed: whether the comparison with gradients belongs to it.
    """
    known = known_beside(folder)
    if not folder.is_dir() and not known.is_file():
        return Outcome("missing")
    names = ["results.json"] if kind == "train" else ["results.json", "evaluation.json"] + ["analysis.json"] * analysed
    here = all((folder / name).is_file() for name in names)
    if not here and not known.is_file():
        return Outcome("unfinished")
    try:
        if not here:
            trained = _KNOWN.validate_json(known.read_bytes(), strict=True)
            return Outcome(trained.status, dict(trained.values), trained.reason, known=True)
        if kind == "train":
            (end,) = _TRAINING.validate_json((folder / names[0]).read_bytes(), strict=True).arms
            values: Values = {"accuracy": end.accuracy, "loss": end.loss}
            for metric, layers in end.readings.items():
                values[metric] = overall(layers)
            return Outcome(end.status, values, end.reason or "")
        results = _META.validate_json((folder / names[0]).read_bytes(), strict=True)
        evaluation = _EVALUATION.validate_json((folder / names[1]).read_bytes(), strict=True)
        (found,) = evaluation.ways.values()
        values = of_lifetimes(found)
        if analysed:
            values |= of_analysis(_ANALYSIS.validate_json((folder / names[2]).read_bytes(), strict=True))
    except (ValidationError, ValueError, OSError) as error:
        return Outcome("damaged", problem=f"{folder}: {str(error).splitlines()[0]}")
    return Outcome(results.status, values, results.reason or "")


def known_beside(folder: Path) -> Path:
    """The file beside a run folder that says what came of the training in another campaign."""
    return folder.with_name(f"{folder.name}.json")


def of_lifetimes(found: Lifetimes) -> Values:
    """Numbers of an evaluation on lifetimes. One that was not finite has the accuracy 0, or the error of answering 0:
    left out, it would make what is fragile look better.
    """
    accuracy = found.measure == "accuracy"
    share = 1 - found.skipped / found.lifetimes if found.lifetimes else 0.0
    course = found.course
    kept: float | None = None
    changes = []
    for task in range(len(course) - 1):
        last, learned = course[-1][task], course[task][task]
        if last is not None and learned is not None and (accuracy or min(last, learned) > 0):
            changes.append(last - learned if accuracy else math.log(learned) - math.log(last))
    if changes:
        kept = statistics.fmean(changes)
    if accuracy:
        mean = share * (found.mean or 0.0)
        return {"score": mean, "accuracy": mean, "retention": kept}
    error = share * (found.mean or 0.0) + (1 - share) * OF_ZERO
    return {"score": -math.log(error) if error else None, "retention": kept}


def of_analysis(found: MetaAnalysis) -> Values:
    """Numbers of a comparison of updates with gradients: means over layers, steps and lifetimes."""
    layers: Any = found.update_angle.get("step", {})
    angles = [angle for layer in layers.values() for angle in layer if angle is not None]
    return {
        "gradient_angle": statistics.fmean(angles) if angles else None,
        "interference": found.interference.get("others"),
    }
