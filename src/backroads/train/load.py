"""A run's model back from its folder: to evaluate, to export, to go on with."""

from __future__ import annotations

from pathlib import Path

import torch

from backroads.data import Dataset
from backroads.errors import ConfigError
from backroads.runs import checkpoint
from backroads.runs.settings import read_run
from backroads.train.build import dataset_of, make_model, method_of
from backroads.train.settings import TrainSettings, resolve


def load_config(run: Path) -> TrainSettings:
    """The settings of a run; raises ConfigError for a folder that is none."""
    data = read_run(run)
    if "compare" in data:
        raise ConfigError(f"expected the folder of a training, and {run} is that of a comparison")
    return resolve(data)


def load_model(
    run: Path, which: str = "best", *, config: TrainSettings | None = None
) -> tuple[torch.nn.Module, Dataset, checkpoint.Checkpoint]:
    """The converted model of a run in evaluation mode on the CPU, its data, and the checkpoint it came from.

    Args:
        run: its folder. which: "best" (of the evaluations) or "last". config: other settings of the data.

    With a running mean of weights, that is what is loaded.

    Raises:
        ConfigError: no run. StateError: no whole checkpoint.
    """
    config = config or load_config(run)
    if which not in ("best", "last"):
        raise ConfigError(f"checkpoint: expected 'best' or 'last', got {which!r}")
    folder = run / "checkpoints"
    found = checkpoint.load_best(folder) if which == "best" else checkpoint.load_newest(folder, set_aside=False)[0]
    if found is None:
        found = checkpoint.load_best(folder)  # says what is wrong
    dataset = dataset_of(config, torch.device("cpu"))
    model = make_model(config, dataset, method_of(config))
    model.load_state_dict(found.state["arms"][0]["ema"] or found.model)
    return model.eval(), dataset, found
