"""One batch through a model, for all metrics at once: activities, errors and gradients of training and of backprop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from backroads.errors import UsageError
from backroads.feedback.conversion.swap import aligned_layers
from backroads.feedback.nn.layer import AlignedLayer

Signals = list[tuple[Tensor, Tensor]]
"""(x, dy) of each use of a layer in a forward pass: its input, and the error that arrived at its output."""


class Probe:
    """A model and a batch. What a metric asks for is computed once, when it is first asked for.

    Each pass leaves the model as it was; see :func:`backroads.metrics.readings`.

    Args:
        model: a converted or prepared model.
        loss: runs the model on the batch and returns the task's loss; None where only weights are read.
        objective: returns what training differentiates; None: the same as ``loss``.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Callable[[], Tensor] | None = None,
        objective: Callable[[], Tensor] | None = None,
    ) -> None:
        self.model = model
        self._loss = loss
        self._objective = objective or loss
        self.layers: dict[str, AlignedLayer] = dict(aligned_layers(model))

    @cached_property
    def weights(self) -> dict[str, tuple[Tensor, Tensor]]:
        """(W, B) of each layer with a B in the layout of W, by dotted name; direct feedback has none."""
        found = {}
        with _random_state_kept(self.model), torch.no_grad():  # a rule may draw B anew
            for name, layer in self.layers.items():
                B = layer.feedback_weight()
                if B is not None:
                    found[name] = _whole(layer.W, name), _whole(B, name)
        return found

    @cached_property
    def _training(self) -> tuple[dict[str, list[list[Tensor]]], dict[str, Tensor]]:
        """Of the pass that training makes: what was recorded of each use of a layer, and gradients by parameter name.

        Of a use: its input, the error of its output, and what carried the error back, where a rule's own backward pass
        did.
        """
        recorded: dict[str, list[list[Tensor]]] = {name: [] for name in self.weights}
        hooks = [self.layers[name].register_forward_hook(_recorder(uses)) for name, uses in recorded.items()]
        try:
            gradients = self._gradients(self._objective)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: uses for name, uses in recorded.items() if uses}, gradients

    @cached_property
    def signals(self) -> dict[str, Signals]:
        """The activities and errors of each layer in :attr:`weights` that the pass used, by dotted name.

        x is as the layer's linear map sees it (padded where the padding is not zeros); both are in W's dtype.
        """
        found = {}
        for name, uses in self._training[0].items():
            layer, dtype = self.layers[name], self.weights[name][0].dtype
            found[name] = [(layer.operand(x.to(dtype)), dy.to(dtype)) for x, dy, *_ in uses]
        return found

    @cached_property
    def errors_back(self) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
        """(F^T dy, W^T dy) of each layer, for the dy that arrived, one entry for each use of the layer.

        F is what carried the error back in this pass: B under most rules.
        """
        found = {}
        for name, signals in self.signals.items():
            (W, B), op = self.weights[name], self.layers[name].operator
            carriers = [use[2].to(W.dtype) if len(use) > 2 else B for use in self._training[0][name]]
            back = [op.pullback(dy, F, x) for (x, dy), F in zip(signals, carriers, strict=True)]
            found[name] = back, [op.pullback(dy, W, x) for x, dy in signals]
        return found

    @cached_property
    def updates(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Gradients by parameter name: those of training, and those of true backpropagation of the task's loss.

        Both hold the parameters that the task's loss reaches; one that training does not reach has zeros. For feedback
        rules, true backpropagation is the same network with B = W in all layers.
        """
        with backprop_mode(self.model):
            true = self._gradients(self._loss)
        own = self._training[1]
        return {name: own.get(name, torch.zeros_like(gradient)) for name, gradient in true.items()}, true

    @cached_property
    def layer_updates(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The same for the weight matrix or kernel of each layer, by dotted name of the layer."""
        own, true = self.updates
        names = {id(p): name for name, p in self.model.named_parameters()}
        found = {}
        for name, module in self.model.named_modules():
            layer = self.layers.get(name)
            key = names.get(id(getattr(module, "weight", None) if layer is None else layer.parameter))
            if key in true and true[key].dim() > 1:
                pair = own[key], true[key]
                found[name] = pair if layer is None else (layer.part(pair[0]), layer.part(pair[1]))
        return found

    def _gradients(self, scalar: Callable[[], Tensor] | None) -> dict[str, Tensor]:
        """The gradients of ``scalar()`` by parameter name, where there is one."""
        if scalar is None:
            raise UsageError("this metric needs a batch; pass a loss, such as lambda: F.cross_entropy(model(x), y)")
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        Ws = [layer.W for layer in self.layers.values()]
        if any(hasattr(W, "full_tensor") or W.dim() < 2 for W in Ws):
            raise UsageError(
                "metrics of a batch need whole weights, and this model is sharded (FSDP, tensor parallel); pass no "
                "loss, which leaves the metrics of weights, or measure a model that is not sharded"
            )
        with undisturbed(self.model), torch.enable_grad():
            value = scalar()
            if not (named and value.requires_grad):
                return {}
            gradients = torch.autograd.grad(value, list(named.values()), allow_unused=True)
        return {name: g for name, g in zip(named, gradients, strict=True) if g is not None}


def _whole(tensor: Tensor, name: str) -> Tensor:
    """A weight as one tensor: gathered from all processes under FSDP2, which all have to ask for it."""
    if hasattr(tensor, "full_tensor"):
        tensor = tensor.full_tensor()
    if tensor.dim() < 2:
        raise UsageError(
            f"{name}: expected a matrix, got a shard of it, as FullyShardedDataParallel keeps; measure on all "
            f"processes inside FullyShardedDataParallel.summon_full_params(model)"
        )
    return tensor.detach()


@contextlib.contextmanager
def backprop_mode(model: torch.nn.Module) -> Iterator[None]:
    """Inside, every converted layer behaves as plain torch: B = W, and nothing is taught to B.

    Example::

        with br.metrics.backprop_mode(model):
            F.cross_entropy(model(x), y).backward()  # true gradients of W, none for B
    """
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
    """Put buffers, the rules' tensors, what rules remember and the random state back at the end."""
    layers = [layer for _, layer in aligned_layers(model)]
    tensors = [*model.buffers(), *(tensor for layer in layers for tensor in layer.state.values())]
    values = [tensor.detach().clone() for tensor in tensors]
    memories = [(layer.memory, dict(vars(layer.memory))) for layer in layers]
    # Rules tell steps apart by torch's counts of changes, which must not move either.
    with torch.autograd.grad_mode._unsafe_preserve_version_counter(tuple(tensors)):
        try:
            with _random_state_kept(model):
                yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(tensors, values, strict=True):
                    tensor.copy_(value)
            for memory, before in memories:
                vars(memory).update(before)


def _random_state_kept(model: torch.nn.Module) -> Any:
    """A context that puts torch's random state back, of the CPU and of the model's GPUs."""
    gpus = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    return torch.random.fork_rng(devices=sorted(index for index in gpus if index is not None))


def _recorder(uses: list[list[Tensor]]) -> Callable[[AlignedLayer, tuple[Any, ...], Tensor], None]:
    """A forward hook that notes the layer's input at each use and the error of its output, once that arrives.

    The layer's own backward pass comes next, and adds what carries that error back.
    """

    def hook(layer: AlignedLayer, args: tuple[Any, ...], output: Tensor) -> None:
        x = args[0].detach()

        def arrived(dy: Tensor) -> None:
            use = [x, dy.detach()]  # one for each backward pass through this use: a method may make several
            uses.append(use)
            layer.memory.carried = use  # until the pass is over, when the memory is put back

        if output.requires_grad:
            # A hook on the tensor, because an in-place activation may overwrite the tensor itself.
            output.register_hook(arrived)

    return hook
