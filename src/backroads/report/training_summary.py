"""How a training stands, in one sentence, and what is wrong with it."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backroads.report import text
from backroads.report.training_events import Evaluation
from backroads.report.training_figures import RIGHT_ANGLE
from backroads.report.training_panels import top5_accuracy
from backroads.report.training_run import Training

_NAMED = 12


@dataclass(frozen=True)
class Headline:
    """The state in one word, and the rest of the sentences."""

    status: str
    bad: bool
    text: str


@dataclass(frozen=True)
class Problem:
    """What is wrong, what it means, and the details, of which the page shows a list."""

    title: str
    text: str
    details: Sequence[str] = ()


def headline(training: Training, split: str) -> Headline:
    """Where the training is or how it ended, and how good it is."""
    accuracy = _accuracy(training, split)
    if training.status == "finished":
        return Headline("Finished", False, f"after {_length(training)}: {accuracy}.")
    place = _place(training)
    if training.status == "diverged" and training.divergence is not None:
        reason, layer = training.divergence.reason, training.divergence.layer
        where = "" if layer is None or layer in reason else f" (in {layer})"
        return Headline(
            "Diverged",
            True,
            f"{place}: {reason}{where}. {_kept(training)} {_capital(accuracy)}.",
        )
    if training.stop is not None:
        return Headline("Stopped", False, f"by {_signal(training.stop.signal)} {place}. {_capital(accuracy)}.")
    return Headline(
        "Unfinished",
        False,
        f"{place}: still running, or ended without a word. {_capital(accuracy)}.",
    )


def problems_of(training: Training) -> list[Problem]:
    """Layers that have collapsed or are dead, images that were skipped, checkpoints that were damaged."""
    found, results = [], training.results
    if results is not None and results.collapsed:
        found.append(
            Problem(
                f"{_layers(results.collapsed)} collapsed",
                f"B stands at {RIGHT_ANGLE}° or more to W, as unrelated weights do, although the rule should have "
                f"brought them together: {text.some(results.collapsed, _NAMED)}.",
            )
        )
    if results is not None and results.dead:
        found.append(
            Problem(
                f"{_layers(results.dead)} dead",
                "W got a gradient of zeros in the last step of the last epoch that was evaluated: "
                f"{text.some(results.dead, _NAMED)}.",
            )
        )
    return [*found, *_corrupt(training, {} if results is None else results.corrupt_images), *_damaged(training)]


def best(training: Training) -> tuple[float, int] | None:
    """The highest accuracy after an epoch of training, and the first epoch that had it."""
    found = [(one.eval_accuracy, one.epoch) for one in training.evaluations if one.epoch > 0]
    known = [(accuracy, epoch) for accuracy, epoch in found if accuracy is not None]
    return max(known, key=lambda one: one[0], default=None)


def _accuracy(training: Training, split: str) -> str:
    """The last accuracy and the best one."""
    known = [one for one in training.evaluations if one.eval_accuracy is not None]
    if not known:
        return "nothing was evaluated yet" if not training.evaluations else f"no {split} accuracy is finite"
    last, top = known[-1], best(training)
    done = training.status in ("finished", "diverged")
    words = f"{_percent(last.eval_accuracy)} {split} accuracy"
    if last.epoch == 0:
        return f"{words} before training"
    words += "" if training.status == "finished" else f" after epoch {last.epoch}"
    if top is not None and top[1] == last.epoch:
        words += ", the best of all epochs" if done else ", the best so far"
    elif top is not None:
        also = "also " if text.percent(top[0]) == text.percent(last.eval_accuracy) else ""
        words += f"; the best, {also}{_percent(top[0])}, after epoch {top[1]}"
    return words + _top5(training, last)


def _top5(training: Training, last: Evaluation) -> str:
    known = top5_accuracy(training) is not None and last.eval_top5 is not None
    return f"; top-5 {_percent(last.eval_top5)}" if known else ""


def _place(training: Training) -> str:
    total = "" if training.total is None else f" of {training.total}"
    per_epoch = training.start.steps_per_epoch
    epoch = f" (epoch {text.plain(training.step / per_epoch)})" if per_epoch else ""
    return f"at step {training.step}{total}{epoch}"


def _length(training: Training) -> str:
    epochs = None if training.results is None else training.results.epochs
    return text.counted(training.step, "step") if epochs is None else f"{text.plain(epochs)} {_noun('epoch', epochs)}"


def _kept(training: Training) -> str:
    step = "" if training.checkpoint is None else f", of step {training.checkpoint},"
    return f"The last good checkpoint{step} is kept."


def _signal(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def _corrupt(training: Training, named: Mapping[str, str]) -> list[Problem]:
    count = len(named) or max((speed.corrupt_images for speed in training.speeds), default=0)
    if not count:
        return []
    items = [f"{path}: {reason}" for path, reason in list(named.items())[:_NAMED]]
    rest = [f"and {len(named) - _NAMED} more, in results.json"] if len(named) > _NAMED else []
    return [Problem(f"{text.counted(count, 'image')} skipped", "They could not be read.", [*items, *rest])]


def _damaged(training: Training) -> list[Problem]:
    set_aside = [problem for resume in training.resumes for problem in resume.problems]
    if not set_aside:
        return []
    what = text.counted(len(set_aside), "checkpoint")
    return [Problem(f"{what} damaged", "Set aside when the training was taken up again.", set_aside)]


def _layers(names: Sequence[str]) -> str:
    return text.counted(len(names), "layer")


def _noun(noun: str, number: float) -> str:
    return noun if number == 1 else f"{noun}s"


def _percent(fraction: float | None) -> str:
    return f"{text.percent(fraction)}{text.NBSP}%"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
