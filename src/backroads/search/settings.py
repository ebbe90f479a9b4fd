"""Settings of ``backroads search``: one schema for flags, TOML and code. Imports neither torch nor optuna."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from backroads.errors import ConfigError
from backroads.runs.groups import flat
from backroads.runs.settings import checked, parse
from backroads.search.space import DIMENSIONS, Group, Range, expanded, groups_of, range_of

if TYPE_CHECKING:
    from backroads.train.settings import TrainSettings

# Settings of a training that the search itself decides.
OURS = frozenset({"split", "seed", "threads", "rule", "layer_rules", "tensorboard", "keep", "compile"})
NAME = re.compile(r"[\w.+-]+")


class SearchConfig(BaseModel):
    """Settings of ``backroads search``."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    data: str = Field("digits", description="Data set, as for `backroads train`.")
    root: str | None = Field(None, description="Folder of the data set, for those that torchvision knows.")
    model: str = Field("digits_conv", description="Network, as for `backroads train`.")
    epochs: int = Field(10, ge=1, le=1_000_000, description="Epochs of a trial that is not ended early.")
    batch_size: int = Field(128, ge=2, description="Examples a step.")
    train: dict[str, Any] = Field(
        {}, description="Any other setting of `backroads train`, as in train.momentum = 0.95; the same for all trials."
    )

    rules: list[str] = Field(
        ["symmetric_alignment"],
        min_length=1,
        description="Rules to search, each with its own coefficients; 'primitives' stands for all 32 subsets of the "
        "five primitives.",
    )
    vary: list[str] = Field(
        ["coefficients", "reduction", "center_input", "learning_rate", "backward_rate"],
        description="Values that vary from trial to trial, by name; 'coefficients' are those of the rule, 'operations' "
        "all of its on/off switches.",
    )
    ranges: dict[str, Any] = Field(
        {},
        description="Ranges in place of the usual ones, as in ranges.learning_rate = [0.01, 1.0] or "
        "ranges.reduction = ['power'].",
    )

    trials: int = Field(100, ge=1, le=10_000_000, description="Trials in all, shared evenly by the rules or subsets.")
    workers: int = Field(
        1, ge=0, le=1024, description="Worker processes on this machine; with 0, it waits for workers that join."
    )
    threads: int = Field(1, ge=1, description="CPU threads of each worker.")
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of every training; sampling is seeded from it and the trial's number."
    )
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="How values are proposed: by Optuna's TPE, or at random."
    )
    startup: int = Field(8, ge=1, description="Trials of each rule or subset at random before TPE proposes.")
    pruner: Literal["none", "median", "hyperband"] = Field("median", description="What ends poor trials early.")
    report_every: int = Field(1, ge=1, description="Epochs between evaluations; a trial can be ended early at each.")

    storage: str | None = Field(
        None,
        description="Where trials are kept: postgresql://USER@HOST/DATABASE or journal:FILE; without it, SQLite in the "
        "study's folder.",
    )
    name: str = Field("search", description="Name of the study in its storage.")
    heartbeat: int = Field(10, ge=1, description="Seconds between a worker's signs of life (SQLite, PostgreSQL).")
    grace: int = Field(60, ge=2, description="Seconds without a sign of life until a trial is given to another worker.")
    retries: int = Field(2, ge=0, description="How often a trial is tried again after its worker has died.")
    patience: float = Field(120.0, gt=0, description="Seconds to wait for a storage that does not answer.")
    checkpoint_seconds: float = Field(
        60.0, ge=0, description="Least time between checkpoints of a trial; shorter trials write none."
    )

    @field_validator("train", "ranges")
    @classmethod
    def _parsed(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {name: parse(value) for name, value in values.items()}

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError(f"letters, digits and . _ + - only, got {name!r}")
        return name

    @field_validator("rules")
    @classmethod
    def _distinct(cls, rules: list[str]) -> list[str]:
        if len(set(rules)) != len(rules):
            raise ValueError(f"each rule once, got {', '.join(rules)}")
        return rules

    @model_validator(mode="after")
    def _fits_together(self) -> SearchConfig:
        expanded(self.vary)
        for name, given in self.ranges.items():
            range_of(name, given)
        if self.grace < 2 * self.heartbeat:
            raise ValueError(f"grace: expected at least two heartbeats ({2 * self.heartbeat} s), got {self.grace}")
        return self

    def training(self, **changes: Any) -> TrainSettings:
        """The settings of a trial, with ``changes``; raises ConfigError, naming the field in ``train``."""
        from backroads.train.settings import TrainSettings
        from backroads.train.settings import resolve as resolve_training

        train = flat(TrainSettings, self.train)
        taken = sorted(OURS & train.keys())
        if taken:
            raise ConfigError(f"train.{taken[0]}: a search sets this itself; leave it out")
        common = {"data": self.data, "root": self.root, "model": self.model}
        twice = sorted({*common, "epochs", "batch_size"} & train.keys())
        if twice:
            raise ConfigError(f"train.{twice[0]}: give it as {twice[0]}, which is a setting of the search itself")
        fixed = {"epochs": self.epochs, "batch_size": self.batch_size, "seed": self.seed, "threads": self.threads}
        try:
            return resolve_training({**common, **fixed, "split": "validation", **train, **changes})
        except ConfigError as error:
            raise ConfigError(f"train: {error}") from None

    @property
    def dimensions(self) -> dict[str, Range]:
        """The range of each value that may vary, by name."""
        known = {name: DIMENSIONS[name] for name in expanded(self.vary)}
        return {name: range_of(name, self.ranges[name]) if name in self.ranges else r for name, r in known.items()}

    @property
    def groups(self) -> dict[str, Group]:
        """The rules or subsets by name, in the order in which they take turns; raises RuleError for unknown rules."""
        return {group.name: group for group in groups_of(self.rules, self.dimensions)}

    def planned(self, group: str) -> int:
        """How many trials a rule or subset has: its share of all."""
        names = list(self.groups)
        return len(range(names.index(group), self.trials, len(names)))


# What may change when a search goes on: who works on it and how it is watched, and that it grows.
HARMLESS = frozenset(
    {"workers", "threads", "patience", "heartbeat", "grace", "retries", "checkpoint_seconds", "storage", "root"}
)
GROWING = frozenset({"trials"})


def resolve(data: dict[str, Any]) -> SearchConfig:
    """Check settings and fill in defaults.

    Raises:
        ConfigError: naming every wrong field, with the nearest name for unknown ones.
    """
    config = checked(SearchConfig, data)
    config.training()
    return config
