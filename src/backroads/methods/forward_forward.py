"""Forward-forward: each layer is active for examples with the right label and quiet for those with a wrong one.

Sources: G. Hinton, "The Forward-Forward Algorithm: Some Preliminary Investigations", arXiv 2212.13345, 2022; for
convolutions, R. Scodellaro, A. Kulkarni, F. Alves, M. Schröter, "Training Convolutional Neural Networks with the
Forward-Forward algorithm", arXiv 2312.14924, 2023.
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
from backroads.methods.blocks import Block, Blocks
from backroads.methods.blockwise import Blockwise, LocalLosses
from backroads.methods.checks import check_choice, check_number

LABELS = ("auto", "pixels", "waves")
NEGATIVES = ("uniform", "hard")


@dataclasses.dataclass(frozen=True)
class ForwardForward(Blockwise):
    """Train each block to be active for inputs with the right label in them and quiet for those with a wrong one.

    With h the block's output, and x+ and x- an input with the right and with a wrong label::

        g    = mean over features of h^2                                       goodness
        p    = sigmoid(s (g - theta))                                          that the label is right
        loss = -mean (log p(x+) + log(1 - p(x-))) / 2

    What the next block gets is h divided by the root of g, so that it cannot read the goodness off its input. To
    predict, each class is tried in turn; its score is the sum of the goodness of all blocks but the first. The layers
    after the last block learn from the task's loss on inputs with a neutral label (the mean of all labels); their
    output is the one that training logs.

    Attributes:
        threshold: theta, above 0.
        steepness: s, above 0. The source sums the squares of n features, which is s = n and n times the threshold.
        label: where the label is put. "pixels": the first K numbers of the input are replaced by a one-hot vector.
            "waves": a plane wave of its own for each class is added to the whole input, so that convolutions see it
            everywhere. "auto": "waves" if the first layer is a convolution or there are fewer than 2 K inputs.
        negatives: wrong labels; "uniform": any of them, alike. "hard": drawn by the probabilities that the network's
            own output gives them for the neutral label. Its output then decides which wrong label the layers see.
        strength: of the label: the one in its one-hot vector, or the amplitude of its wave. For inputs with a variance
            of about 1.

    The other options are those of :class:`backroads.methods.blockwise.Blockwise`.

    Raises:
        ConfigError: for values out of range.
    """

    name: ClassVar[str] = "forward_forward"
    threshold: float = 1.0
    steepness: float = 4.0
    label: str = "auto"
    negatives: str = "uniform"
    strength: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "label", LABELS)
        check_choice(self, "negatives", NEGATIVES)
        for key in ("threshold", "steepness", "strength"):
            check_number(self, key, above=0)

    def describe(self, block: Block, model: torch.nn.Module, found: Blocks) -> str:
        return f"goodness with labels in {self.placing(model, found)}" if block is found.blocks[0] else "goodness"

    def formula(self) -> str:
        return "goodness"

    def placing(self, model: torch.nn.Module, found: Blocks) -> str:
        """ "pixels" or "waves"; raises ConfigError if there is no room for the label."""
        inputs = math.prod(found.inputs)
        if self.label == "pixels" and inputs < found.classes:
            raise ConfigError(
                f"forward_forward: label: expected {found.classes} inputs or more for 'pixels', one a class, got "
                f"{inputs}; use label='waves'"
            )
        if self.label != "auto":
            return self.label
        dense = isinstance(model.get_submodule(found.blocks[0].owner), torch.nn.Linear)
        return "pixels" if dense and inputs >= 2 * found.classes else "waves"

    def labelled(self, model: torch.nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
        """Inputs with a label in them.

        Args:
            model: prepared.
            x: inputs, (N, ...).
            y: labels, (N,), or (1,) for one label in all; None is the neutral label, the mean of all.
        """
        found = self.prepared(model).found
        K, inputs = found.classes, math.prod(found.inputs)
        pixels = self.placing(model, found) == "pixels"
        codes = torch.eye(K, inputs) if pixels else waves(K, found.inputs).flatten(1)
        codes = (self.strength * codes).to(x)
        code = codes.mean(0, keepdim=True) if y is None else codes[y]
        flat = x.flatten(1)
        if pixels:
            flat = torch.cat([torch.zeros_like(flat[:, :K]), flat[:, K:]], dim=1)
        return (flat + code).reshape(x.shape)

    def wrong(self, output: Tensor, y: Tensor) -> Tensor:
        """A wrong label for each example, drawn by torch's global generator.

        Args:
            output: of the network for the neutral label, (N, K), without its graph.
            y: right labels, (N,).
        """
        weights = output.float().softmax(1) if self.negatives == "hard" else torch.ones_like(output)
        right = F.one_hot(y, output.shape[1]).bool()
        # A network that is sure of the right label leaves 0 to all others; they are then alike.
        return torch.multinomial((weights + 1e-8).masked_fill(right, 0), 1).squeeze(1)

    def objective(self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The sum of the blocks' losses and of the task's loss, and the network's output for the neutral label.

        Args and Raises: as :meth:`backroads.methods.blockwise.Blockwise.objective`.
        """
        state = self.prepared(model)
        state.check(x, y)
        with state.cuts.visiting(lambda block, h: normalised(h.detach() if self.detach else h)):
            output = model(self.labelled(model, x, None))
        both = torch.cat([self.labelled(model, x, y), self.labelled(model, x, self.wrong(output.detach(), y))])

        def block_loss(block: int, h: Tensor) -> Tensor:
            right, wrong = (self.steepness * (goodness(h) - self.threshold)).chunk(2)
            return torch.cat([F.softplus(-right), F.softplus(wrong)]).mean()

        local = LocalLosses(self, model)
        with state.cuts.visiting(local.visit(block_loss, lambda block, h: normalised(h))):
            model(both)
        return local.total() + loss(output, y), output.detach()

    def predict(self, model: torch.nn.Module, x: Tensor) -> Tensor:
        """The score of each class, (N, K): the goodness of all blocks but the first, for its label, summed up."""
        state = self.prepared(model)
        first = min(1, len(state.found.blocks) - 1)
        scores = []
        for k in range(state.found.classes):
            found: list[Tensor] = []

            def visit(block: int, h: Tensor, found: list[Tensor] = found) -> Tensor:
                found.append(goodness(h))
                return normalised(h)

            with state.cuts.visiting(visit):
                model(self.labelled(model, x, torch.full((1,), k, device=x.device)))
            scores.append(torch.stack(found[first:]).sum(0))
        return torch.stack(scores, dim=1)


