"""How the error of a network's output reaches each layer under direct feedback alignment.

Every such layer makes a carrier: zeros in the shape of the network's output. The root adds all carriers to its
output, which changes nothing forward; backward, ordinary differentiation gives each carrier, and so each layer, the
error of the output. No state passes between layers outside the graph, so data parallelism, function transforms and
double backward need nothing special.
"""

from __future__ import annotations

import copy
import dataclasses
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
    if not _carriers and torch._C._current_graph_task_id() != -1:  # within a backward pass the root has long ended
        raise UsageError(
            "direct feedback alignment: torch.utils.checkpoint with use_reentrant=True keeps the error of the "
            "network's output from the layers inside; call checkpoint(..., use_reentrant=False)"
        )
    if not _carriers:
        raise UsageError(
            "direct feedback alignment needs the error of the network's output, and this layer runs outside a "
            "network that sends it; convert the whole model with br.convert, or call "
            "br.nn.broadcast_error(network) on the module whose output the loss reads"
        )
    _carriers[-1].append(carrier)
    return output


def broadcast_error(root: torch.nn.Module, output: torch.nn.Module | None = None) -> list[Any]:
    """Make ``root`` send the error of its output to the layers inside it that use direct feedback.

    Args:
        root: whose forward pass holds those of the layers.
        output: the module in ``root`` that gives the network's output, where ``root`` itself goes on to something else,
            such as a loss; it has to come after all layers that use direct feedback. None: ``root``.

    The output must be a (N, K) tensor, or hold one (tuple, list, dict, dataclass): the first of that shape is taken.

    Returns:
        The hooks' handles, to remove them again.
    """
    handles = [root.register_forward_pre_hook(_open)]
    if output is not None and output is not root:
        handles.append(output.register_forward_hook(_send))
        # always_call: a forward pass that raises must not leave its carriers to the next one.
        handles.append(root.register_forward_hook(_check_sent, always_call=True))
    else:
        handles.append(root.register_forward_hook(_close, always_call=True))
    return handles


def _open(root: torch.nn.Module, args: Any) -> None:
    _carriers.append([])


def _close(root: torch.nn.Module, args: Any, output: Any) -> Any:
    made = _carriers.pop()
    if not made or output is None:
        return output
    for _, part in _parts(output):
        if isinstance(part, Tensor) and part.dim() == 0 and part.requires_grad:
            part.register_hook(_refuse_inner_loss)
    return _with_error(output, made)


def _refuse_inner_loss(gradient: Tensor) -> None:
    """On a loss that the network made before its output got the carriers: its error would reach none of the layers."""
    raise UsageError(
        "direct feedback alignment: this loss was computed within the model's forward pass, and its error reaches no "
        "layer; compute the loss from the model's output, or name the module that gives the output: "
        "br.convert(model, rule, output='classifier')"
    )


def _send(module: torch.nn.Module, args: Any, output: Any) -> Any:
    if not _carriers or not _carriers[-1]:
        return output
    made = list(_carriers[-1])
    _carriers[-1].clear()
    return _with_error(output, made)


def _check_sent(root: torch.nn.Module, args: Any, output: Any) -> None:
    made = _carriers.pop()
    if made and output is not None:
        raise UsageError(
            f"direct feedback alignment: {len(made)} layers ran and the module named as output did not run after them; "
            f"name the module whose output the loss reads: br.convert(model, rule, output='classifier')"
        )


def _with_error(output: Any, made: list[Tensor]) -> Any:
    """The output with all carriers added to it."""
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


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """(key, part) of what a dict, tuple, list or dataclass holds."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return []


def _add_to_first(value: Any, total: Tensor) -> tuple[Any, bool]:
    """Add ``total`` to the first tensor of its shape in an output; whether there was one."""
    if isinstance(value, Tensor):
        return (value + total, True) if value.shape == total.shape else (value, False)
    for key, part in _parts(value):
        part, found = _add_to_first(part, total)
        if found:
            return _with_part(value, key, part), True
    return value, False


def _with_part(value: Any, key: Any, part: Any) -> Any:
    """``value`` with another part; a dict is changed in place."""
    if isinstance(value, dict):
        value[key] = part
        return value
    if isinstance(value, tuple | list):
        parts = [*value[:key], part, *value[key + 1 :]]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    value = copy.copy(value)
    object.__setattr__(value, key, part)  # also where it is frozen
    return value
