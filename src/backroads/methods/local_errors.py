"""Local errors: every block of a network learns from a small loss of its own, and no error passes between blocks.

Source: A. Nøkland, L. H. Eidnes, "Training Neural Networks with Local Error Signals", ICML 2019, arXiv 1901.06656.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import skip_init

from backroads.errors import ConfigError, ShapeError, UsageError, nearest
from backroads.methods.base import Loss, Method
from backroads.methods.blocks import Block, Blocks, Cuts, find_blocks
from backroads.runs.table import aligned

LOSSES = ("pred", "sim", "predsim")
HEAD = "local_head"  # of the first layer of each block
_STATE = "_local_errors"


@dataclasses.dataclass(frozen=True)
class LocalErrors(Method):
    """Train each block by a local loss on its output h; the layers after the last block by the task's loss.

    With a head of V, c or A that learns with its block, S the :func:`similarity` of the examples of a batch, and Y the
    labels as one-hot vectors::

        pred    = mean cross-entropy(V f(h) + c, y)       f: average pooling, then one vector
        sim     = mean (S(A h) - S(Y))^2                  over all pairs of examples
        predsim = beta sim + (1 - beta) pred              the task's loss is then times 1 - beta, too

    V starts at zero. The objective is the sum of all losses: as gradients stop between blocks, one backward pass and
    one optimiser give what block-wise updates give. Dropout after an activation is not seen by the block's loss.
    "sim" compares the examples of one process's batch: under data parallelism or accumulation, of each part alone.

    Attributes:
        loss: "pred", "sim" or "predsim".
        limit: the most inputs of V; larger maps are pooled until they fit.
        blocks: names of the modules whose outputs end blocks, with wildcards; see :meth:`plan`. By default, the
            activation modules.
        beta: weight of sim in "predsim", 0 to 1.

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
    blocks: tuple[str, ...] = ()
    beta: float = 0.99

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ConfigError(
                f"local_errors: loss: expected one of {', '.join(LOSSES)}, got {self.loss!r}."
                f"{nearest(str(self.loss), LOSSES)}"
            )
        if not 0 <= self.beta <= 1:
            raise ConfigError(f"local_errors: beta: expected a number from 0 to 1, got {self.beta}")
        if not isinstance(self.limit, int) or self.limit < 1:
            raise ConfigError(f"local_errors: limit: expected a number of inputs, 1 or more, got {self.limit!r}")
        patterns = (self.blocks,) if isinstance(self.blocks, str) else tuple(self.blocks)
        object.__setattr__(self, "blocks", patterns)

    def plan(self, model: torch.nn.Module, sample: Tensor) -> LocalPlan:
        """The blocks of a model and their heads; print it. A copy of the model is run on the sample.

        Args:
            model: any model from (n, ...) to (n, classes). Outputs of blocks may be (n, features), maps (n, channels,
                height, width) or sequences (n, positions, features).
            sample: a few inputs, (n, ...).

        Raises:
            ConfigError: no block can be found, a connection passes the end of a block by, or one class only.
            ShapeError: for a sample that does not fit, or an output of a block of another shape.
        """
        found = find_blocks(model, sample, self.blocks)
        if found.classes < 2:
            raise ConfigError("local_errors: expected a model with two outputs or more, one a class, got 1")
        for block in found.blocks:
            if not 1 <= len(block.shape) <= 3:
                raise ShapeError(
                    f"local_errors: expected the output of {block.end} to be (n, features), (n, positions, features) "
                    f"or (n, channels, height, width), got {('n', *block.shape)}"
                )
            if self.loss != "pred" and _channels(block.shape)[0] == 1:
                raise ConfigError(f"local_errors: sim needs two features or more, {block.end} has 1; use loss='pred'")
        return LocalPlan(self, found)

    def prepare(
        self, model: torch.nn.Module, sample: Tensor, generator: torch.Generator | int | None
    ) -> torch.nn.Module:
        """Add a head to the first layer of each block, in place, and return the model. Its own weights stay.

        Outside :meth:`objective` the model computes what it did before.

        Args:
            model, sample: as for :meth:`plan`, on the same device; inputs later on have the shape of the sample's.
            generator: CPU generator or seed of c and A; None is torch's global generator.

        Raises:
            ConfigError, ShapeError: as :meth:`plan`, or if the model is prepared already; it is then untouched.
        """
        if hasattr(model, _STATE):
            raise ConfigError("local_errors: the model has local heads already; call revert(model) first")
        found = self.plan(model, sample).found
        if isinstance(generator, int):
            generator = torch.Generator().manual_seed(generator)
        heads = [LocalHead(block.shape, found.classes, self, generator) for block in found.blocks]
        narrow = [
            f"{block.end} ({head.features})"
            for head, block in zip(heads, found.blocks, strict=True)
            if head.features and head.features > self.limit and len(block.shape) > 1
        ]
        if narrow:
            warnings.warn(
                f"local_errors: limit {self.limit} is below the channels of {', '.join(narrow)}; their maps are pooled "
                f"to one position, and their heads have as many inputs as channels",
                stacklevel=2,
            )
        for head, block in zip(heads, found.blocks, strict=True):
            owner = model.get_submodule(block.owner)
            weight = next(p for p in owner.parameters(recurse=False))
            owner.add_module(HEAD, head.to(device=weight.device, dtype=weight.dtype))
        cuts = Cuts(model, [(block.end, block.call) for block in found.blocks])
        object.__setattr__(model, _STATE, _State(cuts, heads, tuple(sample.shape[1:]), found.classes))
        return model

    def revert(self, model: torch.nn.Module) -> torch.nn.Module:
        """Drop the heads, in place, and return the model. A model without heads is returned as it is."""
        state = model.__dict__.pop(_STATE, None)
        if state is not None:
            state.cuts.remove()
            for module in model.modules():
                module._modules.pop(HEAD, None)
        return model

    def objective(self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The sum of all local losses and of the task's loss, and the output of the network, detached.

        Args:
            model: prepared.
            x: inputs, (N, ...).
            y: labels, (N,), integers from 0.
            loss: of the task.

        Raises:
            ShapeError: for inputs that are not finite, and for inputs or labels that do not fit. Nothing has been
                changed then.
            UsageError: if the model is not prepared.
        """
        state: _State | None = getattr(model, _STATE, None)
        if state is None:
            raise UsageError("local_errors: the model has no local heads; call prepare(model, sample, generator) first")
        state.check(x, y)
        if self.loss != "pred" and len(x) == 1:
            warnings.warn("local_errors: sim of a batch of one example teaches nothing", stacklevel=2)
        losses: list[Tensor] = []
        with state.cuts.visiting(lambda block, h: losses.append(state.heads[block](h, y))):
            output = model(x)
        scale = 1 - self.beta if self.loss == "predsim" else 1.0
        return torch.stack(losses).sum() + scale * loss(output, y), output.detach()

    def formulas(self, model: torch.nn.Module) -> dict[str, str]:
        """The local loss of each block, under the name of its first layer."""
        return {name: f"local {self.loss}" for name, module in model.named_modules() if HEAD in module._modules}


class LocalHead(torch.nn.Module):
    """A block's own loss, and what of it learns.

    Attributes:
        prediction: V and c, (classes, features); starts at V = 0, and c uniform in +-1/sqrt(features). None for "sim".
        similarity: A, a linear map of the features or, on maps, a 3x3 convolution of the channels. None for "pred".
        features: inputs of V; None for "sim".
    """

    def __init__(
        self, shape: tuple[int, ...], classes: int, method: LocalErrors, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.method, self.classes = method, classes
        channels, height, width = _channels(shape)
        self.kernel, self.padding, size = pooling(channels, height, width, method.limit)
        self.features = None if method.loss == "sim" else size
        self.prediction: torch.nn.Linear | None = None
        self.similarity: torch.nn.Linear | torch.nn.Conv2d | None = None
        if self.features is not None:
            self.prediction = skip_init(torch.nn.Linear, size, classes)
            torch.nn.init.zeros_(self.prediction.weight)
            _draw(self.prediction.bias, size, generator)
        if method.loss != "pred":
            if len(shape) == 1:
                self.similarity = skip_init(torch.nn.Linear, channels, channels, bias=False)
            else:
                self.similarity = skip_init(torch.nn.Conv2d, channels, channels, 3, padding=1, bias=False)
            weight: Tensor = self.similarity.weight
            _draw(weight, weight[0].numel(), generator)

    def forward(self, h: Tensor, y: Tensor) -> Tensor:
        """The local loss, a scalar.

        Args:
            h: the block's output, (N, features), (N, positions, features) or (N, channels, height, width).
            y: labels, (N,).
        """
        beta = {"pred": 0.0, "sim": 1.0, "predsim": self.method.beta}[self.method.loss]
        h = h.transpose(1, 2).unsqueeze(-1) if h.dim() == 3 else h  # positions are a map of width 1
        total = h.new_zeros(())
        if self.prediction is not None:
            pooled = h if h.dim() == 2 else F.avg_pool2d(h, self.kernel, padding=self.padding)
            total = total + (1 - beta) * F.cross_entropy(self.prediction(pooled.flatten(1)), y)
        if self.similarity is not None:
            target = similarity(F.one_hot(y, self.classes).to(h.dtype))
            total = total + beta * F.mse_loss(similarity(self.similarity(h)), target)
        return total


def similarity(X: Tensor) -> Tensor:
    """The similarity of the examples of a batch, (n, n), each entry from -1 to 1.

    Maps with more than 3 channels and a height above 1 are first summed up by the standard deviation of each channel
    over its positions; others are flattened. Then, with Xc_i = X_i - mean over features of X_i,

        S_ij = <Xc_i, Xc_j> / ((|Xc_i| + e) (|Xc_j| + e)),   e = 1e-8

    A constant example is at 0 to all, with gradient 0.

    Args:
        X: (n, features) or (n, channels, height, width).
    """
    if X.dim() == 4 and X.shape[1] > 3 and X.shape[2] > 1:
        X = X.flatten(2).std(2)
    X = X.flatten(1)
    X = X - X.mean(1, keepdim=True)
    X = X / (torch.linalg.vector_norm(X, dim=1, keepdim=True) + 1e-8)
    return (X @ X.T).clamp(-1, 1)


def pooling(channels: int, height: int, width: int, limit: int) -> tuple[tuple[int, int], tuple[int, int], int]:
    """The average pooling in front of V: (kernel, padding, inputs of V).

    While channels x height x width after pooling is above the limit, the kernel's height and then its width double.
    Zeros of the padding count in the mean.
    """
    kernel, size = [1, 1], [height, width]
    while channels * size[0] * size[1] > limit and (kernel[0] < height or kernel[1] < width):
        for axis, length in enumerate((height, width)):
            if channels * size[0] * size[1] > limit and kernel[axis] < length:
                kernel[axis] *= 2
                size[axis] = math.ceil(length / kernel[axis])
    padding = [k * (s - d // k) // 2 for k, s, d in zip(kernel, size, (height, width), strict=True)]
    return (kernel[0], kernel[1]), (padding[0], padding[1]), channels * size[0] * size[1]


@dataclasses.dataclass(frozen=True)
class LocalPlan:
    """What :meth:`LocalErrors.prepare` would do; print it.

    Attributes:
        found: the blocks.
    """

    method: LocalErrors
    found: Blocks

    def __str__(self) -> str:
        lines = [("block", "ends at", "learns", "head")]
        for i, block in enumerate(self.found.blocks, start=1):
            end = block.end + (f" (call {block.call + 1})" if block.call else "")
            lines.append((str(i), end, _layers(block.parameters), self._head(block)))
        lines.append(("output", "", _layers(self.found.output), "the task's loss"))
        if self.found.unused:
            lines.append(("unused", "", _layers(self.found.unused), "no loss reaches it"))
        return "\n".join(aligned(lines))

    def _head(self, block: Block) -> str:
        kernel, _, inputs = pooling(*_channels(block.shape), self.method.limit)
        pooled = f"mean over {kernel[0]}x{kernel[1]}, then " if kernel != (1, 1) else ""
        predicts = f"{pooled}{inputs} -> {self.found.classes}"
        return {"pred": predicts, "sim": "similarity", "predsim": f"{predicts}, similarity"}[self.method.loss]


@dataclasses.dataclass
class _State:
    """Of a prepared model: where its blocks end, their heads, and what its inputs are."""

    cuts: Cuts
    heads: list[LocalHead]
    shape: tuple[int, ...]
    classes: int

    def check(self, x: Tensor, y: Tensor) -> None:
        if x.shape[1:] != self.shape or not len(x):
            raise ShapeError(f"x: expected inputs of shape {('N', *self.shape)} with N > 0, got {tuple(x.shape)}")
        if y.shape != x.shape[:1] or y.is_floating_point():
            raise ShapeError(f"y: expected {len(x)} integer labels, got {y.dtype} of shape {tuple(y.shape)}")
        if torch.compiler.is_compiling():
            return  # what follows waits for the device
        if not (finite := torch.isfinite(x)).all():
            first = tuple((~finite).nonzero()[0].tolist())
            raise ShapeError(f"x: expected finite inputs, got {float(x[first])} at index {first}")
        wrong = (y < 0) | (y >= self.classes)
        if wrong.any():
            place = int(wrong.nonzero()[0])
            raise ShapeError(f"y: expected labels from 0 to {self.classes - 1}, got {int(y[place])} at index {place}")


def _channels(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width) of an output without the batch: features are channels, positions are the height."""
    return {1: (*shape, 1, 1), 2: (*shape[::-1], 1), 3: shape}[len(shape)]  # type: ignore[return-value]


def _draw(parameter: Tensor, inputs: int, generator: torch.Generator | None) -> None:
    """Uniform in +-1/sqrt(inputs), as torch draws it."""
    with torch.no_grad():
        parameter.uniform_(-1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=generator)


def _layers(parameters: tuple[str, ...]) -> str:
    return ", ".join(dict.fromkeys(name.rpartition(".")[0] or name for name in parameters))
