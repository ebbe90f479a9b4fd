"""One trial: the same loop, steps and evaluations as ``backroads train``, without its run folder.

The same settings end with the same weights as ``backroads train``, bit for bit: a training repeats what a search finds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import torch

from backroads.data import Dataset
from backroads.runs import checkpoint
from backroads.runs.loop import Loop
from backroads.runs.runtime import Runtime
from backroads.search.record import DIVERGED, INTERRUPTED, TrialFailed, TrialReassignedError
from backroads.train.arm import TrainingArm
from backroads.train.build import Batches, dataset_of
from backroads.train.settings import TrainSettings
from backroads.train.trainer import name_of, times_of


def run_trial(
    config: TrainSettings,
    dataset: Dataset,
    runtime: Runtime,
    *,
    report: Callable[[int, float], bool] = lambda epoch, accuracy: False,
    stop: Callable[[], bool] = lambda: False,
    report_every: int = 1,
    folder: Path | None = None,
    checkpoint_seconds: float = 60.0,
) -> float:
    """Train a model and return its accuracy on the test split, or else the validation part, after the last epoch.

    Args:
        config: the settings. dataset: its data, already loaded. runtime: this process among its peers.
        report: called with (epoch, accuracy) after each evaluation; True ends the trial early. stop: asked after every
            step. Both are called in the first process only. report_every: epochs between evaluations.
        folder: for checkpoints of this attempt; the attempts of a trial have one parent, and this one goes on from the
            newest checkpoint of any of them. None writes none. checkpoint_seconds: least time between two of them.

    Raises:
        TrialFailed: DIVERGED, with the reason, or INTERRUPTED by ``stop``. optuna.TrialPruned: ended by ``report``.
        TrialReassignedError: ``report`` raised it.
    """
    batches = Batches(dataset, config, runtime)
    arm = TrainingArm(name_of(config), config, batches, runtime)
    times = times_of(config, batches.steps_per_epoch, epochs_between=report_every)
    settings = config.model_dump(exclude={"run": {"threads", "device"}, "data": {"workers", "root"}})
    reports: dict[int, float] = {}
    saved_at = time.monotonic()

    def reported(epoch: int) -> bool:
        """Report an accuracy; whether to end early, the same in all processes."""
        prune = taken = False
        if runtime.leads:
            try:
                prune = report(epoch, reports[epoch])
            except TrialReassignedError:
                taken = True
        if runtime.any(taken):
            raise TrialReassignedError
        return runtime.any(prune)

    def evaluated(step: int) -> None:
        nonlocal saved_at
        epoch = step // batches.steps_per_epoch
        reports[epoch] = arm.score or 0.0
        if reported(epoch) and step < times.steps:
            raise optuna.TrialPruned
        due = time.monotonic() - saved_at >= checkpoint_seconds and step < times.steps
        if folder is not None and runtime.any(due and runtime.leads):
            weights, state = loop.snapshot()
            if runtime.leads:
                state["reports"] = [[n, value] for n, value in reports.items()]
                checkpoint.save(folder, step, weights, state, None, settings)
                checkpoint.prune(folder, 1)
            saved_at = time.monotonic()

    loop = Loop([arm], times, runtime, stop=lambda: int(runtime.leads and stop()), evaluated=evaluated)
    found = _newest(folder.parent, settings) if folder is not None and runtime.leads else None
    name = runtime.shared(None if found is None else str(found.path))
    if name is not None:
        found = found or checkpoint.load(Path(name))
        loop.restore(found)
        for epoch, value in found.state["reports"]:
            reports[int(epoch)] = float(value)
            reported(int(epoch))
    if loop.run():
        raise TrialFailed(INTERRUPTED)
    if loop.failed:
        raise TrialFailed(DIVERGED, loop.failed[0].reason)
    assert arm.accuracy is not None
    return arm.accuracy


def _newest(attempts: Path, settings: dict[str, object]) -> checkpoint.Checkpoint | None:
    """The checkpoint of the most steps of any attempt at these settings."""
    folders = attempts.iterdir() if attempts.is_dir() else ()
    found = [checkpoint.load_newest(folder)[0] for folder in folders]
    same = [one for one in found if one is not None and one.manifest.settings == json.loads(json.dumps(settings))]
    return max(same, key=lambda one: one.manifest.step, default=None)


def load_once(config: TrainSettings, cache: dict[str, Dataset], device: torch.device) -> Dataset:
    """The data of a trial, loaded once for all trials that have the same."""
    key = json.dumps(config.data.model_dump(), sort_keys=True)
    if key not in cache:
        cache[key] = dataset_of(config, device)
    return cache[key]
