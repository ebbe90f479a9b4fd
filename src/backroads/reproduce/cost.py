"""What trainings cost: floating point operations, counted on the networks themselves, and hours on two CPU cores.

Counting takes a minute for all claims, so that what was counted ships with them, in ``recipes/claims/operations.json``
(written by ``python benchmarks/claim_costs.py``). What is not in there is counted when it is asked for.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from backroads.metrics.cost import cost
from backroads.models import build_model
from backroads.plasticity.network import MetaNetwork
from backroads.plasticity.settings import MetaConfig
from backroads.plasticity.tasks.episode import Episodes
from backroads.plasticity.trainer import meta_gradient
from backroads.reproduce.arms import MACHINE, Arm
from backroads.reproduce.verdict import CLASSES
from backroads.train.build import rules_of
from backroads.train.settings import TrainSettings

# Operations a second, measured on two CPU cores: fp32 convolutions, and lifetimes in layers of 64 units in torch and in
# C++ (docs/plasticity.md).
CONVOLUTIONS, LIFETIMES, COMPILED = 180e9, 45e9, 170e9
# (shape of an image, images to train on), of data that need not be at hand to be counted.
DATA: dict[str, tuple[tuple[int, int, int], int]] = {
    "digits": ((1, 8, 8), 1437),
    "cifar10": ((3, 32, 32), 50_000),
    "imagenette": ((3, 128, 128), 9_469),
    "imagenet": ((3, 224, 224), 1_281_167),
}
OPERATIONS = "operations.json"  # of a step for each example, or of a lifetime, by what it depends on


@functools.cache
def counted() -> dict[str, float]:
    """Operations that have been counted, by :func:`key_of`."""
    file = resources.files("backroads") / "recipes" / "claims" / OPERATIONS
    found: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


def key_of(*what: Any) -> str:
    """A short name of plain data, in which only that matters of rates and other fractions whether they are zero."""
    text = json.dumps(what, sort_keys=True)
    zeros = json.loads(text, parse_float=lambda number: bool(float(number)))
    return hashlib.sha256(json.dumps(zeros, sort_keys=True).encode()).hexdigest()[:16]


def flop_and_hours(arms: Sequence[Arm]) -> tuple[float | None, float | None]:
    """Operations of matrix products and convolutions of some trainings, and their hours on two CPU cores in float32.

    None and None if one of them cannot be counted.
    """
    flop = hours = 0.0
    for arm in arms:
        one = of_lifetimes(arm.config) if isinstance(arm.config, MetaConfig) else of_training(arm.config, arm)
        if one is None:
            return None, None
        flop, hours = flop + one, hours + one / _per_second(arm.config) / 3600
    return flop, hours


def _per_second(config: TrainSettings | MetaConfig) -> float:
    if not isinstance(config, MetaConfig):
        return CONVOLUTIONS
    return LIFETIMES if config.task.is_images or config.plasticity.is_gradient else COMPILED


def of_training(config: TrainSettings, arm: Arm) -> float | None:
    """Of all steps of a training."""
    name = arm.data
    if name not in DATA or config.method.name != "feedback":
        return None
    shape, images = DATA[name]
    if config.data.image_size is not None:
        shape = (shape[0], config.data.image_size, config.data.image_size)
    images = min(images, config.data.limit or images)
    batch = config.run.batch_size
    steps = config.run.epochs * (math.ceil if config.data.last_batch else math.floor)(images / batch)
    steps = min(steps, config.run.max_steps or steps)
    key = key_of(name, shape, config.model.model_dump(), config.rule.name, config.rule.options)
    if key not in counted():
        with torch.device("meta"):
            model = build_model(config.model.name, classes=CLASSES[name], shape=shape, options=config.model.options)
        counted()[key] = cost(model, rules_of(config), shape, 8).flops / 8
    return counted()[key] * steps * batch


def of_lifetimes(config: MetaConfig) -> float:
    """Of all meta-steps: a lifetime costs the same at each of its steps, so that one and two of them are counted."""
    task, network = config.task, config.network
    of_task = {name: value for name, value in task.model_dump().items() if name not in ("task", *MACHINE)}
    key = key_of(network.model_dump(), config.plasticity.model_dump(), of_task, task.is_images)
    T = task.tasks * task.steps_per_task
    if key not in counted():
        one, two = (_lifetime(config, k) for k in (1, 2))
        counted()[key] = one + (T - 1) * (two - one)
    return counted()[key] * config.meta.meta_steps * config.meta.meta_batch_size


def _lifetime(config: MetaConfig, steps: int) -> float:
    """Of the meta-gradient of a lifetime of so many steps, with its whole query."""
    task, m = config.task, config.task.batch_size
    shape = (1, task.image_size, task.image_size) if task.is_images else (task.tasks + 1,)
    Q = task.tasks * (task.eval_test if task.is_images else m)
    inputs = torch.zeros(steps * m + Q, *shape)
    y: Any = torch.zeros(1, steps, m, dtype=torch.long) if task.is_images else torch.zeros(1, steps, m, 1)
    y_query = torch.zeros(1, Q, dtype=torch.long) if task.is_images else torch.zeros(1, Q, 1)
    episodes = Episodes(
        inputs,
        torch.arange(steps * m).view(1, steps, m),
        y,
        torch.arange(steps * m, steps * m + Q).view(1, Q),
        y_query,
        torch.zeros(1, steps, dtype=torch.long),
        torch.zeros(1, Q, dtype=torch.long),
        torch.zeros(1, Q, dtype=torch.long),
    )
    network = MetaNetwork(config, shape)
    with FlopCounterMode(display=False) as counter:
        meta_gradient(network, episodes, 0)
    return float(counter.get_total_flops())
