"""What methods share in which each block has a state that its activation makes of what it receives, and of errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backroads.errors import BackroadsError, ConfigError
from backroads.feedback.conversion import aligned_layers, backward_parameters, convert, forward_parameters, revert
from backroads.methods.blocks import ACTIVATIONS, Block, Blocks
from backroads.methods.checks import check_choice
from backroads.methods.in_blocks import InBlocks
from backroads.methods.inference import refuse_dropout

FEEDBACKS = {"backprop": "", "kolen_pollack": ", B by Kolen-Pollack", "feedback_alignment": ", fixed B"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class InStates(InBlocks):
    """Run a network with given states in place of the outputs of its blocks, and see what each block receives.

    A block is then u_l(s_(l-1)), all that comes before its activation, and the activation rho: its output in a plain
    forward pass is rho(u_l). Blocks have to end at activation modules, and dropout is refused.

    ``blocks`` is that of :class:`backroads.methods.in_blocks.InBlocks`.
    """

    def find(self, model: torch.nn.Module, sample: Tensor) -> Blocks:
        """The blocks of a model; raises as :meth:`plan`, and ConfigError for dropout or another end of a block."""
        found = super().find(model, sample)
        refuse_dropout(self.name, model, "as states settle in several passes")
        for block in found.blocks:
            if not isinstance(end := model.get_submodule(block.end), ACTIVATIONS):
                raise ConfigError(
                    f"{self.name}: expected blocks that end at an activation module, such as torch.nn.ReLU, got "
                    f"{block.end}, a {type(end).__name__}; name other ends by blocks=(...)"
                )
            self.check_block(block, model)
        return found

    def check_block(self, block: Block, model: torch.nn.Module) -> None:
        """Raise ConfigError for a block that the method cannot teach."""

    def received(self, model: torch.nn.Module, found: Blocks) -> set[str]:
        return {block.end for block in found.blocks}

    def run(
        self, model: torch.nn.Module, x: Tensor, state: Callable[[int, Tensor, Tensor], Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        """One pass through the network with states of one's own.

        Args:
            model: prepared.
            x: inputs, (N, ...).
            state: (index of a block, u, rho(u) without its graph) -> the state that the next block gets.

        Returns:
            What each block received, u, with its graph back to the state before it; and the network's output, (N, K).
        """
        prepared = self.prepared(model)
        assert prepared.received is not None  # since prepare
        received: list[Tensor] = []

        def receive(index: int, u: Tensor) -> Tensor:
            received.append(u)
            return u.detach().clone()  # which an activation in place changes

        def give(index: int, h: Tensor) -> Tensor:
            return state(index, received[index], h).clone()

        with prepared.received.visiting(receive), prepared.cuts.visiting(give):
            output: Any = model(x)
        return received, output

    def activate(self, model: torch.nn.Module, index: int, u: Tensor) -> Tensor:
        """rho(u) of a block, for a u that nothing else needs."""
        end = model.get_submodule(self.prepared(model).found.blocks[index].end)
        made: Tensor = end.forward(u)  # past the hooks of blocks
        return made


@dataclasses.dataclass(frozen=True, kw_only=True)
class InStatesWithFeedback(InStates):
    """The same with a choice of what stands for W^T on the way back.

    Attributes:
        feedback: a feedback rule. "backprop": W^T itself. "kolen_pollack": weights B of their own, which move by W's
            increments, and come to W as far as weight decay forgets the start. "feedback_alignment": fixed random B.
    """

    feedback: str = "backprop"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "feedback", FEEDBACKS)

    @property
    def way_back(self) -> str:
        """The feedback in words, for the log."""
        return FEEDBACKS[self.feedback]

    def prepare(
        self, model: torch.nn.Module, sample: Tensor, generator: torch.Generator | int | None
    ) -> torch.nn.Module:
        """Note the blocks, and give the layers B where they have one, in place; see :meth:`plan` for what is raised."""
        super().prepare(model, sample, generator)
        if self.feedback == "backprop":
            return model
        try:
            return convert(model, self.feedback, generator=generator)
        except BackroadsError:
            super().revert(model)
            raise

    def revert(self, model: torch.nn.Module) -> torch.nn.Module:
        """Plain torch layers again, in place, with the learned W."""
        return super().revert(revert(model) if any(True for _ in aligned_layers(model)) else model)

    def parameter_groups(self, model: torch.nn.Module) -> dict[str, list[torch.nn.Parameter]]:
        """ "forward": W and biases. "backward": B by Kolen-Pollack, which needs the settings of W's optimiser."""
        return {"forward": forward_parameters(model), "backward": backward_parameters(model)}
