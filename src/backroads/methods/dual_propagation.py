"""Dual propagation: each unit holds two states; their mean goes up, their difference comes back.

Sources: R. Høier, D. Staudt, C. Zach, "Dual Propagation: Accelerating Contrastive Hebbian Learning with Dyadic
Neurons", ICML 2023; R. Høier, C. Zach, "Two Tales of Single-Phase Contrastive Hebbian Learning", ICML 2024, whose
improved form is the same where both states are nudged by as much, as they are here.

Derived here from their Lagrangian, and not taken from their text: the output, which is a read-out of the mean with one
cost, and the order of the sweeps.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from backroads.errors import ConfigError
from backroads.methods.base import Loss
from backroads.methods.blocks import Block
from backroads.methods.checks import check_choice, check_number
from backroads.methods.inference import OUTPUTS, leaf, output_cost, still_statistics
from backroads.methods.states import InStates


@dataclasses.dataclass(frozen=True)
class DualPropagation(InStates):
    """Give each unit two states, nudged to and from the label at once, and learn from their difference.

    With s+_l and s-_l the states of layer l, m_l their mean, m_0 the input, u_l what the layer receives from m_(l-1),
    rho its activation with the convex G whose derivative inverts it, and C the cost of the output that the layers after
    the last block make of m_L, the states are stationary in::

        L = C(m_L) + 1/beta sum over l of (G(s+_l) - G(s-_l) - <s+_l - s-_l, u_l(m_(l-1))>)

    which is where::

        s+-_l = rho(u_l +- p_l / 2),   p_l = W_(l+1)^T (s+_(l+1) - s-_(l+1)),   p_L = -beta dC/dm_L
        dW_l  = mean over examples of (s+_l - s-_l) m_(l-1)^T / beta

    A sweep goes up through the means and down through the differences. -dW tends to the gradient of C as beta -> 0; for
    ReLU and other piecewise linear activations it is that gradient unless a unit passes a kink between its two states.

    Attributes:
        beta: strength of the nudging, above 0.
        sweeps: up and down, 1 or more. The first goes up as the forward pass. In the next ones the means are those of
            the nudged states.
        output: C; "task": the task's loss, such as cross-entropy. "squared": 1/2 |output - one-hot label|^2.

    The option ``blocks`` is that of :class:`backroads.methods.in_blocks.InBlocks`; a block ends at an activation.

    Raises:
        ConfigError: for values out of range.
    """

    name: ClassVar[str] = "dual_propagation"
    beta: float = 0.1
    sweeps: int = 1
    output: str = "task"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "beta", above=0)
        check_number(self, "sweeps", "a number of sweeps, 1 or more", least=1, whole=True)
        check_choice(self, "output", OUTPUTS)

    def formula(self) -> str:
        return f"the difference of two states at nudging {self.beta:g}"

    def describe_output(self) -> str:
        return "the cost at their mean"

    # Differences are propagated within the forward pass, which no compiled graph can.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def objective(self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The cost of the last sweep, whose gradient is -dW, and the output of the forward pass.

        Args: as :meth:`backroads.methods.base.Method.objective`.

        Raises:
            ShapeError, UsageError: as :meth:`backroads.methods.blockwise.Blockwise.objective`.
        """
        self.prepared(model).check(x, y)
        with torch.enable_grad():
            sweep = self.sweep(model, x, y, loss, None)
            output = sweep.output.detach()
            with still_statistics(model):
                for _ in range(self.sweeps - 1):
                    sweep = self.sweep(model, x, y, loss, sweep.back)
            pairs = zip(sweep.differences, sweep.received, strict=True)
            # 0 in value; only its gradient counts.
            taught = torch.stack([(d * (u - u.detach())).sum() for d, u in pairs]).sum()
            return (sweep.cost - taught / self.beta) / len(x), output

    def sweep(self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss, back: list[Tensor] | None) -> Sweep:
        """Once up and down.

        Args:
            model: prepared. x: inputs, (N, ...). y: labels, (N,). loss: of the task.
            back: p of each block from the sweep before, (N, ...) each; None for the first sweep.
        """
        means: list[Tensor] = []

        def mean(index: int, u: Tensor, h: Tensor) -> Tensor:
            found = leaf(h)
            if back is not None:
                plus, minus = self._states(model, index, u, back[index])
                found = leaf((plus + minus) / 2)
            means.append(found)
            return found

        received, output = self.run(model, x, mean)
        cost = output_cost(self.output, output, y, loss)
        differences: list[Tensor] = []  # of the blocks after the present one
        found: list[Tensor] = []
        for index in range(len(means) - 1, -1, -1):
            ends = [*received[index + 1 :], -self.beta * cost]
            weights = [*(d.to(u.dtype) for d, u in zip(differences, ends, strict=False)), None]
            (p,) = torch.autograd.grad(ends, means[index], weights, retain_graph=True)
            plus, minus = self._states(model, index, received[index], p)
            differences.insert(0, plus - minus)
            found.insert(0, p)
        return Sweep(received, differences, found, cost, output)

    def check_block(self, block: Block, model: torch.nn.Module) -> None:
        if any(True for _ in model.get_submodule(block.end).parameters()):
            raise ConfigError(
                f"{self.name}: expected activations without weights, which no error would teach, got {block.end}, a "
                f"{type(model.get_submodule(block.end)).__name__}; take another, such as torch.nn.LeakyReLU"
            )

    def _states(self, model: torch.nn.Module, index: int, u: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """s+ and s- of a block for what it receives from below, u, and from above, p; without graphs."""
        with torch.no_grad():
            u = u.to(p.dtype)
            return self.activate(model, index, u + p / 2), self.activate(model, index, u - p / 2)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes:
        received: u of each block, (N, ...), with its graph to the mean before it and to the weights.
        differences: s+ - s- of each block, (N, ...).
        back: p of each block, (N, ...).
        cost: C summed up over the examples, with its graph to the layers after the last block.
        output: of the network, (N, K).
    """

    received: list[Tensor]
    differences: list[Tensor]
    back: list[Tensor]
    cost: Tensor
    output: Tensor