def goodness(h: Tensor) -> Tensor:
    """Mean over features (and positions) of h^2: (N, ...) -> (N,)."""
    return h.pow(2).flatten(1).mean(1)


def normalised(h: Tensor) -> Tensor:
    """h over the root of its goodness: layer normalisation without the subtraction of the mean."""
    return F.rms_norm(h, h.shape[1:], eps=1e-8)


def waves(classes: int, shape: tuple[int, ...]) -> Tensor:
    """A plane wave of amplitude 1 for each class over the last two axes, or over the last if there is one.

    They differ in orientation and in frequency, which is spread evenly below half a period a pixel, so that small
    kernels can tell them apart in images of any size.

    Args:
        classes: how many. shape: of an input.

    Returns:
        (classes, *shape).
    """
    height, width = (1, *shape)[-2:]
    orientations = math.ceil(math.sqrt(classes)) if height > 1 else 1
    frequencies = math.ceil(classes / orientations)
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    made = []
    for k in range(classes):
        angle = math.pi * (k % orientations) / orientations
        frequency = 0.5 * (1 + k // orientations) / (frequencies + 1)  # in periods a pixel
        wave = torch.cos(2 * math.pi * frequency * (u * math.cos(angle) + v * math.sin(angle)))
        made.append(wave.expand(1, *shape)[0])
    return torch.stack(made)
