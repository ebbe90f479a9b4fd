"""The report in a real browser, on a phone and on a desk, in light and in dark.

One report is spoiled on purpose, to see that the measurements notice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_browser import PAPER, check, measure, needs_browser
from report_run import RULES, Rule, change_json, write_run

from backroads.report import write_report

pytestmark = needs_browser

FRAMES = {"phone": 360, "desk": 1280, "crowded": 360, "spoiled": 360}

SPOILS = """
<div style="width: 900px">wide</div>
<svg viewBox="0 0 60 20" width="60"><text x="55" y="10">outside</text><text x="50" y="10">overlapping</text></svg>
<img src="missing.png" alt="">
<img src="https://elsewhere.test/there.png" alt="">
<svg viewBox="0 0 600 20"><text x="5" y="10" font-size="10">tiny</text></svg>
<p style="color: #8a8a8a">faint in light</p>
<p style="color: #6a6a6a">faint in dark</p>
"""


@pytest.fixture(scope="module")
def measured(report: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the browser measured in each frame, by its name and colour scheme."""
    folder = tmp_path_factory.mktemp("frames")
    pages = dict.fromkeys(FRAMES, report) | {
        "crowded": crowded(folder / "run"),
        "spoiled": report.replace("</main>", SPOILS + "</main>"),
    }
    return measure({name: (width, pages[name]) for name, width in FRAMES.items()}, folder)


def crowded(folder: Path) -> str:
    """A report with names that are longer than a line of a phone and have no place to break."""
    name = "x" * 90
    write_run(folder, (RULES[0], Rule(name, 0.9, 0.5, 10.0, 1.0, f"{name}()")), seeds=1, epochs=2, layers=(name,))
    change_json(folder / "environment.json", command=f"backroads compare --{name} {name}", **{name: name})
    with (folder / "config.toml").open("a") as config:
        config.write(f'[{name}]\n{name} = "{name}"\n')
    return write_report(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", PAPER)
@pytest.mark.parametrize("frame", ["phone", "desk", "crowded"])
def test_fits_is_legible_and_fetches_nothing(measured: dict[str, Any], frame: str, scheme: str) -> None:
    found = measured[f"{frame} {scheme}"]

    check(found, FRAMES[frame], scheme)
    assert found["drawings"] >= 10


@pytest.mark.parametrize("scheme", PAPER)
def test_the_measurements_notice_what_is_wrong(measured: dict[str, Any], scheme: str) -> None:
    found = measured[f"spoiled {scheme}"]

    assert found["scrollWidth"] >= 900
    assert any("wide" in element for element in found["wide"])
    assert any("outside" in element for element in found["outside"])
    assert any("overlapping" in element for element in found["overlapping"])
    assert any("tiny" in element for element in found["small"])
    assert any(f"faint in {scheme}" in element for element in found["faint"])
    assert set(found["fetched"]) == {"file", "https://elsewhere.test/there.png"}
