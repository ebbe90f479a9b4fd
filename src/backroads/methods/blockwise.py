"""What methods have in common that train a network block by block, with no gradient from one block to another."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from backroads.errors import ConfigError
from backroads.methods.base import Loss
from backroads.methods.blocks import ACTIVATIONS, Visit
from backroads.methods.checks import check_flags
from backroads.methods.in_blocks import InBlocks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blockwise(InBlocks):
    """Train each block of a network by a loss on its output, and the layers after the last block by the task's loss.

    A subclass says what a block's loss is: :meth:`head` returns a module that computes it and learns with the block.

    Attributes:
        blocks: names of the modules whose outputs end blocks, with wildcards, as in "layer*.*"; by default, the
            activation modules. See :meth:`plan`.
        decoupled: take the gradients of each block before the next one runs, so that the activities of one block are
            in memory at a time. The gradients are the same. Compiled, a step is one graph and has no such order.
        detach: False is the control experiment: the losses of all later blocks reach a block, too.
    """

    decoupled: bool = False
    detach: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags(self, "decoupled", "detach")
        if self.decoupled and not self.detach:
            raise ConfigError(
                f"{self.name}: expected detach=True where decoupled=True, got False; leave out one of them"
            )

    @property
    def task_weight(self) -> float:
        """Weight of the task's loss, which teaches the layers after the last block."""
        return 1.0

    def objective(self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The sum of all local losses and of the task's loss, and the output of the network, detached.

        As no gradient passes between blocks, one backward pass and one optimiser give what block-wise updates give.

        Args:
            model: prepared.
            x: inputs, (N, ...).
            y: labels, (N,), integers from 0.
            loss: of the task.

        Raises:
            ShapeError: for inputs that are not finite, and for inputs or labels that do not fit. Nothing has been
                changed then.
            UsageError: if the model is not prepared.
        """
        state = self.prepared(model)
        state.check(x, y)
        local = LocalLosses(self, model)
        inputs = state.cuts.inputs
        with state.cuts.visiting(local.visit(lambda block, h: state.heads[block](h, y, inputs.get(block)))):
            output = model(x)
        return local.total() + self.task_weight * loss(output, y), output.detach()


class LocalLosses:
    """Collects the losses of the blocks during a forward pass.

    Args:
        method: says whether gradients stop between blocks, and whether those of each loss are taken at once.
        model: prepared by it.
    """

    def __init__(self, method: Blockwise, model: torch.nn.Module) -> None:
        self._method, self._model, self._state = method, model, method.prepared(model)
        self._at_once = method.decoupled and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        self._losses: list[Tensor] = []
        # What comes after a block that does not end at its activation may be one that works in place.
        ends = [model.get_submodule(block.end) for block in self._state.found.blocks]
        self._copied = [not isinstance(end, ACTIVATIONS) for end in ends]

    def visit(self, loss: Visit, after: Visit | None = None) -> Visit:
        """A visit that adds ``loss(block, h)`` and cuts the graph of h; ``after(block, h)`` is what comes next."""

        def visit(index: int, h: Tensor) -> Tensor:
            self._add(index, loss(index, h))
            if self._method.detach:
                h = h.detach().clone() if self._copied[index] else h.detach()
            return h if after is None else after(index, h)

        return visit

    def _add(self, index: int, loss: Tensor) -> None:
        if not self._at_once:
            self._losses.append(loss)
            return
        block, head = self._state.found.blocks[index], self._state.heads[index]
        parameters = [self._model.get_parameter(name) for name in block.parameters]
        parameters = [p for p in (*parameters, *(head.parameters() if head is not None else ())) if p.requires_grad]
        with torch.autocast(loss.device.type, enabled=False):
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        delivered: Tensor = _Deliver.apply(loss.detach(), gradients, *parameters)  # type: ignore[no-untyped-call]
        self._losses.append(delivered)

    def total(self) -> Tensor:
        """The sum of the losses, whose backward pass leaves all gradients; 0 without blocks."""
        return torch.stack(self._losses).sum() if self._losses else torch.zeros(())


class _Deliver(torch.autograd.Function):
    """A loss with gradients that are known already: its backward pass hands them to the parameters."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: tuple[Tensor | None, ...], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> Any:
        return None, None, *(None if g is None else g * scale.to(g.dtype) for g in ctx.gradients)
