"""Matplotlib figures as inline SVG that takes its colours from the page."""

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
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, 1)},
    **{colour: f"var(--heat-{number})" for number, colour in enumerate(HEAT, 1)},
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "backroads",
    "font.size": 10,
    "axes.edgecolor": AXIS,
    "axes.linewidth": 0.8,
    "axes.labelcolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.markeredgewidth": 0,
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


def draw(label: str, size: Size, paint: Callable[[Axes], None]) -> Markup:
    """Lets ``paint`` draw on empty axes and returns the inline SVG; the page may scale it.

    Args:
        label: what is to be seen, for readers who do not see it; empty for a mere ornament.
    """
    width, height, left, right, top, bottom = size
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # A reader's own matplotlibrc must not change the report.
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(width / 72, height / 72))
        figure.patch.set_visible(False)
        box = left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height
        axes = figure.add_axes(box)
        axes.patch.set_visible(False)
        paint(axes)
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    document = target.getvalue()
    body = document[document.index("<svg") : document.index("</svg>")].partition(">")[2]
    body = re.sub(r"<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r">\s+<", "><", re.sub(r"<[^>]+>", _plain_tag, body)).replace("<defs></defs>", "")
    opening = Markup('<svg viewBox="0 0 {0} {1}" width="{0}" height="{1}" {2}>').format(
        round(width),
        round(height),
        Markup('role="img" aria-label="{}"').format(label) if label else Markup('aria-hidden="true"'),
    )
    return opening + Markup(body.strip()) + Markup("</svg>")


def _plain_tag(match: re.Match[str]) -> str:
    """One tag without what a page does not need, in the page's colours."""
    tag = match[0].replace("\n", "").replace("xlink:href", "href")
    tag = re.sub(r'(<g\b[^>]*?) id="[^"]*"', r"\1", tag)  # nothing refers to the ids of groups
    tag = re.sub(r"font-family:[^;\"]*;? ?", "", tag)
    tag = re.sub(r' transform="rotate\(-?0 [^"]*"', "", tag)
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)
    return re.sub(r"#0[123]00[0-9a-f]{2}", lambda colour: _PAGE_COLOURS[colour[0]], tag)


def numbered(document: str) -> str:
    """The document with the ids of each drawing apart from those of the others."""
    first, *drawings = document.split("<svg ")
    apart = [re.sub(r'( id="|url\(#|href="#)([mp][0-9a-f]{10})', rf"\1d{n}-\2", d) for n, d in enumerate(drawings)]
    return "<svg ".join([first, *apart])
