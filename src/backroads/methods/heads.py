"""What reads a block's output for a loss of its own: pooling, linear maps, and the similarity of examples."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import skip_init

from backroads.errors import ConfigError
from backroads.methods.blocks import ACTIVATIONS, Block


@dataclasses.dataclass(frozen=True)
class Pooling:
    """Average pooling of a block's output, and then one vector an example.

    Attributes:
        kernel, padding: of the pooling; zeros of the padding count in the mean.
        inputs: length of the vector.
    """

    kernel: tuple[int, int]
    padding: tuple[int, int]
    inputs: int

    def pool(self, h: Tensor) -> Tensor:
        """Features as they are, and maps, (N, channels, height, width), pooled."""
        return h if h.dim() == 2 or self.kernel == (1, 1) else F.avg_pool2d(h, self.kernel, padding=self.padding)

    def __call__(self, h: Tensor) -> Tensor:
        """(N, features) or (N, channels, height, width) -> (N, inputs)."""
        return self.pool(h).flatten(1)

    def __str__(self) -> str:
        pooled = f"mean over {self.kernel[0]}x{self.kernel[1]}, then " if self.kernel != (1, 1) else ""
        return f"{pooled}{self.inputs}"


def pooling(shape: tuple[int, ...], limit: int) -> Pooling:
    """The pooling that makes an output of at most ``limit`` numbers.

    While there are more, the kernel's height and then its width double.

    Args:
        shape: of the output of one example: (features,), (positions, features) or (channels, height, width).
        limit: the most numbers afterwards, as far as a map of one position has no more.
    """
    channels, height, width = as_map(shape)
    kernel, size = [1, 1], [height, width]
    while channels * size[0] * size[1] > limit and (kernel[0] < height or kernel[1] < width):
        for axis, length in enumerate((height, width)):
            if channels * size[0] * size[1] > limit and kernel[axis] < length:
                kernel[axis] *= 2
                size[axis] = math.ceil(length / kernel[axis])
    padding = [k * (s - d // k) // 2 for k, s, d in zip(kernel, size, (height, width), strict=True)]
    return Pooling((kernel[0], kernel[1]), (padding[0], padding[1]), channels * size[0] * size[1])


def as_map(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width) of an output of one example: features are channels, positions are the height."""
    return {1: (*shape, 1, 1), 2: (*shape[::-1], 1), 3: shape}[len(shape)]  # type: ignore[return-value]


def refuse_sequence_of_channels(method: str, block: Block, model: torch.nn.Module) -> None:
    """Raise ConfigError for a block of 1-D convolutions: an output of two dimensions is read as positions by features,
    and theirs are channels by positions."""
    for name in dict.fromkeys(name.rpartition(".")[0] for name in block.parameters):
        if len(block.shape) == 2 and isinstance(model.get_submodule(name), torch.nn.Conv1d):
            raise ConfigError(
                f"{method}: expected sequences with their features last, got the output of {name}, a Conv1d, with "
                f"{block.shape[0]} channels first; write it as a Conv2d of height 1"
            )


def positions_as_map(h: Tensor) -> Tensor:
    """A sequence, (N, positions, features), as a map of width 1, (N, features, positions, 1); others as they are."""
    return h.transpose(1, 2).unsqueeze(-1) if h.dim() == 3 else h


def similarity(X: Tensor, *, deviation: bool = True) -> Tensor:
    """The similarity of the examples of a batch, (n, n), each entry from -1 to 1.

    Maps with more than 3 channels and a height above 1 are first summed up by the standard deviation of each channel
    over its positions; others are flattened. Then, with Xc_i = X_i - mean over features of X_i,

        S_ij = <Xc_i, Xc_j> / ((|Xc_i| + e) (|Xc_j| + e)),   e = 1e-8

    A constant example is at 0 to all, with gradient 0.

    Args:
        X: (n, features) or (n, channels, height, width).
        deviation: False flattens all maps.
    """
    if deviation and X.dim() == 4 and X.shape[1] > 3 and X.shape[2] > 1:
        X = X.flatten(2).std(2)
    X = X.flatten(1)
    X = X - X.mean(1, keepdim=True)
    X = X / (torch.linalg.vector_norm(X, dim=1, keepdim=True) + 1e-8)
    return (X @ X.T).clamp(-1, 1)


def linear(inputs: int, outputs: int, generator: torch.Generator | None, *, bias: bool = True) -> torch.nn.Linear:
    """A linear map whose weights come from the generator, distributed as torch's."""
    made: torch.nn.Linear = skip_init(torch.nn.Linear, inputs, outputs, bias=bias)
    for parameter in made.parameters():
        draw(parameter, inputs, generator)
    return made


def draw(parameter: Tensor, inputs: int, generator: torch.Generator | None) -> None:
    """Uniform in +-1/sqrt(inputs), as torch draws the weights and biases of a layer with so many inputs."""
    with torch.no_grad():
        parameter.uniform_(-1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=generator)


def decoder(
    block: Block, model: torch.nn.Module, generator: torch.Generator | None
) -> torch.nn.Linear | torch.nn.ConvTranspose2d | None:
    """A map from the output of a block of one linear layer or convolution to the shape of what that layer receives.

    Args:
        block: found in the model. model: the model.
        generator: of its weights and biases, distributed as torch's.

    Returns:
        The transpose of the block's layer in shape; None for another kind of block.
    """
    layer, end = model.get_submodule(block.owner), model.get_submodule(block.end)
    if not isinstance(end, ACTIVATIONS):
        return None
    if isinstance(layer, torch.nn.Linear) and block.shape[-1] == layer.out_features and len(block.shape) == 1:
        return linear(layer.out_features, layer.in_features, generator)
    if isinstance(layer, torch.nn.Conv2d) and layer.groups == 1 and isinstance(layer.padding, tuple):
        least = [
            (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1
            for size, stride, padding, dilation, kernel in zip(
                block.shape[1:], layer.stride, layer.padding, layer.dilation, layer.kernel_size, strict=True
            )
        ]
        sizes = zip(least, block.inputs[1:], layer.stride, strict=True)
        if block.shape[0] == layer.out_channels and all(a <= size < a + stride for a, size, stride in sizes):
            made: torch.nn.ConvTranspose2d = skip_init(
                torch.nn.ConvTranspose2d,
                layer.out_channels,
                layer.in_channels,
                layer.kernel_size,
                stride=layer.stride,
                padding=layer.padding,
                dilation=layer.dilation,
            )
            for parameter in made.parameters():
                draw(parameter, made.weight[0].numel(), generator)
            return made
    return None
