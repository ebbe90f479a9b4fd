"""Optimisers of W and of B, and their rates as functions of the step alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from backroads.errors import ConfigError
from backroads.feedback.conversion import backward_parameters, forward_parameters
from backroads.feedback.conversion.groups import by_optimiser
from backroads.train.noise import noisy
from backroads.train.settings import TrainSettings

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

    def __init__(
        self,
        model: torch.nn.Module,
        config: TrainSettings,
        steps_per_epoch: int,
        parameters: dict[str, list[torch.nn.Parameter]] | None = None,
    ) -> None:
        self._config, self._steps_per_epoch = config, steps_per_epoch
        of_w, of_b = config.optimizer, config.backward
        parameters = parameters or {"forward": forward_parameters(model), "backward": backward_parameters(model)}
        if unknown := set(parameters) - {"forward", "backward"}:
            raise ConfigError(
                f"method: expected parameters in the groups 'forward' and 'backward', got {min(unknown)!r} too"
            )
        W = [p for p in parameters["forward"] if p.requires_grad]
        decayed = [p for p in W if p.dim() > 1 or of_w.decay_vectors]
        others = [p for p in W if not (p.dim() > 1 or of_w.decay_vectors)]
        groups = [
            {"params": params, "weight_decay": decay}
            for params, decay in ((decayed, of_w.weight_decay), (others, 0.0))
            if params
        ]
        self.forward = _MAKERS[of_w.name](groups, of_w.learning_rate, of_w.momentum)
        B = parameters.get("backward", [])
        kinds = list(by_optimiser(model, of_w.momentum))
        self.follows = of_b.optimizer == "auto" and any(kind.follows for kind in kinds)
        self.backward: torch.optim.Optimizer | None = None
        if B and self.follows:
            # The decay too, so that W - B shrinks by the same factor a step under any optimiser.
            decay = of_w.weight_decay if all(kind.decays for kind in kinds) else 0.0
            self.backward = _MAKERS[of_w.name]([{"params": B, "weight_decay": decay}], 0.0, of_w.momentum)
        elif B:
            name = "sgd" if of_b.optimizer == "auto" else of_b.optimizer
            momentum = of_b.momentum
            if momentum is None:
                momentum = min(kind.momentum for kind in kinds)
            # One pass over B, its gradient and its momentum, where torch has that.
            fused = {"fused": True} if name == "sgd" and B[0].device.type in ("cpu", "cuda") else {}
            self.backward = _MAKERS[name]([{"params": B, "weight_decay": 0.0}], 0.0, momentum, **fused)

        if of_w.update_noise:
            for which, optimizer, seed in (("forward", self.forward, 2), ("backward", self.backward, 3)):
                if optimizer is not None and of_w.update_noise_on in ("all", which):
                    noisy(
                        optimizer,
                        of_w.update_noise,
                        of_w.update_noise_distribution,
                        seed=config.run.seed * 1_000_003 + seed,
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
        config, epoch = self._config, step / self._steps_per_epoch
        schedule, of_b = config.schedule, config.backward
        warmup = schedule.warmup_epochs * self._steps_per_epoch
        fall = factor(schedule.name, epoch, config)
        rate = config.optimizer.learning_rate * fall * (min(1.0, (step + 1) / warmup) if warmup else 1.0)
        if self.follows:
            return rate, rate
        return rate, of_b.rate * (fall if of_b.schedule == "same" else factor(of_b.schedule, epoch, config))

    def state(self) -> dict[str, Any]:
        """Both state dicts."""
        backward = None if self.backward is None else self.backward.state_dict()
        return {"forward": self.forward.state_dict(), "backward": backward}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.forward.load_state_dict(state["forward"])
        if self.backward is not None:
            self.backward.load_state_dict(state["backward"])


def factor(schedule: str, epoch: float, config: TrainSettings) -> float:
    """The factor on a base rate at an epoch (a fraction within epochs), warm-up apart.

    "cosine" and "linear" fall from 1 to 0 over the training, "steps" multiplies by ``drop_factor`` at each of
    ``drop_epochs``. Cosine: Loshchilov, Hutter, ICLR 2017.
    """
    done = min(1.0, epoch / config.run.epochs)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "linear":
        return 1 - done
    if schedule == "steps":
        return float(config.schedule.drop_factor ** sum(epoch >= drop for drop in config.schedule.drop_epochs))
    return 1.0
