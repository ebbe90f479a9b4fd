"""Feedback rules as data: one class a rule, in one file, and the named ones with defaults that work.

The reference is Kunin et al., "Two Routes to Scalable Credit Assignment without Weight Symmetry", ICML 2020 (arXiv
2003.01513), and its public code. Letters: x input, W forward, B backward weights, y = W x, z = B x, M[.] the mean over
the batch. The defaults of the alignment rules expect plain SGD with rate 1 on B, which :func:`backroads.param_groups`
sets up. How the defaults were chosen: docs/defaults.md.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Callable
from typing import Any

from backroads.errors import RuleError, nearest
from backroads.extras import extra_named
from backroads.feedback.checks import options_taken
from backroads.feedback.drive import Activity, Drive, Impulses, WhiteNoise
from backroads.feedback.primitives import Operations
from backroads.feedback.rules.activation_alignment import activation_alignment
from backroads.feedback.rules.alignment import Alignment
from backroads.feedback.rules.backprop import Backprop, backprop
from backroads.feedback.rules.base import FeedbackRule
from backroads.feedback.rules.cadence import Cadence
from backroads.feedback.rules.direct_feedback_alignment import DirectFeedback, direct_feedback_alignment
from backroads.feedback.rules.direct_kolen_pollack import direct_kolen_pollack
from backroads.feedback.rules.direct_random_target_projection import direct_random_target_projection
from backroads.feedback.rules.error_broadcast import error_broadcast
from backroads.feedback.rules.error_correcting_mirror import error_correcting_mirror
from backroads.feedback.rules.exact_probing import exact_probing
from backroads.feedback.rules.feedback_alignment import feedback_alignment
from backroads.feedback.rules.information_alignment import information_alignment
from backroads.feedback.rules.kolen_pollack import kolen_pollack
from backroads.feedback.rules.mirrored_kolen_pollack import MirroredKolenPollack, mirrored_kolen_pollack
from backroads.feedback.rules.product_feedback_alignment import product_feedback_alignment
from backroads.feedback.rules.sign_symmetry import SignSymmetry, sign_symmetry
from backroads.feedback.rules.symmetric_alignment import symmetric_alignment
from backroads.feedback.rules.view import WeightEstimate
from backroads.feedback.rules.weight_mirror import weight_mirror
from backroads.feedback.rules.white_noise_mirror import white_noise_mirror
from backroads.registry import Registry

_RULES: Registry[Callable[..., FeedbackRule]] = Registry("rule", RuleError)
for _rule in (
    backprop,
    feedback_alignment,
    sign_symmetry,
    kolen_pollack,
    mirrored_kolen_pollack,
    weight_mirror,
    white_noise_mirror,
    error_correcting_mirror,
    exact_probing,
    information_alignment,
    symmetric_alignment,
    activation_alignment,
    product_feedback_alignment,
    direct_feedback_alignment,
    direct_kolen_pollack,
    direct_random_target_projection,
    error_broadcast,
):
    _RULES.add(_rule.__name__, _rule)

# What a table within a rule's data may stand for, by the field's name, and then by its kind where there are several.
_PARTS: dict[str, dict[str | None, type[Any]]] = {
    "operations": {None: Operations},
    "drive": {cls.kind: cls for cls in (Activity, WhiteNoise, Impulses)},
    "view": {None: WeightEstimate},
    "cadence": {None: Cadence},
}


def list_rules() -> list[str]:
    """Names of all rules, for :func:`get_rule`."""
    return list(_RULES)


def get_rule(name: str, /, **options: Any) -> FeedbackRule:
    """The rule called ``name``, with its defaults or the given options.

    Args:
        name: a registered name; "alignment", for any weighted sum of the primitives, whose options are those of
            :class:`Alignment`; or ``package.module:callable``, an import path of what makes a rule.
        options: of the rule. Tables (dicts) stand for the objects that they describe.

    Raises:
        RuleError: for an unknown name (with the nearest one), an import path that leads nowhere, or options that the
            rule does not take.
    """
    make = Alignment if name == Alignment.kind else _RULES.resolve(name)
    try:
        rule = make(**{_field(key): _part(key, value) for key, value in options.items()})
    except TypeError as error:
        raise RuleError(f"rule {name!r} does not take these options: {error}") from None
    if not isinstance(rule, FeedbackRule):
        raise RuleError(f"rule {name!r}: expected it to make a FeedbackRule, got {rule!r}")
    return rule


def options_of(name: str) -> tuple[str, ...] | None:
    """The options that a rule takes by keyword, by its name; None: any. Raises as :func:`get_rule`."""
    return options_taken(Alignment if name == Alignment.kind else _RULES.resolve(name))


def register_rule(name: str, make: Callable[..., FeedbackRule]) -> None:
    """Make a rule of your own known by name, to ``get_rule``, ``convert`` and the command line.

    Raises:
        RuleError: if the name is taken.
    """
    _RULES.add(name, make)


def as_rule(value: object) -> FeedbackRule:
    """A rule from a rule, a name, or the data of ``Rule.to_dict()``.

    Raises:
        RuleError: for anything else.
    """
    if isinstance(value, FeedbackRule):
        return value
    if isinstance(value, str):
        return get_rule(value)
    if isinstance(value, dict):
        return from_dict(value)
    name = getattr(value, "__name__", None)
    hint = f"; call it: br.rules.{name}()" if name in _RULES else ""
    raise RuleError(
        f"expected a rule such as br.rules.symmetric_alignment(), its name or its data, got {value!r}{hint}"
    )


def from_dict(data: dict[str, Any]) -> FeedbackRule:
    """The inverse of ``Rule.to_dict()``. Data only: nothing is looked up but the known classes and fields.

    Raises:
        RuleError: for unknown kinds and fields (with the nearest name) and for values that make no sense.
    """
    fields = dict(data)
    kind = fields.pop("kind", None)
    classes = FeedbackRule.classes
    if not isinstance(kind, str) or kind not in classes:
        hint = f"; import {kind.partition(':')[0]} first" if isinstance(kind, str) and ":" in kind else ""
        raise RuleError(
            f"unknown kind of rule {kind!r}{hint}.{nearest(str(kind), classes)} Known: {', '.join(classes)}"
        )
    rule: FeedbackRule = _made(classes[kind], fields, f"rule of kind {kind!r}")
    return rule


def _made(cls: Any, fields: dict[str, Any], what: str) -> Any:
    """An object of ``cls`` from plain data; raises RuleError, with the nearest name, for a field it does not have."""
    known = [f.name.rstrip("_") for f in dataclasses.fields(cls) if f.init]
    for name in fields:
        if name.rstrip("_") not in known:
            raise RuleError(f"{what}: unknown field {name!r}.{nearest(name, known)} Known: {', '.join(known)}")
    return cls(**{_field(name): _part(name, value) for name, value in fields.items()})


def _field(name: str) -> str:
    """The name in Python of a field that is called "self" in data."""
    return "self_" if name == "self" else name


def _part(name: str, value: Any) -> Any:
    """The object that a table within a rule's data stands for; anything else as it is."""
    if name not in _PARTS or not isinstance(value, dict):
        return value
    kinds, fields = _PARTS[name], dict(value)
    kind = None if None in kinds else fields.pop("kind", None)
    if kind not in kinds:
        known = ", ".join(map(str, kinds))
        raise RuleError(f"{name}: unknown kind {kind!r}.{nearest(str(kind), map(str, kinds))} Known: {known}")
    return _made(kinds[kind], fields, name)


