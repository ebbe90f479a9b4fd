"""Difference target propagation: learned inverses of the blocks carry targets back instead of errors.

Sources: D.-H. Lee, S. Zhang, A. Fischer, Y. Bengio, "Difference Target Propagation", ECML 2015, arXiv 1412.7525; for
the difference reconstruction loss, A. Meulemans, F. S. Carzaniga, J. A. K. Suykens, J. Sacramento, B. F. Grewe,
"A Theoretical Framework for Target Propagation", NeurIPS 2020, arXiv 2006.14331.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from backroads.errors import ConfigError
from backroads.methods.base import Loss
from backroads.methods.blocks import ACTIVATIONS, Block, Blocks
from backroads.methods.checks import check_choice, check_number
from backroads.methods.heads import decoder
from backroads.methods.in_blocks import InBlocks
from backroads.methods.inference import leaf, refuse_dropout, still_statistics

RECONSTRUCTIONS = ("difference", "plain")


@dataclasses.dataclass(frozen=True)
class TargetPropagation(InBlocks):
    """Teach each block towards a target for its output, which a learned inverse of the next block makes.

    With h_l = f_l(h_(l-1)) the output of block l of L, g_l the learned inverse of f_l, C the task's loss of one example
    and epsilon normal noise::

        t_L     = h_L - step dC/dh_L
        t_(l-1) = h_(l-1) + g_l(t_l) - g_l(h_l)
        loss    = mean 1/(2 step) |h_l - t_l|^2                 for f_l, with t_l held
        g_l(h)  = phi(V h + c)                                  phi: the activation that ends block l - 1

    Over ``step``, so that its size is no learning rate: with one block the gradients are those of backpropagation. An
    inverse learns at values with noise, by one of::

        plain      = mean 1/2 |g_l(f_l(h + epsilon)) - (h + epsilon)|^2 / s
        difference = mean 1/2 |g_l(f_l(h + epsilon)) - g_l(f_l(h)) - epsilon|^2 / s,      h = h_(l-1)

    s is the mean squared length of what V multiplies (in "difference", of its change; in "plain", with 1 for c), times
    how many outputs of a channel an input reaches, so that plain gradient steps at a rate of 1 do not overshoot. The
    layers after the last block learn from the task's loss.

    Attributes:
        reconstruction: "difference": only changes are to be inverted, as targets need it. In Meulemans et al. they go
            on to the output of the network, here each inverse sees its own block alone. "plain": as in Lee et al.
        step: from h_L to its target, above 0.
        noise: standard deviation of epsilon, above 0.

    The option ``blocks`` is that of :class:`backroads.methods.in_blocks.InBlocks`.

    Raises:
        ConfigError: for values out of range.
    """

    name: ClassVar[str] = "target_propagation"
    reconstruction: str = "difference"
    step: float = 0.1
    noise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "reconstruction", RECONSTRUCTIONS)
        for key in ("step", "noise"):
            check_number(self, key, above=0)

    def find(self, model: torch.nn.Module, sample: Tensor) -> Blocks:
        """The blocks of a model; raises as :meth:`plan`, and ConfigError for a block that no inverse is known for."""
        found = super().find(model, sample)
        refuse_dropout(self.name, model, "as inverses learn from a second pass")
        for before, block in zip(found.blocks, found.blocks[1:], strict=False):
            if decoder(block, model, torch.Generator()) is None:
                raise ConfigError(
                    f"target_propagation: expected blocks of one linear layer or 2-d convolution and its activation, "
                    f"and that of {block.owner} ends at {block.end}; name other ends with blocks"
                )
            if math.prod(before.shape) != math.prod(block.inputs):
                raise ConfigError(
                    f"target_propagation: expected {block.owner} to receive the output of {before.end}, "
                    f"{before.shape}, got {block.inputs}: something between them, such as pooling, has no inverse; "
                    f"take convolutions with a stride instead"
                )
        return found

    def describe(self, block: Block, model: torch.nn.Module, found: Blocks) -> str:
        index = found.blocks.index(block) + 1
        if index == len(found.blocks):
            return "a target by the task's gradient"
        return f"a target by the inverse of {found.blocks[index].owner}"

    def formula(self) -> str:
        return f"target, {self.reconstruction} reconstruction"

    def head(
        self, block: Block, model: torch.nn.Module, found: Blocks, generator: torch.Generator | None
    ) -> Inverse | None:
        index = found.blocks.index(block)
        if index == 0:
            return None  # the input needs no target
        before = found.blocks[index - 1]
        made = decoder(block, model, generator)
        assert made is not None  # find has seen to it
        return Inverse(made, block.inputs, before.shape, model.get_submodule(before.end))

    def parameter_groups(self, model: torch.nn.Module) -> dict[str, list[torch.nn.Parameter]]:
        """ "forward": the network's own. "backward": those of the inverses, which need a rate of their own."""
        inverses = [p for head in self.prepared(model).heads if head is not None for p in head.parameters()]
        apart = {id(p) for p in inverses}
        return {"forward": [p for p in model.parameters() if id(p) not in apart], "backward": inverses}

    # Targets take a gradient within the forward pass, which no compiled graph can.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def objective(self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The sum of the losses of all blocks and inverses and of the task's loss, and the network's output.

        Autocast has no effect: targets are small differences of large numbers.

        Args: as :meth:`backroads.methods.base.Method.objective`.

        Raises:
            ShapeError, UsageError: as :meth:`backroads.methods.blockwise.Blockwise.objective`.
        """
        state = self.prepared(model)
        state.check(x, y)
        outputs: list[Tensor] = []
        values: list[Tensor] = []

        def visit(block: int, h: Tensor) -> Tensor:
            outputs.append(h)
            values.append(leaf(h))
            return values[-1].clone()  # which an in-place activation may change

        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            with state.cuts.visiting(visit):
                output = model(x)
            task = loss(output, y)
            (gradient,) = torch.autograd.grad(task, values[-1], retain_graph=True)
            values = [value.detach() for value in values]
            targets = self.targets(model, values, values[-1] - self.step * len(x) * gradient)
            losses = [task]
            for h, target in zip(outputs, targets, strict=True):
                losses.append((h - target).square().sum() / (2 * self.step * len(x)))
            losses += self._reconstructions(model, x, values)
            return torch.stack(losses).sum(), output.detach()

    @torch.no_grad()
    def targets(self, model: torch.nn.Module, values: list[Tensor], last: Tensor) -> list[Tensor]:
        """The targets of all blocks.

        Args:
            model: prepared.
            values: outputs of the blocks, (N, ...) each.
            last: target of the last block.
        """
        found = [last]
        for index in range(len(values) - 1, 0, -1):
            inverse = self.prepared(model).heads[index]
            found.append(values[index - 1] + inverse(found[-1]) - inverse(values[index]))
        return found[::-1]

    def _reconstructions(self, model: torch.nn.Module, x: Tensor, values: list[Tensor]) -> list[Tensor]:
        """The losses of the inverses; all blocks see values with noise in one forward pass."""
        state = self.prepared(model)
        noises = [self.noise * torch.randn_like(value) for value in values]
        reached: list[Tensor] = []

        def visit(block: int, h: Tensor) -> Tensor:
            reached.append(h)
            return values[block] + noises[block]

        with torch.no_grad(), still_statistics(model), state.cuts.visiting(visit):
            model(x)
        losses = []
        for index in range(1, len(values)):
            inverse, h, value, noise = state.heads[index], reached[index], values[index - 1], noises[index - 1]
            if self.reconstruction == "difference":
                error, driven = inverse(h) - inverse(values[index]) - noise, h - values[index]
                mean_square = driven.float().square().sum() / len(x)
            else:
                error = inverse(h) - (value + noise)
                mean_square = h.float().square().sum() / len(x) + 1  # that of c
            losses.append(0.5 * error.square().sum() / len(x) / (mean_square * inverse.uses + 1e-12))
        return losses


class Inverse(torch.nn.Module):
    """g: from the output of a block to the output of the block before.

    Args:
        map: V and c. inputs: shape of what the block's layer receives of one example.
        shape: of the output of the block before.
        activation: phi, the module that ends the block before; another kind of module is left out.
    """

    def __init__(
        self,
        map: torch.nn.Linear | torch.nn.ConvTranspose2d,
        inputs: tuple[int, ...],
        shape: tuple[int, ...],
        activation: torch.nn.Module,
    ) -> None:
        super().__init__()
        self.map, self.inputs, self.shape = map, inputs, shape
        self.activation = [activation] if isinstance(activation, ACTIVATIONS) else []  # in a list: not a part
        self.uses = 1 if isinstance(map, torch.nn.Linear) else math.prod(map.kernel_size)
        """How many of its outputs a number at its input reaches in each channel."""

    def forward(self, h: Tensor) -> Tensor:
        """(N, ...) -> (N, *shape)."""
        sizes = {"output_size": list(self.inputs[1:])} if h.dim() == 4 else {}
        made: Tensor = self.map(h, **sizes).reshape(len(h), *self.shape)
        for phi in self.activation:
            if isinstance(phi, torch.nn.PReLU):  # whose slopes the forward path alone teaches
                made = F.prelu(made, phi.weight.detach())
            else:
                made = phi.forward(made)  # past the hooks of blocks
        return made
