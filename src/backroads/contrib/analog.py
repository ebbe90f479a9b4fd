"""Two crossbars a layer, read as IBM's simulator aihwkit reads its tiles: W on the way forward, B on the way back."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backroads.errors import ConversionError
from backroads.extras import extra_named, prepare_torchvision
from backroads.feedback.conversion import aligned_layers
from backroads.feedback.conversion.plan import refuse_aihwkit
from backroads.feedback.drive import Impulses
from backroads.feedback.nn import Conv2d, Linear
from backroads.feedback.operators import ConvolutionMap, LinearMap, Operator
from backroads.feedback.rules.alignment import Alignment
from backroads.feedback.rules.view import WeightEstimate

with extra_named("backroads.contrib.analog"):
    prepare_torchvision()
    from aihwkit.simulator.parameters.io import IOParameters
    from aihwkit.simulator.tiles.analog_mvm import AnalogMVM


def two_arrays(
    model: torch.nn.Module, *, forward: IOParameters | None = None, backward: IOParameters | None = None
) -> torch.nn.Module:
    """Read W and B of a converted model through crossbars of their own; changes the model in place.

    The forward pass multiplies by the array of W, the backward pass by the array of B, each in its own direction: there
    is no transposed read. What else a rule reads of W it reads through the array of W, too: the noise of mirrored
    Kolen-Pollack, and W itself under symmetric alignment, input by input, as aihwkit's ``read_weights`` does.

    Before each read an array is scaled so that its largest weight is 1, and the result is scaled back digitally.
    Products that teach (error times activity), biases and all other layers stay digital.

    Args:
        model: a converted model. Linear layers and 2-D convolutions without groups are read so.
        forward: converters, bounds and noise of W's array, as aihwkit describes them; None: aihwkit's own defaults.
        backward: those of B's array.

    Returns:
        The model.

    Raises:
        MissingDependencyError: on import of this module, without aihwkit: ``pip install 'backroads[analog]'``.
        ConversionError: for a model without converted layers, with modules of aihwkit, or with layers that have no B,
            are of another kind, or have a rule that needs a transposed read; the message names them, and nothing is
            changed.

    Example::

        from aihwkit.simulator.parameters.io import IOParameters

        model = br.convert(torch.nn.Sequential(torch.nn.Linear(8, 4)), "mirrored_kolen_pollack")
        two_arrays(model, forward=IOParameters(out_noise=0.02), backward=IOParameters(out_noise=0.06))
    """
    refuse_aihwkit(model)
    layers = list(aligned_layers(model))
    if not layers:
        raise ConversionError("two_arrays: the model has no converted layers; call br.convert(model, rule) first")
    without = [name for name, layer in layers if layer.backward_weight is None]
    if without:
        raise ConversionError(
            f"two_arrays: expected rules with a B to hold in an array, but these layers have none: "
            f"{', '.join(without)}; convert them with another rule, such as 'kolen_pollack'"
        )
    kinds = {Linear: AnalogLinear, Conv2d: AnalogConv2d, AnalogLinear: AnalogLinear, AnalogConv2d: AnalogConv2d}
    others = [
        f"{name} ({type(layer).__name__})"
        for name, layer in layers
        if type(layer) not in kinds or getattr(layer, "groups", 1) != 1
    ]
    if others:
        raise ConversionError(
            f"two_arrays: expected linear layers and 2-D convolutions without groups, got {', '.join(others)}; leave "
            f"them out of the conversion, or hold them in devices by br.device_model"
        )
    probed = [name for name, layer in layers if isinstance(getattr(layer.rule, "drive", None), Impulses)]
    if probed:
        raise ConversionError(
            f"two_arrays: impulses read W entry by entry, which no array does: {', '.join(probed)}; convert with "
            f"another rule, such as 'mirrored_kolen_pollack', or 'symmetric_alignment', which reads W through its array"
        )
    crossed = [
        name
        for name, layer in layers
        if isinstance(layer.rule, Alignment) and (layer.rule.sparse or layer.rule.update_forward)
    ]
    if crossed:
        raise ConversionError(
            f"two_arrays: sparse sends the input forward through B, and update_forward an answer back through W, which "
            f"are transposed reads: {', '.join(crossed)}; convert with another rule, such as 'mirrored_kolen_pollack'"
        )
    arrays = Arrays(*(IOParameters() if given is None else copy.deepcopy(given) for given in (forward, backward)))
    for _, layer in layers:
        layer.__class__ = kinds[type(layer)]
        layer.arrays = arrays  # type: ignore[assignment]
        rule = layer.rule
        if isinstance(rule, Alignment) and rule.self_ and not rule.update_forward:
            seen = {} if rule.view is None else vars(rule.view)
            layer.rule = dataclasses.replace(rule, view=ArrayRead(**{**seen, "how": arrays.forward}))
    return model


@dataclasses.dataclass(frozen=True)
class Arrays:
    """How the arrays of a layer are read.

    Attributes:
        forward, backward: of W and of B.
    """

    forward: IOParameters
    backward: IOParameters


def read(W: Tensor, x: Tensor, how: IOParameters) -> Tensor:
    """``W x`` on a crossbar. W: (O, I); x: (..., I); returns (..., O)."""
    largest = W.abs().max()
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    answers: Tensor = AnalogMVM.matmul(W / scale, x.reshape(-1, x.shape[-1]), how)
    return (answers * scale).reshape(*x.shape[:-1], W.shape[0])


@dataclasses.dataclass(frozen=True, repr=False)
class ArrayRead(WeightEstimate):
    """W as its array shows it, one input after another driven alone.

    Attributes:
        how: the array is read.
    """

    how: IOParameters = dataclasses.field(kw_only=True)

    @property
    def draws(self) -> bool:
        return True

    def seen(self, W: Tensor) -> Tensor:
        flat = W.flatten(1)
        inputs = torch.eye(flat.shape[1], dtype=W.dtype, device=W.device)
        return super().seen(read(flat, inputs, self.how).t().reshape(W.shape))


@dataclasses.dataclass(frozen=True)
class CrossbarMap(LinearMap):
    """``y = W x`` on one array, ``B^T dy`` on another."""

    arrays: Arrays

    def project(self, x: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
        y = read(W, x, self.arrays.forward)
        return y if bias is None else y + bias

    def pullback(self, dy: Tensor, B: Tensor, x: Tensor) -> Tensor:
        return read(B.t(), dy, self.arrays.backward)

    def pointwise(self, W: Tensor) -> bool:
        return False  # products with second moments would read W past its array


@dataclasses.dataclass(frozen=True)
class CrossbarConvolutionMap(ConvolutionMap):
    """A 2-D convolution whose kernels are one array: the patches of the image are read one after another."""

    arrays: Arrays = dataclasses.field(kw_only=True)

    def project(self, x: Tensor, W: Tensor, bias: Tensor | None = None) -> Tensor:
        padded = self._bordered(x if x.dim() == 4 else x.unsqueeze(0))
        patches = F.unfold(padded, W.shape[2:], self.dilation, self.padding, self.stride)
        y = read(W.flatten(1), patches.transpose(1, 2), self.arrays.forward)
        y = y.transpose(1, 2).unflatten(2, self._places(x, W))
        y = y if x.dim() == 4 else y[0]
        return y if bias is None else self.add_bias(y, bias)

    def pullback(self, dy: Tensor, B: Tensor, x: Tensor) -> Tensor:
        errors = (dy if dy.dim() == 4 else dy.unsqueeze(0)).flatten(2).transpose(1, 2)
        patches = read(B.flatten(1).t(), errors, self.arrays.backward).transpose(1, 2)
        size = self._bordered(x).shape[-2:]
        dx = self._unbordered(F.fold(patches, size, B.shape[2:], self.dilation, self.padding, self.stride))
        return dx if x.dim() == 4 else dx[0]

    def backward(
        self, dy: Tensor, x: Tensor, B: Tensor, needs: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        _, dW, db = super().backward(dy, x, B, (False, *needs[1:]))
        return (self.pullback(dy, B, x) if needs[0] else None), dW, db

    def pointwise(self, W: Tensor) -> bool:
        return False


class AnalogLinear(Linear):
    """A linear layer of two arrays; made by :func:`two_arrays`."""

    arrays: Any  # set by two_arrays

    @property
    def operator(self) -> Operator:
        return CrossbarMap(self.arrays)


class AnalogConv2d(Conv2d):
    """A 2-D convolution of two arrays; made by :func:`two_arrays`."""

    arrays: Any

    @property
    def operator(self) -> Operator:
        made = super().operator
        assert isinstance(made, ConvolutionMap)
        return CrossbarConvolutionMap(
            made.stride, made.padding, made.dilation, made.groups, made.border, arrays=self.arrays
        )
