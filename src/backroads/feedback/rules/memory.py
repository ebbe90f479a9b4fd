"""What a layer's rule remembers between passes: where it is in its cadence, and how often the layer was used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook


class Memory:
    """Whole numbers (and tensors of the last pass) that a layer's rule remembers between passes, beside its state.

    Attributes:
        step: of a rule that does not act on every pass.
        active: whether the last pass was one on which it acts.
        early: whether the layer has had so little noise that it comes in every step.
        noisy: in how many steps noise has driven it till then.
        place: of the oldest copy of W, for a late view of W.
        late: what the last pass saw of W.
        backward: number of the backward pass that is, or was last, under way.
        uses: how often the layer was used in what that went through.
        before: how often in earlier backward passes of the same step, whose gradients are there (accumulation).
        landed: how often in those of them that brought gradients to what is averaged; torch.autograd.grad of an input
            brings none. lands: whether the pass under way has brought some.
        last: how often in the whole step before.
        version: of a tensor that the rule teaches, at the last backward pass, as torch counts its changes: it moves
            when an optimiser steps. seen: the sum for all of them, at the last forward pass of training; -1: there was
            none. passed: ``backward`` at that time.
        carried: while metrics measure a pass: what carries the error back is appended; None: not now.
        weighted: whether the user gives the gradients of each pass a factor; see :class:`backroads.alignment_scale`.
    """

    def __init__(self) -> None:
        self.step = 0
        self.active = True
        self.early = True
        self.noisy = 0
        self.place = 0
        self.late: Tensor | None = None
        self.backward = self.version = self.seen = self.passed = -1
        self.uses = self.before = self.landed = self.last = 0
        self.lands = False
        self.weighted = False
        self.carried: list[Tensor] | None = None

    def begins(self, taught: Sequence[Tensor]) -> bool:
        """Whether a forward pass of training is the first of a step.

        An optimiser has moved what the rule teaches. Where the rule did not act, there may have been nothing to move,
        if a schedule left W's optimiser out: then a backward pass whose gradients are gone was a step.
        """
        if sum(tensor._version for tensor in taught) != self.seen:
            return True
        return not self.active and self.backward != self.passed and taught[0].grad is None

    def look(self, taught: Sequence[Tensor]) -> None:
        """Note at the end of a forward pass of training how things stand, for :meth:`begins`."""
        self.seen, self.passed = sum(tensor._version for tensor in taught), self.backward

    def count(self, backward: int, taught: Tensor) -> bool:
        """A backward pass comes to a use of the layer; whether it is the first of its step.

        Args:
            backward: number of the pass.
            taught: a tensor that the rule teaches.
        """
        if backward != self.backward:
            stepped = taught.grad is None or taught._version != self.version
            self.before = 0 if stepped else self.before + self.uses
            self.landed = 0 if stepped else self.landed + self.uses * self.lands
            self.lands = False
            self.uses, self.backward, self.version = 0, backward, taught._version
        self.uses += 1
        return self.uses == 1 and (self.weighted or not self.before)

    def mean(self, taught: Tensor, total: Tensor) -> Tensor | None:
        """What a backward pass adds to ``.grad`` so that it holds the mean over all uses of the layer in the step.

        Args:
            taught: a tensor that the rule teaches. total: the sum of its gradients over the uses in this pass.

        Returns:
            None where that is the sum itself. A factor of the user's makes it the mean over this pass alone.
        """
        self.lands = True
        before = 0 if self.weighted else self.landed
        if before + self.uses == 1:
            return None
        if before and taught.grad is not None:
            total = total - taught.grad * self.uses
        return total / (before + self.uses)


def _count_change(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Count a step of a fused optimiser as a change of its parameters, as torch itself counts the others."""
    for group in optimizer.param_groups:
        if group.get("fused"):
            torch.autograd.graph.increment_version([p for p in group["params"] if p.grad is not None])


register_optimizer_step_post_hook(_count_change)  # steps are told apart by that count
