"""Formulas as MathML, made when the pages are built: a browser needs no script and no network to show them."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx as the renderer ``mathml``."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def inline(translator: Any, node: nodes.math) -> None:
    """An inline formula."""
    translator.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def block(translator: Any, node: nodes.math_block) -> None:
    """A displayed formula."""
    formula = mathml(node.astext(), "block")
    translator.body.append(f'<div style="padding: 0.5em 0; overflow: auto hidden">{formula}</div>')
    raise nodes.SkipNode


def mathml(tex: str, display: str) -> str:
    """TeX to MathML; a command that is not known stops the build."""
    made = re.sub(r"<mo[^>]*>&#x0007C;", '<mo stretchy="false" lspace="0" rspace="0">|', convert(tex, display=display))
    if unknown := re.search(r"\\\w+", re.sub("<[^>]*>", "", made)):
        raise ExtensionError(f"latex2mathml does not know {unknown[0]} in the formula {tex!r}")
    return made
