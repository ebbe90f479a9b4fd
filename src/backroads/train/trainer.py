"""``backroads train``: settings in, a run folder out."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any, Literal

from backroads.metrics import quantities
from backroads.runs.loggers import Loggers
from backroads.runs.loop import Loop, Times, failures_explained
from backroads.runs.progress import Progress, Report
from backroads.runs.runtime import joined
from backroads.runs.schema import Start, Stopped, TrainingResults
from backroads.runs.settings import check_resume_in
from backroads.runs.signals import Stopper
from backroads.train.arm import TrainingArm
from backroads.train.build import Batches, check_names, dataset_of
from backroads.train.comparison import BASELINE, CompareSettings
from backroads.train.settings import GROWING, HARMLESS, TrainSettings


def train(
    config: TrainSettings, path: Path, report: Report, *, resume: bool = False, restart: bool = False
) -> TrainingResults | Stopped:
    """Train a model in a run folder, from the start or from its last checkpoint.

    Args:
        config: the settings. path: the run folder; new, unless ``resume``. report: called after every step.
        resume: go on from the newest whole checkpoint in ``path``, or begin if there is no run.
        restart: set aside what is in ``path``, under a new name within, and begin.

    Returns:
        The results, or the signal that ended the run before its time; the same call with ``resume`` goes on.

    Raises:
        ConfigError, RuleError, ConversionError: before anything is trained.
        RunError: the run cannot go on (disk full, another process lost, too many corrupt images); the last checkpoint
            is intact.
    """
    named = [(name_of(config), config)]
    return run_arms("train", named, config, path, report, resume=resume, restart=restart)


def compare(
    config: CompareSettings, path: Path, report: Report, *, resume: bool = False, restart: bool = False
) -> TrainingResults | Stopped:
    """Train every rule and method with every seed, side by side in a run folder; arguments as for :func:`train`."""
    more: dict[str, Any] = {"baseline": BASELINE, "resume": resume, "restart": restart}
    return run_arms("compare", config.arms(), config, path, report, **more)


def name_of(config: TrainSettings) -> str:
    """The name of a training's rule, or of its method if that has none."""
    return config.rule.name if config.method.name == "feedback" else config.method.name


def run_arms(
    kind: Literal["train", "compare"],
    named: list[tuple[str, TrainSettings]],
    given: TrainSettings | CompareSettings,
    path: Path,
    report: Report,
    *,
    baseline: str | None = None,
    resume: bool = False,
    restart: bool = False,
) -> TrainingResults | Stopped:
    """Train several arms side by side in a run folder.

    Args:
        kind: of the run. named: name and settings of each arm; they differ in rule and seed only.
        given: settings of the run. path, report, resume, restart: as for :func:`train`.
        baseline: name of the arms whose accuracy and step time the others are compared with.
    """
    config, settings = named[0][1], given.as_toml()
    for _, own in named:
        check_names(own)
    if resume and not restart:
        check_resume_in(path, settings, type(given), harmless=HARMLESS, growing=GROWING)
    with (
        joined(config.run.device, threads=config.run.threads, deterministic=config.run.deterministic) as runtime,
        Stopper() as stopper,
        failures_explained(path, runtime),
    ):
        began = time.perf_counter()
        report(Progress(0, 1, f"loading {config.data.name}"))
        data = dataset_of(config, runtime.device)
        batches = Batches(data, config, runtime)
        arms = [TrainingArm(name, own, batches, runtime, compared=len(named) > 1) for name, own in named]
        times = times_of(config, batches.steps_per_epoch)
        loop = Loop(arms, times, runtime, stop=stopper, report=report, line=lambda step: _line(arms, step))
        if config.run.log and runtime.leads:
            named_arms = [(f"{name}-{own.run.seed}", own.as_toml()) for name, own in named]
            loop.listen = Loggers(config.run.log, path, named_arms)
        start = Start(
            kind,
            tuple(arm.about() for arm in arms),
            times.steps,
            steps_per_epoch=batches.steps_per_epoch,
            parameters=sum(p.numel() for p in arms[0].model.parameters()),
            train_examples=len(data.train),
            eval_examples=None if data.validation is None else len(data.validation),
            test_examples=None if data.test is None else len(data.test),
            metrics=quantities(),
            baseline=baseline,
        )
        try:
            signal = loop.run_in(path, start, settings, keep=config.run.keep, resume=resume, restart=restart)
            if signal:
                return Stopped(loop.step, signal)
            units = {arm.config.run.seed: arm for arm in arms if arm.name == baseline}
            ends = (
                arm.result(loop.step, loop.failed.get(i), units.get(arm.config.run.seed)) for i, arm in enumerate(arms)
            )
            results = TrainingResults(
                kind,
                "validation" if data.test is None else "test",
                tuple(ends),
                baseline=baseline,
                corrupt_examples=dict(data.train.corrupt),
                seconds=time.perf_counter() - began,
            )
            loop.end(results)
            return results
        finally:
            loop.close()


def times_of(config: TrainSettings, steps_per_epoch: int, *, epochs_between: int = 1) -> Times:
    """When a training evaluates, logs, reads and saves; ``epochs_between`` two evaluations."""
    return Times(
        config.steps(steps_per_epoch),
        evaluate=epochs_between * steps_per_epoch,
        log=config.run.log_every,
        readings=config.run.readings_every * steps_per_epoch,
        save=config.run.checkpoint_every,
    )


def _line(arms: list[TrainingArm], step: int) -> str | None:
    """What an evaluation said, for the terminal."""
    if not step:
        return None
    warnings = [warning for arm in arms if (warning := arm.norm_warning()) is not None]
    return "\n".join([_said(arms, step), *warnings])


def _said(arms: list[TrainingArm], step: int) -> str:
    """Losses and accuracy of the last evaluation."""
    config, last = arms[0].config, arms[0].evaluation
    epoch = f"epoch {-(-step // arms[0].steps_per_epoch)}/{config.run.epochs}"
    if len(arms) == 1:
        assert last is not None
        words = f"{epoch}: loss {last.train_loss:.4f}"
        if last.eval_accuracy is not None:
            words += f", validation loss {last.eval_loss:.4f}, accuracy {100 * last.eval_accuracy:.2f} %"
        if last.test_accuracy is not None:
            words += f", test loss {last.test_loss:.4f}, accuracy {100 * last.test_accuracy:.2f} %"
        return words
    # On the test split, once it has been read; before that on the validation part, if there is one.
    for split, key in (("test", "test_accuracy"), ("validation", "eval_accuracy"), ("training", "train_accuracy")):
        means: dict[str, list[float]] = {}
        for arm in arms:
            end = arm.evaluation  # an older one of an arm that diverged
            if end is not None and end.step == step and (accuracy := getattr(end, key)) is not None:
                means.setdefault(arm.name, []).append(100 * accuracy)
        if means:
            told = [f"{name} {statistics.fmean(of):.1f}" for name, of in means.items()]
            return f"{epoch}, {split}: {'  '.join(told)} %"
    return epoch
