"""What the pages take from the code, so that it cannot go stale.

A page has a line such as ``<!-- from code: api rules -->``; it is replaced by Markdown made from the package:

- ``api NAME``: every name in ``__all__`` of a subpackage (or ``backroads`` itself), by autodoc;
- ``rules``: the table of all named rules with their defaults;
- ``rule NAME``: one of them;
- ``settings``: the settings of ``backroads compare``;
- ``errors``: the exceptions;
- the name of a function of :mod:`tables`, as in ``step_time`` or ``cifar10 RULE``: what ``benchmarks`` measured;
- the name of a function of :mod:`pictures`, as in ``theory_picture NAME``.

The build fails for a public name that none of this can describe.
"""

from __future__ import annotations

import importlib
import inspect
import re
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

import backroads as br

MARK = re.compile(r"^<!-- from code: (.+) -->$", re.MULTILINE)
# Public names that are neither functions nor classes.
DATA = {
    "__version__": "The version of the package, a string.",
    "PHASES": "The phases by name: `PHASES.names()` lists them.",
    "MODELS": "The networks by name: `MODELS.get(name)(**options)` makes one, `MODELS.names()` lists them.",
}
TABLES = ("step_time", "cifar10", "meta_learning", "local_rules", "update_noise", "decorrelation", "spiking")
PICTURES = ("theory_picture", "meta_picture", "angles_picture", "noise_picture", "spiking_picture")
# In the order in which api.md shows them: a name that several modules offer is described where it comes first.
MODULES = (
    "backroads", "rules", "nn", "functional", "conversion", "phases", "metrics", "plasticity", "models", "data",
    "spiking", "report",
)  # fmt: skip


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("source-read", fill_in)
    app.connect("autodoc-process-docstring", prepare, priority=100)  # before napoleon reads it
    return {"parallel_read_safe": True}


