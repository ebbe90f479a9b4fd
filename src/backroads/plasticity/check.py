"""What meta-parameters and streams must be, checked before a lifetime begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from backroads.errors import ShapeError
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
    if rule.frozen > layers:
        raise ShapeError(f"frozen: expected at most the {layers} linear layers, got {rule.frozen}")
    sizes = [meta["W0"].shape[-1], *(meta[f"W{layer}"].shape[-2] for layer in range(layers))]
    for layer in range(layers):
        n_in, n_out = sizes[layer], sizes[layer + 1]
        _expect(meta, f"W{layer}", (n_out, n_in), leading=True)
        _expect(meta, f"b{layer}", (n_out,), leading=True)
        if not rule.changes(layer, layers):
            continue
        if not rule.is_gradient or f"p{layer}" in meta:
            _expect_plasticity(meta, layer, n_out, n_in)
        if rule.is_gradient:
            if f"p{layer}" in meta:
                _expect(meta, f"pb{layer}", (n_out,), or_one=True)
        elif rule.shift(layer, layers) == "feedback":
            _expect(meta, f"s{layer}", (1,))
            _expect_path(meta, layer, sizes[-1], n_out)


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
    if not y.is_floating_point():
        if y.dtype != torch.int64:
            raise ShapeError(f"stream.y: expected int64 labels or floating point targets, got {y.dtype}")
        check_labels(y, n_out)


def check_labels(y: Tensor, head: int) -> None:
    """Labels are outputs of the head; raises ShapeError."""
    if y.numel() and (int(y.min()) < 0 or int(y.max()) >= head):
        wrong = int(y.max()) if int(y.max()) >= head else int(y.min())
        raise ShapeError(
            f"labels: expected 0 to {head - 1}, the outputs of the head, got {wrong}; number the classes of an "
            "episode from 0, or make the head larger"
        )


def _expect(
    meta: Mapping[str, Tensor], name: str, shape: tuple[int, ...], *, leading: bool = False, or_one: bool = False
) -> None:
    if name not in meta:
        raise ShapeError(f"meta: expected {name} of shape {shape}, and there is none; has {', '.join(meta)}")
    found = tuple(meta[name].shape)
    if found != shape and not (leading and found[1:] == shape) and not (or_one and found == (1,)):
        raise ShapeError(f"{name}: expected shape {shape}, got {found}")


def _expect_plasticity(meta: Mapping[str, Tensor], layer: int, n_out: int, n_in: int) -> None:
    name = f"p{layer}" if f"p{layer}" in meta else "p"
    if name not in meta:
        raise ShapeError(f"meta: expected the plasticity p{layer}, or p for all layers, and there is none")
    found, known = tuple(meta[name].shape), [(n_out, n_in), (n_out,), (1,)] if name != "p" else [(1,)]
    if found not in known:
        raise ShapeError(f"{name}: expected shape {' or '.join(map(str, known))}, got {found}")


def _expect_path(meta: Mapping[str, Tensor], layer: int, n_out: int, n_into: int) -> None:
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
