"""Formulas as MathML, made when the pages are built: a browser needs no script and no network to show them.

Reads the part of TeX that the pages use: letters, digits, sub- and superscripts, fractions, roots, accents, text and
the symbols listed below. Anything else stops the build.
"""

from __future__ import annotations

import html
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

IDENTIFIERS = {
    "delta": "δ", "Delta": "Δ", "lambda": "λ", "eta": "η", "mu": "μ", "theta": "θ", "varepsilon": "ε", "pi": "π",
    "alpha": "α", "beta": "β", "gamma": "γ", "sigma": "σ", "xi": "ξ",
}  # fmt: skip
OPERATORS = {
    "top": "⊤", "cdot": "·", "times": "×", "odot": "⊙", "pm": "±", "sim": "∼", "approx": "≈", "propto": "∝", "in": "∈",
    "le": "≤", "ge": "≥", "leftarrow": "←", "to": "→", "partial": "∂", "dots": "…", "sum": "∑", "circ": "∘",
}  # fmt: skip
FENCES = {"langle": "⟨", "rangle": "⟩", "lvert": "|", "rvert": "|"}
NAMES = {"cos", "max"}
SIZES = {"big", "bigl", "bigr"}  # of the fence that follows; left to the browser
SPACES = {",": 0.17, ";": 0.28, " ": 0.25, "quad": 1.0, "qquad": 2.0}
ALPHABETS = {"mathbb": {"R": "ℝ"}, "mathcal": {"N": "𝒩"}}
TIGHT = '<mo stretchy="false" lspace="0" rspace="0">{}</mo>'
TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\s+|.", re.DOTALL)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx as the renderer ``mathml``."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def inline(translator: Any, node: nodes.math) -> None:
    """An inline formula."""
    translator.body.append(f"<math>{convert(node.astext())}</math>")
    raise nodes.SkipNode


def block(translator: Any, node: nodes.math_block) -> None:
    """A displayed formula."""
    style = "padding: 0.5em 0; overflow: auto hidden"
    translator.body.append(f'<div style="{style}"><math display="block">{convert(node.astext())}</math></div>')
    raise nodes.SkipNode


def convert(tex: str) -> str:
    """TeX to MathML, without the ``math`` element."""
    reader = _Reader(tex)
    row = reader.row()
    if reader.peek():
        reader.fail("an unmatched }")
    return row


class _Reader:
    def __init__(self, tex: str) -> None:
        self.tex = tex
        self.tokens = TOKEN.findall(tex)[::-1]

    def fail(self, what: str) -> None:
        raise ExtensionError(f"{what} in the formula {self.tex!r}: docs/_ext/mathml.py cannot read it")

    def peek(self) -> str:
        """The next token that is no space, or an empty string at the end."""
        while self.tokens and self.tokens[-1].isspace():
            self.tokens.pop()
        return self.tokens[-1] if self.tokens else ""

    def next(self) -> str:
        """The same, taken; it must be there."""
        if not self.peek():
            self.fail("something missing")
        return self.tokens.pop()

    def row(self) -> str:
        """All up to a closing brace or the end."""
        parts = []
        while self.peek() not in ("", "}"):
            parts.append(self.scripted())
        return f"<mrow>{''.join(parts)}</mrow>"

    def scripted(self) -> str:
        """An atom with its sub- and superscript."""
        base, scripts = self.atom(), {}
        while self.peek() in ("_", "^"):
            kind = self.next()
            scripts[kind] = self.argument()
        if len(scripts) == 2:
            return f"<msubsup>{base}{scripts['_']}{scripts['^']}</msubsup>"
        if scripts:
            ((kind, script),) = scripts.items()
            tag = {"_": "msub", "^": "msup"}[kind]
            return f"<{tag}>{base}{script}</{tag}>"
        return base

    def argument(self) -> str:
        """What a command or a script applies to: a group or one atom, of a number one digit."""
        return f"<mn>{self.next()}</mn>" if self.peek().isdigit() else self.atom()

    def atom(self) -> str:
        """One symbol, number, group or command."""
        token = self.next()
        if token == "{":
            row = self.row()
            if self.next() != "}":
                self.fail("an unmatched {")
            return row
        if token.isdigit():
            while self.tokens and re.fullmatch(r"\d+|\d+\.\d*", token + self.tokens[-1]):
                token += self.tokens.pop()
            end = "." if token.endswith(".") else ""  # of a sentence
            return f"<mn>{token.removesuffix('.')}</mn>" + (f"<mo>{end}</mo>" if end else "")
        if token.startswith("\\"):
            return self.command(token[1:])
        if token.isalpha():
            return f"<mi>{token}</mi>"
        if token in "()[]":
            return f'<mo stretchy="false">{token}</mo>'
        if token in "|/":
            return TIGHT.format(token)
        return f"<mo>{html.escape(token.replace('-', '−').replace('*', '∗'))}</mo>"

    def command(self, name: str) -> str:
        """A command with its arguments."""
        if name in IDENTIFIERS:
            return f"<mi>{IDENTIFIERS[name]}</mi>"
        if name in OPERATORS:
            return f"<mo>{OPERATORS[name]}</mo>"
        if name in FENCES:
            return TIGHT.format(FENCES[name])
        if name in SIZES:
            return ""
        if name in NAMES:
            return f"<mi>{name}</mi>"
        if name in SPACES:
            return f'<mspace width="{SPACES[name]}em"/>'
        if name in ("frac", "tfrac"):
            small = ' displaystyle="false"' if name == "tfrac" else ""
            return f"<mfrac{small}>{self.argument()}{self.argument()}</mfrac>"
        if name == "sqrt":
            return f"<msqrt>{self.argument()}</msqrt>"
        if name in ("overline", "dot", "hat"):
            accent = {"overline": '<mo stretchy="true">‾</mo>', "dot": "<mo>˙</mo>", "hat": "<mo>^</mo>"}[name]
            return f'<mover accent="true">{self.argument()}{accent}</mover>'
        if name in ("text", "operatorname"):
            return self.words("mtext" if name == "text" else "mi")
        if name in ALPHABETS:
            return f"<mi>{ALPHABETS[name][self.group()]}</mi>"
        self.fail(f"the command \\{name}")
        return ""

    def group(self) -> str:
        """The text of a group, spaces included."""
        if self.next() != "{":
            self.fail("a missing {")
        text = ""
        while self.tokens and self.tokens[-1] != "}":
            text += self.tokens.pop()
        self.next()
        return text

    def words(self, tag: str) -> str:
        """A group of words; spaces at its ends count."""
        return f"<{tag}>{html.escape(self.group()).replace(' ', chr(160))}</{tag}>"
