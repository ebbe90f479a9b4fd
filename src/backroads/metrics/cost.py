"""What a training step costs under a rule: counted on tensors without storage, so that large models cost nothing."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from backroads.feedback.conversion import aligned_layers, backward_parameters, convert, forward_parameters
from backroads.feedback.conversion.plan import Rules


@dataclasses.dataclass(frozen=True)
class Cost:
    """A step of training on one batch, in one process.

    Attributes:
        forward_flops, backward_flops: floating point operations of matrix products and convolutions (a multiplication
            and an addition are two); what is elementwise is not counted.
        parameters: numbers that the task teaches.
        backward_parameters: numbers that rules keep, learned or fixed: B, or what stands for it.
        weight_bytes, gradient_bytes: of both.
        activation_bytes: kept from the forward to the backward pass; an upper bound where a rule keeps outputs that
            another module keeps, too.
    """

    forward_flops: int
    backward_flops: int
    parameters: int
    backward_parameters: int
    weight_bytes: int
    gradient_bytes: int
    activation_bytes: int

    @property
    def flops(self) -> int:
        """Of the whole step."""
        return self.forward_flops + self.backward_flops


def cost(model: torch.nn.Module, rules: Rules | None, shape: tuple[int, ...], batch_size: int) -> Cost:
    """Count what a training step of ``model`` costs under ``rules``; the model itself is not touched.

    Of a rule that perturbs some steps and not others, a step that it perturbs is counted.

    Args:
        model: not converted; on any device.
        rules: as for :func:`backroads.convert`; None for plain torch.
        shape: of one example, as (C, H, W).
        batch_size: examples a step.

    Raises:
        ConversionError, RuleError: as :func:`backroads.convert`.
    """
    model = copy.deepcopy(model).to("meta").train()
    if rules is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the plan tells what is left on backprop
            convert(model, rules)
    x = torch.empty(batch_size, *shape, device="meta")
    kept: dict[int, int] = {}
    own = {p.untyped_storage()._cdata for p in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    outputs = 0

    def count_output(layer: torch.nn.Module, args: Any, output: Tensor) -> None:
        nonlocal outputs
        outputs += output.nbytes

    hooks = [
        layer.register_forward_hook(count_output)
        for _, layer in aligned_layers(model)
        if "output" in layer.rule.reads(state_learns=True, weight_learns=True)
    ]
    forward, backward = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with forward, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = _first_tensor(model(x)).float().sum()
    with backward:
        loss.backward()
    for hook in hooks:
        hook.remove()
    state = {tensor for _, layer in aligned_layers(model) for tensor in layer.state.values()}
    W, learned = forward_parameters(model), backward_parameters(model)
    return Cost(
        forward_flops=forward.get_total_flops(),
        backward_flops=backward.get_total_flops(),
        parameters=sum(p.numel() for p in W),
        backward_parameters=sum(tensor.numel() for tensor in state),
        weight_bytes=sum(p.nbytes for p in [*W, *state]),
        gradient_bytes=sum(p.nbytes for p in [*W, *learned] if p.requires_grad),
        activation_bytes=sum(kept.values()) + outputs,
    )


def _first_tensor(output: Any) -> Tensor:
    """The tensor of an output, or the first one in it."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, dict) else output
    return _first_tensor(next(iter(values)))
