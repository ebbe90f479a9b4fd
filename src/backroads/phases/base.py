"""What a phase is: it sets backward weights between epochs, apart from the training itself."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from backroads.errors import ConfigError
from backroads.registry import Registry, call


@dataclasses.dataclass(frozen=True)
class Taught:
    """What a phase did.

    Attributes:
        layers: dotted names of the layers whose B it set.
        state: what the next run of the phase goes on from, to be saved with a checkpoint: dictionaries of numbers and
            tensors; empty for a phase that remembers nothing.
        readings: numbers for the log, by name and then by layer.
    """

    layers: list[str]
    state: dict[str, Any] = dataclasses.field(default_factory=dict)
    readings: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Phase(abc.ABC):
    """A phase as frozen data: its fields are its options, what it remembers is in the state that it returns.

    A phase of your own is one class in one file; it is known by name after :func:`register_phase`, and without that
    by its import path ``package.module:Class``.
    """

    @abc.abstractmethod
    def check(self, model: torch.nn.Module) -> list[str]:
        """Names of the layers that the phase would teach.

        Raises:
            ConversionError: if there is none, or one of them cannot be taught.
            RuleError: for options that make no sense.
        """

    @abc.abstractmethod
    def run(self, model: torch.nn.Module, seed: int, state: dict[str, Any] | None = None) -> Taught:
        """Set the backward weights of a converted model; nothing else of it changes.

        Args:
            model: converted.
            seed: of all draws; take another one for each epoch.
            state: of the run before; None for the first one. It is not changed.

        Raises:
            ConversionError, RuleError: as :meth:`check`.
            StateError: for the state of another phase or model; nothing has changed then.
        """


PHASES: Registry[Callable[..., Phase]] = Registry("phase", ConfigError)
PHASES.add("noise", "backroads.phases.noise:NoisePhase")
PHASES.add("spikes", "backroads.contrib.spiking.phase:SpikePhase")


def register_phase(name: str, make: Callable[..., Phase] | str) -> None:
    """Make a phase of your own known by name; ``make`` is its class, or its import path.

    Raises:
        ConfigError: if the name is taken.
    """
    PHASES.add(name, make)


def get_phase(name: str, /, **options: Any) -> Phase:
    """The phase called ``name`` ("noise", "spikes", a registered one or ``package.module:Class``) with its options.

    Raises:
        ConfigError: for an unknown name or option, or a path to something that is no phase.
        RuleError: for options that make no sense.
    """
    phase = call(PHASES.resolve(name), {}, options, f"phase {name!r}")
    if not isinstance(phase, Phase):
        raise ConfigError(f"phase {name!r}: expected a backroads.phases.Phase, got {type(phase).__name__}")
    return phase
