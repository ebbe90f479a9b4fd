"""Optimiser groups that are right for every rule."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from backroads.errors import UsageError
from backroads.feedback.conversion.plan import refuse_aihwkit
from backroads.feedback.conversion.swap import aligned_layers, forward_parameters
from backroads.feedback.rules.base import BackwardOptimiser

# Adam's step is -lr m / (sqrt(v) + eps). With betas (0, .) m is the gradient g, and with an eps beside which sqrt(v)
# vanishes and lr = rate eps it is -rate g, to the last bits of float32: plain SGD within an optimiser of Adam's kind.
EPS_OF_PLAIN_STEPS = 1e8
MADE_FOR = "made_for"  # key of a group of what a rule teaches: "sgd" or "adamw", the optimiser that its settings fit


def param_groups(
    model: torch.nn.Module,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    *,
    optimiser: str = "sgd",
    nesterov: bool = True,
    decay_vectors: bool = False,
    betas: tuple[float, float] = (0.9, 0.999),
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser, in which the weights of every rule get what the rule needs.

    - W: ``lr``, ``momentum`` (or ``betas``) and ``weight_decay``; biases and the weights of norms without decay.
    - Backward weights that must move by W's own increments (Kolen-Pollack): W's settings, decay included.
    - Backward weights that a local gradient teaches (symmetric alignment and the like): plain SGD at the rate, and with
      the momentum, that the rule names, without decay; under AdamW by the same steps within Adam, without momentum.

    A scheduler that multiplies all rates alike keeps their ratios. (The rate of a group called "constant" should stay;
    that it falls with the others does little harm.) torch's OneCycleLR and CyclicLR set rates and momenta of their own:
    give them ``cycle_momentum=False`` and a list of rates in the ratios of the groups.

    Args:
        model: converted, or plain.
        lr: learning rate of W, > 0.
        momentum: of W, for "sgd".
        weight_decay: of W.
        optimiser: which one the groups are for: "sgd" (torch.optim.SGD) or "adamw" (torch.optim.AdamW, or Adam). For
            any other there is :func:`backroads.optimiser`.
        nesterov: kind of the momentum, for "sgd"; without momentum there is none.
        decay_vectors: let weight decay act on parameters of one dimension, too.
        betas: of W, for "adamw".

    Returns:
        A list of groups, each with a "name": "weights", "vectors", "tied", "taught" and "constant" (taught at a rate
        that no schedule should change); empty ones are left out, and the last three appear once for each of their
        settings.

    Raises:
        ConversionError: for a model with modules of aihwkit.
        UsageError: for another optimiser; and in the first step of an optimiser of torch for which groups with
            backward weights were not made.

    Warns of a model in which every B is frozen although the rules would teach it.

    Example::

        opt = torch.optim.SGD(br.param_groups(model, lr=0.1, momentum=0.9, weight_decay=5e-4))
        opt = torch.optim.AdamW(br.param_groups(model, lr=1e-3, weight_decay=0.01, optimiser="adamw"))
    """
    if optimiser not in ("sgd", "adamw"):
        raise UsageError(f"param_groups: expected optimiser 'sgd' or 'adamw', got {optimiser!r}")
    refuse_aihwkit(model)
    warn_if_nothing_learns(model)
    sgd = optimiser == "sgd"
    own: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
    own |= {"momentum": momentum, "nesterov": nesterov and momentum > 0} if sgd else {"betas": betas}
    W = [p for p in forward_parameters(model) if p.requires_grad]
    decayed = [p for p in W if p.dim() > 1 or decay_vectors]
    vectors = [p for p in W if not (p.dim() > 1 or decay_vectors)]
    groups = [
        {"name": "weights", "params": decayed, **own},
        {"name": "vectors", "params": vectors, **own, "weight_decay": 0.0},
    ]
    for settings, parameters in by_optimiser(model, momentum if sgd else betas[0]).items():
        group: dict[str, Any]
        if settings.follows:
            group = {"name": "tied", **own, "weight_decay": weight_decay if settings.decays else 0.0}
        else:
            group = {"name": "constant" if settings.constant else "taught", "weight_decay": 0.0, MADE_FOR: optimiser}
            m, eps = settings.momentum, EPS_OF_PLAIN_STEPS
            group |= (
                {"lr": settings.rate, "momentum": m, "nesterov": m > 0}
                if sgd
                else {"lr": settings.rate * eps, "betas": (0.0, 0.999), "eps": eps}
            )
        groups.append({**group, "params": parameters})
    return [group for group in groups if group["params"]]


def warn_if_nothing_learns(model: torch.nn.Module) -> None:
    """Warn of a model whose rules teach B while every B is frozen, as freezing all parameters leaves it."""
    taught = [layer for _, layer in aligned_layers(model) if layer.rule.learns]
    if taught and not any(p.requires_grad for layer in taught for p in layer.state.values()):
        warnings.warn(
            f"no backward weight learns: the rules of {len(taught)} layers teach theirs, and all are frozen; freeze "
            f"and add adapters before br.convert, or unfreeze them: layer.backward_weight.requires_grad_(True) for "
            f"each of br.aligned_layers(model). If B shall stay as it is, convert with feedback_alignment",
            stacklevel=3,
        )


def by_optimiser(model: torch.nn.Module, momentum: float) -> dict[BackwardOptimiser, list[torch.nn.Parameter]]:
    """The rules' parameters that learn, by what their optimiser has to be. momentum: of W's optimiser."""
    found: dict[BackwardOptimiser, list[torch.nn.Parameter]] = {}
    seen: set[int] = set()
    for _, layer in aligned_layers(model):
        for name, p in layer.state.items():
            if isinstance(p, torch.nn.Parameter) and p.requires_grad and id(p) not in seen:
                seen.add(id(p))
                found.setdefault(layer.rule.optimiser(name, momentum), []).append(p)
    return found


def clip_gradients(model: torch.nn.Module, limit: float) -> float:
    """Scale the gradient of W to at most ``limit``, and leave alignment right; returns its norm before.

    The alignment gradients are no part of the loss and are not scaled; what has to move as W does (Kolen-Pollack) is.
    """
    W = [p for p in forward_parameters(model) if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(W, limit)
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)  # as clip_grad_norm_ does
    with torch.no_grad():
        for _, layer in aligned_layers(model):
            scale = 1.0 if layer.alignment_scale is None else layer.alignment_scale
            for name, p in layer.state.items():
                if p.grad is not None:
                    layer.rule.clip(name, p, p.grad, factor, scale)
    return float(norm)


def local_gradients(model: torch.nn.Module) -> list[str]:
    """Names of the rules' parameters whose gradient every data parallel process makes alike, from W and them alone."""
    local = {name: layer for name, layer in aligned_layers(model) if layer.rule.gradient_is_local}
    return [
        f"{name}.{key}" if name else key
        for name, layer in local.items()
        for key, p in layer.state.items()
        if isinstance(p, torch.nn.Parameter)
    ]
