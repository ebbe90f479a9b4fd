"""Optimisers of W and of B, and their rates as functions of the step alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from backroads.feedback.conversion import aligned_layers, backward_parameters, forward_parameters
from backroads.feedback.rules import Alignment
from backroads.train.noise import noisy
from backroads.train.settings import TrainConfig

# Of B, under rules with a sparse term. Momentum m lengthens a step of share s of the nearest to s / (1 - m) in the
# long run; at 1/2 that stays below 2, from where on steps lead away.
MOMENTUM = 0.7
# The same for rules that run on noise: their steps are not shortened where the noise of one step is strong. It halves
# the lag behind W; 0.7 would need twice the noise to be stable.
MOMENTUM_ON_NOISE = 0.5

# Name -> constructor of (groups, rate, momentum, ...).
_MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p, lr, m, **options: torch.optim.SGD(p, lr=lr, momentum=m, nesterov=m > 0, **options),
    "adam": lambda p, lr, m: torch.optim.Adam(p, lr=lr, betas=(m, 0.999)),
    "adamw": lambda p, lr, m: torch.optim.AdamW(p, lr=lr, betas=(m, 0.999)),
    "radam": lambda p, lr, m: torch.optim.RAdam(p, lr=lr, betas=(m, 0.999)),
    "rmsprop": lambda p, lr, m: torch.optim.RMSprop(p, lr=lr, momentum=m),
    "adagrad": lambda p, lr, m: torch.optim.Adagrad(p, lr=lr),
}


class Optimizers:
    """The optimiser of W, that of B (None if nothing learns backward), and their rates.

    Attributes:
        forward, backward: torch's optimisers. follows: whether B's settings are W's own.
    """

    def __init__(self, model: torch.nn.Module, config: TrainConfig, steps_per_epoch: int) -> None:
        self._config, self._steps_per_epoch = config, steps_per_epoch
        W = [p for p in forward_parameters(model) if p.requires_grad]
        decayed = [p for p in W if p.dim() > 1 or config.decay_vectors]
        others = [p for p in W if not (p.dim() > 1 or config.decay_vectors)]
        groups = [
            {"params": params, "weight_decay": decay}
            for params, decay in ((decayed, config.weight_decay), (others, 0.0))
            if params
        ]
        self.forward = _MAKERS[config.optimizer](groups, config.learning_rate, config.momentum)
        B = backward_parameters(model)
        self.follows = config.backward_optimizer == "auto" and _is_tied(model)
        self.backward: torch.optim.Optimizer | None = None
        if B and self.follows:
            # The decay too, so that W - B shrinks by the same factor a step under any optimiser.
            decay = config.weight_decay if _decays_by_optimizer(model) else 0.0
            self.backward = _MAKERS[config.optimizer]([{"params": B, "weight_decay": decay}], 0.0, config.momentum)
        elif B:
            name = "sgd" if config.backward_optimizer == "auto" else config.backward_optimizer
            momentum = config.backward_momentum
            if momentum is None:
                momentum = momentum_of_b(_alignments(model), config.momentum)
            # One pass over B, its gradient and its momentum, where torch has that.
            fused = {"fused": True} if name == "sgd" and B[0].device.type in ("cpu", "cuda") else {}
            self.backward = _MAKERS[name]([{"params": B, "weight_decay": 0.0}], 0.0, momentum, **fused)

        if config.update_noise:
            for which, optimizer, seed in (("forward", self.forward, 2), ("backward", self.backward, 3)):
                if optimizer is not None and config.update_noise_on in ("all", which):
                    noisy(
                        optimizer,
                        config.update_noise,
                        config.update_noise_distribution,
                        seed=config.seed * 1_000_003 + seed,
                    )

    def set_rates(self, step: int) -> tuple[float, float]:
        """Put this step's rates into the optimisers; returns (rate of W, rate of B)."""
        rates = self.rates(step)
        for optimizer, rate in zip((self.forward, self.backward), rates, strict=True):
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] = rate
        return rates

    def rates(self, step: int) -> tuple[float, float]:
        """(rate of W, rate of B) at a step; the first step is 0."""
        config = self._config
        epoch = step / self._steps_per_epoch
        warm = min(1.0, (step + 1) / (config.warmup_epochs * self._steps_per_epoch)) if config.warmup_epochs else 1.0
        fall = factor(config.schedule, epoch, config)
        rate = config.learning_rate * fall * warm
        if self.follows:
            return rate, rate
        own = fall if config.backward_schedule == "same" else factor(config.backward_schedule, epoch, config)
        return rate, config.backward_rate * own

    def state(self) -> dict[str, Any]:
        """Both state dicts."""
        backward = None if self.backward is None else self.backward.state_dict()
        return {"forward": self.forward.state_dict(), "backward": backward}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.forward.load_state_dict(state["forward"])
        if self.backward is not None:
            self.backward.load_state_dict(state["backward"])


def factor(schedule: str, epoch: float, config: TrainConfig) -> float:
    """The factor on a base rate at an epoch (a fraction within epochs), warm-up apart.

    "cosine" and "linear" fall from 1 to 0 over the training, "steps" multiplies by ``drop_factor`` at each of
    ``drop_epochs``. Cosine: Loshchilov, Hutter, ICLR 2017.
    """
    done = min(1.0, epoch / config.epochs)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "linear":
        return 1 - done
    if schedule == "steps":
        return float(config.drop_factor ** sum(epoch >= drop for drop in config.drop_epochs))
    return 1.0


def clip(model: torch.nn.Module, limit: float) -> float:
    """Scale the gradient of W to at most ``limit``, leaving alignment right; returns its norm before.

    The alignment gradients are no part of the loss and are not scaled. Kolen-Pollack's B must move as W does: the
    part of its gradient that is W's own is scaled with it, the decay is not.
    """
    W = [p for p in forward_parameters(model) if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(W, limit)
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)  # as clip_grad_norm_ does
    for _, layer in aligned_layers(model):
        rule, B = layer.rule, layer.backward_weight
        if isinstance(rule, Alignment) and rule.tie_grad and B is not None and B.grad is not None:
            with torch.no_grad():
                own = B * (rule.decay * layer.alignment_scale)
                B.grad.sub_(own).mul_(scale).add_(own)
    return float(norm)


def momentum_of_b(rules: list[Alignment], of_w: float) -> float:
    """Nesterov momentum of B, where it has an optimiser of its own; ``of_w`` is W's."""
    if any(rule.sparse for rule in rules):  # as ill-conditioned as the activities
        return MOMENTUM if all(rule.input_noise is None for rule in rules) else MOMENTUM_ON_NOISE
    if any(rule.estimate is not None for rule in rules):  # would add up its noise, and go on where nothing arrives
        return 0.0
    data, overshoot = any(rule.amp or rule.null for rule in rules), any(rule.decay > 1 for rule in rules)
    if any(rule.self_ for rule in rules) and not (data or overshoot):  # those have bounds that momentum would lower
        # B is drawn to the W before the step that W is about to take. At rate 1 and decay = self = 1 Nesterov's B is
        # W_t + m (W_t - W_(t-1)): as much further as W's own momentum m will carry it.
        return of_w
    return 0.0


def _alignments(model: torch.nn.Module) -> list[Alignment]:
    return [layer.rule for _, layer in aligned_layers(model) if isinstance(layer.rule, Alignment)]


def _decays_by_optimizer(model: torch.nn.Module) -> bool:
    return all(rule.decay == 0 for rule in _alignments(model))


def _is_tied(model: torch.nn.Module) -> bool:
    return any(rule.tie_grad for rule in _alignments(model))
