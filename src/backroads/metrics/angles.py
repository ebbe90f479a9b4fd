"""Angles and norm ratios between tensors, in degrees, safe for zero norms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def angle(a: Tensor | Sequence[Tensor], b: Tensor | Sequence[Tensor]) -> float:
    """The angle between two tensors (or two lists of tensors), each read as one long vector; degrees, 0 to 180.

    Computed as ``2 atan2(|u - v|, |u + v|)`` for the unit vectors u and v (Kahan), which is exact at 0, where the
    inverse cosine of a rounded 1 is off by hundredths of a degree. A zero vector is at 90 degrees to any other, and
    at 0 to another zero vector.

    Raises:
        ValueError: if the two have different sizes.
    """
    u, v = _flat(a), _flat(b)
    if u.numel() != v.numel():
        raise ValueError(f"angle: expected two tensors of one size, got {u.numel()} and {v.numel()} elements")
    u, v = _unit(u), _unit(v)
    radians = 2 * torch.atan2(torch.linalg.vector_norm(u - v), torch.linalg.vector_norm(u + v))
    return float(torch.rad2deg(radians))


def norm_ratio(a: Tensor | Sequence[Tensor], b: Tensor | Sequence[Tensor]) -> float:
    """|a| / |b|; 1 if both are zero, infinity if only b is."""
    numerator, denominator = float(_flat(a).norm()), float(_flat(b).norm())
    if denominator == 0:
        return 1.0 if numerator == 0 else float("inf")
    return numerator / denominator


def _flat(a: Tensor | Sequence[Tensor]) -> Tensor:
    parts = [a] if isinstance(a, Tensor) else list(a)
    return torch.cat([p.detach().reshape(-1).double() for p in parts]) if parts else torch.zeros(0).double()


def _unit(u: Tensor) -> Tensor:
    largest = u.abs().max() if u.numel() else u.new_zeros(())
    u = u / largest if largest > 0 else u  # before squaring: tiny vectors have a direction too
    norm = torch.linalg.vector_norm(u)
    return u / norm if norm > 0 else u
