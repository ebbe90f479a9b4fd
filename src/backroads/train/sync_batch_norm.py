"""Batch norm with statistics over all processes, on any device.

torch's own SyncBatchNorm runs on accelerators only; on a CPU (two gloo processes of a laptop or a test) this one does
the same with a differentiable all-reduce.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


class _Sum(torch.autograd.Function):
    """The sum of a tensor over processes. Each one's loss depends on it: the gradients are summed, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> Tensor:
        dx = dx.clone()
        dist.all_reduce(dx)
        return dx


def _sum(x: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total


class SyncBatchNorm(_BatchNorm):
    """Batch norm over (N, C, ...) whose mean and variance are those of all processes' batches together."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise by mean and variance over all processes while training, as usual otherwise."""
        if not self.training or not self.track_running_stats or dist.get_world_size() == 1:
            return super().forward(input)
        x = input.float()
        dims = [d for d in range(x.dim()) if d != 1]
        count = x.new_full((1,), float(x.numel() // x.shape[1]))
        shape = (1, x.shape[1], *(1,) * (x.dim() - 2))
        total = _sum(torch.cat([x.sum(dims), count]))
        n = total[-1].detach()
        mean = total[:-1] / n
        centred = x - mean.view(shape)
        var = _sum(centred.square().sum(dims)) / n
        self._track(mean.detach(), var.detach() * n / (n - 1).clamp(min=1))
        y = centred * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        out: Tensor = y.to(input.dtype)
        return out

    def _track(self, mean: Tensor, var: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(var.to(self.running_var.dtype), rate)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""


def convert_batch_norms(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Let every batch norm of ``model`` use the statistics of all processes; returns the model."""
    if device.type != "cpu":
        return torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-any-return]
    for module in model.modules():
        # A new class over the same object, so that names, buffers and hooks stay.
        if type(module) in (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d):
            module.__class__ = SyncBatchNorm
    return model
