"""How the error of a network's output reaches each layer under direct feedback alignment.

Every such layer makes a carrier: zeros in the shape of the network's output. The root adds all carriers to its
output, which changes nothing forward; backward, ordinary differentiation gives each carrier, and so each layer, the
error of the output. No state passes between layers outside the graph, so data parallelism, function transforms and
double backward need nothing special.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backroads.errors import UsageError
from backroads.feedback.functional.layer import recomputing

_carriers: list[list[Tensor]] = []  # for each root whose forward pass runs, innermost last: those made since it began


def attach_carrier(output: Tensor, carrier: Tensor) -> Tensor:
    """Hand the carrier of a layer's output to the root, and return the output."""
    if not torch.is_grad_enabled() or recomputing():
        return output
    if not _carriers:
        raise UsageError(
            "direct feedback alignment needs the error of the network's output, and this layer runs outside a "
            "network that sends it; convert the whole model with br.convert, or call "
            "br.nn.broadcast_error(network) on the module whose output the loss reads"
        )
    _carriers[-1].append(carrier)
    return output


def broadcast_error(root: torch.nn.Module) -> list[Any]:
    """Make ``root`` send the error of its output to the layers inside it that use direct feedback.

    The output must be a (N, K) tensor, or hold one (tuple, list, dict): the first of that shape is taken.

    Returns:
        The hooks' handles, to remove them again.
    """
    # always_call: a forward pass that raises must not leave its carriers to the next one.
    return [
        root.register_forward_pre_hook(_open),
        root.register_forward_hook(_close, always_call=True),
    ]


def _open(root: torch.nn.Module, args: Any) -> None:
    _carriers.append([])


def _close(root: torch.nn.Module, args: Any, output: Any) -> Any:
    made = _carriers.pop()
    if not made or output is None:
        return output
    for carrier in made:
        if carrier.shape != made[0].shape:
            raise UsageError(
                f"direct feedback alignment: expected every layer to see the batch of the network's output, got "
                f"{carrier.shape[0]} and {made[0].shape[0]} rows; use another rule for layers of a flattened batch"
            )
    output, found = _add_to_first(output, sum(made[1:], start=made[0]))
    if not found:
        shape = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__} without one"
        raise UsageError(
            f"direct feedback alignment: expected an output with a tensor of shape {tuple(made[0].shape)} (N, K), "
            f"got {shape}; set outputs=K in the rule, or use another rule for this model"
        )
    return output


def _add_to_first(value: Any, total: Tensor) -> tuple[Any, bool]:
    """Add ``total`` to the first tensor of its shape in a tensor, dict, tuple or list; whether there was one."""
    if isinstance(value, Tensor):
        return (value + total, True) if value.shape == total.shape else (value, False)
    if isinstance(value, dict):
        for key, part in value.items():
            part, found = _add_to_first(part, total)
            if found:
                value[key] = part
                return value, True
    if isinstance(value, tuple | list):
        for place, part in enumerate(value):
            part, found = _add_to_first(part, total)
            if found:
                parts = [*value[:place], part, *value[place + 1 :]]
                return (type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)), True
    return value, False
