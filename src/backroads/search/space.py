"""What a search varies: groups (rules, or subsets of the primitives), and the values that vary in each.

The primitives are those of Kunin et al., "Two Routes to Scalable Credit Assignment without Weight Symmetry", ICML 2020.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from backroads.errors import nearest

if TYPE_CHECKING:
    from optuna import Trial

    from backroads.feedback.rules import FeedbackRule

PRIMITIVES = ("decay", "amp", "null", "sparse", "self")  # as settings name them
NO_PRIMITIVE = "none"  # the empty subset: fixed backward weights
ALL_SUBSETS = "primitives"  # stands for the 32 subsets where rules are named


@dataclasses.dataclass(frozen=True)
class Range:
    """Where a value comes from: one of ``choices``, or, without any, between ``low`` and ``high``, log-uniformly."""

    low: float = 0.0
    high: float = 0.0
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: Trial, name: str) -> Any:
        """A value for a trial, from Optuna's sampler."""
        if self.choices:
            return trial.suggest_categorical(name, self.choices)
        return trial.suggest_float(name, self.low, self.high, log=True)


_SWITCH = Range(choices=(False, True))
COEFFICIENTS = {name: Range(1e-4, 1.0) for name in PRIMITIVES}
# The reference's on/off switches; its activation is that of the layer, which a torch layer does not have.
OPERATIONS = dict.fromkeys(
    (
        "center_input",
        "normalize_input",
        "batch_center_backward_input",
        "use_bias_forward",
        "use_bias_backward",
        "center_forward_output",
        "normalize_forward_output",
        "batch_center_forward_output",
        "center_backward_output",
        "normalize_backward_output",
        "reconstruction_reversal",
        "reconstruction_amp",
    ),
    _SWITCH,
)
# Of the activities: they change nothing where no term reads activities.
ACTIVITIES = {
    **OPERATIONS,
    "reduction": Range(choices=("sum", "overlap", "mean", "unit_power")),
    "noise": Range(1e-2, 1e1),  # standard deviation of what replaces the input: a mirror's noise
    "every": Range(choices=(1, 2, 4)),
}
BACKWARD = {
    "backward_rate": Range(1e-2, 1.0),
    "backward_optimizer": Range(choices=("sgd", "adam")),
}
FORWARD = {"learning_rate": Range(1e-2, 1.0), "weight_decay": Range(1e-5, 1e-2)}
DIMENSIONS: dict[str, Range] = {**COEFFICIENTS, **ACTIVITIES, **BACKWARD, **FORWARD}
SHORT = {"coefficients": tuple(COEFFICIENTS), "operations": tuple(OPERATIONS)}


def expanded(names: Iterable[str]) -> list[str]:
    """Names of values that may vary, with short names replaced by what they stand for.

    Raises:
        ValueError: for an unknown name, with the nearest one.
    """
    found: list[str] = []
    for name in names:
        if name not in DIMENSIONS and name not in SHORT:
            hint = nearest(name, [*DIMENSIONS, *SHORT])
            known = ", ".join([*SHORT, *DIMENSIONS])
            raise ValueError(f"vary: expected values that can vary, got {name!r}.{hint} Known: {known}")
        found += [one for one in SHORT.get(name, (name,)) if one not in found]
    return found


