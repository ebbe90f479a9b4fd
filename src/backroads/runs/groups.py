"""Settings in groups: tables in TOML, flags without the table's name. Imports no torch.

A schema is a :class:`Group` whose fields are settings, or groups of settings. The names of flags are unique over all
groups, so that a setting can be given by its flag alone: ``{"seed": 1}`` means ``{"run": {"seed": 1}}`` where "run" has
a "seed".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, model_validator


class Group(BaseModel):
    """A table of settings: unknown names are refused, and nothing changes once it is made.

    A text in quotes below a field is the help of its flag.

    Attributes:
        flags: names of flags, for fields whose name alone would say too little.
        without_flag: why, for fields that have none here and may not be set, because the command sets them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)
    flags: ClassVar[dict[str, str]] = {}
    without_flag: ClassVar[dict[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _refuse_bools_for_numbers(cls, data: Any) -> Any:
        """True would be taken for 1."""
        for name, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None:
                kinds = get_args(field.annotation) or (field.annotation,)
                if (int in kinds or float in kinds) and bool not in kinds:
                    raise ValueError(f"{name}: expected a number, got {str(value).lower()}")
        return data

    def as_toml(self) -> dict[str, Any]:
        """The settings as plain data in tables, without those that are None or have no flag."""
        data = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        return {
            name: value.as_toml() if isinstance(value, Group) else value
            for name, value in data.items()
            if name not in self.without_flag
        }


def groups(schema: type[BaseModel]) -> dict[str, type[Group]]:
    """The groups within a schema, by the name of their field."""
    found = {name: field.annotation for name, field in schema.model_fields.items()}
    return {name: cls for name, cls in found.items() if isinstance(cls, type) and issubclass(cls, Group)}


def flags(schema: type[BaseModel]) -> dict[str, tuple[str, str]]:
    """The flags of a schema: name -> (group, field), with "" for settings that are in no group."""
    found = {name: ("", name) for name in schema.model_fields if name not in groups(schema)}
    for table, group in groups(schema).items():
        found |= {group.flags.get(name, name): (table, name) for name in group.model_fields}
    return found


def merged(schema: type[BaseModel], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Put settings into their groups, later layers over earlier ones, setting by setting.

    Args:
        schema: what the settings are. layers: each as plain data: settings in their tables, or by their flags alone.

    Returns:
        Plain data with tables. A name that the schema does not know, and a table that is none, stays where it is; the
        schema will refuse it.
    """
    tables, places = groups(schema), flags(schema)
    result: dict[str, Any] = {}

    def put(table: str, values: Mapping[str, Any]) -> None:
        old = result.get(table, {})
        if isinstance(old, Mapping):
            result[table] = {**old, **values}

    for layer in layers:
        for name, value in layer.items():
            if name in tables and isinstance(value, Mapping):
                put(name, value)
            elif (place := places.get(name, ("", name)))[0]:
                put(place[0], {place[1]: value})
            else:
                result[name] = value
    return result
