"""Matplotlib figures as inline SVG that takes its colours from the page.

No text of a user goes through matplotlib (labels may hold ``$`` or glyphs that its font lacks): figures hold
numbers and fixed words, the page holds the names.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Matplotlib wants real colours; each of these stands for one of the page and is replaced in the SVG.
TEXT, AXIS, GRID, REFERENCE = "#010001", "#010002", "#010003", "#010004"
SERIES = tuple(f"#0200{number:02x}" for number in range(1, 11))
HEAT = tuple(f"#0300{number:02x}" for number in range(1, 9))
_PAGE_COLOURS = {
    TEXT: "currentColor",
    AXIS: "var(--axis)",
    GRID: "var(--grid)",
    REFERENCE: "var(--reference)",
} | {colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, 1)}
_PAGE_COLOURS |= {colour: f"var(--heat-{number})" for number, colour in enumerate(HEAT, 1)}

_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": AXIS,
    "axes.linewidth": 0.8,
    "axes.labelcolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "lines.scale_dashes": False,
    "path.simplify": False,
    "xtick.color": AXIS,
    "ytick.color": AXIS,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.major.pad": 3,
}


class Size(NamedTuple):
    """Size of a figure and the margins around its axes, in CSS pixels."""

    width: float
    height: float
    left: float = 0
    right: float = 0
    top: float = 0
    bottom: float = 0


def draw(name: str, label: str, size: Size, paint: Callable[[Axes], None]) -> Markup:
    """Lets ``paint`` draw on empty axes and returns the inline SVG.

    Args:
        name: different for every figure of a page: it keeps their ids apart.
        label: what is to be seen, for readers who do not see it; empty for a mere ornament.
        size: the size; the page may scale it.
        paint: draws.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # A reader's own matplotlibrc must not change the report.
        matplotlib.rcParams.update(_STYLE | {"svg.hashsalt": name})
        figure = Figure(figsize=(size.width / 72, size.height / 72))
        figure.patch.set_visible(False)
        inner = (size.width - size.left - size.right, size.height - size.top - size.bottom)
        axes = figure.add_axes(
            (
                size.left / size.width,
                size.bottom / size.height,
                inner[0] / size.width,
                inner[1] / size.height,
            )
        )
        axes.patch.set_visible(False)
        paint(axes)
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _inline(target.getvalue(), label, size)


def _inline(document: str, label: str, size: Size) -> Markup:
    """The SVG document as an element of a page."""
    body = document[document.index("<svg") : document.index("</svg>")].partition(">")[2]
    body = re.sub(r"<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]+>", _plain_tag, body)
    body = re.sub(r">\s+<", "><", body)
    body = re.sub(r"<defs></defs>", "", body)
    opening = Markup('<svg viewBox="0 0 {} {}" width="{}" height="{}" {}>').format(
        *(round(size.width), round(size.height)) * 2,
        Markup('role="img" aria-label="{}"').format(label) if label else Markup('aria-hidden="true"'),
    )
    return opening + Markup(body.strip()) + Markup("</svg>")


def _plain_tag(match: re.Match[str]) -> str:
    """One tag without what a page does not need, in the page's colours."""
    tag = match[0].replace("\n", "").replace("xlink:href", "href")
    # Ids of groups repeat in every figure, and nothing refers to them.
    tag = re.sub(r'(<g\b[^>]*?) id="[^"]*"', r"\1", tag)
    tag = re.sub(r"font-family:[^;\"]*;? ?", "", tag)
    tag = re.sub(r' transform="rotate\(-?0 [^"]*"', "", tag)
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
    return re.sub(r"#0[123]00[0-9a-f]{2}", lambda colour: _PAGE_COLOURS[colour[0]], tag)
