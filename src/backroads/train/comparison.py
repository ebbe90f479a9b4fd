"""Settings of ``backroads compare``: those of a training, other defaults, and what is compared. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator, model_validator
from pydantic.fields import FieldInfo

from backroads.errors import ConfigError, nearest
from backroads.registry import check_file_name
from backroads.runs.groups import Group, merged
from backroads.runs.settings import checked
from backroads.train.settings import (
    Data,
    Method,
    Optimizer,
    Rule,
    Run,
    Schedule,
    ScheduleName,
    TrainSettings,
    parsed,
    resolve,
)

COMPARED_RULES = [
    "backprop",
    "feedback_alignment",
    "sign_symmetry",
    "kolen_pollack",
    "mirrored_kolen_pollack",
    "weight_mirror",
    "information_alignment",
    "symmetric_alignment",
    "activation_alignment",
]
COMPARED_METHODS = ["local_errors", "target_propagation", "hebbian"]  # of those families that learn at the same rate
BASELINE = "backprop"

# A small network allows faster alignment than the rules' own defaults, which must do for wide layers too. Chosen by
# benchmarks/choose_defaults.py on a validation part of the training split; see docs/defaults.md.
CHOSEN_ON_VALIDATION: dict[str, dict[str, Any]] = {
    "information_alignment": {"amp": 0.003, "null": 0.01, "decay": 0.01},
}


def _default(group: type[Group], field: str, value: Any) -> Any:
    """A field of a group with another default."""
    return FieldInfo.merge_field_infos(group.model_fields[field], default=value)


class Compared(Group):
    """Comparison"""

    rules: list[str] = Field(default=COMPARED_RULES)
    """Feedback rules to compare, by name or package.module:callable; backprop, the baseline, is added. By default nine
    rules, or none if methods are given."""
    methods: list[str] = Field(default=COMPARED_METHODS)
    """Methods without backward weights to compare with the rules, by name or package.module:callable. By default three,
    or none if rules are given."""
    seeds: Annotated[list[int], Field(min_length=1)] = Field(default=[0, 1, 2])
    """Each rule is trained once for each seed, of the initial weights and the order of the data."""
    rule_settings: dict[str, dict[str, Any]] = Field(default={})
    """Options of rules and methods by name, as in --rule-settings.weight_mirror.amp 0.02."""

    @model_validator(mode="before")
    @classmethod
    def _only_those_given(cls, given: Any) -> Any:
        if isinstance(given, dict) and ("rules" in given) != ("methods" in given):
            return {"rules": [], "methods": [], **given}
        return given

    @field_validator("rules", "methods")
    @classmethod
    def _once(cls, names: list[str]) -> list[str]:
        if len(set(names)) != len(names):
            raise ValueError("each name once")
        for name in names:
            check_file_name(name, "rules and methods")  # TensorBoard has a folder for each
        return names

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ValueError("different whole numbers >= 0")
        return seeds

    @field_validator("rule_settings")
    @classmethod
    def _parse(cls, settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {name: parsed(options) for name, options in settings.items()}


_OPTIONS = "a comparison has [compare] rule_settings"


class _Data(Data):
    __doc__ = Data.__doc__
    last_batch: bool = _default(Data, "last_batch", True)


class _Optimizer(Optimizer):
    __doc__ = Optimizer.__doc__
    weight_decay: float = _default(Optimizer, "weight_decay", 5e-3)
    decay_vectors: bool = _default(Optimizer, "decay_vectors", True)


class _Schedule(Schedule):
    __doc__ = Schedule.__doc__
    without_flag: ClassVar[dict[str, str]] = {
        "coefficients": "the arms of a comparison have different coefficients, or none"
    }
    name: ScheduleName = _default(Schedule, "name", "linear")


class _Method(Method):
    __doc__ = Method.__doc__
    without_flag: ClassVar[dict[str, str]] = {"name": "a comparison has [compare] methods", "options": _OPTIONS}


class _Rule(Rule):
    __doc__ = Rule.__doc__
    without_flag: ClassVar[dict[str, str]] = {"name": "a comparison has [compare] rules", "options": _OPTIONS}


class _Run(Run):
    __doc__ = Run.__doc__
    without_flag: ClassVar[dict[str, str]] = {"seed": "a comparison has [compare] seeds"}
    batch_size: int = _default(Run, "batch_size", 32)
    threads: int | None = _default(Run, "threads", 1)


class CompareSettings(TrainSettings):
    """Settings of a comparison: those of a training, and what is compared."""

    compare: Compared = Compared()
    data: _Data = _Data()
    method: _Method = _Method()
    rule: _Rule = _Rule()
    optimizer: _Optimizer = _Optimizer()
    schedule: _Schedule = _Schedule()
    run: _Run = _Run()

    def arms(self) -> list[tuple[str, TrainSettings]]:
        """Name and settings of each arm: every rule and method, with every seed."""
        rules = self.compare.rules
        rules = rules if BASELINE in rules else [BASELINE, *rules]
        common = self.shared()
        named = [("rule", name) for name in rules] + [("method", name) for name in self.compare.methods]
        if unknown := set(self.compare.rule_settings) - {name for _, name in named}:
            raise ConfigError(
                f"rule_settings: expected names of what is compared, got {min(unknown)!r}."
                f"{nearest(min(unknown), [name for _, name in named])}"
            )
        found = []
        for seed in self.compare.seeds:
            for kind, name in named:
                own = {**CHOSEN_ON_VALIDATION.get(name, {}), **self.compare.rule_settings.get(name, {})}
                rest = common if kind == "rule" else {**common, "rule": {}}
                arm = {"seed": seed, kind: {**rest[kind], "name": name, "options": own}}
                found.append((name, resolve(rest, arm)))
        return found


def resolve_comparison(*layers: dict[str, Any]) -> CompareSettings:
    """Check settings of a comparison and fill in defaults; see :func:`resolve`."""
    return checked(CompareSettings, merged(CompareSettings, *layers))
