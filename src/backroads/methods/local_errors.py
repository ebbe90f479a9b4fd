"""Local errors: every block of a network learns from a small loss of its own, and no error passes between blocks.

Source: A. Nøkland, L. H. Eidnes, "Training Neural Networks with Local Error Signals", ICML 2019, arXiv 1901.06656.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import skip_init

from backroads.errors import ConfigError
from backroads.methods.base import Loss
from backroads.methods.blocks import Block, Blocks
from backroads.methods.blockwise import Blockwise
from backroads.methods.checks import check_choice, check_number
from backroads.methods.heads import (
    as_map,
    decoder,
    draw,
    linear,
    pooling,
    positions_as_map,
    refuse_sequence_of_channels,
    similarity,
)

LOSSES = ("pred", "sim", "predsim")
UNSUPERVISED = ("none", "sim", "recon")


@dataclasses.dataclass(frozen=True)
class LocalErrors(Blockwise):
    """Train each block by a local loss on its output h; the layers after the last block by the task's loss.

    With a head of V, c, A and D that learns with its block, S the :func:`similarity` of the examples of a batch, Y the
    labels as one-hot vectors, and x the input of the block::

        pred    = mean cross-entropy(V f(h) + c, y)       f: average pooling, then one vector
        sim     = mean (S(A h) - S(Y))^2                  over all pairs of examples
        predsim = beta sim + (1 - beta) pred              the task's loss is then times 1 - beta, too
        loss    = alpha unsupervised + (1 - alpha) of one of them, with the unsupervised one of
        sim     = mean (S(A h) - S(x))^2
        recon   = mean (phi(D h) - x)^2                   phi: the block's activation; 0 in the first block

    With ``bio``, the labels are seen through a fixed random map P, T = P Y, and errors pass no head backwards::

        sim     = mean (S(f(h)) - S(T))^2
        pred    = mean binary cross-entropy(V f(h) + c, T > 0), whose error reaches h through a fixed B instead of V

    V starts at zero. The objective is the sum of all losses. Dropout after an activation is not seen by the block's
    loss. "sim" compares the examples of one process's batch; under data parallelism or accumulation, of each part.

    Attributes:
        loss: "pred", "sim" or "predsim". "predsim" is the source's best, and needs an optimiser that rescales
            gradients, such as Adam: V and the layers after the last block get 1 - beta of theirs.
        limit: the most inputs of V; larger maps are pooled until they fit.
        beta: weight of sim in "predsim", 0 to 1.
        bio: take the biologically more plausible losses.
        projection: rows of P, for ``bio``.
        unsupervised: "none", "sim" or "recon".
        alpha: weight of the unsupervised loss, 0 to 1.
        deviation: sum up maps by the standard deviation of their channels before they are compared.

    The other options are those of :class:`backroads.methods.blockwise.Blockwise`.

    Example::

        method = br.get_method("local_errors")
        model = method.prepare(model, x[:2], generator=0)
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
        objective, output = method.objective(model, x, y, F.cross_entropy)
        objective.backward()
        optimizer.step()

    Raises:
        ConfigError: for values out of range.
    """

    name: ClassVar[str] = "local_errors"
    loss: str = "pred"
    limit: int = 4096
    beta: float = 0.99
    bio: bool = False
    projection: int = 128
    unsupervised: str = "none"
    alpha: float = 0.0
    deviation: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "loss", LOSSES)
        check_choice(self, "unsupervised", UNSUPERVISED)
        for key in ("beta", "alpha"):
            check_number(self, key, "a number from 0 to 1", least=0, most=1)
        for key, of in (("limit", "inputs"), ("projection", "rows")):
            check_number(self, key, f"a number of {of}, 1 or more", least=1, whole=True)
        if self.alpha and self.unsupervised == "none":
            raise ConfigError(f"local_errors: alpha: expected 0 without an unsupervised loss, got {self.alpha}")
        if self.unsupervised != "none" and not self.alpha:
            raise ConfigError(f"local_errors: alpha: expected above 0 with {self.unsupervised!r}, got 0")
        if self.alpha == 1 and self.unsupervised == "recon":
            raise ConfigError(
                "local_errors: alpha: expected less than 1 with recon, as the first block has none, got 1"
            )

    @property
    def compares(self) -> bool:
        """Whether examples are compared with one another."""
        return self.loss != "pred" or self.unsupervised == "sim"

    @property
    def task_weight(self) -> float:
        """1 - beta with "predsim"."""
        return 1 - self.beta if self.loss == "predsim" else 1.0

    def formula(self) -> str:
        return f"local {self.loss}{' (bio)' if self.bio else ''}" + (
            f", unsupervised {self.unsupervised}" if self.alpha else ""
        )

    def describe(self, block: Block, model: torch.nn.Module, found: Blocks) -> str:
        refuse_sequence_of_channels(self.name, block, model)
        if self.compares and as_map(block.shape)[0] == 1:
            raise ConfigError(f"local_errors: sim needs two features or more, {block.end} has 1; use loss='pred'")
        if self.unsupervised != "none" and not block.inputs:
            raise ConfigError(f"local_errors: expected {block.owner} to be called with its input first, got names only")
        if self.unsupervised == "recon" and block is not found.blocks[0]:
            _decoder(block, model, torch.Generator())
        predicts = f"{pooling(block.shape, self.limit)} -> {self.projection if self.bio else found.classes}"
        said = {"pred": predicts, "sim": "similarity", "predsim": f"{predicts}, similarity"}[self.loss]
        return said + {"none": "", "sim": ", similarity of inputs", "recon": ", reconstruction"}[self.unsupervised]

    def head(self, block: Block, model: torch.nn.Module, found: Blocks, generator: torch.Generator | None) -> LocalHead:
        head = LocalHead(block.shape, found.classes, self, generator)
        if self.unsupervised == "recon" and block is not found.blocks[0]:
            head.reconstruction = _decoder(block, model, generator)
            head.activation.append(model.get_submodule(block.end))
        if head.prediction is not None and len(block.shape) > 1 and head.prediction.in_features > self.limit:
            warnings.warn(
                f"local_errors: limit {self.limit} is below the channels of {block.end} "
                f"({head.prediction.in_features}); its maps are pooled to one position, and its head has as many "
                f"inputs as channels",
                stacklevel=3,
            )
        return head

    def objective(self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The sum of all local losses and of the task's loss, times 1 - beta with "predsim", and the network's output.

        Args and Raises: as :meth:`backroads.methods.blockwise.Blockwise.objective`.
        """
        if self.compares and len(x) == 1:
            warnings.warn("local_errors: sim of a batch of one example teaches nothing", stacklevel=2)
        return super().objective(model, x, y, loss)


