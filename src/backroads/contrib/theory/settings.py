"""Settings of ``backroads theory``. Imports no torch, so that ``--help`` is quick."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backroads.runs.settings import checked

Coefficient = Literal["decay", "amp", "null", "sparse", "self"]


class TheoryConfig(BaseModel):
    """A weighted sum of the primitives, and the two coefficients that the diagram varies."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    decay: float = Field(0.5, ge=0, allow_inf_nan=False, description="Coefficient of the primitive decay.")
    amp: float = Field(1.0, ge=0, allow_inf_nan=False, description="Coefficient of the primitive amp.")
    null: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="Coefficient of the primitive null; the weight mirror has 0."
    )
    sparse: float = Field(0.0, ge=0, allow_inf_nan=False, description="Coefficient of the primitive sparse.")
    self: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Coefficient of the primitive self, an estimate of W itself."
    )
    across: Coefficient = Field("amp", description="Coefficient along the horizontal axis of the phase diagram.")
    up: Coefficient = Field("decay", description="Coefficient along the vertical axis of the phase diagram.")
    across_to: float = Field(2.0, gt=0, allow_inf_nan=False, description="Largest value of the horizontal axis.")
    up_to: float = Field(2.0, gt=0, allow_inf_nan=False, description="Largest value of the vertical axis.")
    points: int = Field(41, ge=2, le=401, description="Points along each axis at which the closed form is computed.")
    power: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Mean eigenvalue of the second moment of the input."
    )
    condition: float = Field(1.0, ge=1, le=1e6, description="Largest eigenvalue of that moment over the smallest.")
    inputs: int = Field(4, ge=1, le=64, description="Number of inputs of the layer that is integrated over time.")
    outputs: int = Field(3, ge=1, le=64, description="Number of outputs of that layer.")
    simulated: int = Field(9, ge=2, le=41, description="Points along each axis at which that layer is integrated.")
    time: float = Field(20.0, gt=0, le=1e4, description="How long it is integrated; a coefficient of 1 acts in time 1.")
    network: bool = Field(True, description="Also train a small network at some points of the diagram.")
    network_points: int = Field(5, ge=2, le=21, description="Points along each axis at which the network is trained.")
    network_steps: int = Field(150, ge=10, le=100_000, description="Training steps of the network at each point.")
    network_rate: float = Field(0.1, gt=0, le=10, description="Learning rate of the network's W and B.")
    seed: int = Field(0, ge=0, description="Seed of all random draws.")

    @model_validator(mode="after")
    def _two_axes(self) -> TheoryConfig:
        if self.across == self.up:
            raise ValueError(f"two different coefficients for across and up, got {self.across} for both")
        return self


def resolve(data: dict[str, Any]) -> TheoryConfig:
    """Check settings and fill in defaults.

    Raises:
        ConfigError: naming every wrong field, with the nearest name for unknown ones.
    """
    return checked(TheoryConfig, data)
