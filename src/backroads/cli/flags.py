"""Settings as flags: one flag a setting, without the name of its group, and a heading in ``--help`` for each group."""

from __future__ import annotations

from typing import Any

import cyclopts
from cyclopts import Parameter
from pydantic import BaseModel

from backroads.runs.groups import groups


def as_flags(schema: type[BaseModel]) -> None:
    """Make an argument ``settings: Schema | None = None`` of a command take one flag for each setting.

    Args:
        schema: its groups are marked in place, with the first line of their docstrings as headings.
    """
    for number, group in enumerate(groups(schema).values()):
        heading = (group.__doc__ or group.__name__).partition("\n")[0].rstrip(".")
        Parameter(name="*", group=cyclopts.Group(heading, sort_key=number))(group)
        for name, field in group.model_fields.items():
            flag = f"--{group.flags[name].replace('_', '-')}" if name in group.flags else None
            field.metadata = [*field.metadata, Parameter(name=flag, show=False if name in group.without_flag else None)]
    Parameter(name="*")(schema)
    for cls in (schema, *groups(schema).values()):
        for field in cls.model_fields.values():
            field.description = " ".join((field.description or "").split())  # over the ends of the source's lines


def given(settings: BaseModel | None) -> dict[str, Any]:
    """The settings that flags named, as plain data in tables; none if ``settings`` is None."""
    return {} if settings is None else settings.model_dump(exclude_unset=True)
