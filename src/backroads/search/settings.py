"""Settings of ``backroads search``: one schema for flags, TOML and code. Imports neither torch nor optuna."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from backroads.errors import ConfigError, RuleError
from backroads.registry import check_file_name
from backroads.runs.groups import Group, merged
from backroads.runs.settings import checked, parse
from backroads.search.space import DIMENSIONS, Range, RuleSpace, expanded, groups_of, range_of
from backroads.train.settings import Data, Method, Rule, Run, TrainSettings
from backroads.train.settings import resolve as resolve_training

Positive = Annotated[int, Field(ge=1)]


class Space(Group):
    """What is searched"""

    rules: Annotated[list[str], Field(min_length=1)] | None = None
    """Rules to search, by name or package.module:callable, each with its own coefficients; 'primitives' stands for all
    32 subsets of the five primitives. By default symmetric_alignment, or none if methods are given."""
    methods: list[str] = Field(default=[])
    """Methods without backward weights to search as well, by name or package.module:callable; of the values that vary,
    they have learning_rate and weight_decay."""
    vary: list[str] = Field(default=["coefficients", "reduction", "center_input", "learning_rate", "backward_rate"])
    """Values that vary from trial to trial, by name; 'coefficients' are those of the rule, 'operations' all of its
    on/off switches."""
    ranges: dict[str, Any] = Field(default={})
    """Ranges in place of the usual ones, as in --ranges.learning_rate [0.01,1.0] or --ranges.reduction ["sum"]."""

    @field_validator("rules", "methods")
    @classmethod
    def _once(cls, names: list[str] | None) -> list[str] | None:
        if names is not None and len(set(names)) != len(names):
            raise ValueError("each name once")
        for name in names or ():
            check_file_name(name, "rules and methods")  # each has a folder for its trials
        return names

    @field_validator("ranges")
    @classmethod
    def _parse(cls, ranges: dict[str, Any]) -> dict[str, Any]:
        return {name: parse(value) for name, value in ranges.items()}

    @model_validator(mode="after")
    def _known(self) -> Space:
        expanded(self.vary)
        for name, given in self.ranges.items():
            range_of(name, given)
        if still := [name for name in self.ranges if name not in expanded(self.vary)]:
            raise ValueError(f"ranges: {', '.join(still)} does not vary; add it to vary, or leave its range out")
        return self

    def varying(self) -> dict[str, Range]:
        """The range of each value that may vary, by name."""
        return {
            name: range_of(name, self.ranges[name]) if name in self.ranges else DIMENSIONS[name]
            for name in expanded(self.vary)
        }


class Trials(Group):
    """Trials"""

    trials: Annotated[int, Field(ge=1, le=10_000_000)] = 100
    """Trials in all, shared evenly by the rules or subsets."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How values are proposed: by Optuna's TPE, or at random."""
    startup: Positive = 8
    """Trials of each rule or subset at random before TPE proposes."""
    pruner: Literal["none", "median", "hyperband"] = "median"
    """What ends poor trials early: being below the median of the others, Hyperband, or nothing."""
    report_every: Positive = 1
    """Epochs between evaluations; a trial can be ended early at each."""


