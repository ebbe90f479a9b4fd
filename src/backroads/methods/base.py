"""What a method is: it prepares a model, names one scalar whose backward pass leaves every gradient, and predicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""The task's loss: (output of the model, targets) -> a scalar, such as ``torch.nn.functional.cross_entropy``."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to assign credit, as frozen data. A subclass is one file; its fields are its options.

    The defaults are those of ordinary backpropagation, so that a method overrides only what it changes.

    Attributes:
        name: under which it is registered, and chosen on the command line.
    """

    name: ClassVar[str]

    def plan(self, model: torch.nn.Module, sample: Tensor) -> Any:
        """Which module learns how, and why: a table to print. Touches nothing.

        Args:
            model: a plain model.
            sample: a few inputs, (n, ...), to find shapes by.
        """
        raise NotImplementedError

    def prepare(
        self, model: torch.nn.Module, sample: Tensor, generator: torch.Generator | int | None
    ) -> torch.nn.Module:
        """Make the model ready in place (convert layers, add heads), and return it.

        Args:
            model: a plain model, on the CPU.
            sample: a few inputs, (n, ...), to find shapes by.
            generator: CPU generator or seed of whatever is drawn; None is torch's global one.
        """
        return model

    def revert(self, model: torch.nn.Module) -> torch.nn.Module:
        """Undo :meth:`prepare` in place: plain torch modules again, with the learned weights."""
        return model

    def objective(self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The scalar whose ``backward()`` leaves every gradient in ``.grad``, and the model's prediction.

        It runs inside the forward pass of a module, so that data parallelism, autocast, compilation and gradient
        accumulation see one forward and one backward pass.

        Args:
            model: prepared.
            x: inputs, (N, ...).
            y: targets, (N,).
            loss: of the task.

        Returns:
            The scalar, and the output of the network, (N, K), for the log (detached).
        """
        output = model(x)
        return loss(output, y), output.detach()

    def predict(self, model: torch.nn.Module, x: Tensor) -> Tensor:
        """The output to evaluate, (N, K)."""
        output: Tensor = model(x)
        return output

    def parameter_groups(self, model: torch.nn.Module) -> dict[str, list[torch.nn.Parameter]]:
        """Parameters by what their optimiser must be: "forward" takes the training's own, "backward" that of B."""
        return {"forward": list(model.parameters())}

    def formulas(self, model: torch.nn.Module) -> dict[str, str]:
        """What teaches each layer of a prepared model, in words, by dotted name: for the log and the report."""
        return {}

    def readings(self, model: torch.nn.Module) -> dict[str, dict[str, float]]:
        """Numbers of the method's own, by name and layer, to be logged with the metrics."""
        return {}
