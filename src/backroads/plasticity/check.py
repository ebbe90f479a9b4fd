"""What meta-parameters and streams must be, checked before a lifetime begins."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from backroads.errors import ShapeError
from backroads.plasticity.polynomial import SHAPE
from backroads.plasticity.rule import LocalRule


def count_layers(meta: Iterable[str]) -> int:
    """How many linear layers the names W0, W1, ... make."""
    names, layers = set(meta), 0
    while f"W{layers}" in names:
        layers += 1
    return layers


def check_meta(meta: Mapping[str, Tensor], rule: LocalRule) -> None:
    """Meta-parameters fit together and are what the rule reads; raises ShapeError."""
    layers = count_layers(meta)
    if layers == 0:
        raise ShapeError("meta: expected weights W0, W1, ..., got none")
    if rule.frozen_layers > layers:
        raise ShapeError(f"frozen_layers: expected at most the {layers} linear layers, got {rule.frozen_layers}")
    sizes = [meta["W0"].shape[-1], *(meta[f"W{layer}"].shape[-2] for layer in range(layers))]
    for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        _expect(meta, f"W{layer}", (n_out, n_in), by_lifetime=True)
        _expect(meta, f"b{layer}", (n_out,), by_lifetime=True)
        if not rule.is_plastic(layer, layers):
            continue
        if f"p{layer}" in meta:
            _expect(meta, f"p{layer}", (n_out, n_in), (n_out,), (1,))
        elif "p" in meta or not rule.is_gradient:
            _expect(meta, "p", (1,))
        if rule.is_gradient and f"p{layer}" in meta:
            _expect(meta, f"pb{layer}", (n_out,), (1,))
        if not rule.is_gradient and rule.shift(layer, layers) == "feedback":
            if rule.rule != "polynomial":
                _expect(meta, f"s{layer}", (1,))
            _expect_path(meta, layer, sizes[-1], n_out)
        if rule.rule == "polynomial":
            _expect(meta, f"t{layer}", SHAPE)


def check_stream(meta: Mapping[str, Tensor], x: Tensor, y: Tensor) -> None:
    """A stream fits the network; raises ShapeError. x: (E, T, m, n_0), after the front."""
    layers = count_layers(meta)
    n_in, n_out = meta["W0"].shape[-1], meta[f"W{layers - 1}"].shape[-2]
    if x.dim() != 4 or x.shape[3] != n_in:
        raise ShapeError(f"stream.x: expected (lifetimes, steps, samples, {n_in}) after the front, got {_of(x)}")
    if x.shape[1] == 0 or x.shape[2] == 0:
        raise ShapeError(f"stream.x: expected at least one step of one sample, got {_of(x)}")
    if x.dtype != meta["W0"].dtype:
        raise ShapeError(f"stream.x: expected {meta['W0'].dtype} like the weights, got {x.dtype}; convert one of them")
    expected = (*x.shape[:3], n_out) if y.is_floating_point() else tuple(x.shape[:3])
    if tuple(y.shape) != expected:
        kind = "targets" if y.is_floating_point() else "labels"
        raise ShapeError(f"stream.y: expected {kind} of shape {expected}, got {_of(y)}")
    if y.is_floating_point():
        return
    if y.dtype != torch.int64:
        raise ShapeError(f"stream.y: expected int64 labels or floating point targets, got {y.dtype}")
    least, most = (int(y.min()), int(y.max())) if y.numel() else (0, 0)
    if least < 0 or most >= n_out:
        raise ShapeError(
            f"labels: expected 0 to {n_out - 1}, the outputs of the head, got {most if most >= n_out else least}; "
            "number the classes of an episode from 0, or make the head larger"
        )


def _expect(meta: Mapping[str, Tensor], name: str, *shapes: tuple[int, ...], by_lifetime: bool = False) -> None:
    """One of the shapes, with a dimension for lifetimes before it if that is allowed."""
    expected = " or ".join(map(str, shapes))
    if name not in meta:
        raise ShapeError(f"meta: expected {name} of shape {expected}, and there is none; has {', '.join(meta)}")
    found = tuple(meta[name].shape)
    if found not in shapes and not (by_lifetime and found[1:] in shapes):
        raise ShapeError(f"{name}: expected shape {expected}, got {found}")


def _expect_path(meta: Mapping[str, Tensor], layer: int, n_out: int, n_into: int) -> None:
    """B_0, B_1, ... lead from the n_out outputs to the n_into units after a layer."""
    width, j = n_out, 0
    while f"B{layer}_{j}" in meta:
        B = meta[f"B{layer}_{j}"]
        if B.dim() != 2 or B.shape[1] != width:
            raise ShapeError(f"B{layer}_{j}: expected (n, {width}), got {_of(B)}")
        width = B.shape[0]
        _expect(meta, f"c{layer}_{j}", (width,))
        j += 1
    if j == 0:
        raise ShapeError(f"meta: expected feedback weights B{layer}_0 of shape ({n_into}, {n_out}), and there are none")
    if width != n_into:
        raise ShapeError(f"B{layer}_{j - 1}: expected {n_into} rows, the units after layer {layer}, got {width}")


def _of(x: Tensor) -> str:
    return str(tuple(x.shape))
