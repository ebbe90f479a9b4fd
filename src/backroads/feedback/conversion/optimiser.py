"""An optimiser of any class for W, with plain SGD for what the rules teach, as one optimiser."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from backroads.errors import UsageError
from backroads.feedback.conversion.groups import MADE_FOR, param_groups

FITS: dict[str, tuple[type[torch.optim.Optimizer], ...]] = {
    "sgd": (torch.optim.SGD,),
    "adamw": (torch.optim.Adam, torch.optim.AdamW),
}
_KEPT = "kept"  # key of a group in its first step: momentum and its kind, from the next step on
# Those whose arithmetic is known; what wraps an optimiser, or is another package's, is not refused.
_OF_TORCH = tuple(
    cls
    for cls in vars(torch.optim).values()
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
)


def optimiser(
    model: torch.nn.Module,
    cls: type[torch.optim.Optimizer],
    lr: float,
    weight_decay: float = 0.0,
    *,
    decay_vectors: bool = False,
    **options: Any,
) -> torch.optim.Optimizer:
    """An optimiser of any class for W, and plain SGD for what the rules teach.

    Backward weights that must move by W's own increments (Kolen-Pollack) are in W's optimiser. The two are one
    optimiser to schedulers, trainers and state dicts; its groups are named as those of :func:`backroads.param_groups`.

    Args:
        model: converted, or plain.
        cls: class of W's optimiser, such as ``torch.optim.RMSprop``.
        lr: learning rate of W, > 0.
        weight_decay: of W, as ``cls`` understands it; without it for biases and the weights of norms.
        decay_vectors: let weight decay act on parameters of one dimension, too.
        options: further arguments of ``cls``.

    Raises:
        UsageError: for a ``weight_decay`` that ``cls`` does not take, and for Adafactor under a rule whose B has to
            move as W does: its steps are in proportion to the weight's own norm.

    Example::

        opt = br.optimiser(model, torch.optim.RMSprop, lr=1e-3, alpha=0.95)
    """
    groups = param_groups(model, lr, weight_decay=weight_decay, decay_vectors=decay_vectors)
    own = [{key: g[key] for key in ("name", "params", "lr", "weight_decay")} for g in groups if MADE_FOR not in g]
    if issubclass(cls, torch.optim.Adafactor) and any(g["name"] == "tied" for g in own):
        raise UsageError(
            "optimiser: the model has backward weights that move by W's own increments, and the steps of Adafactor "
            "depend on the weight that they change; take torch.optim.AdamW or SGD"
        )
    of_w = cls(own, **options)
    if weight_decay and "weight_decay" not in of_w.defaults:
        raise UsageError(f"optimiser: {cls.__name__} takes no weight decay, got {weight_decay:g}; leave it at 0")
    momentum = of_w.defaults.get("momentum", of_w.defaults.get("betas", (0.0,))[0])
    taught = [g for g in param_groups(model, lr, momentum) if MADE_FOR in g]
    return _Joint(of_w, torch.optim.SGD(taught)) if taught else of_w


class _Joint(torch.optim.Optimizer):
    """Two optimisers as one, which share their groups and states with it.

    Args:
        of_w: it gets the groups that are added later on.
        of_b: the other.
    """

    def __init__(self, of_w: torch.optim.Optimizer, of_b: torch.optim.Optimizer) -> None:
        self.parts: tuple[torch.optim.Optimizer, ...] = ()
        super().__init__([*of_w.param_groups, *of_b.param_groups], {})
        self.parts = (of_w, of_b)
        self._join()

    def _join(self) -> None:
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        for part in self.parts:
            part.state = self.state

    def step(self, closure: Any = None) -> Any:
        """A step of both. closure: computes the loss and its gradients again, once; returned is what it gives."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if self.parts:
            self.parts[0].add_param_group(param_group)
            self._join()
        else:
            super().add_param_group(param_group)  # while this one is made

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "parts": self.parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """From a state dict, or a copy."""
        super().__setstate__(state)
        groups = iter(self.param_groups)
        for part in self.parts:
            part.__setstate__({"state": self.state, "param_groups": [next(groups) for _ in part.param_groups]})


def _refuse_groups_of_another(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Before a step: settings of plain SGD are no settings of another optimiser, which would go on without a word."""
    for group in optimizer.param_groups:
        kind = group.get(MADE_FOR)
        if kind is not None and isinstance(optimizer, _OF_TORCH) and not isinstance(optimizer, FITS[kind]):
            adam = "or br.param_groups(..., optimiser='adamw'), " if isinstance(optimizer, FITS["adamw"]) else ""
            name = type(optimizer).__name__
            raise UsageError(
                f"{name}: the settings of its group {group.get('name')!r}, of backward weights, are for {kind!r}; use "
                f"{adam}br.optimiser(model, torch.optim.{name}, lr=...)"
            )


def _first_without_momentum(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Before a step: the first one of what a rule teaches takes no momentum.

    B begins far from where it goes, and Nesterov's first step is 1 + m times the gradient: under symmetric alignment B
    would become W + m (W - B), twice as long as W, and in a network of twenty layers send back an error a million times
    too large, which is what the next step of W is made of.
    """
    for group in optimizer.param_groups if isinstance(optimizer, torch.optim.SGD) else ():
        if group.get("name") == "taught" and group["momentum"] and not group.get("begun"):
            group |= {_KEPT: (group["momentum"], group["nesterov"]), "momentum": 0.0, "nesterov": False}


def _momentum_again(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """After that step: the settings as they were."""
    for group in optimizer.param_groups:
        if _KEPT in group:
            group["momentum"], group["nesterov"] = group.pop(_KEPT)
            group["begun"] = any(p.grad is not None for p in group["params"])


register_optimizer_step_pre_hook(_refuse_groups_of_another)
register_optimizer_step_pre_hook(_first_without_momentum)
register_optimizer_step_post_hook(_momentum_again)
