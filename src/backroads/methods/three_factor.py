"""Three factors: stochastic units learn from what they did, what they received, and one reward for all.

Sources: R. J. Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning",
Machine Learning 8, 1992 (REINFORCE); E. Vasilaki, S. Fusi, X.-J. Wang, W. Senn, "Learning flexible sensori-motor
mappings in a complex network", Biological Cybernetics 100, 2009 (reward minus its expectation, in deep networks).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from backroads.methods.base import Loss
from backroads.methods.blocks import ACTIVATIONS, Block, Blocks
from backroads.methods.checks import check_choice, check_number
from backroads.methods.in_blocks import InBlocks
from backroads.methods.processes import everywhere

ELIGIBILITIES = ("likelihood", "hebb")
EXPECTATIONS = ("others", "running", "none")
TWO_STATES = (torch.nn.Sigmoid, torch.nn.Tanh)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThreeFactor(InBlocks):
    """Let the units and the answer be drawn, and move what was eligible by the reward minus its expectation.

    A unit receives u and draws s: from {0, 1} with probability sigmoid(u) of 1 where the network has a sigmoid; from
    {-1, 1} with mean tanh(u) where it has a tanh; before any other activation, s = u + sd xi with noise xi. The answer
    is drawn from the softmax of the output. The reward R of an example is 1 if the answer is right, else 0::

        dW = mean over examples of (R - Rbar) H
        H  = (s - E s) x^T / var(noise)      "likelihood": E[dW] is the gradient of E[R], exactly, in every layer
        H  = (s - theta) x^T                 "hebb": plain Hebb; biased unless Rbar is E[R] of this very input

    with var(noise) = 1 for units of two states and the answer, and sd^2 for others. To predict, all run at their means:
    the network's own forward pass.

    Attributes:
        eligibility: H, "likelihood" or "hebb".
        expectation: Rbar. "others": mean reward of the other examples in the batch. "running": a running mean for each
            class, kept in a buffer of the model. "none": 0.
        tau: trials over which the running mean forgets, 1 or more. It moves after it was used.
        theta: of plain Hebb.
        deviation: sd, above 0.

    ``blocks`` is that of :class:`backroads.methods.in_blocks.InBlocks`.

    Raises:
        ConfigError: for values out of range.
    """

    name: ClassVar[str] = "three_factor"
    eligibility: str = "likelihood"
    expectation: str = "others"
    tau: float = 20.0
    theta: float = 0.0
    deviation: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "eligibility", ELIGIBILITIES)
        check_choice(self, "expectation", EXPECTATIONS)
        check_number(self, "tau", "a number of trials, 1 or more", least=1)
        check_number(self, "theta", "a finite number")
        check_number(self, "deviation", above=0)

    def formula(self) -> str:
        return f"reward, {self.eligibility}"

    def describe(self, block: Block, model: torch.nn.Module, found: Blocks) -> str:
        end = model.get_submodule(block.end)
        states = {torch.nn.Sigmoid: "units of 0 and 1", torch.nn.Tanh: "units of -1 and 1"}
        return f"{self.formula()}, {states.get(type(end), 'noisy units')}"

    def describe_output(self) -> str:
        return f"{self.formula()}, drawn answer"

    def before(self, model: torch.nn.Module, found: Blocks) -> set[str]:
        ends = {block.end: model.get_submodule(block.end) for block in found.blocks}
        return {name for name, end in ends.items() if isinstance(end, ACTIVATIONS) and not isinstance(end, TWO_STATES)}

    def received(self, model: torch.nn.Module, found: Blocks) -> set[str]:
        return {block.end for block in found.blocks if isinstance(model.get_submodule(block.end), TWO_STATES)}

    def head(
        self, block: Block, model: torch.nn.Module, found: Blocks, generator: torch.Generator | None
    ) -> Expected | None:
        """The running mean of the reward, in the first block."""
        return Expected(found.classes) if self.expectation == "running" and block is found.blocks[0] else None

    def uniform(self, like: Tensor) -> Tensor:
        """Numbers from 0 to 1 in the shape of a tensor, by torch's global generator, for units of two states."""
        return torch.rand_like(like)

    def answer(self, output: Tensor) -> Tensor:
        """An answer for each example, (N, K) -> (N,), drawn from the softmax by torch's global generator."""
        return torch.multinomial(output.softmax(1), 1).squeeze(1)

    def reward(self, answer: Tensor, y: Tensor) -> Tensor:
        """R of each example: answers and labels, (N,) -> (N,)."""
        return answer == y

    def objective(self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The task's loss of this noisy pass, whose gradient is the negative dW, and the output of that pass.

        Autocast has no effect: a rounded probability is another draw. In training mode, the running mean moves.

        Args and Raises: as :meth:`backroads.methods.blockwise.Blockwise.objective`.
        """
        state = self.prepared(model)
        state.check(x, y)
        directions: list[Tensor] = []
        received: dict[int, Tensor] = {}  # u of the units of two states

        def receive(block: int, u: Tensor) -> Tensor:
            if not isinstance(model.get_submodule(state.found.blocks[block].end), TWO_STATES):
                return u
            received[block] = u
            return u.detach().clone()

        def draw(block: int, m: Tensor) -> Tensor:
            """The units' states for their means m; with the direction in which H moves what they receive."""
            end, mean, variance = model.get_submodule(state.found.blocks[block].end), m.detach(), 1.0
            if isinstance(end, torch.nn.Sigmoid):
                s = (self.uniform(mean) < mean).to(m)
            elif isinstance(end, torch.nn.Tanh):
                s = 2 * (self.uniform(mean) < (1 + mean) / 2).to(m) - 1
            else:
                s, variance = mean + self.deviation * torch.randn_like(mean), self.deviation**2
            H = (s - mean) / variance if self.eligibility == "likelihood" else s - self.theta
            u = received.get(block, m)
            directions.append((H * (u - u.detach())).flatten(1).sum(1))
            return s

        assert state.received is not None  # since prepare
        with torch.autocast(x.device.type, enabled=False):
            with state.received.visiting(receive), state.cuts.visiting(draw):
                output = model(x)
            answer = self.answer(output.detach())
            chosen = F.one_hot(answer, output.shape[1]).to(output)
            baseline = output.detach().softmax(1) if self.eligibility == "likelihood" else self.theta
            directions.append(((chosen - baseline) * (output - output.detach())).sum(1))
            R = self.reward(answer, y).to(output)
            expected = self._expected(state.heads[0], R, y, model.training)
            # All directions are 0 in value; only their gradients count.
            total = loss(output.detach(), y) - ((R - expected) * torch.stack(directions).sum(0)).mean()
        return total, output.detach()

    def _expected(self, running: Expected | None, R: Tensor, y: Tensor, training: bool) -> Tensor:
        """Rbar of each example, (N,)."""
        if self.expectation == "others":
            return (R.sum() - R) / max(1, len(R) - 1)
        return torch.zeros_like(R) if running is None else running(R, y, self.tau, training)


reinforce = functools.partial(ThreeFactor, eligibility="likelihood", expectation="none")
"""REINFORCE as it stands in its source, without a baseline unless told otherwise."""


class Expected(torch.nn.Module):
    """The running mean of the reward of each class, which starts at 0.

    Attributes:
        mean: (classes,).
    """

    mean: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(classes))

    def forward(self, R: Tensor, y: Tensor, tau: float, training: bool) -> Tensor:
        """Rbar of each example, (N,), before this batch.

        Args:
            R, y: rewards and labels, (N,).
            tau: n trials of a class move its mean by a part of 1 - (1 - 1/tau)^n.
            training: whether it moves.
        """
        found = self.mean[y]
        if training:
            ones = F.one_hot(y, len(self.mean)).to(R)
            n, total = everywhere(torch.stack([ones.sum(0), R @ ones]))
            mean = total / n.clamp_min(1)
            with torch.no_grad():
                self.mean.lerp_(mean.to(self.mean), 1 - (1 - 1 / tau) ** n.to(self.mean))
        return found.to(R)
