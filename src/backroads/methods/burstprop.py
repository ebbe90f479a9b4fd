"""Burst-dependent plasticity at the level of rates: events go up, bursts come back, in the same units.

Source: A. Payeur, J. Guerguiev, F. Zenke, B. A. Richards, R. Naud, "Burst-dependent synaptic plasticity can coordinate
learning in hierarchical circuits", Nature Neuroscience 24, 2021, in its form for rates.
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
from backroads.methods.inference import leaf
from backroads.methods.states import InStatesWithFeedback

CODINGS = ("sigmoid", "linear")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Burstprop(InStatesWithFeedback):
    """Let each unit send its event rate up and its burst rate down, and learn from the bursts that the label adds.

    With e_l the event rates of layer l, f the logistic function, a_l what the layer receives, b_l and bbar_l its burst
    rates with the label and without, and sigma the logistic function::

        e_l = f(a_l),   a_l = W_l e_(l-1) + c_l
        v_l = h(e_l) B_(l+1)^T b_(l+1),       h = f'(a_l) / e_l = 1 - e_l      (vbar_l from bbar_(l+1))
        p_l = sigma(4 slope v_l),             b_l = p_l e_l                    (pbar_l from vbar_l)
        dW_l = mean over examples of (b_l - bbar_l) e_(l-1)^T

    The output is a read-out: its event rates e are the softmax, its burst rates bbar = e / 2 without the label and
    b = bbar - dC/d(output) with it, C the task's loss of an example; its weights learn from that difference, the
    gradient of C. While v is small, p is 1/2 + slope v, and the changes are those of feedback alignment times a slope a
    layer.

    Attributes:
        coding: p; "sigmoid", or "linear": p = 1/2 + slope v without bounds, which is feedback alignment exactly at a
            slope of 1.
        slope: of the burst probability at v = 0, above 0.

    ``feedback``, by default "feedback_alignment", is that of :class:`backroads.methods.states.InStatesWithFeedback`.
    ``blocks`` is that of :class:`backroads.methods.in_blocks.InBlocks`; a block ends at a ``torch.nn.Sigmoid``.

    Raises:
        ConfigError: for values out of range.
    """

    name: ClassVar[str] = "burstprop"
    coding: str = "sigmoid"
    slope: float = 1.0
    feedback: str = "feedback_alignment"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "coding", CODINGS)
        check_number(self, "slope", above=0)

    def check_block(self, block: Block, model: torch.nn.Module) -> None:
        if not isinstance(end := model.get_submodule(block.end), torch.nn.Sigmoid):
            raise ConfigError(
                f"{self.name}: expected blocks that end at a torch.nn.Sigmoid, whose outputs are event rates from 0 to "
                f"1, got {block.end}, a {type(end).__name__}; take such a network, as the model mlp with "
                f"activation='sigmoid'"
            )

    def formula(self) -> str:
        return f"bursts with the label less those without{self.way_back}"

    # Bursts come back within the forward pass, which no compiled graph can.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def objective(self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The task's loss, whose gradient is -dW, and the output of the forward pass.

        Autocast has no effect: differences of burst rates need float32.

        Args and Raises: as :meth:`backroads.methods.blockwise.Blockwise.objective`.
        """
        self.prepared(model).check(x, y)
        with torch.autocast(x.device.type, enabled=False), torch.enable_grad():
            events: list[Tensor] = []

            def keep(index: int, a: Tensor, e: Tensor) -> Tensor:
                events.append(leaf(e))
                return events[-1]

            received, output = self.run(model, x, keep)
            C = loss(output, y)
            (gradient,) = torch.autograd.grad(len(x) * C, output, retain_graph=True)
            rest = output.detach().softmax(1) / 2
            bursts, at_rest = [rest - gradient], [rest]  # of the present layer's followers, in order
            taught = []
            for index in range(len(events) - 1, -1, -1):
                ends = [*received[index + 1 :], output]
                e = events[index].detach()
                b, bbar = (
                    self.probability((1 - e) * torch.autograd.grad(ends, events[index], back, retain_graph=True)[0]) * e
                    for back in (bursts, at_rest)
                )
                bursts.insert(0, b)
                at_rest.insert(0, bbar)
                a = received[index]
                taught.append(((b - bbar) * (a - a.detach())).sum())  # 0 in value; only its gradient counts
            return C - torch.stack(taught).sum() / len(x), output.detach()

    def probability(self, v: Tensor) -> Tensor:
        """p of a burst, for what arrives from above."""
        return torch.sigmoid(4 * self.slope * v) if self.coding == "sigmoid" else 0.5 + self.slope * v
