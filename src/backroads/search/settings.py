"""Settings of ``backroads search``: one schema for flags, TOML and code. Imports neither torch nor optuna."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from backroads.errors import ConfigError
from backroads.search.space import DIMENSIONS, Range, expanded, range_of
from backroads.train.config import checked, parse

if TYPE_CHECKING:
    from backroads.train.settings import TrainConfig

# Settings of a training that the search itself decides.
OURS = frozenset({"split", "seed", "threads", "rule", "rules", "tensorboard", "keep", "compile"})
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

    space: Literal["rules", "primitives"] = Field(
        "rules", description="What is searched: the named rules, or all 32 subsets of the five primitives."
    )
    rules: list[str] = Field(
        ["symmetric_alignment"], min_length=1, description="Rules, each with its own coefficients; for space 'rules'."
    )
    vary: list[str] = Field(
        ["coefficients", "reduction", "center_input", "learning_rate", "backward_rate"],
        description="What varies: coefficients, operations (all switches), or single ones by name.",
    )
    ranges: dict[str, Any] = Field(
        {}, description="Other ranges, as in ranges.learning_rate = [0.01, 1.0] or ranges.reduction = ['power']."
    )

    trials: int = Field(100, ge=1, le=10_000_000, description="Planned trials, shared evenly by rules or subsets.")
    workers: int = Field(1, ge=0, le=1024, description="Worker processes here; 0: others will join.")
    threads: int = Field(1, ge=1, description="CPU threads of a worker.")
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of the trainings and, plus the worker's number, of sampling."
    )
    sampler: Literal["tpe", "random"] = Field("tpe", description="What proposes the next trial.")
    startup: int = Field(8, ge=1, description="Random trials of a rule or subset before TPE proposes.")
    window: int = Field(400, ge=50, description="Trials that TPE looks at: the best 50 and the newest others.")
    pruner: Literal["none", "median", "hyperband"] = Field("median", description="What ends poor trials early.")
    report_every: int = Field(1, ge=1, description="Epochs between evaluations, which the pruner sees.")

    storage: str | None = Field(
        None,
        description="postgresql://USER@HOST/DATABASE or journal:FILE; None: SQLite in the study's folder.",
    )
    name: str = Field("search", description="Name of the study in its storage.")
    heartbeat: int = Field(10, ge=1, description="Seconds between signs of life (SQLite, PostgreSQL).")
    grace: int = Field(60, ge=2, description="Seconds without one after which a trial is given to another worker.")
    retries: int = Field(2, ge=0, description="How often a trial whose worker was lost is tried again.")
    patience: float = Field(120.0, gt=0, description="Seconds to wait for a storage that does not answer.")
    checkpoint_seconds: float = Field(
        60.0, ge=0, description="Least time between checkpoints of a trial; shorter trials write none."
    )

    @field_validator("train", "ranges")
    @classmethod
    def _parsed(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {name: _parsed(value) for name, value in values.items()}

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

    def training(self, **changes: Any) -> TrainConfig:
        """The settings of a trial, with ``changes``; raises ConfigError, naming the field in ``train``."""
        from backroads.train.settings import resolve as resolve_training

        taken = sorted(OURS & self.train.keys())
        if taken:
            raise ConfigError(f"train.{taken[0]}: a search sets this itself; leave it out")
        common = {"data": self.data, "root": self.root, "model": self.model}
        twice = sorted({*common, "epochs", "batch_size"} & self.train.keys())
        if twice:
            raise ConfigError(f"train.{twice[0]}: give it as {twice[0]}, which is a setting of the search itself")
        fixed = {"epochs": self.epochs, "batch_size": self.batch_size, "seed": self.seed, "threads": self.threads}
        try:
            return resolve_training({**common, **fixed, "split": "validation", **self.train, **changes})
        except ConfigError as error:
            raise ConfigError(f"train: {error}") from None

    @property
    def dimensions(self) -> dict[str, Range]:
        """What may vary, by name, with its range."""
        known = {name: DIMENSIONS[name] for name in expanded(self.vary)}
        return {name: range_of(name, self.ranges[name]) if name in self.ranges else r for name, r in known.items()}


# What may change when a study goes on: who works on it and how it is watched, and that it grows.
HARMLESS = frozenset(
    {"workers", "threads", "patience", "heartbeat", "grace", "retries", "checkpoint_seconds", "storage", "root"}
)


def resolve(data: dict[str, Any]) -> SearchConfig:
    """Check settings and fill in defaults.

    Raises:
        ConfigError: naming every wrong field, with the nearest name for unknown ones.
    """
    config = checked(SearchConfig, data)
    config.training()
    return config


def differences(old: SearchConfig, new: SearchConfig) -> list[str]:
    """What keeps a study of ``old`` from going on as ``new``: one line a field; empty if nothing does."""
    lines = []
    for name in SearchConfig.model_fields:
        was, now = getattr(old, name), getattr(new, name)
        if was != now and name not in HARMLESS and not (name == "trials" and now > was):
            lines.append(f"{name}: the study has {was!r}, now {now!r}")
    return lines


def _parsed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _parsed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_parsed(inner) for inner in value]
    return parse(value)


def to_json(config: SearchConfig) -> str:
    """The settings as text for the storage, without a password."""
    from backroads.search.storage import without_password

    data = config.model_dump(exclude_none=True)
    if config.storage is not None:
        data["storage"] = without_password(config.storage)
    return json.dumps(data)
