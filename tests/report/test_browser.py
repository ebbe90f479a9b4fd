"""Every page in a real browser, on a phone and on a desk, in light and in dark.

One page is spoiled on purpose, to see that the measurements notice.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from report.browser import PAPER, check, measure, needs_browser
from report.folders import FOLDERS, MANY, METRICS, Folder, comparison, diverged, training

from backroads.report import write_report
from backroads.runs.schema import Arm, Fields, Resumed, Start

pytestmark = needs_browser

LONG = "x" * 90
SPOILS = """
<div style="width: 900px">wide</div>
<svg viewBox="0 0 60 20" width="60"><text x="55" y="10">outside</text><text x="50" y="10">overlapping</text></svg>
<img src="missing.png" alt="">
<img src="https://elsewhere.test/there.png" alt="">
<svg viewBox="0 0 600 20"><text x="5" y="10" font-size="10">tiny</text></svg>
<p style="color: #8a8a8a">faint in light</p>
<p style="color: #6a6a6a">faint in dark</p>
"""


def resumed() -> Folder:
    """Killed and taken up again at every fifth line of its log."""
    folder = training(epochs=20, coefficients={"amp": 1e-5, "decay": 1e-7}).until(650)
    for place in range(len(folder.system) - 1, 0, -5):
        folder.system.insert(place, Resumed(folder.system[place].step, 8))  # type: ignore[attr-defined]
    return folder


def crowded() -> Folder:
    """Names that are longer than a line of a phone and have no place to break, and everything that can be wrong."""
    folder = diverged(training((LONG, "conv"), epochs=2, coefficients={LONG: 0.1}), 80, LONG, LONG)
    arm = Arm(LONG, 0, {LONG: LONG, "conv": LONG})
    folder.events[0] = dataclasses.replace(folder.of(Start)[0], arms=(arm,), metrics=METRICS)
    images = Fields(LONG, 500, (40, 5, 5, 3), base64.b64encode(bytes(range(250)) * 12).decode())
    own = dataclasses.replace(folder.results.arms[0], collapsed=(LONG,), dead=(LONG,), fields=images)
    folder.results = dataclasses.replace(folder.results, arms=(own,), corrupt_examples={LONG: LONG})
    folder.config |= {"model": LONG, "data": LONG, "split": LONG, LONG: {LONG: LONG}}
    folder.environment |= {"command": f"backroads train --{LONG} {LONG}", LONG: LONG}
    folder.system.append(Resumed(40, problems=(LONG,)))
    return folder


def crowded_comparison() -> Folder:
    """Rules and layers with such names."""
    return comparison({LONG: (0.9, 0.5, 10.0, 1.0, LONG), "backprop": (0.9, 0.9, 0.0, 1.0, "")}, layers=(LONG, "conv"))


MAKE: dict[str, Callable[[], Folder]] = {
    **FOLDERS,
    "many": lambda: training(MANY),
    "resumed": resumed,
    "one": lambda: training(epochs=1),
    "begun": lambda: training().until(15),
    "crowded": crowded,
    "rules": crowded_comparison,
}
WIDTHS = {"phone": 390, "desk": 1400}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the browser measured in each frame, by its name and colour scheme."""
    folder = tmp_path_factory.mktemp("frames")
    pages = {}
    for name, make in MAKE.items():
        page = write_report(make().write(folder / "runs" / name)).read_text(encoding="utf-8")
        pages |= {f"{name}-{frame}": (width, page) for frame, width in WIDTHS.items()}
    pages["spoiled"] = (390, pages["compare-phone"][1].replace("</main>", SPOILS + "</main>"))
    return measure(pages, folder)


@pytest.mark.parametrize("scheme", PAPER)
@pytest.mark.parametrize("frame", WIDTHS)
@pytest.mark.parametrize("name", MAKE)
def test_fits_is_legible_and_fetches_nothing(measured: dict[str, Any], name: str, frame: str, scheme: str) -> None:
    found = measured[f"{name}-{frame} {scheme}"]
    check(found, WIDTHS[frame], scheme)
    assert found["drawings"] >= 4


@pytest.mark.parametrize("scheme", PAPER)
def test_the_measurements_notice_what_is_wrong(measured: dict[str, Any], scheme: str) -> None:
    found = measured[f"spoiled {scheme}"]
    assert found["scrollWidth"] >= 900
    for kind, what in {"wide": "wide", "outside": "outside", "overlapping": "overlapping", "small": "tiny"}.items():
        assert any(what in element for element in found[kind])
    assert any(f"faint in {scheme}" in element for element in found["faint"])
    assert set(found["fetched"]) == {"file", "https://elsewhere.test/there.png"}
