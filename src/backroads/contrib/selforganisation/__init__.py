"""Linear layers that organise themselves: Linsker's covariance rule, and infomax by a local rule."""

from backroads.contrib.selforganisation.infomax import (
    Infomax,
    information,
    information_gradient,
    settle,
    water_filling,
)
from backroads.contrib.selforganisation.linsker import (
    Grown,
    Shape,
    centre_surround_covariance,
    constants,
    energy,
    gaussian_covariance,
    grow,
    grow_online,
    next_covariance,
    shape_of,
)

__all__ = [
    "Grown",
    "Infomax",
    "Shape",
    "centre_surround_covariance",
    "constants",
    "energy",
    "gaussian_covariance",
    "grow",
    "grow_online",
    "information",
    "information_gradient",
    "next_covariance",
    "settle",
    "shape_of",
    "water_filling",
]
