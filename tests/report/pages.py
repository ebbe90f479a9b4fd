"""Looks at pages the way the tests need it."""

from __future__ import annotations

from pathlib import Path

from report.folders import Folder
from report.reader import Element, read

from backroads.report import write_report

EVIL = "<script>alert(1)</script> \"&' $x_1$ 重み"


def page_of(folder: Folder | Path, path: Path | None = None) -> Element:
    """The page of a folder, which is written first where it is not there yet."""
    if isinstance(folder, Folder):
        assert path is not None
        folder = folder.write(path)
    return read(write_report(folder).read_text(encoding="utf-8"))


def section(page: Element, name: str) -> Element:
    """The section with this id."""
    return page.one("section", **{"aria-labelledby": name})


def words(element: Element) -> str:
    """The text with plain single spaces."""
    return " ".join(element.text.split())


def summary(page: Element) -> str:
    """The headline."""
    return words(page.one("p", class_="summary"))


def labels(element: Element) -> list[str]:
    """What the drawings say that they show."""
    return [svg.attributes["aria-label"] for svg in element.all("svg", role="img")]


def key(element: Element) -> dict[str, str]:
    """The names of a figure's key and their numbers."""
    found = {}
    for item in element.one("ul", class_="key").all("li"):
        numbers = item.all("span", class_="number")
        found[item.all("span")[0].text] = numbers[0].text if numbers else ""
    return found


def table(element: Element, place: int = 0) -> dict[str, list[str]]:
    """The rows of a table: cells by the row's name."""
    rows = element.all("table", class_="results")[place].one("tbody").all("tr")
    return {words(row.one("th")): [words(cell) for cell in row.all("td")] for row in rows}
