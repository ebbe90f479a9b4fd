"""Perturbation: what a random change of the activities, or of the weights, does to the loss says how to move.

Sources: B. Widrow, M. A. Lehr, "30 years of adaptive neural networks", Proc. IEEE 78, 1990 (node perturbation);
M. Jabri, B. Flower, "Weight perturbation", IEEE Trans. Neural Networks 3, 1992; for their noise, J. Werfel, X. Xie,
H. S. Seung, "Learning curves for stochastic gradient descent in linear feedforward networks", Neural Computation 17,
2005.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from backroads.methods.base import Loss
from backroads.methods.blocks import ACTIVATIONS, Blocks
from backroads.methods.checks import check_number
from backroads.methods.in_blocks import InBlocks
from backroads.methods.inference import refuse_dropout, still_statistics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perturbation(InBlocks):
    """What both kinds of perturbation share.

    Attributes:
        deviation: standard deviation of the noise, above 0. The estimate is biased by its square times third
            derivatives of the loss; below 1e-4 the rounding of float32 shows in differences of losses.
        draws: how many draws of noise a step averages over. Each costs a forward pass.

    ``blocks`` is that of :class:`backroads.methods.in_blocks.InBlocks`.

    Raises:
        ConfigError: for values out of range.
    """

    deviation: float = 0.01
    draws: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "deviation", above=0)
        check_number(self, "draws", "a number of draws, 1 or more", least=1, whole=True)

    def find(self, model: torch.nn.Module, sample: Tensor) -> Blocks:
        """The blocks of a model; raises as :meth:`plan`, and ConfigError for dropout."""
        refuse_dropout(self.name, model, "as losses of two passes are compared")
        return super().find(model, sample)

    def describe_output(self) -> str:
        return self.formula()

    def noise(self, like: Tensor) -> Tensor:
        """Noise of mean 0 and variance 1 in the shape of a tensor, by torch's global generator."""
        return torch.randn_like(like)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodePerturbation(Perturbation):
    """Add noise to what the units of all layers receive; move each unit along its noise if the loss fell.

    With u what the units of a layer receive before their activation, x the layer's input, xi the noise and L the loss
    of one example::

        dW = -mean over examples of (L(u + sd xi) - L(u)) / sd  xi x^T

    All layers are perturbed at once, the output, too. Its expectation is the gradient of the loss, up to sd^2, where
    examples do not act on each other: what a unit does to the others of a batch through batch norm is left out.

    The options are those of :class:`Perturbation`.
    """

    name: ClassVar[str] = "node_perturbation"

    def formula(self) -> str:
        return "noise of its units times the change of the loss"

    def before(self, model: torch.nn.Module, found: Blocks) -> set[str]:
        return {block.end for block in found.blocks if isinstance(model.get_submodule(block.end), ACTIVATIONS)}

    def objective(self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The task's loss, whose gradient is the estimate by perturbation, and the network's output without noise.

        Autocast has no effect: differences of losses need float32.

        Args and Raises: as :meth:`backroads.methods.blockwise.Blockwise.objective`.
        """
        state = self.prepared(model)
        state.check(x, y)
        units: list[Tensor] = []

        def keep(block: int, u: Tensor) -> Tensor:
            units.append(u)
            return u.detach().clone()  # an activation in place writes into the copy

        with torch.autocast(x.device.type, enabled=False):
            with state.cuts.visiting(keep):
                output = model(x)
            units.append(output)
            clean = per_example(loss, output.detach(), y)
            total = clean.mean()
            for _ in range(self.draws):
                noises = [self.noise(u.detach()) for u in units]
                added = state.cuts.visiting(lambda block, u: u + self.deviation * noises[block])  # noqa: B023
                with torch.no_grad(), still_statistics(model), added:
                    noisy = per_example(loss, model(x) + self.deviation * noises[-1], y)
                change = (noisy - clean) / self.deviation
                for u, noise in zip(units, noises, strict=True):
                    direction = (noise * (u - u.detach())).flatten(1).sum(1)  # 0; only its gradient counts
                    total = total + (change * direction).mean() / self.draws
        return total, output.detach()


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightPerturbation(Perturbation):
    """Add noise to all weights; move them along it if the loss fell.

    With L the mean loss of the batch and xi the noise, one draw for the whole batch::

        dW = -(L(W + sd xi) - L(W)) / sd  xi

    Its expectation is the gradient of the loss, up to sd^2.

    The options are those of :class:`Perturbation`.
    """

    name: ClassVar[str] = "weight_perturbation"

    def formula(self) -> str:
        return "noise of its weights times the change of the loss"

    def objective(self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The task's loss, whose gradient is the estimate by perturbation, and the network's output without noise.

        Autocast has no effect: differences of losses need float32.

        Args and Raises: as :meth:`backroads.methods.blockwise.Blockwise.objective`.
        """
        self.prepared(model).check(x, y)
        weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        with torch.autocast(x.device.type, enabled=False):
            with torch.no_grad():
                output = model(x)
                clean = loss(output, y)
            total = clean
            for _ in range(self.draws):
                noises = {name: self.noise(p.detach()) for name, p in weights.items()}
                noisy = {name: p.detach() + self.deviation * noises[name] for name, p in weights.items()}
                with torch.no_grad(), still_statistics(model):
                    change = (loss(torch.func.functional_call(model, noisy, (x,)), y) - clean) / self.deviation
                for name, p in weights.items():
                    total = total + change * ((p - p.detach()) * noises[name]).sum() / self.draws
        return total, output


def per_example(loss: Loss, output: Tensor, y: Tensor) -> Tensor:
    """The task's loss of each example alone: (N, K), (N,) -> (N,)."""
    found: Tensor = torch.func.vmap(lambda o, t: loss(o.unsqueeze(0), t.unsqueeze(0)))(output, y)
    return found
