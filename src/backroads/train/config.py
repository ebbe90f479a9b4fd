"""Settings as data: one schema for flags, TOML and code. Imports no torch, so that ``--help`` is quick."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from backroads.runs.settings import checked, parse

COMPARED_RULES = [
    "backprop",
    "feedback_alignment",
    "sign_symmetry",
    "kolen_pollack",
    "weight_mirror",
    "information_alignment",
    "symmetric_alignment",
    "activation_alignment",
]

# A small network allows faster alignment than the rules' own defaults, which must do for wide layers too. Chosen by
# benchmarks/choose_defaults.py on a validation part of the training split; see docs/defaults.md.
CHOSEN_ON_VALIDATION: dict[str, dict[str, Any]] = {
    "information_alignment": {"amp": 0.003, "null": 0.01, "decay": 0.01},
}


class CompareConfig(BaseModel):
    """Settings of ``backroads compare``: the same network, seeds and order of data for every rule."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    data: Literal["digits"] = Field("digits", description="Data set: scikit-learn's 8x8 handwritten digits.")
    split: Literal["test", "validation"] = Field(
        "test", description="What to evaluate on; choices are made on 'validation', a part of the training split."
    )
    model: Literal["digits_conv"] = Field("digits_conv", description="Network.")
    width: int = Field(8, ge=1, le=1024, description="Channels of its first convolution.")
    rules: list[str] = Field(
        COMPARED_RULES, min_length=1, description="Rules side by side; backprop, the comparator, is added if missing."
    )
    seeds: list[int] = Field([0, 1, 2], min_length=1, description="Seeds of initial weights and order of data.")
    epochs: int = Field(10, ge=1, le=100_000, description="Passes through the training split.")
    batch_size: int = Field(32, ge=2, description="Examples a step.")
    learning_rate: float = Field(0.1, gt=0, allow_inf_nan=False, description="Rate of W (SGD).")
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum of W.")
    weight_decay: float = Field(5e-3, ge=0, allow_inf_nan=False, description="Weight decay of W.")
    backward_rate: float = Field(1.0, ge=0, allow_inf_nan=False, description="Rate of B (plain SGD).")
    threads: int = Field(1, ge=1, description="CPU threads; one is fastest for networks this small.")
    rule_settings: dict[str, dict[str, Any]] = Field(
        {},
        description="Options of rules by name, as in rule_settings.weight_mirror = {amp = 0.02, decay = 0.02}.",
    )

    @field_validator("rules")
    @classmethod
    def _with_backprop(cls, rules: list[str]) -> list[str]:
        if len(set(rules)) != len(rules):
            raise ValueError(f"each rule once, got {', '.join(rules)}")
        return rules if "backprop" in rules else ["backprop", *rules]

    @field_validator("rule_settings")
    @classmethod
    def _over_the_chosen(cls, settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        given = {name: {key: parse(value) for key, value in options.items()} for name, options in settings.items()}
        return {
            name: {**CHOSEN_ON_VALIDATION.get(name, {}), **given.get(name, {})}
            for name in {**CHOSEN_ON_VALIDATION, **given}
        }

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ValueError(f"different whole numbers >= 0, got {', '.join(map(str, seeds))}")
        return seeds


def resolve(data: dict[str, Any]) -> CompareConfig:
    """Check settings and fill in defaults.

    Raises:
        ConfigError: naming every wrong field, with the nearest name for unknown ones.
    """
    return checked(CompareConfig, data)
