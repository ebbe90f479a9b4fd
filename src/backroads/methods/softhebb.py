"""SoftHebb: the units of a layer compete softly, and each moves towards the inputs that it wins.

Sources: T. Moraitis, D. Toichkin, A. Journé, Y. Chua, Q. Guo, "SoftHebb: Bayesian inference in unsupervised Hebbian
soft winner-take-all networks", 2022; A. Journé, H. Garcia Rodriguez, Q. Guo, T. Moraitis, "Hebbian Deep Learning
Without Feedback", ICLR 2023. Code: NeuromorphicComputing/SoftHebb.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from backroads.methods.checks import check_choice, check_number
from backroads.methods.hebbian import Layer, Unsupervised

COMPETITIONS = ("anti", "soft", "hard")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftHebb(Unsupervised):
    """Train each block's layer by competition of its units, and the layers after the last block by the task's loss.

    At every position, with x what the layer receives and u = W x + b::

        y    = softmax over units of t u          "soft"
               the same, with its sign turned for all but the largest     "anti"
               1 for the largest, else 0          "hard"
        dW   = sum over examples and positions of y (x - u w),   over the largest |dW| of the layer
        dw_i = r_i dW_i,   r_i = (| |w_i| - 1 | + 1e-10)^power

    A unit's weights so approach norm 1, where its rate ends. Batch size cancels; the largest change is the rate. Where
    the layer has a bias, db = sum(y) / e^(t b) - samples, over its largest, times r_i / t.

    Attributes:
        competition: "anti" (the published deep networks), "soft" or "hard".
        t: inverse temperature, above 0; one number, or one for each block.
        power: of the distance from norm 1; 0 for one rate for all.
        radius: norm to which each unit's weights are brought at the start; None leaves them. Below 1 little is learned.

    The other options are those of :class:`backroads.methods.hebbian.Unsupervised`.

    Raises:
        ConfigError: for values out of range.
    """

    name: ClassVar[str] = "softhebb"
    units: ClassVar[int] = 2  # one alone has nobody to compete with
    by_block: ClassVar[tuple[str, ...]] = ("rate", "t")
    rate: float | tuple[float, ...] = 0.1
    competition: str = "anti"
    t: float | tuple[float, ...] = 1.0
    power: float = 0.5
    radius: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "competition", COMPETITIONS)
        check_number(self, "power", "a number, 0 or more", least=0)
        if self.radius is not None:
            check_number(self, "radius", "a number above 0, or none", above=0)

    def formula(self) -> str:
        return f"SoftHebb: {self.competition} competition"

    def prepare(
        self, model: torch.nn.Module, sample: Tensor, generator: torch.Generator | int | None
    ) -> torch.nn.Module:
        """Note the blocks, and bring the weights of their layers to ``radius``, if there is one.

        Args and Raises: as :meth:`backroads.methods.in_blocks.InBlocks.prepare`.
        """
        super().prepare(model, sample, generator)
        if self.radius is not None:
            with torch.no_grad():
                for block in self.prepared(model).found.blocks:
                    W: Any = model.get_submodule(block.owner).weight
                    W.copy_((self.radius * F.normalize(W.flatten(1), dim=1)).reshape(W.shape))
        return model

    def update(self, layer: Layer, x: Tensor, head: Any, training: bool) -> tuple[Tensor, Tensor | None]:
        W, b, t = layer.flat, layer.module.bias, self.of_block("t", layer.index)
        u, correlate = layer.project(x)
        if b is not None:
            u = u + b
        winner = F.one_hot(u.argmax(1), u.shape[1])
        y = winner.to(u) if self.competition == "hard" else (t * u).softmax(1)
        if self.competition == "anti":
            y = y * (2 * winner - 1)
        dW = correlate(y) - (y * u).sum(0).unsqueeze(1) * W
        r = ((torch.linalg.vector_norm(W, dim=1) - 1).abs() + 1e-10) ** self.power
        dW = r.unsqueeze(1) * dW / (dW.abs().max() + 1e-30)
        if b is None:
            return dW.reshape(layer.W.shape), None
        db = y.sum(0) * (-t * b).exp() - len(u)
        return dW.reshape(layer.W.shape), r / t * db / (db.abs().max() + 1e-30)
