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


class _Carriers:
    """The carriers made since the innermost root's forward pass began."""

    def __init__(self) -> None:
        self._open: list[list[Tensor]] = []

    def open(self) -> None:
        self._open.append([])

    def close(self) -> list[Tensor]:
        return self._open.pop()

    def attach(self, made: tuple[Tensor, Tensor]) -> Tensor:
        """Hand the carrier of ``made = (output, carrier)`` to the root, and return the output."""
        output, carrier = made
        if not torch.is_grad_enabled():
            return output
        if not self._open:
            raise UsageError(
                "direct feedback alignment needs the error of the network's output, and this layer runs outside a "
                "network that sends it; convert the whole model with br.convert, or call "
                "br.nn.broadcast_error(network) on the module whose output the loss reads"
            )
        self._open[-1].append(carrier)
        return output


carriers = _Carriers()


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
    carriers.open()


def _close(root: torch.nn.Module, args: Any, output: Any) -> Any:
    made = carriers.close()
    if not made or output is None:
        return output
    total = sum(made[1:], start=made[0])
    if isinstance(output, Tensor):
        return output + _fitting(output, total)
    if isinstance(output, dict):
        key = next((k for k, v in output.items() if _fits(v, total)), None)
        if key is not None:
            output[key] = output[key] + total
            return output
    if isinstance(output, tuple | list):
        place = next((i for i, v in enumerate(output) if _fits(v, total)), None)
        if place is not None:
            parts = [v + total if i == place else v for i, v in enumerate(output)]
            return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    raise UsageError(
        f"direct feedback alignment: expected an output with a tensor of shape {tuple(total.shape)}, got a "
        f"{type(output).__name__} without one; set outputs=K in the rule, or use another rule for this model"
    )


def _fits(value: Any, total: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == total.shape


def _fitting(output: Tensor, total: Tensor) -> Tensor:
    if output.shape != total.shape:
        raise UsageError(
            f"direct feedback alignment: expected an output of shape {tuple(total.shape)} (N, K), got "
            f"{tuple(output.shape)}; set outputs=K in the rule, or use another rule for this model"
        )
    return total
