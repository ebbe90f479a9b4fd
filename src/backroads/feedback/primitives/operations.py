"""What the reference does to the activities before it computes the primitives: its options, and their arithmetic."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from backroads.errors import RuleError, nearest
from backroads.feedback.checks import Part

ON_INPUT = ("center_input", "normalize_input", "batch_center_backward_input")
ON_ACTIVATION = ("activation", "activation_forward", "activation_backward")  # a torch layer has no activation
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "leaky_relu": F.leaky_relu,
}


@dataclasses.dataclass(frozen=True, repr=False)
class Operations(Part):
    """What is done to the activities before the alignment is computed; the reference's options by their names.

    Order: center_input; normalize_input; batch_center_backward_input (input of the B projection only); projections
    y = W x and z = B x; biases; activations; reconstructions B^T y and W^T z; then centering, normalising and batch
    centering of the outputs and their reconstructions (B^T y with the forward options, W^T z with the backward ones).

    Centering and normalising act per example over all features, channels and positions. Normalising subtracts the
    mean and multiplies by rsqrt(max(sum of squares, 1e-12)). Batch centering subtracts the mean over the batch axis.

    Attributes:
        activation: name of the activation that ``activation_forward`` and ``activation_backward`` apply, one of
            relu, tanh, sigmoid, softplus, elu, gelu, silu, leaky_relu; None is the identity (a torch layer has no
            activation of its own).
        reconstruction_reversal: null (and amp, with ``reconstruction_amp``) use W^T z in place of B^T y.
        reconstruction_amp: amp is -M<x, reconstruction> in place of -M<y, z>.

    Raises:
        RuleError: for an unknown activation or a flag that is not a bool.

    Source: the public code of Kunin et al., ICML 2020 (neuroailab/Neural-Alignment).
    """

    center_input: bool = False
    normalize_input: bool = False
    batch_center_backward_input: bool = False
    use_bias_forward: bool = False
    use_bias_backward: bool = False
    activation: str | None = None
    activation_forward: bool = False
    activation_backward: bool = False
    center_forward_output: bool = False
    normalize_forward_output: bool = False
    batch_center_forward_output: bool = False
    center_backward_output: bool = False
    normalize_backward_output: bool = False
    reconstruction_reversal: bool = False
    reconstruction_amp: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "activation":
                if value is not None and (not isinstance(value, str) or value not in ACTIVATIONS):
                    raise RuleError(
                        f"Operations: unknown activation {value!r}.{nearest(str(value), ACTIVATIONS)} "
                        f"Known: {', '.join(ACTIVATIONS)}, or None"
                    )
            elif not isinstance(value, bool):
                raise RuleError(f"Operations: {field.name} must be True or False, got {value!r}")
        others = {field.name for field in dataclasses.fields(self)} - {"activation", *ON_INPUT}
        # Made once, as it is asked for in every pass of every layer.
        object.__setattr__(self, "_only_on_input", not any(getattr(self, name) for name in others))

    @property
    def only_on_input(self) -> bool:
        """Whether nothing is done but to the input."""
        return self._only_on_input  # type: ignore[attr-defined, no-any-return]

    def on_input(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of the W and of the B projection. x: (N, ...)."""
        if self.center_input:
            x = center(x)
        if self.normalize_input:
            x = normalize(x)
        return x, batch_center(x) if self.batch_center_backward_input else x

    def activated(self, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The activations of the outputs y = W x and z = B x."""
        if self.activation is not None:
            activation = ACTIVATIONS[self.activation]
            y = activation(y) if self.activation_forward else y
            z = activation(z) if self.activation_backward else z
        return y, z

    def on_forward_output(self, v: Tensor) -> Tensor:
        """What is done to y, or to the reconstruction made from it. v: (N, ...)."""
        if self.center_forward_output:
            v = center(v)
        if self.normalize_forward_output:
            v = normalize(v)
        return batch_center(v) if self.batch_center_forward_output else v

    def on_backward_output(self, v: Tensor) -> Tensor:
        """What is done to z, or to the reconstruction made from it. v: (N, ...)."""
        if self.center_backward_output:
            v = center(v)
        return normalize(v) if self.normalize_backward_output else v


def center(v: Tensor) -> Tensor:
    """Subtract each example's mean over features and positions. v: (N, ...)."""
    return v - v.mean(dim=tuple(range(1, v.dim())), keepdim=True)


def normalize(v: Tensor) -> Tensor:
    """Center, then bring each example to norm 1; the floor 1e-12 on the sum of squares is the reference's."""
    v = center(v)
    return v * v.square().sum(dim=tuple(range(1, v.dim())), keepdim=True).clamp_min(1e-12).rsqrt()


def batch_center(v: Tensor) -> Tensor:
    """Subtract the mean over the batch axis. v: (N, ...)."""
    return v - v.mean(dim=0, keepdim=True) if v.shape[0] else v
