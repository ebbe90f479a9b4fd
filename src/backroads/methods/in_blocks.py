"""What methods have in common that find a network's blocks and teach each from its output."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from backroads.errors import ConfigError, ShapeError, UsageError
from backroads.methods.base import Method
from backroads.methods.blocks import Block, Blocks, Cuts, find_blocks
from backroads.runs.table import aligned

HEAD = "local_head"  # of the first layer of each block
_STATE = "_backroads_blocks"


@dataclasses.dataclass(frozen=True, kw_only=True)
class InBlocks(Method):
    """Find the blocks of a network, and keep what belongs to each of them.

    A subclass says how a block learns: it writes the objective, and may give each block a module of its own
    (:meth:`head`).

    Attributes:
        blocks: names of the modules whose outputs end blocks, with wildcards, as in "layer*.*"; by default, the
            activation modules. See :meth:`plan`.
    """

    blocks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        patterns = (self.blocks,) if isinstance(self.blocks, str) else tuple(self.blocks)
        object.__setattr__(self, "blocks", patterns)

    # --- what a subclass says ---

    def head(self, block: Block, model: torch.nn.Module, found: Blocks, generator: torch.Generator | None) -> Any:
        """A block's loss and what of it learns: a module (h, labels, the block's input) -> scalar; None for none."""
        return None

    def describe(self, block: Block, model: torch.nn.Module, found: Blocks) -> str:
        """A block's loss in words, for the plan. Raises ConfigError or ShapeError for a block that has none."""
        return self.formula()

    def formula(self) -> str:
        """A block's loss in a few words, for the log."""
        raise NotImplementedError

    def describe_output(self) -> str:
        """What teaches the layers after the last block, for the plan."""
        return "the task's loss"

    def before(self, model: torch.nn.Module, found: Blocks) -> set[str]:
        """Names of the activation modules whose input is visited in place of their output; see :class:`Cuts`."""
        return set()

    def received(self, model: torch.nn.Module, found: Blocks) -> set[str] | None:
        """Names of the activation modules of which the method sees what they receive, too; None without any."""
        return None

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
        return BlockPlan(found, losses, self.describe_output())

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
        state = Prepared(model, found, heads, self.before(model, found), self.received(model, found))
        object.__setattr__(model, _STATE, state)
        return model

    def revert(self, model: torch.nn.Module) -> torch.nn.Module:
        """Drop the heads, in place, and return the model. A model that is not prepared is returned as it is."""
        state: Prepared | None = model.__dict__.pop(_STATE, None)
        if state is not None:
            for cuts in (state.cuts, state.received):
                if cuts is not None:
                    cuts.remove()
            for module in model.modules():
                module._modules.pop(HEAD, None)
        return model

    def prepared(self, model: torch.nn.Module) -> Prepared:
        """What :meth:`prepare` noted of a model; raises UsageError if it is not prepared."""
        state: Prepared | None = getattr(model, _STATE, None)
        if state is None:
            raise UsageError(f"{self.name}: the model has no blocks yet; call prepare(model, sample, generator) first")
        return state

    def formulas(self, model: torch.nn.Module) -> dict[str, str]:
        """What teaches each block, under the name of its first layer."""
        return {block.owner: self.formula() for block in self.prepared(model).found.blocks}


@dataclasses.dataclass(frozen=True)
class BlockPlan:
    """What ``prepare`` would do; print it.

    Attributes:
        found: the blocks.
        losses: what teaches each, in words.
        output: what teaches the layers after the last block.
    """

    found: Blocks
    losses: tuple[str, ...]
    output: str = "the task's loss"

    def __str__(self) -> str:
        lines = [("block", "ends at", "learns", "from")]
        for i, (block, loss) in enumerate(zip(self.found.blocks, self.losses, strict=True), start=1):
            end = block.end + (f" (call {block.call + 1})" if block.call else "")
            lines.append((str(i), end, _layers(block.parameters), loss))
        lines.append(("output", "", _layers(self.found.output), self.output))
        if self.found.unused:
            lines.append(("unused", "", _layers(self.found.unused), "no loss reaches it"))
        return "\n".join(aligned(lines))


class Prepared:
    """Of a prepared model: where its blocks end, and their heads.

    Attributes:
        cuts: at the outputs of the blocks.
        received: at what activations that end them receive, for a method that needs both; else None.
    """

    def __init__(
        self, model: torch.nn.Module, found: Blocks, heads: list[Any], before: set[str], received: set[str] | None
    ) -> None:
        self.found, self.heads = found, heads
        ends = [(b.end, b.call) for b in found.blocks]
        self.cuts = Cuts(model, ends, [b.owner for b in found.blocks], before)
        self.received = None if received is None else Cuts(model, ends, before=received)

    def check(self, x: Tensor, y: Tensor) -> None:
        """Raise ShapeError for a batch that does not fit."""
        if x.shape[1:] != self.found.inputs or not len(x):
            raise ShapeError(
                f"x: expected inputs of shape {('N', *self.found.inputs)} with N > 0, got {tuple(x.shape)}"
            )
        if y.shape != x.shape[:1] or y.is_floating_point():
            raise ShapeError(f"y: expected {len(x)} integer labels, got {y.dtype} of shape {tuple(y.shape)}")
        if torch.compiler.is_compiling() or x.is_meta:
            return  # what follows waits for the device, once
        finite, wrong = torch.isfinite(x), (y < 0) | (y >= self.found.classes)
        if finite.all() & ~wrong.any():
            return
        if not finite.all():
            first = tuple((~finite).nonzero()[0].tolist())
            raise ShapeError(f"x: expected finite inputs, got {float(x[first])} at index {first}")
        place = int(wrong.nonzero()[0])
        raise ShapeError(f"y: expected labels from 0 to {self.found.classes - 1}, got {int(y[place])} at index {place}")


def _layers(parameters: tuple[str, ...]) -> str:
    return ", ".join(dict.fromkeys(name.rpartition(".")[0] or name for name in parameters))
