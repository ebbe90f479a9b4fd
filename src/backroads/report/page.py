"""A page: a title, a summary and sections of text, figures and tables, as one self-contained document.

Every value is escaped unless it is markup of this package.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from backroads.report import text
from backroads.report.read import Record


@dataclass(frozen=True)
class Panel:
    """A small drawing with its name, or an entry of a key: a swatch, a name and perhaps a number."""

    title: str
    drawing: Markup
    value: str = ""


@dataclass(frozen=True)
class Figure:
    """One figure: a large drawing with its key beside it, or small ones in rows with their key above.

    Attributes:
        caption: defines what is drawn.
        panels, overview: the drawings.
        large: panels of half the page's width.
        notes: what is missing, a sentence each.
    """

    caption: str
    panels: Sequence[Panel] = ()
    overview: Markup | None = None
    key: Sequence[Panel] = ()
    notes: Sequence[str] = ()
    large: bool = False
    kind: str = "figure"


@dataclass(frozen=True)
class Cell:
    """A number of a table, and its spread beside it; or a drawing."""

    value: str | Markup
    spread: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table: its name, its cells, and what is wrong with it."""

    name: str
    cells: Sequence[Cell | str]
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table that scrolls where it is wider than the page.

    Attributes:
        heads: names of the columns, that of the rows' names first.
        legend: (name of a column, what it means).
        fold: the sentence behind which the table is hidden until it is asked for; empty: it is shown.
    """

    heads: Sequence[str]
    rows: Sequence[Row]
    caption: str = ""
    legend: Sequence[tuple[str, str]] = ()
    fold: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Pairs:
    """Names and values."""

    items: Sequence[tuple[str, str]]
    caption: str = ""
    kind: str = "pairs"


@dataclass(frozen=True)
class Text:
    """A paragraph; ``code``: as typed."""

    text: str
    code: bool = False
    kind: str = "text"


Block = Figure | Table | Pairs | Text


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading. id: for links, one word."""

    id: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Problem:
    """What is wrong with a run, what that means, and a list of details."""

    title: str
    text: str
    details: Sequence[str] = ()


class Headline(NamedTuple):
    """How a run stands in one word (empty: not said), whether that is bad news, and the rest of the sentence."""

    state: str
    bad: bool
    text: str


@dataclass(frozen=True)
class Page:
    """A whole page. Sections without blocks are left out.

    Attributes:
        record: whose settings and environment stand at the end.
        facts: a line of small facts; None is left out.
        problems: in a box under the headline.
        after: sections behind those of the record.
        footer: what the page was made from; the files of the record unless given.
    """

    record: Record
    title: str
    facts: Sequence[str | None]
    headline: Headline
    sections: Sequence[Section]
    problems: Sequence[Problem] = ()
    after: Sequence[Section] = ()
    footer: str = ""

    def html(self) -> str:
        """The document."""
        facts = [*self.facts, str(self.record.environment.get("started", ""))[:10]]
        facts = [fact.replace(" ", text.NBSP) for fact in facts if fact]
        sections = [section for section in (*self.sections, *_about(self.record), *self.after) if section.blocks]
        template = _environment().get_template("page.html.j2")
        footer = self.footer or f"Made from {text.listing(self.record.files)} in the folder of this page."
        return template.render(page=self, facts=facts, sections=sections, footer=footer).strip() + "\n"


def _about(record: Record) -> list[Section]:
    """The last sections of every page: settings, environment, and how to repeat the run."""
    command, commit = (record.environment.get(name) for name in ("command", "commit"))
    repeat: list[Block] = [
        Text(str(command), code=True)
        if command
        else Text("The command of this run was not recorded: environment.json holds no command.")
    ]
    if command and commit:
        changed = ", with changes that were not committed" if record.environment.get("uncommitted_changes") else ""
        repeat.append(Text(f"At commit {commit}{changed}."))
    if record.cut_off:
        repeat.append(Text("The last line of events.jsonl was cut off, as a killed run leaves it, and is left out."))
    if record.unreadable:
        lines = text.counted(record.unreadable, "line")
        repeat.append(Text(f"{lines} of system.jsonl could not be read, as interruptions leave them; left out here."))
    if record.results is not None and record.ended is None:
        repeat.append(Text("The run went on after results.json was written, so that file is left out."))
    config = record.config or getattr(record.results, "settings", {})
    return [
        Section("settings", "Settings", [Pairs(items, name) for name, items in text.settings(config)]),
        Section("environment", "Environment", [Pairs([(k, text.setting(v)) for k, v in record.environment.items()])]),
        Section("repeat", "Repeat it", repeat),
    ]


def words(value: object) -> Markup:
    """``value``, escaped, whose words break only when they are longer than a line, and then after ``_`` or ``/``."""
    if isinstance(value, Markup):
        return value
    parts = re.split(r"(\s+)", str(value))
    return Markup("").join(_word(part) if re.search(r"[_/+–-]", part) else escape(part) for part in parts)


def _word(word: str) -> Markup:
    pieces = re.split(r"(?<=[_/+])", word)
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
