"""Noisy updates: after each step of an optimiser, noise on the weights that it moved."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from backroads.errors import ConfigError, StateError, nearest
from backroads.feedback.conversion import backward_parameters

Which = Literal["all", "forward", "backward"]
WHICH = ("all", "forward", "backward")
DISTRIBUTIONS = ("normal", "uniform")
KEY = "update_noise"  # in the optimiser's state dict
_Optimizer = TypeVar("_Optimizer", bound=torch.optim.Optimizer)


def noisy(
    optimizer: _Optimizer,
    std: float,
    distribution: str = "normal",
    which: Which = "all",
    *,
    model: torch.nn.Module | None = None,
    seed: int = 0,
    rate: Callable[[], float] | None = None,
) -> _Optimizer:
    """Let an optimiser's updates be noisy: after every ``step``, ``weight += lr epsilon``; returns the optimiser.

    epsilon has mean 0 and standard deviation ``std``; lr is the rate of the weight's group at that step. One draw and
    one fused addition for each group. Any optimiser of torch; a step that a gradient scaler skips adds nothing.

    The draws come from generators of their own, seeded with ``seed``: the same in all processes of data parallel
    training, whose weights stay together. Their state is in ``optimizer.state_dict()``.

    Args:
        optimizer: a torch optimiser. std: >= 0, the square root of the variance that the literature reports.
        distribution: "normal" or "uniform" (of the same variance).
        which: all of the optimiser's weights, or of them only those of the forward pass or the backward weights.
        model: the converted model; needed to tell the two apart, unless ``which`` is "all".
        seed: of the draws.
        rate: answers, at a step, with the rate that multiplies the noise of all weights; None: that of each group. With
            a rate, groups named "constant" get no noise: what they hold is on its way into a B that gets it.

    Raises:
        ConfigError: for settings that make no sense. StateError: from ``load_state_dict``, for noise of another kind of
            device; nothing is loaded then.

    Source: the noise experiment of Kunin et al., ICML 2020 (arXiv 2003.01513), and of its public code.
    """
    if isinstance(std, bool) or not isinstance(std, int | float) or not 0 <= std < math.inf:
        raise ConfigError(f"noisy: std must be a finite number >= 0, got {std!r}")
    for what, value, known in (("distribution", distribution, DISTRIBUTIONS), ("which", which, WHICH)):
        if value not in known:
            raise ConfigError(f"noisy: unknown {what} {value!r}.{nearest(str(value), known)} Known: {', '.join(known)}")
    if hasattr(optimizer, "_update_noise"):
        raise ConfigError("noisy: this optimiser is noisy already; make a new one")
    chosen: set[int] | None = None
    if which != "all":
        if model is None:
            raise ConfigError(f"noisy: which={which!r} needs model=, the converted model, to tell W and B apart")
        backward = {id(p) for p in backward_parameters(model)}
        given = {id(p) for group in optimizer.param_groups for p in group["params"]}
        chosen = given & backward if which == "backward" else given - backward
    noise = _UpdateNoise(float(std), distribution, chosen, seed, rate)
    optimizer._update_noise = noise  # type: ignore[attr-defined]
    optimizer.register_step_post_hook(noise.after_step)
    optimizer.register_state_dict_post_hook(noise.save)
    optimizer.register_load_state_dict_pre_hook(noise.read)
    optimizer.register_load_state_dict_post_hook(noise.loaded)
    return optimizer


class _UpdateNoise:
    """The hooks of one optimiser.

    Attributes:
        chosen: ids of the weights that get noise; None is all. generators: by kind of device, made when first needed.
    """

    def __init__(
        self, std: float, distribution: str, chosen: set[int] | None, seed: int, rate: Callable[[], float] | None
    ) -> None:
        self.std, self.distribution, self.chosen, self.seed, self.rate = std, distribution, chosen, seed, rate
        self.generators: dict[str, torch.Generator] = {}
        self._read: dict[str, torch.Generator] = {}

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self.std == 0:
            return
        for group in optimizer.param_groups:
            if self.rate is not None and group.get("name") == "constant":
                continue
            lr = float(group["lr"]) if self.rate is None else self.rate()
            kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
            for p in group["params"]:
                if self.chosen is None or id(p) in self.chosen:
                    kinds.setdefault((p.device, p.dtype), []).append(p)
            for (device, dtype), weights in kinds.items():
                drawn = self._draw(sum(p.numel() for p in weights), device, dtype)
                parts = drawn.split([p.numel() for p in weights])
                epsilons = [part.view(p.shape) for part, p in zip(parts, weights, strict=True)]
                torch._foreach_add_(weights, epsilons, alpha=lr)

    def _draw(self, n: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """(n,) with mean 0 and the standard deviation."""
        empty = torch.empty(n, device=device, dtype=dtype)
        generator = self._generator(device)
        if self.distribution == "normal":
            return empty.normal_(0.0, self.std, generator=generator)
        half_width = self.std * math.sqrt(3)  # the variance of U(-a, a) is a^2 / 3
        return empty.uniform_(-half_width, half_width, generator=generator)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device.type not in self.generators:
            self.generators[device.type] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device.type]

    def save(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, KEY: {kind: generator.get_state() for kind, generator in self.generators.items()}}

    def read(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any] | None:
        if KEY not in state:  # of a training without noise: the noise begins
            self._read = {}
            return None
        devices = {p.device.type: p.device for group in optimizer.param_groups for p in group["params"]}
        if unknown := set(state[KEY]) - set(devices):
            raise StateError(
                f"the state has update noise drawn on {', '.join(sorted(unknown))}, the optimiser's weights are on "
                f"{', '.join(sorted(devices))}; go on where it was trained, or remove its {KEY!r} to begin it anew"
            )
        made = {}
        for kind, of_kind in state[KEY].items():
            made[kind] = torch.Generator(devices[kind])
            made[kind].set_state(of_kind.cpu())
        self._read = made
        return {key: value for key, value in state.items() if key != KEY}

    def loaded(self, optimizer: torch.optim.Optimizer) -> None:
        """Only now: what torch refuses after :meth:`read` leaves the noise as it was."""
        self.generators = self._read
