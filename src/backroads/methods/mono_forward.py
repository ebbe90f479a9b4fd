"""Mono-Forward: each layer learns from its own projection of its activities on the classes.

Source: J. Gong, B. Li, W. Abdulla, "Mono-Forward: Backpropagation-Free Algorithm for Efficient Neural Network Training
Harnessing Local Errors", arXiv 2501.09238, 2025.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from backroads.methods.blocks import Block, Blocks
from backroads.methods.blockwise import Blockwise
from backroads.methods.checks import check_number
from backroads.methods.heads import linear, pooling, positions_as_map, refuse_sequence_of_channels


@dataclasses.dataclass(frozen=True)
class MonoForward(Blockwise):
    """Train each block by the cross-entropy of a projection of its activities h on the classes::

        loss = mean cross-entropy(M h, y)

    M belongs to the block, has no bias, and learns with it. The network's output layer is the last block's M, so that
    the network predicts by its own forward pass; those two learn from the task's loss.

    Attributes:
        limit: the most columns of M; larger maps are pooled until they fit.

    The other options are those of :class:`backroads.methods.blockwise.Blockwise`.

    Raises:
        ConfigError: for values out of range.
    """

    name: ClassVar[str] = "mono_forward"
    limit: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "limit", "a number of inputs, 1 or more", least=1, whole=True)

    def find(self, model: torch.nn.Module, sample: Tensor) -> Blocks:
        """The blocks but the last, which learns with the output layer."""
        found = super().find(model, sample)
        last = found.blocks[-1]
        return dataclasses.replace(found, blocks=found.blocks[:-1], output=last.parameters + found.output)

    def describe(self, block: Block, model: torch.nn.Module, found: Blocks) -> str:
        refuse_sequence_of_channels(self.name, block, model)
        return f"{pooling(block.shape, self.limit)} -> {found.classes}"

    def formula(self) -> str:
        return "projection on the classes"

    def head(
        self, block: Block, model: torch.nn.Module, found: Blocks, generator: torch.Generator | None
    ) -> Projection:
        return Projection(block.shape, found.classes, self.limit, generator)


class Projection(torch.nn.Module):
    """A block's M and its loss.

    Args:
        shape: of the block's output for one example.
        classes: rows of M.
        limit: the most columns of M.
        generator: of M, uniform as torch draws the weights of a linear layer.
    """

    def __init__(self, shape: tuple[int, ...], classes: int, limit: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.pooling = pooling(shape, limit)
        self.projection = linear(self.pooling.inputs, classes, generator, bias=False)

    def forward(self, h: Tensor, y: Tensor, x: Tensor | None = None) -> Tensor:
        """The loss, a scalar, for a block's output h and labels y; the block's input is not needed."""
        return F.cross_entropy(self.projection(self.pooling(positions_as_map(h))), y)
