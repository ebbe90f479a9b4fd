"""Settings of ``backroads theory``. Imports no torch, so that ``--help`` is quick."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backroads.train.config import checked

Name = Literal["decay", "amp", "null", "sparse", "self"]


class TheoryConfig(BaseModel):
    """A weighted sum of the primitives, and the two coefficients that the diagram varies."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    decay: float = Field(0.5, ge=0, allow_inf_nan=False, description="Coefficient of decay.")
    amp: float = Field(1.0, ge=0, allow_inf_nan=False, description="Coefficient of amp.")
    null: float = Field(1.0, ge=0, allow_inf_nan=False, description="Coefficient of null; 0 for the weight mirror.")
    sparse: float = Field(0.0, ge=0, allow_inf_nan=False, description="Coefficient of sparse.")
    estimate: float = Field(0.0, ge=0, allow_inf_nan=False, description="Coefficient of self (weight estimation).")
    across: Name = Field("amp", description="Coefficient along the diagram's horizontal axis.")
    up: Name = Field("decay", description="Coefficient along its vertical axis.")
    across_to: float = Field(2.0, gt=0, allow_inf_nan=False, description="Where the horizontal axis ends; from 0.")
    up_to: float = Field(2.0, gt=0, allow_inf_nan=False, description="Where the vertical axis ends; from 0.")
    points: int = Field(41, ge=2, le=401, description="Points along each axis, of the closed form.")
    power: float = Field(1.0, gt=0, allow_inf_nan=False, description="Mean strength of the input's axes.")
    condition: float = Field(1.0, ge=1, le=1e6, description="Strongest axis of the input over the weakest.")
    inputs: int = Field(4, ge=1, le=64, description="Inputs of the matrix system.")
    outputs: int = Field(3, ge=1, le=64, description="Its outputs.")
    simulated: int = Field(9, ge=2, le=41, description="Points along each axis at which the matrix system is followed.")
    time: float = Field(20.0, gt=0, le=1e4, description="For how long it is followed.")
    network: bool = Field(True, description="Measure it on a small network, too; --network=false leaves that out.")
    network_points: int = Field(5, ge=2, le=21, description="Points along each axis, of the network.")
    network_steps: int = Field(150, ge=10, le=100_000, description="Training steps at each of them.")
    network_rate: float = Field(0.1, gt=0, le=10, description="Rate of W and B there.")
    seed: int = Field(0, ge=0, description="Seed of all draws.")

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
