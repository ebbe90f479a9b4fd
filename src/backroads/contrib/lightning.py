"""A callback for Lightning's Trainer."""

from __future__ import annotations

from typing import Any

import torch

from backroads.contrib.watch import Watch
from backroads.extras import extra_named, prepare_torchvision

with extra_named("backroads.contrib.lightning"):
    prepare_torchvision()
    from lightning.pytorch import Callback


class FeedbackCallback(Callback):
    """Logs the angles and norms of B, and stops a training whose B leaves a sane range.

    Logged are the metrics that read weights alone, such as "weight_angle/LAYER" and "norm_ratio/LAYER". Gradients of B
    are right as they come in all but two cases, in which their factor is set: a loss scaler (precision "16-mixed"), and
    accumulation in a compiled or FSDP model.

    Args:
        every: optimiser steps between two measurements, >= 1.
        largest: > 1; training stops where a layer's norm of B over that of W is above this, below its inverse, or not
            finite.

    Raises:
        UsageError: for other numbers.
        ConversionError: when training starts, for a model without converted layers.

    Example::

        Trainer(callbacks=[FeedbackCallback(every=100)])
    """

    def __init__(self, every: int = 50, largest: float = 1e3) -> None:
        super().__init__()
        self.watch = Watch(every, largest)
        self._measured = 0

    def on_train_start(self, trainer: Any, pl_module: torch.nn.Module) -> None:
        self.watch.start(pl_module)
        self._measured = trainer.global_step

    def on_train_batch_start(self, trainer: Any, pl_module: torch.nn.Module, batch: Any, batch_idx: int) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.watch.scale(trainer.model, trainer.accumulate_grad_batches, scaler)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step - self._measured < self.watch.every:
            return
        self._measured = trainer.global_step
        found, wrong = self.watch.measure(pl_module)
        pl_module.log_dict(found)
        if wrong:
            self.watch.warn(wrong)
            trainer.should_stop = True
