"""One trial: the steps and evaluations of ``backroads train``, without its run folder.

The same settings give the same weights as a run of ``backroads train``, bit for bit: what a search finds, a training
repeats.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from backroads.data import Dataset
from backroads.runs import checkpoint
from backroads.runs.arm import DivergedError
from backroads.runs.loop import Loop
from backroads.runs.runtime import Runtime
from backroads.search.study import TakenAwayError
from backroads.train.arm import Batches, TrainingArm, dataset_of
from backroads.train.settings import TrainConfig
from backroads.train.trainer import times_of


class StoppedError(Exception):
    """The trial was asked to stop; what it had done is in its checkpoint."""


class PrunedError(Exception):
    """The trial was ended early: ``value`` is its last accuracy."""

    def __init__(self, value: float) -> None:
        super().__init__(value)
        self.value = value


@dataclasses.dataclass
class Hooks:
    """What a trial asks and tells while it trains; all of it only in the process that leads.

    Attributes:
        report: told (epoch, accuracy) after an evaluation; True ends the trial early. stop: whether to stop, asked
            after every step.
    """

    report: Callable[[int, float], bool] = lambda epoch, accuracy: False
    stop: Callable[[], bool] = lambda: False


def run_trial(
    config: TrainConfig,
    dataset: Dataset,
    runtime: Runtime,
    hooks: Hooks,
    *,
    report_every: int = 1,
    folder: Path | None = None,
    checkpoint_seconds: float = 60.0,
) -> float:
    """Train a model and return its accuracy on ``dataset.evaluate`` after the last epoch.

    Args:
        config: the settings. dataset: its data, already loaded. runtime: this process among its peers.
        report_every: epochs between evaluations. folder: where checkpoints go, one folder an attempt within that of
            the slot; None writes none. checkpoint_seconds: least time between two of them.

    Raises:
        DivergedError: with the reason. PrunedError, StoppedError: as the hooks said.
    """
    batches = Batches(dataset, config, runtime)
    arm = TrainingArm(config.rule, config, batches, runtime)
    times = times_of(config, batches.steps_per_epoch, epochs_between=report_every)
    reports: dict[int, float] = {}
    saved_at = time.monotonic()

    def told(epoch: int) -> bool:
        """Tell an accuracy; whether to end early. Raises TakenAwayError if the trial is another worker's now."""
        prune = taken = False
        if runtime.leads:
            try:
                prune = hooks.report(epoch, reports[epoch])
            except TakenAwayError:
                taken = True
        if runtime.any(taken):
            raise TakenAwayError
        return runtime.any(prune)

    def evaluated(step: int) -> None:
        nonlocal saved_at
        epoch = step // batches.steps_per_epoch
        reports[epoch] = arm.score or 0.0
        if told(epoch) and step < times.steps:
            raise PrunedError(reports[epoch])
        due = time.monotonic() - saved_at >= checkpoint_seconds and step < times.steps
        if folder is not None and runtime.any(due and runtime.leads):
            weights, state = loop.snapshot()
            if runtime.leads:
                state["reports"] = [[n, value] for n, value in reports.items()]
                checkpoint.save(folder, step, weights, state, None, {"settings": _settings(config)})
                checkpoint.prune(folder, 1)
            saved_at = time.monotonic()

    loop = Loop([arm], times, runtime, stop=lambda: int(runtime.leads and hooks.stop()), evaluated=evaluated)
    found = newest(folder.parent, _settings(config)) if folder is not None and runtime.leads else None
    name = runtime.shared(None if found is None else str(found.path))
    if name is not None:  # goes on from another attempt at these settings
        found = found or checkpoint.load(Path(name))
        loop.restore(found)
        for epoch, value in found.state["reports"]:
            reports[int(epoch)] = float(value)
            told(int(epoch))
    if loop.run():
        raise StoppedError
    if loop.failed:
        raise DivergedError(loop.failed[0].reason, loop.failed[0].layer)
    assert arm.score is not None
    return arm.score


def newest(slot: Path, settings: str) -> checkpoint.Checkpoint | None:
    """The checkpoint of the most steps in a slot's folder that was written under these settings."""
    found = []
    for attempt in slot.iterdir() if slot.is_dir() else ():
        last = checkpoint.load_newest(attempt, set_aside=False)[0]
        if last is not None and last.manifest.settings.get("settings") == settings:
            found.append(last)
    return max(found, key=lambda one: one.manifest.step, default=None)


def _settings(config: TrainConfig) -> str:
    return json.dumps(config.model_dump(exclude={"threads", "device", "workers", "root"}), sort_keys=True)


def load_once(config: TrainConfig, cache: dict[str, Dataset], device: torch.device) -> Dataset:
    """The data of a trial, loaded once for all trials that have the same."""
    fields = {"data", "split", "root", "image_size", "augment", "workers", "corrupt_limit"}
    key = json.dumps(config.model_dump(include=fields), sort_keys=True)
    if key not in cache:
        cache[key] = dataset_of(config, device)
    return cache[key]
