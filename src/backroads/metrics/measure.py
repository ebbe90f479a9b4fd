"""What a batch tells about the way back: angles of projections, errors and of the whole update against backprop."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from backroads.feedback.conversion.swap import aligned_layers, forward_parameters
from backroads.feedback.nn.layers import AlignedLayer
from backroads.metrics.angles import angle, norm_ratio


@dataclasses.dataclass(frozen=True)
class LayerMeasurement:
    """One layer on one batch. Angles in degrees; None where the rule has no B in the layout of W (direct feedback).

    Attributes:
        weight_angle: between W and B.
        projection_angle: between W x and B x.
        gradient_angle: between B^T dy and W^T dy, for the dy that arrived (local: errors of later layers are shared).
        norm_ratio: |B| / |W|.
        gradient_norm_ratio: |B^T dy| / |W^T dy|.
        update_angle: between the layer's dW and that of true backprop.
    """

    weight_angle: float | None
    projection_angle: float | None
    gradient_angle: float | None
    norm_ratio: float | None
    gradient_norm_ratio: float | None
    update_angle: float


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A model on one batch.

    Attributes:
        layers: by dotted name.
        update_angle: between the gradients of all forward parameters, as one vector, and those of true backprop
            (the same network with B = W) on the same batch; degrees.
    """

    layers: dict[str, LayerMeasurement]
    update_angle: float


def measure(model: torch.nn.Module, loss: Callable[[], Tensor]) -> Measurement:
    """Measure a converted model on a batch, with two forward and backward passes, and leave it as it was.

    Buffers (batch norm statistics), the random state, step counters and ``.grad`` are as before afterwards.

    Args:
        model: a converted model.
        loss: runs the model on the batch and returns the task's loss, as in training:
            ``lambda: F.cross_entropy(model(x), y)``.

    Source: the metrics of Kunin et al., ICML 2020; the last is ours.
    """
    layers = dict(aligned_layers(model))
    parameters = [p for p in forward_parameters(model) if p.requires_grad]
    with undisturbed(model):
        seen = {name: _Seen() for name in layers}
        hooks = [layer.register_forward_hook(seen[name].hook) for name, layer in layers.items()]
        try:
            update = _gradients(loss(), parameters)
        finally:
            for hook in hooks:
                hook.remove()
        with torch.random.fork_rng(), torch.no_grad():
            measured = {name: _measure_layer(layer, seen[name]) for name, layer in layers.items()}
    with undisturbed(model), backprop_mode(model):
        true_update = _gradients(loss(), parameters)

    place = {id(p): i for i, p in enumerate(parameters)}
    for name, layer in layers.items():
        i = place.get(id(layer.parameter))
        if i is not None:
            measured[name]["update_angle"] = angle(layer.part(update[i]), layer.part(true_update[i]))
    return Measurement(
        {name: LayerMeasurement(**values) for name, values in measured.items()}, angle(update, true_update)
    )


@contextlib.contextmanager
def backprop_mode(model: torch.nn.Module) -> Iterator[None]:
    """Inside, every converted layer behaves as plain torch: B = W, and nothing is taught to B."""
    layers = [layer for _, layer in aligned_layers(model)]
    for layer in layers:
        layer._as_backprop = True
    try:
        yield
    finally:
        for layer in layers:
            layer._as_backprop = False


@contextlib.contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Put buffers, step counters and the random state back at the end."""
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    clocks = [(layer._clock, dict(vars(layer._clock))) for _, layer in aligned_layers(model)]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for clock, state in clocks:
            vars(clock).update(state)


class _Seen:
    """Inputs and output errors of one layer, over all its uses in a pass."""

    def __init__(self) -> None:
        self.x: list[Tensor] = []
        self.dy: dict[int, Tensor] = {}

    def hook(self, layer: AlignedLayer, args: tuple[Any, ...], output: Tensor) -> None:
        use = len(self.x)
        self.x.append(args[0].detach())
        if output.requires_grad:
            # A hook on the tensor, because an in-place activation may overwrite the tensor itself.
            output.register_hook(lambda dy: self.dy.__setitem__(use, dy.detach()))

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        return [(x, self.dy[use]) for use, x in enumerate(self.x) if use in self.dy]


def _measure_layer(layer: AlignedLayer, seen: _Seen) -> dict[str, Any]:
    W, B, op = layer.weight, layer.feedback_weight(), layer.operator
    measured: dict[str, Any] = dict.fromkeys(f.name for f in dataclasses.fields(LayerMeasurement))
    measured["update_angle"] = 0.0
    if B is None:
        return measured
    W, B = W.detach(), B.detach()
    pairs = [(layer.operand(x.to(W.dtype)), dy.to(W.dtype)) for x, dy in seen.pairs()]
    dx_B = [op.pullback(dy, B, x) for x, dy in pairs]
    dx_W = [op.pullback(dy, W, x) for x, dy in pairs]
    measured.update(
        weight_angle=angle(B, W),
        norm_ratio=norm_ratio(B, W),
        projection_angle=angle([op.project(x, B) for x, _ in pairs], [op.project(x, W) for x, _ in pairs]),
        gradient_angle=angle(dx_B, dx_W),
        gradient_norm_ratio=norm_ratio(dx_B, dx_W),
    )
    return measured


def _gradients(loss: Tensor, parameters: list[torch.nn.Parameter]) -> list[Tensor]:
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