class Study(Group):
    """Workers and storage"""

    name: str = "search"
    """Name of the search in its storage: letters, digits and . _ + - only."""
    storage: str | None = None
    """Where trials are kept: postgresql://USER@HOST/DATABASE or journal:FILE; without it, SQLite in the study's
    folder."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 1
    """Worker processes on this machine; with 0, it waits for workers that join."""
    heartbeat: Positive = 10
    """Seconds between two heartbeats of a worker in the database (SQLite, PostgreSQL)."""
    grace: Annotated[int, Field(ge=2)] = 60
    """Seconds without a heartbeat after which a trial is given to another worker; at least twice --heartbeat."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a trial is tried again after its worker has died."""
    patience: Annotated[float, Field(gt=0)] = 120.0
    """Seconds to wait for a storage that does not answer."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0
    """Least time between checkpoints of a trial; shorter trials write none."""

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not re.fullmatch(r"[\w.+-]+", name):
            raise ValueError("letters, digits and . _ + - only")
        return check_file_name(name, "name")

    @field_validator("storage", mode="before")
    @classmethod
    def _text(cls, storage: Any) -> Any:
        if storage is not None and not isinstance(storage, str):  # said here without it: it may have a password
            raise ValueError(f"storage: expected a URL as text, got a {type(storage).__name__}")
        return storage

    @model_validator(mode="after")
    def _enough_grace(self) -> Study:
        if self.grace < 2 * self.heartbeat:
            raise ValueError(f"grace: expected at least two heartbeats ({2 * self.heartbeat} s), got {self.grace}")
        return self


_OWN = "a search sets this itself"
_RULES = f"{_OWN}, from [space] rules"


class _Data(Data):
    __doc__ = Data.__doc__
    flags: ClassVar[dict[str, str]] = {**Data.flags, "workers": "data_workers"}
    without_flag: ClassVar[dict[str, str]] = {"split": "a search sets this itself: validation"}


class _Method(Method):
    __doc__ = Method.__doc__
    without_flag: ClassVar[dict[str, str]] = {"name": f"{_OWN}, from [space] methods"}


class _Rule(Rule):
    __doc__ = Rule.__doc__
    without_flag: ClassVar[dict[str, str]] = {"name": _RULES, "layers": _RULES}


class _Run(Run):
    __doc__ = Run.__doc__
    without_flag: ClassVar[dict[str, str]] = dict.fromkeys(("log", "keep", "compile", "checkpoint_every"), _OWN)
    threads: Positive = 1
    """CPU threads of each worker."""


class SearchSettings(TrainSettings):
    """Settings of a search: what is searched, and those of a training, which all trials share."""

    space: Space = Space()
    search: Trials = Trials()
    study: Study = Study()
    data: _Data = _Data()
    method: _Method = _Method()
    rule: _Rule = _Rule()
    run: _Run = _Run()

    def training(self, **changes: Any) -> TrainSettings:
        """The settings of a trial, with changes by flag; raises ConfigError."""
        unused = "rule" if "method" in changes else "method"  # a trial has one of them
        return resolve_training(self.shared() | {unused: {}}, {"split": "validation"}, changes)

    @property
    def groups(self) -> dict[str, RuleSpace]:
        """The rules, subsets and methods by name, in the order in which they take turns.

        Raises:
            RuleError, ConfigError: for an unknown rule or method.
        """
        rules = self.space.rules
        if rules is None:
            rules = [] if self.space.methods else ["symmetric_alignment"]
        return {one.name: one for one in groups_of(rules, self.space.methods, self.space.varying())}

    def check(self) -> None:
        """Raise ConfigError or RuleError for an unknown rule or method, or a choice in ``ranges`` that is none."""
        from backroads.feedback.rules import get_rule

        for group in self.groups.values():
            for name in self.space.ranges.keys() & group.space.keys():
                for choice in group.space[name].choices or ():
                    try:
                        chosen = self.training(**group.settings({name: choice}, self.rule.options))
                        get_rule(chosen.rule.name, **chosen.rule.options)
                    except (ConfigError, RuleError) as error:
                        raise ConfigError(f"ranges.{name}: {choice!r}: {error}") from None

    def planned(self, group: str) -> int:
        """How many trials a rule or subset has: its share of all."""
        names = list(self.groups)
        return len(range(names.index(group), self.search.trials, len(names)))


# What may change when a search goes on: who works on it and how it is watched, and that it grows.
HARMLESS = frozenset({"workers", "threads", "patience", "heartbeat", "grace", "checkpoint_seconds", "storage", "root"})
GROWING = frozenset({"trials"})


def resolve(*layers: dict[str, Any]) -> SearchSettings:
    """Check settings and fill in defaults.

    Args:
        layers: settings in tables, as in TOML, or by the names of their flags; later ones go over earlier ones.

    Raises:
        ConfigError: naming every wrong field, with the nearest name for unknown ones.
    """
    config = checked(SearchSettings, merged(SearchSettings, *layers))
    config.training()
    return config
