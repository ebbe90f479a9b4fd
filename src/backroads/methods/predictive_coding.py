"""Predictive coding: values settle between the predictions of the layer before and the errors of the layer after.

Sources: J. C. R. Whittington, R. Bogacz, "An Approximation of the Error Backpropagation Algorithm in a Predictive
Coding Network with Local Hebbian Synaptic Plasticity", Neural Computation 29(5), 2017; for the fixed predictions,
B. Millidge, A. Tschantz, C. L. Buckley, "Predictive Coding Approximates Backprop along Arbitrary Computation Graphs",
arXiv 2006.04182, 2020.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from backroads.errors import DivergedError
from backroads.methods.base import Loss
from backroads.methods.blocks import Block, Blocks
from backroads.methods.checks import check_choice, check_number
from backroads.methods.in_blocks import InBlocks
from backroads.methods.inference import OUTPUTS, leaf, output_cost, refuse_dropout, still_statistics
from backroads.methods.processes import anywhere

SCHEDULES = ("energy", "fixed")


@dataclasses.dataclass(frozen=True)
class PredictiveCoding(InBlocks):
    """Let the values x of all blocks settle with input and target clamped, then teach each block to predict its value.

    With f_l the block l, x_0 the input and C the cost of the output that the layers after the last block make of x_L,
    the values start at the forward pass and descend on the energy of each example::

        F   = C(x_L, y) + sum over l of 1/2 |x_l - f_l(x_(l-1))|^2
        x_l <- x_l - rate dF/dx_l = x_l - rate (e_l - J_(l+1)^T e_(l+1)),   e_l = x_l - f_l(x_(l-1))

    J is the derivative of f. The objective is the mean of F over the examples, with the values held. Its gradient in
    the weights of a block is that of its own prediction error alone.

    Attributes:
        schedule: "energy": predictions and their derivatives are those of the present values, which descend on F.
            "fixed": they stay those of the forward pass (the fixed prediction assumption); with rate 1 and as many
            steps as blocks the gradients are those of backpropagation.
        steps: of inference, 0 or more; at 0 only the layers after the last block learn.
        rate: of inference, above 0; at most 1 with "fixed".
        output: C; "task": the task's loss, such as cross-entropy. "squared": 1/2 |output - one-hot label|^2, as in the
            first source.

    The option ``blocks`` is that of :class:`backroads.methods.in_blocks.InBlocks`.

    Raises:
        ConfigError: for values out of range.
    """

    name: ClassVar[str] = "predictive_coding"
    schedule: str = "energy"
    steps: int = 20
    rate: float = 0.1
    output: str = "task"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "schedule", SCHEDULES)
        check_choice(self, "output", OUTPUTS)
        check_number(self, "steps", "a number of steps, 0 or more", least=0, whole=True)
        if self.schedule == "fixed":
            check_number(self, "rate", "a number above 0 to 1 with schedule='fixed'", above=0, most=1)
        check_number(self, "rate", above=0)

    def find(self, model: torch.nn.Module, sample: Tensor) -> Blocks:
        """The blocks of a model; raises as :meth:`plan`, and ConfigError for dropout that would differ in each step."""
        found = super().find(model, sample)
        if self.schedule == "energy":
            refuse_dropout(self.name, model, "or take schedule='fixed', which runs the network once")
        return found

    def describe(self, block: Block, model: torch.nn.Module, found: Blocks) -> str:
        return "its prediction error"

    def formula(self) -> str:
        fixed = " at fixed predictions" if self.schedule == "fixed" else ""
        return f"prediction error after {self.steps} steps of inference{fixed}"

    # Inference takes gradients within the forward pass, which no compiled graph can.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def objective(self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The mean energy after inference, and the output of the plain forward pass.

        Autocast has no effect: prediction errors are small differences of large numbers.

        Args: as :meth:`backroads.methods.base.Method.objective`.

        Raises:
            ShapeError, UsageError: as :meth:`backroads.methods.blockwise.Blockwise.objective`.
            DivergedError: if inference left a larger energy than at its start, or none that is finite.
        """
        self.prepared(model).check(x, y)
        with torch.autocast(x.device.type, enabled=False):
            return self._objective(model, x, y, loss)

    def _objective(self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        if self.schedule == "fixed":
            return self._fixed(model, x, y, loss)
        values, energies, output = self.infer(model, x, y, loss)
        before, after = energies[0] / len(x), energies[-1] / len(x)
        risen = ~(after <= 1.1 * before + 0.01)  # which leaves room for bfloat16 alone
        if anywhere(risen):
            raise DivergedError(
                f"predictive_coding: inference must lower the energy, and at rate {self.rate} it went from "
                f"{float(before):.4g} to {float(after):.4g} per example{'' if risen else ' (up in another process)'}; "
                f"take a smaller rate",
                self.prepared(model).found.blocks[-1].end,
            )
        with still_statistics(model):
            energy, _, _ = self._energy(model, x, y, loss, [value.detach() for value in values])
        return energy / len(x), output

    def infer(
        self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Inference by gradient descent on the energy, whatever the schedule says.

        Args:
            model: prepared. x: inputs, (N, ...). y: labels, (N,). loss: of the task.

        Returns:
            The values of the blocks after inference; the energy of the batch, summed up over its examples, before each
            step and at the end (steps + 1 scalars); and the output of the forward pass, (N, K). No graphs.
        """
        with torch.enable_grad():
            energy, values, output = self._energy(model, x, y, loss, None)
            energies = [energy.detach()]
            with still_statistics(model):
                for _ in range(self.steps):
                    gradients = torch.autograd.grad(energy, values)
                    values = [
                        (value - self.rate * gradient).detach().requires_grad_()
                        for value, gradient in zip(values, gradients, strict=True)
                    ]
                    energy, _, _ = self._energy(model, x, y, loss, values)
                    energies.append(energy.detach())
        return [value.detach() for value in values], energies, output.detach()

    def _energy(
        self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss, values: list[Tensor] | None
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """F summed up over the examples, the values, and the output; without values those of the forward pass."""
        errors: list[Tensor] = []
        used: list[Tensor] = []

        def visit(block: int, h: Tensor) -> Tensor:
            used.append(leaf(h) if values is None else values[block])
            errors.append(0.5 * (used[-1] - h).square().sum())
            return used[-1].clone()  # which an in-place activation may change

        with self.prepared(model).cuts.visiting(visit):
            output = model(x)
        return torch.stack([*errors, output_cost(self.output, output, y, loss)]).sum(), used, output

    def _fixed(self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The objective with predictions and derivatives of the forward pass."""
        predictions: list[Tensor] = []
        values: list[Tensor] = []

        def visit(block: int, h: Tensor) -> Tensor:
            predictions.append(h)
            values.append(leaf(h))
            return values[-1].clone()

        with torch.enable_grad():
            with self.prepared(model).cuts.visiting(visit):
                output = model(x)
            cost = output_cost(self.output, output, y, loss)
            errors = [torch.zeros_like(value) for value in values]
            for _ in range(self.steps):
                down = [-error.to(h.dtype) for error, h in zip(errors[1:], predictions[1:], strict=True)]
                # dF/dx_l without its own error: - J_(l+1)^T e_(l+1), and the derivative of C for the last block.
                pulls = torch.autograd.grad([*predictions[1:], cost], values, [*down, None], retain_graph=True)
                errors = [e - self.rate * (e + pull) for e, pull in zip(errors, pulls, strict=True)]
            # 1/2 |x - h|^2 at the value x = h + e, whose gradient in h is -e.
            parts = [
                0.5 * (value.detach() + error - h).square().sum()
                for value, error, h in zip(values, errors, predictions, strict=True)
            ]
            return torch.stack([*parts, cost]).sum() / len(x), output.detach()
