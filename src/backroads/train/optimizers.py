"""Optimisers of W and of B, and their rates as functions of the step alone."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch

from backroads.errors import ConfigError
from backroads.feedback.conversion import param_groups
from backroads.train.noise import noisy
from backroads.train.settings import TrainSettings

_CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}
TRIANGLE_START = 0.2  # of the rate of W, for the schedule "triangle"
NORMS = (
    torch.nn.modules.batchnorm._BatchNorm,
    torch.nn.modules.instancenorm._InstanceNorm,
    torch.nn.LayerNorm,
    torch.nn.GroupNorm,
    torch.nn.RMSNorm,
)


class Optimizers:
    """The optimiser of W, that of what a feedback rule teaches, and their rates.

    The groups are those of :func:`backroads.param_groups`: weights that must move as W does are in W's own optimiser.

    Attributes:
        forward: optimiser of W. backward: of weights that are taught apart from W; None if there are none.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        config: TrainSettings,
        steps_per_epoch: int,
        parameters: dict[str, list[torch.nn.Parameter]],
    ) -> None:
        self._config, self._steps_per_epoch = config, steps_per_epoch
        of_w, of_b = config.optimizer, config.backward
        if unknown := set(parameters) - {"forward", "backward"}:
            raise ConfigError(
                f"method: expected parameters in the groups 'forward' and 'backward', got {min(unknown)!r} too"
            )
        groups = param_groups(
            model, of_w.learning_rate, of_w.momentum, of_w.weight_decay, decay_vectors=of_w.decay_vectors
        )
        if of_w.norm_rate != 1:
            groups = _norms_apart(model, groups, of_w.norm_rate)
        chosen = {id(p) for part in parameters.values() for p in part}
        groups = [{**g, "params": [p for p in g["params"] if id(p) in chosen]} for g in groups]
        # A method's own "backward" parameters, which no feedback rule taught: apart from W, at the rate of B.
        apart_from_w = {id(p) for p in parameters.get("backward", ())}
        moved = [p for g in groups if g["name"] in ("weights", "vectors") for p in g["params"] if id(p) in apart_from_w]
        if moved:
            for g in groups:
                g["params"] = [p for p in g["params"] if id(p) not in {id(q) for q in moved}]
            plain = {"lr": 1.0, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
            groups.append({"name": "taught", "params": moved, **plain})
        auto = of_b.optimizer == "auto"
        apart = ("taught", "constant") if auto else ("tied", "taught", "constant")
        taught = [g for g in groups if g["name"] in apart and g["params"]]
        of_forward = [g for g in groups if g["name"] not in apart and g["params"]]
        # One pass over a weight, its gradient and its momentum, where torch has that on the CPU.
        on_cpu = all(p.device.type == "cpu" for g in of_forward for p in g["params"])
        in_one = on_cpu and of_w.name in ("sgd", "adam", "adamw")
        self.forward = _made(of_w.name, of_forward, **({"fused": True} if in_one else {}))
        self.backward: torch.optim.Optimizer | None = None
        if taught:
            for group in taught:
                momentum = group["momentum"] if of_b.momentum is None else of_b.momentum
                group |= {"lr": 1.0, "momentum": momentum, "nesterov": momentum > 0, "weight_decay": 0.0}
            # One pass over B, its gradient and its momentum, where torch has that.
            fused = auto and taught[0]["params"][0].device.type in ("cpu", "cuda")
            self.backward = _made("sgd" if auto else of_b.optimizer, taught, **({"fused": True} if fused else {}))
        if of_w.update_noise:
            for optimizer, seed in ((self.forward, 2), (self.backward, 3)):
                if optimizer is not None:
                    noisy(
                        optimizer,
                        of_w.update_noise,
                        of_w.update_noise_distribution,
                        of_w.update_noise_on,
                        model=model,
                        seed=config.run.seed * 1_000_003 + seed,
                        rate=self._rate_of_w if of_w.update_noise_rate == "forward" else None,
                    )

    @property
    def _highest_of_b(self) -> float:
        rate = self._config.backward.rate
        return self._config.optimizer.learning_rate if rate == "forward" else rate

    def _rate_of_w(self) -> float:
        return float(self.forward.param_groups[0]["lr"])

    def set_rates(self, step: int) -> tuple[float, float]:
        """Put this step's rates into the optimisers; returns (rate of W, rate of B)."""
        rates = self.rates(step)
        for optimizer, rate in zip((self.forward, self.backward), rates, strict=True):
            for group in optimizer.param_groups if optimizer is not None else ():
                factor = self._config.optimizer.norm_rate if group.get("name") == "norms" else 1.0
                group["lr"] = self._highest_of_b if group.get("name") == "constant" else rate * factor
        return rates

    def rates(self, step: int) -> tuple[float, float]:
        """(rate of W, rate of B) at a step; the first step is 0."""
        config, epoch = self._config, step / self._steps_per_epoch
        schedule, of_b = config.schedule, config.backward
        warmup = schedule.warmup_epochs * self._steps_per_epoch
        fall = factor(schedule.name, epoch, config)
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        if schedule.name == "triangle":
            rise *= min(1.0, TRIANGLE_START + (1 - TRIANGLE_START) * epoch / (schedule.peak * config.run.epochs))
        rate = config.optimizer.learning_rate * fall * rise
        if self.backward is None:
            return rate, rate
        return rate, self._highest_of_b * (fall if of_b.schedule == "same" else factor(of_b.schedule, epoch, config))

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

    "cosine" and "linear" fall from 1 to 0 over the training, "triangle" from 1 at ``peak`` to ``last_factor``, "steps"
    multiplies by ``drop_factor`` at each of ``drop_epochs``. Cosine: Loshchilov, Hutter, ICLR 2017.
    """
    done = min(1.0, epoch / config.run.epochs)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "linear":
        return 1 - done
    if schedule == "triangle":
        peak, last = config.schedule.peak, config.schedule.last_factor
        return 1 - (1 - last) * max(0.0, done - peak) / (1 - peak)
    if schedule == "steps":
        return float(config.schedule.drop_factor ** sum(epoch >= drop for drop in config.schedule.drop_epochs))
    return 1.0


def _norms_apart(model: torch.nn.Module, groups: list[dict[str, Any]], rate: float) -> list[dict[str, Any]]:
    """The groups, and one called "norms" of the parameters of normalisation, with their decay divided by ``rate``."""
    norms = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    found = []
    for group in groups:
        inside = [p for p in group["params"] if id(p) in norms]
        found.append({**group, "params": [p for p in group["params"] if id(p) not in norms]})
        if inside:
            found.append({**group, "params": inside, "name": "norms", "weight_decay": group["weight_decay"] / rate})
    return found


def _made(name: str, groups: list[dict[str, Any]], **options: Any) -> torch.optim.Optimizer:
    """An optimiser by name, of groups for SGD: their momentum is beta1 of Adam and its kin."""
    cls = _CLASSES[name]
    known = inspect.signature(cls).parameters
    if "betas" in known:
        groups = [{**group, "betas": (group["momentum"], 0.999)} for group in groups]
    kept = {"params", "name", *known}
    return cls([{key: value for key, value in group.items() if key in kept} for group in groups], **options)