def to_json(rule: FeedbackRule) -> str:
    """The rule as JSON."""
    return json.dumps(rule.to_dict())


def from_json(text: str) -> FeedbackRule:
    """The rule from JSON; raises RuleError if the text or its content is wrong."""
    return _from_text(text, json.loads, "JSON")


def to_toml(rule: FeedbackRule) -> str:
    """The rule as TOML."""
    with extra_named("writing TOML"):
        import tomli_w

    return tomli_w.dumps(rule.to_dict())


def from_toml(text: str) -> FeedbackRule:
    """The rule from TOML; raises RuleError if the text or its content is wrong."""
    return _from_text(text, tomllib.loads, "TOML")


def _from_text(text: str, parse: Callable[[str], object], language: str) -> FeedbackRule:
    try:
        data = parse(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise RuleError(f"expected a rule as {language}, and the text is not {language}: {error}") from None
    if not isinstance(data, dict):
        raise RuleError(f"expected a table of a rule's fields, got {data!r}")
    return from_dict(data)


__all__ = [
    "Activity",
    "Alignment",
    "Backprop",
    "Cadence",
    "DirectFeedback",
    "Drive",
    "FeedbackRule",
    "Impulses",
    "MirroredKolenPollack",
    "Operations",
    "SignSymmetry",
    "WeightEstimate",
    "WhiteNoise",
    "activation_alignment",
    "as_rule",
    "backprop",
    "direct_feedback_alignment",
    "direct_kolen_pollack",
    "direct_random_target_projection",
    "error_broadcast",
    "error_correcting_mirror",
    "exact_probing",
    "feedback_alignment",
    "from_dict",
    "from_json",
    "from_toml",
    "get_rule",
    "information_alignment",
    "kolen_pollack",
    "list_rules",
    "mirrored_kolen_pollack",
    "product_feedback_alignment",
    "register_rule",
    "sign_symmetry",
    "symmetric_alignment",
    "to_json",
    "to_toml",
    "weight_mirror",
    "white_noise_mirror",
]
