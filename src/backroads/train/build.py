"""What a training trains: data, model, method and phases, made from the settings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backroads.data import Dataset, load_dataset
from backroads.data.check import check_steps
from backroads.data.source import Subset, limited
from backroads.errors import ConfigError
from backroads.feedback.conversion import aligned_layers
from backroads.feedback.rules import FeedbackRule, get_rule
from backroads.methods import get_method
from backroads.methods.base import Method
from backroads.models.build import build_model, check_model
from backroads.phases import NoisePhase
from backroads.runs.runtime import Runtime
from backroads.train.hardware import Device, DeviceModel, device, device_model
from backroads.train.settings import TrainSettings

PROBE_EXAMPLES = 128  # to take readings on
INITIAL_IMAGES = 5_000  # for models that start from the data


def method_of(config: TrainSettings) -> Method:
    """The method of a training; raises ConfigError, RuleError."""
    if config.method.name == "feedback":
        return get_method("feedback", rules=rules_of(config), strict=config.rule.strict, **config.method.options)
    return get_method(config.method.name, **config.method.options)


def rules_of(config: TrainSettings) -> FeedbackRule | dict[str, FeedbackRule]:
    """The feedback rule, or the rules by pattern; raises RuleError."""
    rule = get_rule(config.rule.name, **config.rule.options)
    if not config.rule.layers:
        return rule
    return {**{pattern: get_rule(name) for pattern, name in config.rule.layers.items()}, "*": rule}


def phase_of(config: TrainSettings) -> NoisePhase | None:
    """The mirror phase; None without one. Raises ConfigError, RuleError."""
    settings = config.backward
    if settings.mirror_rows and settings.mirror_steps:
        raise ConfigError(
            f"mirror_rows: expected it or mirror_steps, got both ({settings.mirror_rows:g} and "
            f"{settings.mirror_steps}); leave one of them out"
        )
    if settings.mirror_options and not settings.mirror_steps:
        raise ConfigError(f"mirror_options: expected mirror_steps with it, got {settings.mirror_options!r} alone")
    if settings.mirror_every is not None and not (settings.mirror_rows or settings.mirror_steps):
        raise ConfigError(
            f"mirror_every: expected mirror_rows or mirror_steps with it, got {settings.mirror_every} alone"
        )
    if settings.mirror_rows:
        return NoisePhase(settings.mirror_rows)
    if settings.mirror_steps:
        rule: Any = get_rule("exact_probing", **settings.mirror_options)
        return NoisePhase(rule=rule, steps=settings.mirror_steps)
    return None


def devices_of(config: TrainSettings) -> tuple[Device, Device]:
    """The devices of the forward and of the backward weights; raises ConfigError."""
    if config.hardware.backward and phase_of(config) is not None:
        raise ConfigError(
            "hardware_backward: expected a training without mirror phase, which sets B between the steps that its "
            "devices see; leave mirror_rows and mirror_steps out"
        )
    return device(config.hardware.forward, "hardware_forward"), device(config.hardware.backward, "hardware_backward")


def hardware_of(config: TrainSettings, model: torch.nn.Module, *, compared: bool) -> DeviceModel:
    """The weights of a training in their devices.

    Args:
        config: the settings. model: on its device.
        compared: whether a model without backward weights takes part, which then has no devices for them.

    Raises:
        ConfigError: for devices of backward weights that there are not.
    """
    forward, backward = devices_of(config)
    if compared and not any(layer.backward_weight is not None for _, layer in aligned_layers(model)):
        backward = Device()
    return device_model(model, forward=forward, backward=backward, seed=config.run.seed)


def check_names(config: TrainSettings) -> None:
    """Check the names of model, method and rules, and their options as far as they can be; they cost nothing, data do.

    Raises:
        ConfigError, RuleError: for what there is not, with the nearest name.
    """
    check_model(config.model.name)
    method_of(config)
    phase_of(config)
    devices_of(config)


def make_model(config: TrainSettings, dataset: Dataset, method: Method) -> torch.nn.Module:
    """The model of a run, prepared by its method, on the CPU: the same W for every method and rule.

    A model with a method ``initialize(images)`` is given training images, (N, C, H, W), not varied, to start from.
    """
    torch.manual_seed(config.run.seed)
    shape = dataset.shape
    model = build_model(config.model.name, classes=dataset.classes, shape=shape, options=config.model.options)
    if callable(initialize := getattr(model, "initialize", None)):
        some = Subset(dataset.train, INITIAL_IMAGES)
        initialize(torch.cat([x.cpu() for x, _ in some.eval_batches(min(256, len(some)))]))
    return method.prepare(model, torch.zeros(2, *shape), config.run.seed + 1)


def dataset_of(config: TrainSettings, device: torch.device) -> Dataset:
    """The data of a run; raises ConfigError for what is missing or wrong."""
    dataset = load_dataset(
        config.data.name,
        split=config.data.split,
        root=config.data.root,
        download=config.data.download,
        image_size=config.data.image_size,
        augment=config.data.augment,
        device=device,
        workers=config.data.workers,
        corrupt_limit=config.data.corrupt_limit,
    )
    return dataset if config.data.limit is None else limited(dataset, config.data.limit)


class Batches:
    """The batches of a run, each made once for all arms of the same seed.

    Args:
        data: its training split is used. config: batch size. runtime: this process gets its part of each batch.

    Attributes:
        steps_per_epoch: batches in an epoch.

    Raises:
        ConfigError: for a batch that the data or the processes cannot fill.
    """

    def __init__(self, data: Dataset, config: TrainSettings, runtime: Runtime) -> None:
        self.data, self.batch_size, self.runtime = data, config.run.batch_size, runtime
        self.last_batch = config.data.last_batch
        parts = runtime.world * config.run.accumulate
        if self.batch_size % parts:
            raise ConfigError(
                f"batch_size: expected a multiple of {parts} ({runtime.world} processes, accumulate "
                f"{config.run.accumulate}), got {self.batch_size}; the next is {-(-self.batch_size // parts) * parts}"
            )
        n = len(data.train)
        steps = check_steps(n, self.batch_size, 0, runtime.rank, runtime.world, last_batch=self.last_batch)
        self.steps_per_epoch = steps + bool(self.last_batch and n % self.batch_size)
        self._iterators: dict[int, Any] = {}
        self._present: dict[int, tuple[int, tuple[Tensor, Tensor]]] = {}
        self._probe: tuple[Tensor, Tensor] | None = None

    def probe(self) -> tuple[Tensor, Tensor]:
        """A few training examples to take readings on, the same in every run on these data."""
        if self._probe is None:
            n = min(PROBE_EXAMPLES, len(self.data.train))
            self._probe = next(self.data.train.train_batches(n, seed=0, epoch=0))
        return self._probe

    def at(self, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Images and labels of a step, this process's part."""
        last = self._present[seed][0] if seed in self._present else None
        if last != step:
            epoch, start = divmod(step, self.steps_per_epoch)
            if last != step - 1 or start == 0:
                self._iterators[seed] = self.data.train.train_batches(
                    self.batch_size,
                    seed=seed,
                    epoch=epoch + 1,
                    start_step=start,
                    rank=self.runtime.rank,
                    world=self.runtime.world,
                    last_batch=self.last_batch,
                )
            self._present[seed] = (step, next(self._iterators[seed]))
        return self._present[seed][1]
