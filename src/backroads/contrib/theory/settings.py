"""Settings of ``backroads theory``. Imports no torch, so that ``--help`` is quick."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from backroads.runs.groups import Group
from backroads.runs.settings import checked

Name = Literal["decay", "amp", "null", "sparse", "self"]
Coefficient = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TheoryConfig(Group):
    """A weighted sum of the primitives, and the two coefficients that the diagram varies."""

    decay: Coefficient = 0.5
    """Coefficient of the primitive decay."""
    amp: Coefficient = 1.0
    """Coefficient of the primitive amp."""
    null: Coefficient = 1.0
    """Coefficient of the primitive null; the weight mirror has 0."""
    sparse: Coefficient = 0.0
    """Coefficient of the primitive sparse."""
    self: Coefficient = 0.0
    """Coefficient of the primitive self, an estimate of W itself."""
    across: Name = "amp"
    """Coefficient along the horizontal axis of the phase diagram."""
    up: Name = "decay"
    """Coefficient along the vertical axis of the phase diagram."""
    across_to: Positive = 2.0
    """Largest value of the horizontal axis."""
    up_to: Positive = 2.0
    """Largest value of the vertical axis."""
    points: Annotated[int, Field(ge=2, le=401)] = 41
    """Points along each axis at which the closed form is computed."""
    power: Positive = 1.0
    """Mean eigenvalue of the second moment of the input."""
    condition: Annotated[float, Field(ge=1, le=1e6)] = 1.0
    """Largest eigenvalue of that moment over the smallest."""
    inputs: Annotated[int, Field(ge=1, le=64)] = 4
    """Number of inputs of the layer that is integrated over time."""
    outputs: Annotated[int, Field(ge=1, le=64)] = 3
    """Number of outputs of that layer."""
    simulated: Annotated[int, Field(ge=2, le=41)] = 9
    """Points along each axis at which that layer is integrated."""
    time: Annotated[float, Field(gt=0, le=1e4)] = 20.0
    """How long it is integrated; a coefficient of 1 acts in time 1."""
    network: bool = True
    """Also train a small network at some points of the diagram."""
    network_points: Annotated[int, Field(ge=2, le=21)] = 5
    """Points along each axis at which the network is trained."""
    network_steps: Annotated[int, Field(ge=10, le=100_000)] = 150
    """Training steps of the network at each point."""
    network_rate: Annotated[float, Field(gt=0, le=10)] = 0.1
    """Learning rate of the network's W and B."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of all random draws."""

    @model_validator(mode="after")
    def _two_axes(self) -> TheoryConfig:
        if self.across == self.up:
            raise ValueError(f"across and up: expected two different coefficients, got {self.across} for both")
        return self


def resolve(data: dict[str, Any]) -> TheoryConfig:
    """Check settings and fill in defaults.

    Raises:
        ConfigError: naming every wrong field, with the nearest name for unknown ones.
    """
    return checked(TheoryConfig, data)
