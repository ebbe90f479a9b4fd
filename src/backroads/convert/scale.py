"""The alignment gradient's own factor: gradient accumulation, loss scaling, alternating steps."""

from __future__ import annotations

import math
from types import TracebackType

import torch

from backroads.convert.swap import aligned_layers
from backroads.errors import ConversionError, UsageError


class alignment_scale:
    """Multiply the alignment gradients of all layers of ``model`` by ``scale`` in the forward passes from now on.

    The alignment gradient does not depend on the task's loss, so scaling the loss does not scale it:

    - gradient accumulation over k backward passes sums k alignment gradients: use 1/k;
    - a loss scaler for fp16 divides all gradients by its scale afterwards: use that scale;
    - 0 switches the alignment off for a step (gradients of B are then 0, so data parallelism stays in step).

    The scale is read in the forward pass and stays until set again; in a ``with`` statement, until its end::

        with br.alignment_scale(model, 1 / k):
            for x, y in micro_batches:
                (loss(model(x), y) / k).backward()

    Args:
        scale: finite and >= 0.

    Raises:
        UsageError: for another scale. ConversionError: for a model without converted layers.
    """

    def __init__(self, model: torch.nn.Module, scale: float) -> None:
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale) or scale < 0:
            raise UsageError(f"alignment_scale: expected a finite number >= 0, got {scale!r}")
        self._layers = [layer for _, layer in aligned_layers(model)]
        if not self._layers:
            raise ConversionError("alignment_scale: the model has no converted layers; call br.convert(model, rule)")
        self._before = [layer.alignment_scale for layer in self._layers]
        for layer in self._layers:
            layer.alignment_scale = float(scale)

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for layer, scale in zip(self._layers, self._before, strict=True):
            layer.alignment_scale = scale
