"""A model among the processes and devices of a run: memory layout, data parallelism, compilation."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from backroads.feedback.conversion.groups import local_gradients
from backroads.runs.runtime import Runtime
from backroads.train.settings import TrainSettings
from backroads.train.sync_batch_norm import convert_batch_norms


def prepare(model: torch.nn.Module, config: TrainSettings, runtime: Runtime) -> torch.nn.Module:
    """Move the model to its device and memory layout, with synchronised batch norms where asked for."""
    if config.run.sync_batch_norm and runtime.world > 1:
        model = convert_batch_norms(model, runtime.device)
    model = model.to(runtime.device)
    if config.run.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def layout(x: Tensor, config: TrainSettings) -> Tensor:
    """The batch in the memory layout of the settings."""
    return x.to(memory_format=torch.channels_last) if config.run.channels_last and x.dim() == 4 else x


def wrap(model: torch.nn.Module, config: TrainSettings, runtime: Runtime) -> Any:
    """The model as the loop calls it: under data parallelism and compiled, where the settings ask for that."""
    wrapped: Any = model
    if runtime.world > 1:
        # Each process makes these gradients from W and B alone: they are equal without being sent.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, local_gradients(model))
        # Statistics are equal if they are synchronised; otherwise the leader's are shared before an evaluation.
        known = inspect.signature(DistributedDataParallel.__init__).parameters
        quiet = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        wrapped = DistributedDataParallel(
            model,
            device_ids=[runtime.device.index] if runtime.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **{quiet: False},  # type: ignore[arg-type]
        )
    return torch.compile(wrapped) if config.run.compile else wrapped
