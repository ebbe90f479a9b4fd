"""A callback for the Trainer of transformers, and backward weights out of a folder of ``save_pretrained``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from backroads.contrib.watch import Watch
from backroads.errors import StateError
from backroads.extras import extra_named, prepare_torchvision
from backroads.feedback.conversion import aligned_layers
from backroads.feedback.nn.layer import MEMORY_KEY

with extra_named("backroads.contrib.huggingface"):
    prepare_torchvision()
    from transformers import TrainerCallback


class FeedbackCallback(TrainerCallback):
    """Logs the angles and norms of B, and stops a training whose B leaves a sane range.

    Measured are the metrics that read weights alone, such as "weight_angle/LAYER" and "norm_ratio/LAYER". Each
    measurement is an entry of ``trainer.state.log_history``, which ``trainer_state.json`` keeps. Gradients of B are
    right as they come in all but two cases, in which their factor is set: a loss scaler (fp16), and accumulation in a
    compiled or FSDP model.

    Args:
        every: optimiser steps between two measurements, >= 1.
        largest: > 1; training stops where a layer's norm of B over that of W is above this, below its inverse, or not
            finite.

    Raises:
        UsageError: for other numbers.
        ConversionError: when training starts, for a model without converted layers.

    Example::

        Trainer(model, arguments, callbacks=[FeedbackCallback(every=100)], ...)
    """

    def __init__(self, every: int = 50, largest: float = 1e3) -> None:
        self.watch = Watch(every, largest)

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.watch.start(more["model"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        scaler = getattr(more.get("optimizer"), "scaler", None)
        self.watch.scale(more["model"], args.gradient_accumulation_steps, scaler, compiled=args.torch_compile)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step % self.watch.every:
            return
        found, wrong = self.watch.measure(more["model"])
        state.log_history.append({**found, "step": state.global_step})
        if wrong:
            self.watch.warn(wrong)
            control.should_training_stop = True


def load_backward_weights(model: torch.nn.Module, folder: str | Path) -> None:
    """Load B, and whatever else the rules keep, from a folder that ``model.save_pretrained`` has written.

    ``from_pretrained`` makes a plain model and drops B; convert that one, and then call this.

    Args:
        model: converted with the rules that it was saved with.
        folder: with ``model.safetensors``, or its parts and ``model.safetensors.index.json``.

    Raises:
        StateError: a folder without these files, a tensor that is missing or of another shape; nothing is loaded then.

    Example::

        model = br.convert(GPT2LMHeadModel.from_pretrained(folder), rule)
        load_backward_weights(model, folder)
    """
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    files = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    own = model.state_dict()
    names = [f"{name}.{key}" for name, layer in aligned_layers(model) for key in (*layer.state_names, MEMORY_KEY)]
    wanted = {name: own[name] for name in names if name in own}
    found: dict[str, Tensor] = {}
    for file in sorted(files):
        path = folder / Path(file).name
        if not path.exists():
            raise StateError(f"{folder}: expected {path.name}, as save_pretrained writes it, and it is not there")
        with safe_open(path, "pt") as tensors:
            found |= {key: tensors.get_tensor(key) for key in tensors.keys() if key in wanted}  # noqa: SIM118
    missing = [key for key in wanted if key not in found]
    if missing:
        raise StateError(
            f"{folder}: it has no {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}; it was saved from a "
            f"plain model, or under other rules"
        )
    for key, value in found.items():
        if value.shape != wanted[key].shape:
            raise StateError(
                f"{folder}: {key} has shape {tuple(value.shape)}, the model needs {tuple(wanted[key].shape)}"
            )
    model.load_state_dict(found, strict=False)
