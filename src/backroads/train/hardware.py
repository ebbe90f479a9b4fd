"""Weights held in imperfect devices: what is read of them, and what a write does to them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from backroads.errors import ConfigError, nearest
from backroads.feedback.conversion import aligned_layers, forward_parameters
from backroads.feedback.conversion.plan import refuse_aihwkit

MOST_BITS = 16


@dataclasses.dataclass(frozen=True)
class Device:
    """How a cell that holds a weight errs, apart from any simulator. The defaults are perfect cells.

    With s the stored weights of a tensor and D the change that the optimiser asks for in a step::

        read      s + read_noise rms(s) epsilon, in steps of max|s| / (2^(bits - 1) - 1), at most max|s|
        write     s <- s + D + asymmetry |D|, the change in whole steps of max|s| / (2^(update_bits - 1) - 1)
        time      s <- s + drift (drift_to - s), once a step

    Noise is normal and fresh in every step. A change is rounded up or down at random, so that it is right on average.

    Attributes:
        bits: of what is read, 2 to 16; None does not round.
        update_bits: of a change, 2 to 16; None does not round. While all of a tensor is zero it has no range, and
            changes as asked.
        read_noise: standard deviation, in units of the root mean square of the tensor; >= 0.
        asymmetry: by which part steps up are larger and steps down smaller than asked; -1 to 1.
        drift: part of the way to ``drift_to`` that is lost in a step; 0 to 1.
        drift_to: where weights drift to.
        stuck: part of the cells that never move, drawn once; 0 to 1.

    Raises:
        ConfigError: for values out of range.
    """

    bits: int | None = None
    update_bits: int | None = None
    read_noise: float = 0.0
    asymmetry: float = 0.0
    drift: float = 0.0
    drift_to: float = 0.0
    stuck: float = 0.0

    def __post_init__(self) -> None:
        for name in ("bits", "update_bits"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not 2 <= value <= MOST_BITS):
                raise ConfigError(f"{name}: expected a whole number from 2 to {MOST_BITS}, or None, got {value!r}")
        ranges = {"read_noise": (0, math.inf), "asymmetry": (-1, 1), "drift": (0, 1), "stuck": (0, 1)}
        for name, (least, most) in (ranges | {"drift_to": (-math.inf, math.inf)}).items():
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not least <= value <= most:
                raise ConfigError(f"{name}: expected a finite number from {least:g} to {most:g}, got {value!r}")

    @property
    def errs_in_reading(self) -> bool:
        return self.bits is not None or self.read_noise > 0

    @property
    def errs_in_writing(self) -> bool:
        return self.update_bits is not None or bool(self.asymmetry or self.drift or self.stuck)

    def seen(self, s: Tensor, generator: torch.Generator) -> Tensor:
        """What is read of stored weights s, of any shape."""
        seen = s
        if self.read_noise:
            seen = s + _empty(s).normal_(generator=generator) * (self.read_noise * s.square().mean().sqrt())
        if self.bits is not None:
            levels = 2 ** (self.bits - 1) - 1
            step = _largest(s) / levels
            seen = torch.where(step > 0, (seen / step).round().clamp(-levels, levels) * step, seen)
        return seen

    def written(self, s: Tensor, asked: Tensor, generator: torch.Generator) -> Tensor:
        """What is stored after a step. s: before. asked: what the optimiser made of it."""
        if self.asymmetry or self.update_bits is not None:
            change = asked - s
            change = change + self.asymmetry * change.abs()
            if self.update_bits is not None:
                step = _largest(s) / (2 ** (self.update_bits - 1) - 1)
                whole = (change / step + _empty(s).uniform_(generator=generator)).floor() * step
                change = torch.where(step > 0, whole, change)
            asked = s + change
        return asked + self.drift * (self.drift_to - asked) if self.drift else asked


def device(options: dict[str, Any], where: str) -> Device:
    """A device from settings by name; raises ConfigError, naming ``where`` they stand."""
    known = [field.name for field in dataclasses.fields(Device)]
    for name in options:
        if name not in known:
            raise ConfigError(f"{where}: unknown {name!r}.{nearest(name, known)} Known: {', '.join(known)}")
    try:
        return Device(**options)
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}") from None


@dataclasses.dataclass(frozen=True)
class _Cells:
    """A tensor in devices. number: its place in the model, for draws. stuck: which cells never move, or None."""

    weights: torch.nn.Parameter
    device: Device
    number: int
    stuck: Tensor | None


class DeviceModel:
    """The weights of a model in devices; made by :func:`device_model`.

    It holds no state: what is drawn follows from its seed and the number of the step, and what is stored are the
    parameters themselves. A training goes on from the model's and the optimiser's state dicts, bit for bit.
    """

    def __init__(self, model: torch.nn.Module, forward: Device, backward: Device, seed: int) -> None:
        refuse_aihwkit(model)
        self._seed = seed
        self._layers = [layer for _, layer in aligned_layers(model)]
        if any(hasattr(p, "full_tensor") for p in model.parameters()) or any(x.W.dim() < 2 for x in self._layers):
            raise ConfigError(
                "model: expected weights that are whole in each process, got sharded ones (FSDP), whose range a shard "
                "does not know; train with DistributedDataParallel"
            )
        B = {id(layer.backward_weight): layer.backward_weight for layer in self._layers}
        own = [p for p in B.values() if p is not None]
        if backward != Device() and not own:
            raise ConfigError("backward: expected a model with backward weights, got one without; leave it out")
        placed = [(p, forward) for p in forward_parameters(model)] + [(p, backward) for p in own]
        placed = [(p, how) for p, how in placed if p.is_floating_point() and p.dim() > 1]
        self._cells = [
            _Cells(p, how, number, self._stuck(p, how, number))
            for number, (p, how) in enumerate(placed)
            if how.errs_in_reading or how.errs_in_writing
        ]

    @contextlib.contextmanager
    def read(self, step: int) -> Iterator[None]:
        """Within, the parameters are what is read of them in a step: forward and backward pass see the same values."""
        cells = [cell for cell in self._cells if cell.device.errs_in_reading]
        stored = [cell.weights.detach().clone() for cell in cells]
        try:
            with torch.no_grad():
                for cell in cells:
                    cell.weights.copy_(cell.device.seen(cell.weights, self._draws(cell, step, 1)))
            yield
        finally:
            with torch.no_grad():
                for cell, s in zip(cells, stored, strict=True):
                    cell.weights.copy_(s)

    @contextlib.contextmanager
    def write(self, step: int) -> Iterator[None]:
        """Within, the optimisers take their steps; at the end the devices hold what they make of them."""
        cells = [cell for cell in self._cells if cell.device.errs_in_writing]
        stored = [cell.weights.detach().clone() for cell in cells]
        yield
        if self._cells:
            for layer in self._layers:
                layer.rule.settle(layer.state)  # what is on its way into B is written now
        with torch.no_grad():
            for cell, s in zip(cells, stored, strict=True):
                held = cell.device.written(s, cell.weights, self._draws(cell, step, 2))
                cell.weights.copy_(held if cell.stuck is None else s.where(cell.stuck, held))

    def _stuck(self, p: Tensor, how: Device, number: int) -> Tensor | None:
        if not how.stuck:
            return None
        drawn = torch.rand(p.shape, generator=torch.Generator().manual_seed(self._number(number, 0, 0)))
        return (drawn < how.stuck).to(p.device)

    def _draws(self, cell: _Cells, step: int, what: int) -> torch.Generator:
        return torch.Generator(cell.weights.device).manual_seed(self._number(cell.number, step, what))

    def _number(self, number: int, step: int, what: int) -> int:
        """A seed for each tensor, step and purpose."""
        return ((self._seed * 1_000_003 + step) * 10_007 + number * 3 + what) % 2**63


def device_model(
    model: torch.nn.Module, *, forward: Device | None = None, backward: Device | None = None, seed: int = 0
) -> DeviceModel:
    """Hold the weights of a model in imperfect devices while it trains.

    Args:
        model: plain, or converted; on the device that it trains on.
        forward: of the forward weights: all parameters of two dimensions or more but the backward weights; biases and
            the gains of norms stay perfect. None: perfect ones.
        backward: of the backward weights B; None: perfect ones.
        seed: of all draws.

    Raises:
        ConfigError: for something that is no Device, ``backward`` for a model without backward weights, or weights
            that are sharded over processes.
        ConversionError: for a model with modules of the simulator aihwkit.

    Example::

        cells = br.device_model(model, forward=br.Device(bits=6), backward=br.Device(read_noise=0.05))
        for step, (x, y) in enumerate(batches):
            optimizer.zero_grad()
            with cells.read(step):
                loss(model(x), y).backward()
            with cells.write(step):
                optimizer.step()
    """
    for name, how in (("forward", forward), ("backward", backward)):
        if how is not None and not isinstance(how, Device):
            raise ConfigError(f"{name}: expected a br.Device, got {how!r}")
    return DeviceModel(model, forward or Device(), backward or Device(), seed)


def _empty(s: Tensor) -> Tensor:
    """Memory for draws, in an order that does not depend on the layout of s."""
    return torch.empty_like(s, memory_format=torch.contiguous_format)


def _largest(s: Tensor) -> Tensor:
    return s.abs().max() if s.numel() else s.new_zeros(())
