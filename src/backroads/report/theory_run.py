"""Reads the folder of ``backroads theory`` into typed values, or says what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from backroads.report.files import Measured, is_kind, read_object, read_results, validated

Fate = Literal["collapses", "settles", "explodes", "undecided"]


@dataclass(frozen=True)
class Point:
    """A fixed point of the scalar system."""

    w: float
    b: float
    eigenvalues: tuple[float, ...]
    stability: str


@dataclass(frozen=True)
class Moving:
    """Both weights moving, in closed form."""

    pull: float
    loss: float
    bound: float
    fate: Fate
    points: tuple[Point, ...]
    growth: tuple[float, ...]
    matrix_fate: Fate


@dataclass(frozen=True)
class Course:
    """The matrix system over time."""

    times: tuple[float, ...]
    W: tuple[float, ...]
    B: tuple[float, ...]
    angle: tuple[float, ...]


@dataclass(frozen=True)
class Matrix:
    """The matrix system from one start."""

    fate: Fate
    course: Course
    fixed_point: dict[str, Any] | None = None


@dataclass(frozen=True)
class Held:
    """B while W is held."""

    finite: bool
    angle: Measured
    gain: Measured
    slowest: float
    fastest: float
    largest_step: Measured
    eigenvalue_error: float


@dataclass(frozen=True)
class Trajectory:
    """One of the scalar system: (w, b) over time."""

    fate: Fate
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Diagram:
    """Fates by row (up) and column (across): in closed form on a fine grid, followed on a coarse one."""

    across: str
    up: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    closed: tuple[tuple[Fate, ...], ...]
    some_x: tuple[float, ...]
    some_y: tuple[float, ...]
    followed: tuple[tuple[Fate, ...], ...]
    agreed: int
    of: int


@dataclass(frozen=True)
class MirrorCurve:
    """Gain |B| / |W| and angle against steps."""

    name: str
    gain: tuple[float, ...]
    angle: tuple[float, ...]


@dataclass(frozen=True)
class Mirror:
    """The normalised mirror beside that on activity."""

    rate: float
    rows: int
    floor_angle: float
    curves: tuple[MirrorCurve, ...]


@dataclass(frozen=True)
class Outcome:
    """A short training of the network."""

    fate: Fate
    growth: Measured
    angle: Measured
    accuracy: Measured


@dataclass(frozen=True)
class Network:
    """The diagram on a network, and the growth that the theory expects of its strongest axis."""

    xs: tuple[float, ...]
    ys: tuple[float, ...]
    outcomes: tuple[tuple[Outcome, ...], ...]
    strengths: dict[str, float]
    growth: tuple[tuple[float, ...], ...]
    fine_x: tuple[float, ...]
    fine_y: tuple[float, ...]


@dataclass(frozen=True)
class Results:
    """``results.json`` of ``backroads theory``."""

    kind: Literal["theory"]
    settings: dict[str, Any]
    rule: str
    strengths: tuple[float, ...]
    moving: Moving
    matrix: Matrix
    held: Held
    plane: tuple[Trajectory, ...]
    diagram: Diagram
    mirror: Mirror
    network: Network | None = None


@dataclass(frozen=True)
class Theory:
    """The folder of ``backroads theory``."""

    environment: Mapping[str, object]
    results: Results


_RESULTS = TypeAdapter(Results)


def is_theory(folder: Path) -> bool:
    """Whether ``folder`` holds the results of ``backroads theory``."""
    return is_kind(folder, "theory")


def read_theory(folder: Path) -> Theory:
    """Reads the results in ``folder``.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    results = read_results(folder, _RESULTS)
    return Theory(read_object(folder / "environment.json"), results)


def results_of(data: Mapping[str, Any]) -> Results:
    """The same from the data itself, as :func:`backroads.contrib.theory.run.theory` gives them."""
    return validated(_RESULTS, json.dumps(data).encode(), "the results")
