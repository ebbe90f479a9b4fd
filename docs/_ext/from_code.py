"""What the pages take from the code, so that it cannot go stale.

A page has a line such as ``<!-- from code: rule backprop -->``; it is replaced by Markdown made from the package:

- ``api MODULE``: every name in ``__all__`` of a module, by autodoc;
- ``rules``: the table of all named rules with their defaults;
- ``rule NAME``: one of them;
- ``claims``: the claims that can be run;
- ``settings CLASS``: a table of settings, from their pydantic class (``package.module:Class``);
- ``FUNCTION WORDS``: what a function of :mod:`tables`, :mod:`pictures` or :mod:`weights` makes of the words that follow
  its name.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any, get_args

import pictures
import tables
import weights
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

import backroads as br
from backroads.reproduce.arms import Campaign, arms_of, unique
from backroads.reproduce.claims import claim_ids, load_claim

MARK = re.compile(r"^<!-- from code: (\S+) ?(.*) -->$", re.MULTILINE)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", fill_in)
    app.connect("autodoc-process-docstring", prepare, priority=100)  # before napoleon reads it
    return {"parallel_read_safe": True}


def fill_in(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace the marks of one page."""
    source[0] = MARK.sub(lambda match: generated(match[1], match[2]), source[0])


def generated(kind: str, words: str) -> str:
    """The Markdown that stands for one mark."""
    own = {make.__name__: make for make in (api, rules, rule, claims, settings)}
    make = own.get(kind) or next((getattr(m, kind) for m in (tables, pictures, weights) if hasattr(m, kind)), None)
    if make is None:
        where = "a function of tables, pictures or weights"
        raise ExtensionError(f"unknown mark {kind!r}: expected {', '.join(own)}, or {where}")
    return str(make(words) if words else make())


def api(name: str) -> str:
    """Autodoc of the public names of a module, without those that ``backroads`` itself offers and describes."""
    module = importlib.import_module(name)
    elsewhere = {id(getattr(br, public)) for public in br.__all__} if module is not br else set()
    elsewhere |= {id(getattr(br.rules, rule)) for rule in br.list_rules()}  # they have pages of their own
    found = {public: getattr(module, public) for public in module.__all__}
    shown = [n for n, thing in found.items() if id(thing) not in elsewhere and not inspect.ismodule(thing)]
    return f"""```{{eval-rst}}
.. automodule:: {name}
   :members: {", ".join(shown)}
   :imported-members:
```"""


# --- tables ---


def rules() -> str:
    """The named rules and what each is with its defaults."""
    lines = ["| rule | with its defaults |", "|---|---|"]
    lines += [f"| [`{name}`]({name}.md) | `{br.get_rule(name)!r}` |" for name in br.list_rules()]
    return "\n".join(lines)


def rule(name: str) -> str:
    """One named rule with its defaults."""
    return f"With its defaults:\n\n```text\n{br.get_rule(name)!r}\n```"


def claims() -> str:
    """The claims, where they come from and how many trainings each needs at the scale desk."""
    lines = ["| claim | sentence | what is measured | trainings, desk |", "|---|---|---|---|"]
    for claim in map(load_claim, claim_ids()):
        arms = unique(arms_of(claim, Campaign((claim,), "desk")))
        lines.append(f"| {claim.id} | {claim.sentence} | {claim.quantity} | {len(arms)} |")
    return "\n".join(lines)


def settings(path: str) -> str:
    """The fields of a class of settings (``package.module:Class``), those in groups as ``group.field``."""
    module, _, name = path.partition(":")
    lines = ["| setting | default | what |", "|---|---|---|"]
    return "\n".join([*lines, *fields(getattr(importlib.import_module(module), name))])


def fields(schema: type[BaseModel], prefix: str = "") -> list[str]:
    """One line of the table for each field."""
    lines = []
    for key, field in schema.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            lines += fields(field.annotation, f"{prefix}{key}.")
            continue
        default = field.get_default(call_default_factory=True)
        shown = "not set" if default is None else f"`{default}`"
        what = " ".join((field.description or "").split()).replace("|", "\\|").replace("*", "\\*")
        if choices := ", ".join(f"`{choice}`" for choice in get_args(field.annotation) if isinstance(choice, str)):
            what += f" One of {choices}."
        lines.append(f"| `{prefix}{key}` | {shown} | {what} |")
    return lines


# --- docstrings ---


def prepare(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Bring a docstring into the form that napoleon and reStructuredText expect."""
    if what == "property" and lines:
        lines[0] = lines[0].replace(": ", "; ")  # napoleon takes what is before a colon for a type
    lines[:] = escaped(lines)


def escaped(lines: list[str]) -> list[str]:
    """Our docstrings are plain text with formulas: ``|B|^2``, ``self_`` and ``*spatial`` are no markup."""
    done = []
    literal: int | None = None  # indent of the paragraph that began a literal block
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        if literal is not None:
            done.append(line)
            continue
        parts = re.split(r"(``.+?``|:\w+:`[^`]+`)", line)
        done.append("".join(part if k % 2 else escaped_text(part) for k, part in enumerate(parts)))
        if line.rstrip().endswith("::"):
            literal = indent
    return done


def escaped_text(text: str) -> str:
    """Text outside literals. A name before a colon is left to napoleon, which escapes it itself."""
    if re.match(r"\s*[\w, ]+:", text):
        head, colon, rest = text.partition(":")
        return head + colon + escaped_text(rest)
    return re.sub(r"([|*])|(?<=\w)_(?!\w)", lambda match: "\\" + match[0], text)
