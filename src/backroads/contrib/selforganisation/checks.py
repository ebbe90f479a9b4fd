"""Checks of tensors, which say what was expected and what came."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backroads.errors import ConfigError, ShapeError

Size = int | None  # None: any


def checked(name: str, value: Tensor, *shape: Size) -> Tensor:
    """A tensor in float64.

    Raises:
        ShapeError: unless it is float32 or float64, of this shape, not empty, and finite.
    """
    expected = f"a tensor in float32 or float64 of shape ({', '.join('any' if n is None else str(n) for n in shape)})"
    if not isinstance(value, Tensor) or value.dtype not in (torch.float32, torch.float64):
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(f"{name}: expected {expected}, got {got}")
    fits = value.dim() == len(shape) and all(n in (None, m) for n, m in zip(shape, value.shape, strict=True))
    if not fits or not value.numel():
        raise ShapeError(f"{name}: expected {expected}, and not empty, got {tuple(value.shape)}")
    if not bool((finite := torch.isfinite(value)).all()):
        first = tuple((~finite).nonzero()[0].tolist())
        raise ShapeError(f"{name}: expected finite numbers, got {float(value[first])} at index {first}")
    return value.double()


def covariance(name: str, value: Tensor, size: Size = None) -> Tensor:
    """A covariance in float64.

    Raises:
        ShapeError: as :func:`checked`, and unless it is square and symmetric without an eigenvalue below -1e-10 times
            its trace.
    """
    C = checked(name, value, size, size)
    if C.shape[0] != C.shape[1]:
        raise ShapeError(f"{name}: expected a square matrix, got {tuple(C.shape)}")
    tolerance = 1e-6 if value.dtype == torch.float32 else 1e-10
    plain = C.detach()
    off = float((plain - plain.T).abs().max())
    if off > tolerance * float(plain.abs().max()):
        raise ShapeError(f"{name}: expected a symmetric matrix, but it and its transpose differ by {off:.3g}")
    lowest = float(torch.linalg.eigvalsh(plain)[0])
    if lowest < -tolerance * abs(float(plain.trace())):
        raise ShapeError(f"{name}: expected a covariance, without negative eigenvalues, got {lowest:.3g}")
    return (C + C.T) / 2


def positive(**values: float) -> None:
    """Raise :class:`ConfigError` unless each is a finite number above 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ConfigError(f"{name}: expected a number above 0, got {value!r}")


def check_steps(steps: object) -> None:
    """Raise :class:`ConfigError` unless it is a whole number of 1 or more."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"steps: expected a whole number, 1 or more, got {steps!r}")
