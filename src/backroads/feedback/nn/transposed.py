"""A linear layer that keeps its weight transposed, as GPT-2's ``Conv1D`` in transformers does."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from backroads.errors import ShapeError
from backroads.feedback.nn.layer import AlignedLayer


class TransposedLinear(AlignedLayer):
    """``transformers.pytorch_utils.Conv1D`` with backward weights of its own; made by :func:`backroads.convert`.

    Input (N, ..., I) or (I,), output (N, ..., O) or (O,). ``weight`` stays as the plain layer has it, (I, O), so that
    plain state dicts load; ``W`` is its transpose, a view, and ``backward_weight`` is laid out as W, (O, I).
    """

    @property
    def W(self) -> Tensor:
        return self.part(self.weight)

    def part(self, tensor: Tensor) -> Tensor:
        return tensor.t()

    def _check_shape(self, x: Tensor) -> None:
        if x.dim() == 0 or x.shape[-1] != len(self.weight):
            raise ShapeError(
                f"TransposedLinear: expected input of shape (..., {len(self.weight)}), got {tuple(x.shape)}; "
                f"the last dimension must be that of the weight's rows"
            )

    def _plain(self, x: Tensor) -> Tensor:
        return F.linear(x, self.W, self.bias)

    def detach_rule(self) -> None:
        super().detach_rule()
        del self.torch_class  # of the layer's own: the package that has the class is not imported here

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]} -> {self.weight.shape[1]}{super().extra_repr()}"


# Full names of the classes, of packages that are not imported here: weight (I, O), bias (O,), y = x weight + bias.
TRANSPOSED = ("transformers.pytorch_utils.Conv1D",)


def is_transposed(cls: type) -> bool:
    """Whether a class is one of :data:`TRANSPOSED`."""
    return f"{cls.__module__}.{cls.__qualname__}" in TRANSPOSED
