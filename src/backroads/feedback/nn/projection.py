"""Matrices of modules that have several: each gets a rule and a B of its own, and W stays where torch has it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from backroads.errors import ShapeError
from backroads.feedback.nn.layer import AlignedLayer, WithRule
from backroads.feedback.rules.base import FeedbackRule


class Projection(AlignedLayer):
    """A matrix of a module that has several: its W is (a part of) one of the module's Parameters, its B is its own.

    Input (N, ..., I), output (N, ..., O); weight and backward_weight (O, I).

    Args:
        owner: the module.
        key: name of its parameter that holds W.
        bias_key: name of that which holds the bias; it may have none.
        rows: which rows of the parameter are W.
        bias_rows: which entries are the bias.
    """

    _owner: torch.nn.Module

    def __init__(
        self,
        owner: torch.nn.Module,
        key: str,
        bias_key: str,
        rows: slice = slice(None),
        bias_rows: slice = slice(None),
    ) -> None:
        torch.nn.Module.__init__(self)
        self.loads_plain = False  # said by the owner, which sees more of a state dict
        object.__setattr__(self, "_owner", owner)  # not a submodule: the owner holds this, not the reverse
        self.key, self.rows = key, rows
        self._bias_key, self._bias_rows = bias_key, bias_rows

    @property
    def parameter(self) -> Tensor:
        found: Tensor = getattr(self._owner, self.key)
        return found

    def part(self, tensor: Tensor) -> Tensor:
        return tensor[self.rows]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """W, (O, I): a view."""
        return self.part(self.parameter)

    @property
    def bias(self) -> Tensor | None:
        """(O,), a view, or None."""
        bias: Tensor | None = getattr(self._owner, self._bias_key, None)
        return None if bias is None else bias[self._bias_rows]

    def _check_shape(self, x: Tensor) -> None:
        if x.shape[-1] != self._features():
            raise ShapeError(
                f"{type(self._owner).__name__}: expected input of shape (..., {self._features()}), got {tuple(x.shape)}"
            )

    def _plain(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def weight_key(self, prefix: str) -> str:
        return prefix.removesuffix(".").rpartition(".")[0] + "." * ("." in prefix[:-1]) + self.key

    def _is_plain_state(self, state_dict: dict[str, Any], prefix: str) -> bool:
        return self.loads_plain

    def _features(self) -> int:
        return int(self.parameter.shape[1])

    def extra_repr(self) -> str:
        return f"{self._features()} -> {self.weight.shape[0]}{super().extra_repr()}"


class WithProjections(WithRule, torch.nn.Module):
    """A module of torch that multiplies by several matrices; a :class:`Projection` beside it holds the B of each.

    W stays where torch has it, so that plain state dicts load and :func:`backroads.revert` has nothing to move.
    """

    torch_class: ClassVar[type[torch.nn.Module]]

    def projections(self) -> dict[str, Projection]:
        """A new projection for each matrix, by the name of the submodule that it becomes."""
        raise NotImplementedError

    def attach(self, rule: FeedbackRule, generator: torch.Generator | None = None) -> None:
        for name, projection in self.projections().items():
            projection.train(self.training)
            projection.attach(rule, generator)
            self.add_module(name, projection)

    def redraw(self) -> None:
        """Draw the rules' tensors anew, to fit the present matrices; nothing while torch makes the plain module."""
        for module in self._modules.values():
            if isinstance(module, Projection):
                module.reset_parameters()

    def detach_rule(self) -> None:
        """Remove what :meth:`attach` added."""
        for name in [name for name, module in self._modules.items() if isinstance(module, Projection)]:
            del self._modules[name]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        for name, module in self._modules.items():
            if isinstance(module, Projection):
                module.loads_plain = AlignedLayer._is_plain_state(module, state_dict, f"{prefix}{name}.")
