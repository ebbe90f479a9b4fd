"""What the documentation's parser does without a word."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_no_line_begins_with_a_percent_sign() -> None:
    """MyST takes such a line for a comment: the sentence is cut, and no warning is given."""
    pages = [*ROOT.glob("*.md"), *(path for path in ROOT.glob("docs/**/*.md") if "_build" not in path.parts)]
    assert pages
    cut = [
        f"{page.relative_to(ROOT)}:{number}"
        for page in pages
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if line.lstrip().startswith("%")
    ]
    assert not cut