def range_of(name: str, given: Any) -> Range:
    """A range as users write it: [low, high], or a list of choices for a value that is chosen; raises ValueError."""
    if name not in DIMENSIONS:
        hint, known = nearest(name, DIMENSIONS), ", ".join(DIMENSIONS)
        raise ValueError(f"ranges: expected values that can vary, got {name!r}.{hint} Known: {known}")
    usual = DIMENSIONS[name]
    if not isinstance(given, list) or not given:
        raise ValueError(f"ranges.{name}: expected a list such as [0.01, 1.0], got {given!r}")
    if usual.choices:
        return Range(choices=tuple(given))
    ends = [float(value) for value in given if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(ends) != 2 or len(given) != 2 or not 0 < ends[0] <= ends[1] < float("inf"):
        raise ValueError(f"ranges.{name}: expected two numbers, 0 < low <= high, got {given!r}")
    return Range(ends[0], ends[1])


# All 32 by name, as in "decay+self", the small ones first.
SUBSETS: dict[str, tuple[str, ...]] = {
    "+".join(subset) or NO_PRIMITIVE: subset
    for size in range(len(PRIMITIVES) + 1)
    for subset in itertools.combinations(PRIMITIVES, size)
}


@dataclasses.dataclass(frozen=True)
class RuleSpace:
    """One rule, one subset of the primitives, or one method: what is compared in a search.

    Attributes:
        name: of the group.
        rule: name of the rule in the settings of a training; None for a method, whose name is the group's.
        subset: of primitives; None for what has a name.
        space: the range of each value that varies.
    """

    name: str
    rule: str | None
    subset: tuple[str, ...] | None
    space: Mapping[str, Range]

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Values for a trial, from Optuna's sampler; those that the trial has already are kept."""
        return {name: found.suggest(trial, name) for name, found in self.space.items()}

    def settings(self, params: Mapping[str, Any], fixed: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Settings of a training: ``rule`` and ``rule_options``, or ``method``, and rates.

        Args:
            params: the values that vary, by name. fixed: options of the rule that do not.
        """
        from backroads.feedback.rules import get_rule

        if self.rule is None:
            return {"method": self.name, **params}
        options: dict[str, Any] = dict(fixed or {})
        given = options.pop("operations", {})
        operations: dict[str, Any] = {}
        settings: dict[str, Any] = {}
        for name, value in params.items():
            if name in OPERATIONS:
                operations[name] = value
            elif name == "every":
                own = get_rule(self.rule).to_dict().get("cadence", {})  # its fraction of the batch stays
                options["cadence"] = {**own, **options.get("cadence", {}), "every": value}
            elif name == "noise":
                options["drive"] = {"kind": "white_noise", "std": value}
            elif name in FORWARD or name in BACKWARD:
                settings[name] = value
            else:
                options[name] = value
        if operations:  # those of the rule that do not vary stay
            own = get_rule(self.rule).to_dict().get("operations", {})
            given = {**own, **given, **operations}
        if given:
            options["operations"] = given
        return {"rule": self.rule, "rule_options": options, **settings}


def groups_of(rules: Iterable[str], methods: Iterable[str], varies: Mapping[str, Range]) -> list[RuleSpace]:
    """The groups of a search, in the order in which they take turns.

    Args:
        rules: names of rules; :data:`ALL_SUBSETS` stands for the 32 subsets.
        methods: names of methods without backward weights.
        varies: the range of each value that may vary; a group takes those that make a difference to it.

    Raises:
        RuleError, ConfigError: for an unknown rule or method.
    """
    from backroads.feedback.rules import get_rule, options_of
    from backroads.methods import get_method

    groups: list[RuleSpace] = []
    for name in rules:
        if name == ALL_SUBSETS:
            for key, subset in SUBSETS.items():
                rule = get_rule("alignment", **dict.fromkeys(subset, 1.0))
                groups.append(RuleSpace(key, "alignment", subset, _varying(varies, rule)))
        else:
            takes = options_of(name) if ":" in name else None  # a rule of the user's own may have none
            groups.append(RuleSpace(name, name, None, _varying(varies, get_rule(name), takes)))
    for name in methods:
        get_method(name)
        groups.append(RuleSpace(name, None, None, {key: varies[key] for key in varies if key in FORWARD}))
    return groups


def _varying(varies: Mapping[str, Range], rule: FeedbackRule, takes: tuple[str, ...] | None = None) -> dict[str, Range]:
    """What makes a difference for a rule: W's own settings, and what the rule names and takes."""
    own = {name.rstrip("_") for name in rule.searchable}  # "self", which cannot be the name of an argument
    if takes is not None:
        whole = {**dict.fromkeys(OPERATIONS, "operations"), "every": "cadence", "noise": "drive", "self": "self_"}
        own = {name for name in own if name in BACKWARD or whole.get(name, name) in takes}
    return {name: found for name, found in varies.items() if name in FORWARD or name in own}
