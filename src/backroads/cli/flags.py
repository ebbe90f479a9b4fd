"""Settings as flags: one flag a setting, without the name of its group, and a heading in ``--help`` for each group."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_type_hints

import cyclopts
from cyclopts import Parameter
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from backroads.runs.groups import flags, groups, merged

Command = Callable[..., Any]
_OWN = cyclopts.Group.create_default_parameters()  # the heading of a command's own flags


def with_flags(schema: type[BaseModel]) -> Callable[[Command], Command]:
    """Give a command one flag for each setting of a schema.

    The command's argument ``settings`` gets those that were given on the command line, as plain data in tables, to be
    checked together with those from elsewhere. The first line of a group's docstring is its heading in ``--help``.
    """
    tables = groups(schema)
    fields: dict[str, FieldInfo] = {}
    headings: dict[str, cyclopts.Group] = {}
    for flag, (table, name) in flags(schema).items():
        if table and name in tables[table].without_flag:
            continue
        fields[flag] = (tables[table] if table else schema).model_fields[name]
        title = (tables[table].__doc__ or table).partition("\n")[0].rstrip(".") if table else None
        headings[flag] = cyclopts.Group(title, sort_key=list(tables).index(table)) if title else _OWN

    def decorate(command: Command) -> Command:
        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[parameter.name])
            for parameter in inspect.signature(command).parameters.values()
            if parameter.name != "settings"
        ]

        @functools.wraps(command)
        def run(**words: Any) -> Any:
            given = {flag: words.pop(flag) for flag in fields if flag in words}
            return command(settings=merged(schema, given), **words)

        del run.__wrapped__  # cyclopts would read the signature of what is within
        parameters = [*(_parameter(flag, field, headings[flag]) for flag, field in fields.items()), *own]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _parameter(flag: str, field: FieldInfo, heading: cyclopts.Group) -> inspect.Parameter:
    default = field.get_default(call_default_factory=True)
    about = Parameter(
        help=" ".join((field.description or "").split()),  # over the ends of the source's lines
        group=heading,
        show_default=False if default in ({}, []) else None,
        converter=_table if typing.get_origin(field.annotation) is dict else None,
    )
    annotation = Annotated[field.annotation, about]  # type: ignore[name-defined]
    return inspect.Parameter(flag, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _table(type_: Any, words: Any) -> Any:
    """A table of free names from flags such as ``--rule-options.view.bits 4``; its values stay text."""
    if not isinstance(words, dict):
        return words[-1].value
    values = typing.get_args(type_)[1:]
    if values and getattr(values[0], "__origin__", values[0]) in (float, str):  # of names with dots: no tables in it
        return dict(_dotted(words))
    return {name: _table(None, inner) for name, inner in words.items()}


def _dotted(words: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in words.items():
        if isinstance(inner, dict):
            yield from _dotted(inner, f"{above}{name}.")
        else:
            yield above + name, inner[-1].value
