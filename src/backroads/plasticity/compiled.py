"""The steps of a lifetime in C++: lifetime.cpp, compiled when it is first called; lifetimes are shared out to threads.

It does what :mod:`backroads.plasticity.lifetime` defines, several times as fast, on the CPU, where the signal is the
error of a regression and the samples of a step fill vector registers. Without a compiler nothing is lost but time.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from backroads.plasticity.rule import LocalRule

SOURCE = Path(__file__).with_name("lifetime.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-pthread")
WIDE = "-mprefer-vector-width=512"  # where a compiler knows it
UNITS = 16  # the widths of layers are padded to multiples of this
REGISTER = 64  # bytes of a vector
CACHE = 4 << 20  # bytes that the steps of a segment take, about two of a core's second caches; but four steps at least
ROWS = 128  # of the weights of the widest layer, that a thread has at least: in fewer, threads mostly wait
SHIFTS = ("feedback", "signal", "none", "frozen")  # as lifetime.cpp counts them


class _Layer(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("n_in", "n_out", "shift")] + [
        (name, ctypes.c_void_p)
        for name in ("W", "a", "starts", "b", "P", "s", "B", "c", "G", "dP", "db", "dc", "dB", "ds")
    ]  # fmt: skip


class _Problem(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("layers", "steps", "samples", "outputs", "segment")),
        *((name, ctypes.c_int64) for name in ("oja", "power", "linear_feedback", "absolute_signal")),
        *((name, ctypes.c_void_p) for name in ("y", "yhat", "dx")),
        ("layer", ctypes.POINTER(_Layer)),
    ]


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled lifetime.cpp, or None without a compiler: the one that CXX names, c++, g++ or clang++."""
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "lifetime.so"
        for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
            if (compiler := shutil.which(name)) is None:
                continue
            for more in ([WIDE], []):
                words = [compiler, *FLAGS, *more, str(SOURCE), "-o", str(binary)]
                # A folder for temporary files may forbid to execute what is in it.
                with contextlib.suppress(OSError, subprocess.CalledProcessError):
                    subprocess.run(words, capture_output=True, check=True)
                    return ctypes.CDLL(str(binary))  # a file that is loaded may go
    return None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What does not change from step to step.

    Attributes:
        rule: how weights change. shifts: of each layer: "feedback", "signal", "none", or "frozen".
        mu: factor on the change of each.
    """

    rule: LocalRule
    shifts: tuple[str, ...]
    mu: tuple[float, ...]


def plan_of(rule: LocalRule, meta: Mapping[str, Tensor], layers: range, x: Tensor, y: Tensor) -> Plan | None:
    """The plan of all layers, or None where the steps have to be done as they are defined.

    Args:
        rule: how weights change.
        meta: the meta-parameters by name.
        layers: the plastic layers; all that follow the first one.
        x: inputs (E, T, m, n).
        y: targets (E, T, m, n_out), or labels.
    """
    if rule.is_gradient or rule.rule == "polynomial" or rule.gate != "none" or rule.signal != "error" or not layers:
        return None
    n = layers.stop
    if any(f"B{layer}_1" in meta for layer in layers) or any(meta[f"b{layer}"].dim() > 1 for layer in range(n)):
        return None
    if not y.is_floating_point() or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return None
    m = x.shape[2]
    # Whoever counts operations (a dispatch mode) sees those of torch alone.
    if m * x.element_size() % REGISTER or is_in_torch_dispatch_mode() or library() is None:
        return None
    share = 1 / m if rule.reduction == "mean" else 1.0
    mu = (share * (rule.hidden_multiplier if layer < n - 1 else 1.0) for layer in range(n))
    shifts = (rule.shift(layer, n) if layer in layers else "frozen" for layer in range(n))
    return Plan(rule, tuple(shifts), tuple(mu))


def live(plan: Plan, tensors: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """The weights after T steps of the layers that change, (E, n_out, n_in) each; and the outputs at each step before
    its change, (E, T, m, n_out).

    Args:
        plan: of :func:`plan_of`.
        tensors: of layer l: weights at the start "Wl", (n_out, n_in) or (E, n_out, n_in); biases "bl" (n_out,); unless
            it is frozen, plasticity "Pl", which broadcasts to W; and under feedback its strength "sl" (1,), "Bl"
            (n, n_out) and "cl" (n,).
        x: inputs (E, T, m, n).
        y: targets (E, T, m, n_out).
    """
    return tuple(_Live.apply(plan, tuple(tensors), x, y, *tensors.values()))  # type: ignore[no-untyped-call]


def padded(x: Tensor, *dims: int) -> Tensor:
    """Contiguous, with zeros after the end of some dimensions (negative numbers), up to multiples of UNITS."""
    ends = [(-size) % UNITS if dim - x.dim() in dims else 0 for dim, size in enumerate(x.shape)]
    return F.pad(x, [side for end in reversed(ends) for side in (0, end)]).contiguous()


class _Arrays:
    """What lifetime.cpp reads and writes: tensors by the names there, of each layer and of all."""

    def __init__(self, plan: Plan, v: Mapping[str, Tensor], x: Tensor, y: Tensor) -> None:
        self.plan, self.outputs = plan, y.shape[3]
        self.y = padded(y.mT, -2)
        self.yhat = torch.empty_like(self.y)
        self.sizes = [v[f"W{layer}"].shape[-2:] for layer in range(len(plan.mu))]  # without padding
        self.layers: list[dict[str, Tensor]] = []
        for layer, (shift, mu) in enumerate(zip(plan.shifts, plan.mu, strict=True)):
            W = v[f"W{layer}"].expand(len(x), *self.sizes[layer])
            own = {"W": padded(W.detach().clone(), -1, -2), "b": padded(v[f"b{layer}"], -1)}
            if shift != "frozen":
                own["P"] = padded((mu * v[f"P{layer}"]).expand(W.shape[1:]), -1, -2)
            if shift == "feedback":
                own |= {"s": v[f"s{layer}"], "B": padded(v[f"B{layer}"], -2), "c": padded(v[f"c{layer}"], -1)}
            self.layers.append({name: value.detach() for name, value in own.items()})
        self.layers[0]["a"] = padded(x.mT, -2)
        T, m = x.shape[1:3]
        self.widths = [own["W"].shape[-2:] for own in self.layers]
        kept = 0  # numbers, of a step
        for n_out, n_in in self.widths:
            kept += n_out * n_in + m * (2 * n_in + n_out)
        self.segment = min(T, max(4, CACHE // (kept * x.element_size())))
        self.segments = -(-T // self.segment)

    def keep(self) -> None:
        """Make room for what the backward pass needs."""
        E, T, _, m = self.y.shape
        for layer, (own, (n_out, n_in)) in enumerate(zip(self.layers, self.widths, strict=True)):
            if "P" in own:
                own["starts"] = self.y.new_empty(E, self.segments, n_out, n_in)
            if layer > 0:
                own["a"] = self.y.new_empty(E, T, n_in, m)

    def perform(self, name: str, dx: Tensor | None = None) -> None:
        """Call a function of lifetime.cpp for every lifetime, by as many threads as torch has."""
        E, T, _, m = self.y.shape
        layers = (_Layer * len(self.layers))()
        for place, (own, shift) in enumerate(zip(self.layers, self.plan.shifts, strict=True)):
            n_out, n_in = self.widths[place]
            pointers = {key: value.data_ptr() for key, value in own.items()}
            layers[place] = _Layer(n_in=n_in, n_out=n_out, shift=SHIFTS.index(shift), **pointers)
        rule = self.plan.rule
        problem = _Problem(
            layers=len(layers),
            steps=T,
            samples=m,
            outputs=self.outputs,
            segment=self.segment,
            oja=rule.rule == "oja",
            power=rule.reduction == "power",
            linear_feedback=rule.linear_feedback,
            absolute_signal=rule.absolute_signal,
            y=self.y.data_ptr(),
            yhat=self.yhat.data_ptr(),
            dx=None if dx is None else dx.data_ptr(),
            layer=layers,
        )
        function = getattr(library(), f"{name}_{'float' if self.y.dtype == torch.float32 else 'double'}")

        threads = torch.get_num_threads()
        widest = max(n_out for n_out, _ in self.widths)
        each = ctypes.c_int64(max(1, min(threads // E, widest // ROWS)))  # threads of a lifetime

        def one(e: int) -> None:  # ctypes lets go of the interpreter's lock
            function(ctypes.byref(problem), ctypes.c_int64(e), each)

        with ThreadPoolExecutor(min(E, threads)) as pool:
            list(pool.map(one, range(E)))

    def gradient_of(self, name: str) -> Tensor:
        """Of a tensor of a layer, by its name in :func:`live`, before it is summed over what it broadcasts to."""
        layer = int(name[1:])
        own, (n_out, n_in) = self.layers[layer], self.sizes[layer]
        match name[0]:
            case "W":
                return own["G"][:, :n_out, :n_in]
            case "P":
                return self.plan.mu[layer] * own["dP"].sum(0)[:n_out, :n_in]
            case "B":
                return own["dB"].sum((0, 3))[:n_out]
            case "s":
                return own["ds"].sum(0, keepdim=True)
        return own[f"d{name[0]}"].sum((0, 2))[:n_out]


class _Live(torch.autograd.Function):
    """See :func:`live`."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, names: tuple[str, ...], x: Tensor, y: Tensor, *values: Tensor) -> Any:
        arrays = _Arrays(plan, dict(zip(names, values, strict=True)), x, y)
        if any(ctx.needs_input_grad):
            arrays.keep()
            ctx.names, ctx.arrays = names, arrays
            ctx.save_for_backward(x, y, *values)  # torch sees to it that nothing changes in the meantime
        arrays.perform("live")
        outputs = arrays.yhat[:, :, : y.shape[3]].mT.clone()
        ctx.mark_non_differentiable(outputs)
        own = zip(arrays.layers, arrays.sizes, strict=True)
        return (*(layer.pop("W")[:, :n, :k] for layer, (n, k) in own if "P" in layer), outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, *values = ctx.saved_tensors
        arrays, v = ctx.arrays, dict(zip(ctx.names, values, strict=True))
        E, n_y, L = len(x), y.shape[3], REGISTER // x.element_size()
        of_weights = iter(gradients)
        for own, (n, k) in zip(arrays.layers, arrays.widths, strict=True):
            own["db"] = x.new_zeros(E, n, L)
            if "P" not in own:
                own["G"] = x.new_zeros(E, n, k)
                continue
            gradient = next(of_weights)
            G = padded(gradient, -1, -2)
            own["G"] = G.clone() if G.data_ptr() == gradient.data_ptr() else G  # it is changed
            own["dP"] = torch.empty_like(G)
            if "B" in own:
                shapes = {"dB": (E, n, n_y, L), "dc": (E, n, L), "ds": (E,)}
                own |= {name: x.new_zeros(shape) for name, shape in shapes.items()}
        dx = torch.empty_like(arrays.layers[0]["a"]) if ctx.needs_input_grad[2] else None
        arrays.perform("differentiate", dx)
        wanted = zip(ctx.names, ctx.needs_input_grad[4:], strict=True)
        found = (arrays.gradient_of(name).sum_to_size(v[name].shape) if n else None for name, n in wanted)
        return None, None, None if dx is None else dx[:, :, : x.shape[3]].mT, None, *found
