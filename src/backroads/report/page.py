"""Fills the templates: every value is escaped unless it is markup of this package."""

from __future__ import annotations

import functools
import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape


def render(template: str, **values: object) -> str:
    """The page that ``template`` makes of ``values``."""
    return _environment().get_template(template).render(**values)


def words(value: object) -> Markup:
    """``value``, escaped, whose words break only when they are longer than a line, and then after ``_`` or ``/``."""
    parts = re.split(r"(\s+)", str(value))
    return Markup("").join(_word(part) if re.search(r"[_/–-]", part) else escape(part) for part in parts)


def _word(word: str) -> Markup:
    pieces = re.split(r"(?<=[_/])", word)
    return Markup('<span class="word">{}</span>').format(Markup("<wbr>").join(pieces))


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("backroads.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["words"] = words
    return environment
