"""What methods share that run a network more than once in a step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from backroads.errors import ConfigError
from backroads.methods.base import Loss

OUTPUTS = ("task", "squared")
"""What the cost of the network's output can be."""


def output_cost(kind: str, output: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """The cost of the output, summed up over the examples.

    Args:
        kind: "task": the task's loss. "squared": 1/2 |output - one-hot label|^2.
        output: (N, K). y: labels, (N,). loss: of the task, a mean over examples.
    """
    if kind == "task":
        return len(y) * loss(output, y)
    full = output.to(torch.promote_types(output.dtype, torch.float32))
    return 0.5 * (full - F.one_hot(y, output.shape[1])).square().sum()


def leaf(h: Tensor) -> Tensor:
    """A copy of h without its graph, in float32 or better, that gradients are taken in."""
    return h.detach().to(torch.promote_types(h.dtype, torch.float32)).requires_grad_()


@contextlib.contextmanager
def still_statistics(model: torch.nn.Module) -> Iterator[None]:
    """Inside, batch norms normalise as before and leave their running statistics as they are."""
    kept = []
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.num_batches_tracked is not None:
            kept.append((module, module.momentum, module.num_batches_tracked, module.num_batches_tracked.clone()))
            module.momentum = 0.0
    try:
        yield
    finally:
        for module, momentum, counted, count in kept:
            module.momentum = momentum
            counted.copy_(count)


def refuse_dropout(method: str, model: torch.nn.Module, otherwise: str) -> None:
    """Raise ConfigError for a model with dropout, which a method that runs it more than once a step cannot take."""
    for name, module in model.named_modules():
        if isinstance(module, _DropoutNd) and module.p:
            raise ConfigError(
                f"{method}: expected a network without dropout, which would be another one in each pass, "
                f"got {name} with p = {module.p}; set it to 0, {otherwise}"
            )