def fill_in(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace the marks of one page."""
    source[0] = MARK.sub(lambda match: generated(match[1]), source[0])


def generated(what: str) -> str:
    """The Markdown that stands for one mark."""
    kind, _, name = what.partition(" ")
    makers: dict[str, Any] = {"rules": rules, "settings": settings, "errors": errors}
    if kind == "api":
        return api(name)
    if kind == "rule":
        return f"With its defaults:\n\n```text\n{br.get_rule(name)!r}\n```"
    if kind in PICTURES:
        return str(getattr(importlib.import_module("pictures"), kind)(*what.split(maxsplit=1)[1:]))
    if kind in TABLES:
        return str(getattr(importlib.import_module("tables"), kind)(*what.split(maxsplit=1)[1:]))
    if kind not in makers:
        known = ["api NAME", "rule NAME", *(f"{kind} WHAT" for kind in (*PICTURES, *TABLES)), *makers]
        raise ExtensionError(f"unknown mark {what!r}; known: {', '.join(known)}")
    return makers[kind]()


# --- the public names ---


def module(name: str) -> ModuleType:
    """A public module by the name used in MODULES."""
    if name == "backroads":
        return br
    return importlib.import_module(f"backroads.{name}")


def api(name: str) -> str:
    """Autodoc of every name in ``__all__`` of the module, links for those described before."""
    known = {id(thing): f"backroads.{public}" for public, thing in names("backroads").items()}
    if name != "backroads":
        for earlier in MODULES[1 : MODULES.index(name)]:
            for public, thing in names(earlier).items():
                known.setdefault(id(thing), f"{module(earlier).__name__}.{public}")
    else:
        known = {}
    parts, seen = [], []
    for public, thing in names(name).items():
        if inspect.ismodule(thing):
            continue
        if id(thing) in known:
            seen.append(f"{{py:obj}}`{known[id(thing)]}`")
        else:
            parts.append(describe(f"{module(name).__name__}.{public}", public, thing))
    if seen:
        parts.append(f"Described above: {', '.join(seen)}.")
    return "\n\n".join(parts)


def names(name: str) -> dict[str, Any]:
    """What ``__all__`` of a module lists."""
    return {public: getattr(module(name), public) for public in module(name).__all__}


def describe(full: str, public: str, thing: Any) -> str:
    """One name."""
    if public in DATA:
        return f"```{{eval-rst}}\n.. py:data:: {full}\n```\n\n{DATA[public]}"
    if inspect.isclass(thing):
        return directive("autoclass", full, ":members:", ":exclude-members: torch_class")
    if inspect.isroutine(thing):
        # The pages of the rules are where the named rules are indexed.
        return directive("autofunction", full, *([":no-index:"] if public in br.list_rules() else []))
    raise ExtensionError(f"{full} is neither a function, a class nor listed in from_code.DATA; add a line there")


def directive(kind: str, name: str, *options: str) -> str:
    """An autodoc directive as MyST."""
    return "\n".join(["```{eval-rst}", f".. {kind}:: {name}", *(f"   {option}" for option in options), "```"])


def errors() -> str:
    """All exceptions, base first."""
    found = [thing for thing in vars(br.errors).values() if inspect.isclass(thing) and issubclass(thing, Exception)]
    parts = [
        directive("autoexception", f"backroads.errors.{thing.__name__}", ":show-inheritance:")
        for thing in found
        if thing.__module__ == "backroads.errors"
    ]
    return "\n\n".join(parts)


# --- tables ---


def rules() -> str:
    """The named rules and what each is with its defaults."""
    lines = ["| rule | with its defaults |", "|---|---|"]
    lines += [f"| [`{name}`]({name}.md) | `{br.get_rule(name)!r}` |" for name in br.list_rules()]
    return "\n".join(lines)


def settings() -> str:
    """The settings of ``backroads compare`` from their schema."""
    from backroads.train.config import CompareConfig

    lines = ["| key | type | default | what |", "|---|---|---|---|"]
    for key, field in CompareConfig.model_fields.items():
        shown = "listed below" if key == "rules" else "not set" if field.default is None else f"`{field.default!r}`"
        lines.append(f"| `{key}` | {type_name(field.annotation)} | {shown} | {field.description} |")
    listed = ", ".join(f"`{name}`" for name in CompareConfig.model_fields["rules"].default)
    return "\n".join(lines) + f"\n\nThe default of `rules`: {listed}."


def type_name(annotation: Any) -> str:
    """A type as a reader of TOML knows it."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    choices = re.fullmatch(r"typing\.Literal\[(.+)\]", text)
    if choices:
        return " or ".join(f"`{choice}`" for choice in choices[1].replace("'", "").split(", "))
    text = re.sub(r"typing\.| \| None|<class '|'>", "", text)
    plain = {
        "int": "whole number",
        "float": "number",
        "str": "text",
        "list[str]": "list of texts",
        "list[int]": "list of whole numbers",
        "dict[str, dict[str, Any]]": "table of tables",
    }
    return plain.get(text, f"`{text}`")


# --- docstrings ---


def prepare(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Bring a docstring into the form that napoleon and reStructuredText expect."""
    if what == "property" and lines:
        lines[0] = lines[0].replace(": ", "; ")  # napoleon takes what is before a colon for a type
    lines[:] = escaped(split_entries(lines, known_names(thing)))


def known_names(thing: Any) -> set[str]:
    """Parameters and fields that a docstring may describe."""
    try:
        parameters = set(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        parameters = set()
    return parameters | set(getattr(thing, "__annotations__", {}))


def split_entries(lines: list[str], known: set[str]) -> list[str]:
    """One entry a line under Args, Attributes and Raises, where we write several: ``x: input. W, B: weights.``"""
    done: list[str] = []
    section: int | None = None  # indent of the heading
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip() in ("Args:", "Attributes:", "Raises:"):
            section = indent
        elif section is not None and line.strip() and indent <= section:
            section = None
        elif section is not None and indent > section + 4 and line.strip():
            done[-1] += " " + line.strip()  # a continued entry
            continue
        done.append(line)
    return [part for line in done for part in split_entry(line, known)]


def split_entry(line: str, known: set[str]) -> list[str]:
    """The entries of one line, as lines of the same indent."""
    indent = line[: len(line) - len(line.lstrip())]
    if not indent or not re.match(r"\s+[\w, ]+: ", line):
        return [line]
    parts = re.split(r"(?<=[.;]) (?=[A-Za-z_]\w*(?:, [A-Za-z_]\w*)*: )", line)
    entries = parts[:1]
    for part in parts[1:]:
        names = part.partition(":")[0].split(", ")
        if all(name in known or name.endswith("Error") for name in names):
            entries[-1] = entries[-1].rstrip(";")
            entries.append(indent + part)
        else:
            entries[-1] += " " + part
    return entries


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