layerwise = functools.partial(LocalErrors, loss="pred")
"""A linear classifier on every block, the plain control: local errors with the loss "pred" unless told otherwise."""


class LocalHead(torch.nn.Module):
    """A block's own loss, and what of it learns.

    Attributes:
        prediction: V and c, (classes or rows of P, features); starts at V = 0, and c uniform in +-1/sqrt(features), or
            0 with ``bio``. None for "sim".
        similarity: A, a linear map of the features or, on maps, a 3x3 convolution of the channels. None for "pred", and
            with ``bio``.
        reconstruction: D, the transpose of the block's layer in shape. None without "recon", and in the first block.
    """

    P: Tensor
    B: Tensor

    def __init__(
        self, shape: tuple[int, ...], classes: int, method: LocalErrors, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.method, self.classes = method, classes
        self.pooling = pooling(shape, method.limit)
        channels, size, outputs = as_map(shape)[0], self.pooling.inputs, method.projection if method.bio else classes
        self.prediction: torch.nn.Linear | None = None
        self.similarity: torch.nn.Linear | torch.nn.Conv2d | None = None
        self.reconstruction: torch.nn.Linear | torch.nn.ConvTranspose2d | None = None
        self.activation: list[torch.nn.Module] = []  # the block's own, for the reconstruction; in a list: not a part
        if method.loss != "sim":
            self.prediction = linear(size, outputs, generator)
            torch.nn.init.zeros_(self.prediction.weight)
            if method.bio:
                torch.nn.init.zeros_(self.prediction.bias)
        if method.bio:
            for name, rows, columns in (("P", outputs, classes), ("B", outputs, size)):
                if name == "P" or method.loss != "sim":
                    self.register_buffer(name, torch.empty(rows, columns))
                    draw(getattr(self, name), columns, generator)
        elif method.compares:
            if len(shape) == 1:
                self.similarity = linear(channels, channels, generator, bias=False)
            else:
                self.similarity = skip_init(torch.nn.Conv2d, channels, channels, 3, padding=1, bias=False)
                draw(self.similarity.weight, 9 * channels, generator)

    def forward(self, h: Tensor, y: Tensor, x: Tensor | None = None) -> Tensor:
        """The local loss, a scalar.

        Args:
            h: the block's output, (N, features), (N, positions, features) or (N, channels, height, width).
            y: labels, (N,).
            x: the block's input, without its graph; unsupervised losses compare h with it.
        """
        method, h = self.method, positions_as_map(h)
        Y = F.one_hot(y, self.classes).to(h.dtype)
        T = Y @ self.P.T if method.bio else Y
        S = None
        if method.compares:
            compared = self.pooling.pool(h) if self.similarity is None else self.similarity(h)
            S = similarity(compared, deviation=method.deviation)
        loss = h.new_zeros(())
        beta = {"pred": 0.0, "sim": 1.0, "predsim": method.beta}[method.loss]
        if self.prediction is not None:
            loss = loss + (1 - beta) * self._prediction_loss(h, y, T)
        if S is not None and method.loss != "pred":
            loss = loss + beta * F.mse_loss(S, similarity(T))
        loss = (1 - method.alpha) * loss
        if S is not None and x is not None and method.unsupervised == "sim":
            target = similarity(positions_as_map(x), deviation=method.deviation)
            loss = loss + method.alpha * F.mse_loss(S, target)
        if self.reconstruction is not None and x is not None:
            sizes = {"output_size": list(x.shape[2:])} if x.dim() == 4 else {}
            again = self.activation[0].forward(self.reconstruction(h, **sizes))  # past the hooks of blocks
            loss = loss + method.alpha * F.mse_loss(again, x)
        return loss

    def _prediction_loss(self, h: Tensor, y: Tensor, T: Tensor) -> Tensor:
        assert self.prediction is not None
        f = self.pooling(h)
        if not self.method.bio:
            return F.cross_entropy(self.prediction(f), y)
        back = F.linear(f, self.B)
        logits = self.prediction(f.detach()) + (back - back.detach())  # the value of V f(h) + c, the gradient of B f(h)
        return F.binary_cross_entropy_with_logits(logits, (T > 0).to(logits.dtype))


def _decoder(
    block: Block, model: torch.nn.Module, generator: torch.Generator | None
) -> torch.nn.Linear | torch.nn.ConvTranspose2d:
    """D: from the output of a block to the shape of its input; raises ConfigError for a block that has none."""
    made = decoder(block, model, generator)
    if made is None:
        raise ConfigError(
            f"local_errors: recon needs blocks of one linear layer or 2-d convolution and its activation, and that of "
            f"{block.owner} ends at {block.end}; leave out unsupervised='recon'"
        )
    return made
