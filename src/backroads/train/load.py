"""A run's model back from its folder: to evaluate, to export, to go on with."""

from __future__ import annotations

from pathlib import Path

import torch

from backroads.data import Dataset
from backroads.errors import ConfigError
from backroads.runs import checkpoint
from backroads.runs.settings import read_run
from backroads.runs.trust import check_trusted
from backroads.train.build import check_names, dataset_of, make_model, method_of
from backroads.train.settings import TrainSettings, resolve

# What else a folder may be of, by a table that no training has in its settings.
OTHERS = {
    "compare": "comparison",
    "study": "search",
    "meta": "meta-training; use backroads meta eval",
    "power": "theory diagram",
}


def load_config(run: Path, root: str | None = None, *, trust: bool = False) -> TrainSettings:
    """The settings of a run.

    Args:
        run: its folder. root: folder of the data in place of the one in the settings.
        trust: whether they may name code outside of the package, which a model made of them runs.

    Raises:
        ConfigError: for a folder that is none, and for settings that need ``trust``.
    """
    data = read_run(run)
    for table, kind in OTHERS.items():
        if table in data:
            raise ConfigError(f"expected the folder of a training, and {run} is that of a {kind}")
    config = resolve(data, {} if root is None else {"root": root})
    check_trusted(config.model_dump(), run, trust=trust)
    return config


def load_model(
    run: Path, config: TrainSettings, which: str = "last"
) -> tuple[torch.nn.Module, Dataset, checkpoint.Checkpoint]:
    """The converted model of a run in evaluation mode on the CPU, its data, and the checkpoint it came from.

    Args:
        run: its folder. config: its settings, or others of the data. which: "last", or "best" on the validation part.

    With a running mean of weights, that is what is loaded.

    Raises:
        ConfigError: no such ``which``, or data that are missing. StateError: no whole checkpoint, or
            one that does not fit the model of the settings.
        RunError: weights that are not finite.
    """
    if which not in ("best", "last"):
        raise ConfigError(f"checkpoint: expected 'best' or 'last', got {which!r}")
    check_names(config)
    folder = run / "checkpoints"
    found = checkpoint.load_last(folder) if which == "last" else checkpoint.load_best(folder)
    weights = found.state["arms"][0]["ema"] or found.model
    checkpoint.require_finite(weights, found.path)
    dataset = dataset_of(config, torch.device("cpu"))
    model = make_model(config, dataset, method_of(config))
    checkpoint.put_into(model, weights, found.path)
    return model.eval(), dataset, found
