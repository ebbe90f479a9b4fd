"""What methods have in common that train a network block by block, with no gradient from one block to another."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from backroads.errors import ConfigError, ShapeError, UsageError
from backroads.methods.base import Loss, Method
from backroads.methods.blocks import Block, Blocks, Cuts, Visit, find_blocks
from backroads.runs.table import aligned

HEAD = "local_head"  # of the first layer of each block
_STATE = "_blocks"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blockwise(Method):
    """Train each block of a network by a loss on its output, and the layers after the last block by the task's loss.

    A subclass says what a block's loss is: :meth:`head` returns a module that computes it and learns with the block.

    Attributes:
        blocks: names of the modules whose outputs end blocks, with wildcards, as in "layer*.*"; by default, the
            activation modules. See :meth:`plan`.
        decoupled: take the gradients of each block before the next one runs, so that the activities of one block are
            in memory at a time. The gradients are the same. Compiled, a step is one graph and has no such order.
        detach: False is the control experiment: the losses of all later blocks reach a block, too.
    """

    blocks: tuple[str, ...] = ()
    decoupled: bool = False
    detach: bool = True

    def __post_init__(self) -> None:
        patterns = (self.blocks,) if isinstance(self.blocks, str) else tuple(self.blocks)
        object.__setattr__(self, "blocks", patterns)
        for key in ("decoupled", "detach"):
            if not isinstance(value := getattr(self, key), bool):
                raise ConfigError(f"{self.name}: {key}: expected true or false, got {value!r}")
        if self.decoupled and not self.detach:
            raise ConfigError(
                f"{self.name}: expected detach=True where decoupled=True, got False; leave out one of them"
            )

    # --- what a subclass says ---

    def head(self, block: Block, model: torch.nn.Module, found: Blocks, generator: torch.Generator | None) -> Any:
        """A block's loss and what of it learns: a module (h, labels, the block's input) -> scalar; None for none."""
        return None

    def describe(self, block: Block, model: torch.nn.Module, found: Blocks) -> str:
        """A block's loss in words, for the plan. Raises ConfigError or ShapeError for a block that has none."""
        raise NotImplementedError

    def formula(self) -> str:
        """A block's loss in a few words, for the log."""
        raise NotImplementedError

    @property
    def task_weight(self) -> float:
        """Weight of the task's loss, which teaches the layers after the last block."""
        return 1.0

    def find(self, model: torch.nn.Module, sample: Tensor) -> Blocks:
        """The blocks of a model; raises as :meth:`plan`."""
        return find_blocks(model, sample, self.blocks)

    # --- what is the same for all ---

    def plan(self, model: torch.nn.Module, sample: Tensor) -> BlockPlan:
        """The blocks of a model and what teaches each; print it. A copy of the model is run on the sample.

        Args:
            model: any model from (n, ...) to (n, classes). Outputs of blocks may be (n, features), maps (n, channels,
                height, width) or sequences (n, positions, features).
            sample: a few inputs, (n, ...).

        Raises:
            ConfigError: no block can be found, a connection passes the end of a block by, or one class only.
            ShapeError: for a sample that does not fit, or an output of a block of another shape.
        """
        found = self.find(model, sample)
        if found.classes < 2:
            raise ConfigError(f"{self.name}: expected a model with two outputs or more, one a class, got 1")
        for block in found.blocks:
            if not 1 <= len(block.shape) <= 3:
                raise ShapeError(
                    f"{self.name}: expected the output of {block.end} to be (n, features), (n, positions, features) "
                    f"or (n, channels, height, width), got {('n', *block.shape)}"
                )
        losses = tuple(self.describe(block, model, found) for block in found.blocks)
        return BlockPlan(found, losses)

    def prepare(
        self, model: torch.nn.Module, sample: Tensor, generator: torch.Generator | int | None
    ) -> torch.nn.Module:
        """Add a head to the first layer of each block, in place, and return the model. Its own weights stay.

        Outside of training and prediction by the method, the model computes what it did before.

        Args:
            model, sample: as for :meth:`plan`, on the same device; inputs later on have the shape of the sample's.
            generator: CPU generator or seed of the heads' weights; None is torch's global generator.

        Raises:
            ConfigError, ShapeError: as :meth:`plan`, or if the model is prepared already; it is then untouched.
        """
        if hasattr(model, _STATE):
            raise ConfigError(f"{self.name}: the model is cut into blocks already; call revert(model) first")
        found = self.plan(model, sample).found
        if isinstance(generator, int):
            generator = torch.Generator().manual_seed(generator)
        heads = [self.head(block, model, found, generator) for block in found.blocks]
        for head, block in zip(heads, found.blocks, strict=True):
            if head is not None:
                owner = model.get_submodule(block.owner)
                weight = next(p for p in owner.parameters(recurse=False))
                owner.add_module(HEAD, head.to(device=weight.device, dtype=weight.dtype))
        object.__setattr__(model, _STATE, Prepared(model, found, heads))
        return model

    def revert(self, model: torch.nn.Module) -> torch.nn.Module:
        """Drop the heads, in place, and return the model. A model that is not prepared is returned as it is."""
        state: Prepared | None = model.__dict__.pop(_STATE, None)
        if state is not None:
            state.cuts.remove()
            for module in model.modules():
                module._modules.pop(HEAD, None)
        return model

    def prepared(self, model: torch.nn.Module) -> Prepared:
        """What :meth:`prepare` noted of a model; raises UsageError if it is not prepared."""
        state: Prepared | None = getattr(model, _STATE, None)
        if state is None:
            raise UsageError(f"{self.name}: the model has no blocks yet; call prepare(model, sample, generator) first")
        return state

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

    def formulas(self, model: torch.nn.Module) -> dict[str, str]:
        """What teaches each block, under the name of its first layer."""
        return {block.owner: self.formula() for block in self.prepared(model).found.blocks}


