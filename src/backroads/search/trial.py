"""One trial: the steps and evaluations of ``backroads train``, without its run folder.

The same settings give the same weights as a run of ``backroads train``, bit for bit: what a search finds, a training
repeats.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from backroads.data import Dataset
from backroads.runs import checkpoint
from backroads.search.study import TakenAwayError
from backroads.train.runtime import Runtime, prepare
from backroads.train.settings import TrainConfig
from backroads.train.step import Stepper, evaluate, first_bad, weights_finite
from backroads.train.trainer import make_model


class DivergedError(Exception):
    """Numbers are no longer finite."""


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
    here: Runtime,
    hooks: Hooks,
    *,
    report_every: int = 1,
    folder: Path | None = None,
    checkpoint_seconds: float = 60.0,
) -> float:
    """Train a model and return its accuracy on ``dataset.evaluate`` after the last epoch.

    Args:
        config: the settings. dataset: its data, already loaded. here: this process among its peers.
        report_every: epochs between evaluations. folder: where checkpoints go, one folder an attempt within that of
            the slot; None writes none. checkpoint_seconds: least time between two of them.

    Raises:
        DivergedError: with the reason. PrunedError, StoppedError: as the hooks said.
    """
    return _Trial(config, dataset, here, hooks, report_every, folder, checkpoint_seconds).run()


class _Trial:
    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        here: Runtime,
        hooks: Hooks,
        report_every: int,
        folder: Path | None,
        checkpoint_seconds: float,
    ) -> None:
        self.config, self.data, self.here, self.hooks = config, dataset, here, hooks
        self.report_every, self.folder, self.checkpoint_seconds = report_every, folder, checkpoint_seconds
        self.steps_per_epoch = len(dataset.train) // config.batch_size
        self.model = prepare(make_model(config, dataset), config, here)
        self.stepper = Stepper(self.model, config, here, self.steps_per_epoch)
        self.step = 0
        self.reports: dict[int, float] = {}
        self.saved_at = time.monotonic()

    def run(self) -> float:
        self._resume()
        config, here = self.config, self.here
        accuracy = self.reports.get(config.epochs, math.nan)
        for epoch in range(self.step // self.steps_per_epoch + 1, config.epochs + 1):
            batches = self.data.train.train_batches(
                config.batch_size, seed=config.seed, epoch=epoch, rank=here.rank, world=here.world
            )
            for x, y in batches:
                done = self.stepper.forward_backward(self.step, x, y)
                bad, stop = here.any(not math.isfinite(float(done.loss)), here.leads and self.hooks.stop())
                if bad:
                    raise DivergedError(f"the loss of step {self.step} is not finite: {first_bad(self.model, x)}")
                if stop:
                    raise StoppedError
                self.stepper.update(self.step, done)
                self.step += 1
            if epoch % self.report_every == 0 or epoch == config.epochs:
                accuracy = self._evaluate(epoch)
        return accuracy

    def _evaluate(self, epoch: int) -> float:
        with self.stepper.evaluated() as model:
            self.here.share_buffers(model)
            measured = evaluate(model, self.data.evaluate, self.config, self.here)
        if not math.isfinite(measured["eval_loss"]):
            bad = weights_finite(self.model) or "the loss"
            raise DivergedError(f"the loss of the evaluation after step {self.step} is not finite: {bad}")
        accuracy = measured["eval_accuracy"]
        self.reports[epoch] = accuracy
        pruned, taken = self.here.any(*self._told(epoch, accuracy))
        if taken:
            raise TakenAwayError
        if pruned and epoch < self.config.epochs:
            raise PrunedError(accuracy)
        self._save()
        return accuracy

    def _told(self, epoch: int, accuracy: float) -> tuple[bool, bool]:
        """Whether to end early, and whether the trial is another worker's now; learnt by the process that leads."""
        try:
            return self.here.leads and self.hooks.report(epoch, accuracy), False
        except TakenAwayError:
            return False, True

    def _save(self) -> None:
        due = time.monotonic() - self.saved_at >= self.checkpoint_seconds and self.step < self._total
        if self.folder is None or not self.here.any(due and self.here.leads)[0]:
            return
        if not self.here.leads:
            return
        state: dict[str, Any] = {
            "optimizers": self.stepper.optimizers.state(),
            "ema": self.stepper.ema,
            "reports": [[epoch, value] for epoch, value in self.reports.items()],
            "settings": _settings(self.config),
        }
        checkpoint.save(self.folder, self.step, self.model.state_dict(), state, None)
        checkpoint.prune(self.folder, 1)
        self.saved_at = time.monotonic()

    def _resume(self) -> None:
        """Go on from the newest whole checkpoint of any attempt at these settings, if there is one."""
        found = None
        if self.folder is not None and self.here.leads:
            found = newest(self.folder.parent, _settings(self.config))
        name = self.here.shared(None if found is None else str(found.path))
        if name is None:
            return
        found = found or checkpoint.load(Path(name))
        self.model.load_state_dict(found.model)
        self.stepper.optimizers.load(found.state["optimizers"])
        if self.stepper.ema is not None:
            self.stepper.ema = {key: value.to(self.here.device) for key, value in found.state["ema"].items()}
        self.step = found.manifest.step
        for epoch, value in found.state["reports"]:
            self.reports[int(epoch)] = float(value)
            if self.here.any(self._told(int(epoch), float(value))[1])[0]:
                raise TakenAwayError

    @property
    def _total(self) -> int:
        return self.config.epochs * self.steps_per_epoch


def newest(slot: Path, settings: str) -> checkpoint.Checkpoint | None:
    """The checkpoint of the most steps in a slot's folder that was written under these settings."""
    found = []
    for attempt in slot.iterdir() if slot.is_dir() else ():
        last = checkpoint.load_newest(attempt, set_aside=False)[0]
        if last is not None and last.state.get("settings") == settings:
            found.append(last)
    return max(found, key=lambda one: one.manifest.step, default=None)


def _settings(config: TrainConfig) -> str:
    return json.dumps(config.model_dump(exclude={"threads", "device", "workers", "root"}), sort_keys=True)


def load_once(config: TrainConfig, cache: dict[str, Dataset], device: torch.device) -> Dataset:
    """The data of a trial, loaded once for all trials that have the same."""
    from backroads.train.trainer import dataset_of

    fields = {"data", "split", "root", "image_size", "augment", "workers", "corrupt_limit"}
    key = json.dumps(config.model_dump(include=fields), sort_keys=True)
    if key not in cache:
        cache[key] = dataset_of(config, device)
    return cache[key]
