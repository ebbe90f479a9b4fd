"""Changing how strongly B is taught while training: the alignment gradient's factor, and the coefficients."""

from __future__ import annotations

import math
from types import TracebackType

import torch

from backroads.errors import ConversionError, UsageError
from backroads.feedback.conversion.swap import aligned_layers


class alignment_scale:
    """Multiply the gradients that the rules give their own weights by ``scale`` in the forward passes from now on.

    Not needed for ordinary training: without it these gradients are the mean over all uses of a layer in a step, be it
    the steps of time of a recurrent network or the parts of a batch whose gradients are accumulated. They do not depend
    on the task's loss, so scaling the loss does not scale them:

    - a loss scaler for fp16 divides all gradients by its scale afterwards: use that scale;
    - under ``torch.compile`` and FSDP passes are not counted: for k accumulated passes use 1/k;
    - 0 switches the teaching off for a step (what is left of B's gradient is the tied one of Kolen-Pollack, or zeros,
      so that data parallelism stays in step).

    Once it is set, gradients of accumulated passes add up, each times its scale; the uses within one pass are still
    averaged. The scale is read in the forward pass and stays until set again; in a ``with`` statement, until its end::

        with br.alignment_scale(model, 1 / k):
            for x, y in micro_batches:
                (loss(model(x), y) / k).backward()

    Args:
        scale: finite and >= 0.

    Raises:
        UsageError: for another scale.
        ConversionError: for a model without converted layers.
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


def set_coefficients(model: torch.nn.Module, **coefficients: float) -> None:
    """Change coefficients of the rules of all layers, as a schedule does between steps.

    Args:
        model: a converted model; layers whose rule has no coefficients are left alone.
        coefficients: new values by name (decay, amp, null, sparse, self_ for a sum of primitives); the others stay.

    Raises:
        RuleError: for an unknown name or a value that makes no sense; nothing is changed then.
        ConversionError: if no layer has a rule with coefficients.

    Example, with a :class:`backroads.CoefficientSchedule` called before every step::

        br.set_coefficients(model, amp=schedule(step))
    """
    layers = [layer for _, layer in aligned_layers(model) if layer.rule.coefficients]
    if not layers:
        raise ConversionError("set_coefficients: no layer of the model has a rule with coefficients; call br.convert")
    changes = {"self_" if name == "self" else name: value for name, value in coefficients.items()}
    rules = [layer.rule.with_coefficients(**changes) for layer in layers]
    for layer, rule in zip(layers, rules, strict=True):
        layer.rule = rule