@dataclasses.dataclass(frozen=True)
class BlockPlan:
    """What ``prepare`` would do; print it.

    Attributes:
        found: the blocks.
        losses: what teaches each, in words.
    """

    found: Blocks
    losses: tuple[str, ...]

    def __str__(self) -> str:
        lines = [("block", "ends at", "learns", "from")]
        for i, (block, loss) in enumerate(zip(self.found.blocks, self.losses, strict=True), start=1):
            end = block.end + (f" (call {block.call + 1})" if block.call else "")
            lines.append((str(i), end, _layers(block.parameters), loss))
        lines.append(("output", "", _layers(self.found.output), "the task's loss"))
        if self.found.unused:
            lines.append(("unused", "", _layers(self.found.unused), "no loss reaches it"))
        return "\n".join(aligned(lines))


class Prepared:
    """Of a prepared model: where its blocks end, and their heads."""

    def __init__(self, model: torch.nn.Module, found: Blocks, heads: list[Any]) -> None:
        self.found, self.heads = found, heads
        self.cuts = Cuts(model, [(b.end, b.call) for b in found.blocks], [b.owner for b in found.blocks])

    def check(self, x: Tensor, y: Tensor) -> None:
        """Raise ShapeError for a batch that does not fit."""
        if x.shape[1:] != self.found.inputs or not len(x):
            raise ShapeError(
                f"x: expected inputs of shape {('N', *self.found.inputs)} with N > 0, got {tuple(x.shape)}"
            )
        if y.shape != x.shape[:1] or y.is_floating_point():
            raise ShapeError(f"y: expected {len(x)} integer labels, got {y.dtype} of shape {tuple(y.shape)}")
        if torch.compiler.is_compiling():
            return  # what follows waits for the device
        if not (finite := torch.isfinite(x)).all():
            first = tuple((~finite).nonzero()[0].tolist())
            raise ShapeError(f"x: expected finite inputs, got {float(x[first])} at index {first}")
        wrong = (y < 0) | (y >= self.found.classes)
        if wrong.any():
            place = int(wrong.nonzero()[0])
            raise ShapeError(
                f"y: expected labels from 0 to {self.found.classes - 1}, got {int(y[place])} at index {place}"
            )


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

    def visit(self, loss: Visit, after: Visit | None = None) -> Visit:
        """A visit that adds ``loss(block, h)`` and cuts the graph of h; ``after(block, h)`` is what comes next."""

        def visit(index: int, h: Tensor) -> Tensor:
            self._add(index, loss(index, h))
            h = h.detach() if self._method.detach else h
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


def _layers(parameters: tuple[str, ...]) -> str:
    return ", ".join(dict.fromkeys(name.rpartition(".")[0] or name for name in parameters))
