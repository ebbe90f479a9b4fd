"""Settings in groups: tables in TOML, flags without the table's name. Imports no torch.

A schema is a :class:`Group` whose fields are settings, or groups of settings. Names are unique over all groups, so that
a setting can be given by its name alone: ``{"seed": 1}`` means ``{"run": {"seed": 1}}`` where "run" has a "seed".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Group(BaseModel):
    """A table of settings: unknown names are refused, and nothing changes once it is made.

    A text in quotes below a field is the help of its flag.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)


def groups(schema: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The groups within a schema, by the name of their field."""
    found = {name: field.annotation for name, field in schema.model_fields.items()}
    return {name: cls for name, cls in found.items() if isinstance(cls, type) and issubclass(cls, BaseModel)}


def names(schema: type[BaseModel]) -> list[str]:
    """The names of all settings, those in groups too."""
    own = [name for name in schema.model_fields if name not in groups(schema)]
    return [*own, *(name for group in groups(schema).values() for name in group.model_fields)]


def merged(schema: type[BaseModel], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Put settings into their groups, later layers over earlier ones, setting by setting.

    Args:
        schema: what the settings are. layers: each as plain data: settings in their tables, or by name alone.

    Returns:
        Plain data with tables. A name that the schema does not know stays where it is; the schema will refuse it.
    """
    tables = groups(schema)
    table_of = {name: table for table, group in tables.items() for name in group.model_fields}
    result: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            if name in tables and isinstance(value, Mapping):
                result[name] = {**result.get(name, {}), **value}
            elif name in table_of:
                result[table_of[name]] = {**result.get(table_of[name], {}), name: value}
            else:
                result[name] = value
    return result
