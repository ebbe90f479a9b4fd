"""A page: a title, a summary and sections of text, figures and tables, as one self-contained document.

Every value is escaped unless it is markup of this package.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from backroads.report import text
from backroads.report.read import Record
from backroads.report.svg import numbered


class Panel(NamedTuple):
    """A small drawing with its name, or an entry of a key: a swatch, a name and perhaps a number."""

    title: str
    drawing: Markup
    value: str = ""


@dataclass(frozen=True)
class Figure:
    """One figure: a large drawing with its key beside it, or small ones in rows with their key above.

    The caption defines what is drawn; ``notes`` say what is missing; ``large`` panels have half the page's width.
    """

    kind: ClassVar[str] = "figure"
    caption: str
    panels: Sequence[Panel] = ()
    overview: Markup | None = None
    key: Sequence[Panel] = ()
    notes: Sequence[str] = ()
    large: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a number and its spread, or a drawing, or a name and what is wrong with it.

    ``tint``, from -1 to 1, says how orange or blue it is.
    """

    value: str | Markup
    spread: str = ""
    warning: str = ""
    tint: float = 0.0


Rows = Sequence[Sequence[Cell | str]]
"""Of a table; the first cell of each row is its name."""


@dataclass(frozen=True)
class Table:
    """A table that scrolls where it is wider than the page.

    ``fold`` is the sentence behind which it is hidden until it is asked for; empty: it is shown.
    """

    kind: ClassVar[str] = "table"
    heads: Sequence[str]
    rows: Rows
    caption: str = ""
    fold: str = ""


@dataclass(frozen=True)
class Pairs:
    """Names and values, or what the columns of a table mean."""

    kind: ClassVar[str] = "pairs"
    items: Sequence[tuple[str, str]]
    caption: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph; ``code``: as typed."""

    kind: ClassVar[str] = "text"
    text: str
    code: bool = False


Block = Figure | Table | Pairs | Text


class Section(NamedTuple):
    """A part of a page under a heading. id: for links, one word."""

    id: str
    title: str
    blocks: Sequence[Block]

    @property
    def filled(self) -> list[Block]:
        """The blocks that have something to show."""
        parts = ("overview", "panels", "rows", "items", "text")
        return [block for block in self.blocks if any(getattr(block, part, None) for part in parts)]


class Problem(NamedTuple):
    """What is wrong with a run, what that means, and a list of details."""

    title: str
    text: str
    details: Sequence[str] = ()


class Headline(NamedTuple):
    """How a run stands in one word (empty: not said), and the rest of the sentence."""

    state: str
    text: str


@dataclass(frozen=True)
class Page:
    """A whole page; settings and environment of ``record`` stand at its end.

    Facts that are None, tables without rows, figures without drawings and sections that hold no others are left out.
    """

    record: Record
    title: str
    facts: Sequence[str | None]
    headline: Headline
    sections: Sequence[Section]
    problems: Sequence[Problem] = ()

    def html(self) -> str:
        """The document."""
        facts = [*self.facts, str(self.record.environment.get("started", ""))[:10]]
        facts = [fact.replace(" ", text.NBSP) for fact in facts if fact]
        sections = [section for section in (*self.sections, *_about(self.record)) if section.filled]
        template = _environment().get_template("page.html.j2")
        return numbered(template.render(page=self, facts=facts, sections=sections).strip() + "\n")


def _about(record: Record) -> list[Section]:
    """The last sections of every page: settings, environment, and how to repeat the run."""
    command, commit = (record.environment.get(name) for name in ("command", "commit"))
    config = record.config or getattr(record.results, "settings", {})
    flat = {key: value for key, value in config.items() if not isinstance(value, Mapping)}
    groups = {"": flat, **{key: value for key, value in config.items() if isinstance(value, Mapping)}}
    changed = ", with changes that were not committed" if record.environment.get("uncommitted_changes") else ""
    lines = f"{text.counted(record.unreadable, 'line')} of system.jsonl could not be read, as interruptions leave them"
    said = {
        "The command of this run was not recorded: environment.json holds no command.": not command,
        f"At commit {commit}{changed}.": command and commit,
        "The last line of events.jsonl was cut off, as a killed run leaves it, and is left out.": record.cut_off,
        f"{lines}; left out here.": record.unreadable,
        "The run went on after results.json was written, so that file is left out.": record.results
        and not record.ended,
    }
    repeat = [Text(str(command), code=True)] if command else []

    def pairs(name: str, group: Mapping[str, object]) -> Pairs:
        return Pairs([(key, text.setting(value)) for key, value in group.items()], name)

    return [
        Section("settings", "Settings", [pairs(name, group) for name, group in groups.items() if group]),
        Section("environment", "Environment", [pairs("", record.environment)]),
        Section("repeat", "Repeat it", [*repeat, *(Text(sentence) for sentence, holds in said.items() if holds)]),
    ]


def words(value: object) -> Markup:
    """``value``, escaped, whose words break only when they are longer than a line, and then after ``_`` or ``/``."""
    if isinstance(value, Markup):
        return value
    found = Markup("")
    for part in re.split("([ \t\n]+)", str(value)):
        pieces = Markup("<wbr>").join(re.split(r"(?<=\w[_/+])", part))
        found += Markup('<span class="word">{}</span>').format(pieces) if re.search(r"[_/+–-]", part) else pieces
    return found


@functools.cache
def _environment() -> Environment:
    loader = PackageLoader("backroads.report")
    found = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found.filters["words"] = words
    return found
