"""The numbers of a run's events, sent to TensorBoard, Weights & Biases or MLflow for those who look at runs there.

The record of a run is its folder. A logger has a copy: one that fails is left out with a warning, and the run goes on.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from backroads.errors import BackroadsError
from backroads.extras import extra_named
from backroads.runs.files import folder_within, write_json
from backroads.runs.schema import Event

IDS = "loggers.json"  # in the run's folder: logger -> arm -> the logger's own id of the run
Numbers = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Target:
    """What a logger is told of the arm that it logs.

    Attributes:
        folder: of the run; a logger that writes files writes them in here. arm: name of the arm, such as
            "backprop-0"; empty for the only one. settings: of the arm, as TOML data.
        run_id: the logger's own id of the run, of which this is the continuation; None for a new run.
        step: of the first numbers that will come.
    """

    folder: Path
    arm: str
    settings: dict[str, Any]
    run_id: str | None
    step: int

    @property
    def name(self) -> str:
        """A name for people."""
        return f"{self.folder.resolve().name} {self.arm}".strip()


class Logger(Protocol):
    """What one arm's numbers are sent to; made from a :class:`Target`. Any of it may fail.

    Attributes:
        run_id: with which the same run goes on; None if the logger has no ids.
    """

    run_id: str | None

    def log(self, numbers: Numbers, step: int) -> None:
        """Send the numbers of an event after ``step`` steps, by names such as "step/loss"."""

    def close(self) -> None:
        """Send what is still there, and end."""


class TensorBoard:
    """Files in the run's folder ``tensorboard``; what an interrupted run wrote after its last checkpoint is hidden."""

    run_id: str | None = None

    def __init__(self, target: Target) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = folder_within(target.folder, "/".join(filter(None, ("tensorboard", target.arm))))
        self._writer: Any = SummaryWriter(str(folder), purge_step=target.step)

    def log(self, numbers: Numbers, step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases, in the project "backroads" unless WANDB_PROJECT names another.

    Their own step only ever grows, and a resumed run repeats steps; so the step is sent as a number, as the axis of all
    others.
    """

    def __init__(self, target: Target) -> None:
        import wandb

        folder_within(target.folder, "wandb")  # where it writes
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "backroads"),
            dir=str(target.folder),
            id=target.run_id,
            resume="allow",
            name=target.name,
            group=target.folder.resolve().name,
            config=target.settings,
            allow_val_change=True,  # of the number of epochs
            reinit="create_new",  # beside the runs of other arms
        )
        self._run.define_metric("*", step_metric="trainer_step")
        self.run_id: str | None = self._run.id

    def log(self, numbers: Numbers, step: int) -> None:
        self._run.log({**numbers, "trainer_step": step})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow at MLFLOW_TRACKING_URI, in the experiment "backroads" or that of MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, target: Target) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._client, self._metric = MlflowClient(), Metric
        if target.run_id is not None:
            self.run_id: str | None = target.run_id
            self._client.update_run(target.run_id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "backroads")
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        self.run_id = self._client.create_run(experiment, run_name=target.name).info.run_id
        params = [Param(_allowed(name), str(value)[:500]) for name, value in _flat(target.settings)]
        for first in range(0, len(params), 100):  # as many as one call may send
            self._client.log_batch(self.run_id, params=params[first : first + 100])

    def log(self, numbers: Numbers, step: int) -> None:
        now = int(1000 * time.time())
        metrics = [self._metric(_allowed(name), value, now, step) for name, value in numbers.items()]
        for first in range(0, len(metrics), 1000):
            self._client.log_batch(self.run_id, metrics=metrics[first : first + 1000])

    def close(self) -> None:
        self._client.set_terminated(self.run_id)


def _allowed(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^/\w.\- :]", "_", name)


LOGGERS: dict[str, Callable[[Target], Logger]] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


class Loggers:
    """Sends the numbers of events to loggers; called with (number of the arm, event) by the loop.

    Args:
        names: of the loggers, keys of ``LOGGERS``. path: the run's folder.
        arms: name and settings of each of the run's arms, the settings as TOML data.

    Raises:
        MissingDependencyError: the package of a logger is not installed.
    """

    def __init__(self, names: Sequence[str], path: Path, arms: Sequence[tuple[str, dict[str, Any]]]) -> None:
        for name in names:
            with extra_named(f"--log {name}"):
                importlib.import_module(name)
        self._names, self._path, self._arms = list(dict.fromkeys(names)), path, arms
        self._open: dict[tuple[str, int], Logger] = {}

    def __call__(self, arm: int, event: Event) -> None:
        """Send the numbers of an event of arm number ``arm``."""
        step = getattr(event, "step", 0)
        numbers = {f"{event.kind}/{name}": value for name, value in _numbers(dataclasses.asdict(event))}
        for name in [*self._names]:
            try:
                if (name, arm) not in self._open:
                    self._open[name, arm] = self._opened(name, arm, step)
                self._open[name, arm].log(numbers, step)
            except BackroadsError:
                raise
            except Exception as error:
                self._names.remove(name)
                _warn(name, error, "the run goes on without it")

    def close(self) -> None:
        """End all loggers that are still at work."""
        for (name, _), logger in self._open.items():
            if name in self._names:
                try:
                    logger.close()
                except Exception as error:
                    _warn(name, error, "its last numbers may be missing there")

    def _opened(self, name: str, number: int, step: int) -> Logger:
        arm, settings = self._arms[number]
        ids = self._ids()
        own = ids.setdefault(name, {})
        only = arm if len(self._arms) > 1 else ""
        logger = LOGGERS[name](Target(self._path, only, settings, own.get(arm), step))
        if logger.run_id is not None and own.get(arm) != logger.run_id:
            own[arm] = logger.run_id
            write_json(self._path / IDS, ids)
        return logger

    def _ids(self) -> dict[str, dict[str, str]]:
        """The ids of this run's beginning; empty for a run that has just begun."""
        path = self._path / IDS
        if not path.exists():
            return {}
        try:
            ids: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
            if all(re.fullmatch(r"[\w-]+", run_id) for own in ids.values() for run_id in own.values()):
                return ids
        except (ValueError, TypeError, AttributeError):
            pass
        raise ValueError(f"{path}: expected the ids of runs by logger and arm; remove it to begin new runs there")


def _warn(name: str, error: Exception, then: str) -> None:
    about = str(error).strip().partition("\n")[0]
    warnings.warn(f"{name} failed ({type(error).__name__}: {about}); {then}", stacklevel=3)


def _numbers(fields: dict[str, Any]) -> list[tuple[str, float]]:
    """The numbers of an event by the path to them; the whole network, whose name is empty, is named."""
    return [
        (name, float(value))
        for name, value in _flat(fields)
        if isinstance(value, int | float) and name not in ("step", "epoch", "arm", "version")
    ]


def _flat(fields: dict[str, Any]) -> list[tuple[str, Any]]:
    """Values of nested tables by the path to them, such as "run/seed"."""
    found: list[tuple[str, Any]] = []
    for key, value in fields.items():
        name = key or "whole network"
        if isinstance(value, dict):
            found += [(f"{name}/{inner}", own) for inner, own in _flat(value)]
        else:
            found.append((name, value))
    return found
