"""Rules as data: what a layer's backward weights are and what teaches them.

A rule is one of four frozen classes: :class:`Alignment` (any weighted sum of the five primitives), :class:`Backprop`,
:class:`SignSymmetry` and :class:`DirectFeedback`. The functions here are the named ones with defaults that work.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Callable
from typing import Any

from backroads.errors import RuleError, nearest
from backroads.extras import extra_named
from backroads.feedback.rules.alignment import Alignment, Operations
from backroads.feedback.rules.base import Backprop, DirectFeedback, Rule, SignSymmetry
from backroads.feedback.rules.estimate import WeightEstimate
from backroads.feedback.rules.noise import Noise
from backroads.feedback.rules.presets import (
    activation_alignment,
    backprop,
    direct_feedback_alignment,
    feedback_alignment,
    information_alignment,
    kolen_pollack,
    normalised_mirror,
    sign_symmetry,
    symmetric_alignment,
    weight_mirror,
)
from backroads.registry import Registry

_PRESETS: Registry[Callable[..., Rule]] = Registry("rule", RuleError)
for _preset in (
    backprop,
    feedback_alignment,
    sign_symmetry,
    kolen_pollack,
    weight_mirror,
    normalised_mirror,
    information_alignment,
    symmetric_alignment,
    activation_alignment,
    direct_feedback_alignment,
):
    _PRESETS.add(_preset.__name__, _preset)

_CLASSES: dict[str, type[Rule]] = {c.kind: c for c in (Alignment, Backprop, SignSymmetry, DirectFeedback)}


def list_rules() -> list[str]:
    """Names of all rules, for :func:`get_rule`."""
    return _PRESETS.names()


def get_rule(name: str, /, **options: Any) -> Rule:
    """The rule called ``name``, with its defaults or the given options.

    The name "alignment" stands for any weighted sum of the primitives: its options are those of :class:`Alignment`.

    Raises:
        RuleError: for an unknown name (with the nearest one) or options the rule does not take.
    """
    preset = Alignment if name == Alignment.kind else _PRESETS.get(name)
    try:
        return preset(**{key: _nested(key, value) for key, value in options.items()})
    except TypeError as error:
        raise RuleError(f"rule {name!r} does not take these options: {error}") from None


def register_rule(name: str, make: Callable[..., Rule]) -> None:
    """Make a rule of your own known by name, to ``get_rule``, ``convert`` and the command line.

    Raises:
        RuleError: if the name is taken.
    """
    _PRESETS.add(name, make)


def as_rule(value: object) -> Rule:
    """A rule from a rule, a name, or the data of ``Rule.to_dict()``.

    Raises:
        RuleError: for anything else.
    """
    if isinstance(value, Rule):
        return value
    if isinstance(value, str):
        return get_rule(value)
    if isinstance(value, dict):
        return from_dict(value)
    name = getattr(value, "__name__", None)
    hint = f"; call it: br.rules.{name}()" if name in _PRESETS else ""
    raise RuleError(
        f"expected a rule such as br.rules.symmetric_alignment(), its name or its data, got {value!r}{hint}"
    )


def from_dict(data: dict[str, Any]) -> Rule:
    """The inverse of ``Rule.to_dict()``. Data only: nothing is looked up but the known classes and fields.

    Raises:
        RuleError: for unknown kinds and fields (with the nearest name) and for values that make no sense.
    """
    fields = dict(data)
    kind = fields.pop("kind", None)
    if not isinstance(kind, str) or kind not in _CLASSES:
        raise RuleError(f"unknown kind of rule {kind!r}.{nearest(str(kind), _CLASSES)} Known: {', '.join(_CLASSES)}")
    cls = _CLASSES[kind]
    _check_fields(cls, fields, f"rule of kind {kind!r}")
    return cls(**{name: _nested(name, value) for name, value in fields.items()})


def _nested(name: str, value: Any) -> Any:
    """The object that a table of a rule's data stands for; anything else as it is."""
    cls = {"operations": Operations, "input_noise": Noise, "estimate": WeightEstimate}.get(name)
    if cls is None or not isinstance(value, dict):
        return value
    _check_fields(cls, value, name)
    return cls(**value)


def _check_fields(cls: Any, fields: dict[str, Any], what: str) -> None:
    known = [f.name for f in dataclasses.fields(cls)]
    for name in fields:
        if name not in known:
            raise RuleError(f"{what}: unknown field {name!r}.{nearest(name, known)} Known: {', '.join(known)}")


def to_json(rule: Rule) -> str:
    """The rule as JSON."""
    return json.dumps(rule.to_dict())


def from_json(text: str) -> Rule:
    """The rule from JSON; raises RuleError if the text or its content is wrong."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise RuleError(f"expected a rule as JSON, and the text is not JSON: {error}") from None
    return _from_parsed(data)


def to_toml(rule: Rule) -> str:
    """The rule as TOML."""
    with extra_named("writing TOML"):
        import tomli_w

    return tomli_w.dumps(rule.to_dict())


def from_toml(text: str) -> Rule:
    """The rule from TOML; raises RuleError if the text or its content is wrong."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RuleError(f"expected a rule as TOML, and the text is not TOML: {error}") from None
    return _from_parsed(data)


def _from_parsed(data: object) -> Rule:
    if not isinstance(data, dict):
        raise RuleError(f"expected a table of a rule's fields, got {data!r}")
    return from_dict(data)


__all__ = [
    "Alignment",
    "Backprop",
    "DirectFeedback",
    "Noise",
    "Operations",
    "Rule",
    "SignSymmetry",
    "WeightEstimate",
    "activation_alignment",
    "as_rule",
    "backprop",
    "direct_feedback_alignment",
    "feedback_alignment",
    "from_dict",
    "from_json",
    "from_toml",
    "get_rule",
    "information_alignment",
    "kolen_pollack",
    "list_rules",
    "normalised_mirror",
    "register_rule",
    "sign_symmetry",
    "symmetric_alignment",
    "to_json",
    "to_toml",
    "weight_mirror",
]
