"""The page of a training in a real browser, on a phone and on a desk, in light and in dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_browser import PAPER, check, measure, needs_browser
from report_run import change_json
from report_training import MANY, Folder, training

from backroads.report import write_report

pytestmark = needs_browser

LONG = "x" * 90


def resumed() -> Folder:
    """Killed and taken up again at every fifth line of its log."""
    folder = training(epochs=20, coefficients=lambda step: {"amp": 1e-5 * step, "decay": 1e-7 * 0.99**step})
    folder = folder.until(650)
    for place in range(len(folder.system) - 1, 0, -5):
        step = folder.system[place]["step"]
        folder.system.insert(place, {"event": "resume", "step": step, "processes": 8, "problems": []})
    return folder


def crowded() -> Folder:
    """Names that are longer than a line of a phone and have no place to break, and everything that can be wrong."""
    folder = training(layers=(LONG, "conv"), epochs=2, coefficients=lambda step: {LONG: 0.1}).diverged(80, LONG, LONG)
    assert folder.results is not None
    folder.results |= {"collapsed": [LONG], "dead": [LONG], "corrupt_images": {LONG: LONG}}
    folder.events[0]["rules"] = {LONG: LONG, "conv": LONG}
    folder.config |= {"model": LONG, "data": LONG, "rule": LONG, "split": LONG, LONG: {LONG: LONG}}
    folder.system.append({"event": "resume", "step": 40, "processes": 1, "problems": [LONG]})
    for event in folder.of("epoch"):
        event["eval_loss"] = None
    return folder


FRAMES = {
    "phone": (360, lambda: training()),
    "desk": (1280, lambda: training()),
    "many": (360, lambda: training(layers=MANY)),
    "resumed": (360, resumed),
    "one": (360, lambda: training(epochs=1)),
    "begun": (360, lambda: training().until(15)),
    "empty": (360, lambda: training().until(-1)),
    "crowded": (360, crowded),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the browser measured in each frame, by its name and colour scheme."""
    folder = tmp_path_factory.mktemp("frames")
    pages = {}
    for name, (width, make) in FRAMES.items():
        run = make().write(folder / "runs" / (LONG if name == "crowded" else name))
        if name == "crowded":
            change_json(run / "environment.json", command=f"backroads train --{LONG} {LONG}", **{LONG: LONG})
        pages[name] = (width, write_report(run).read_text(encoding="utf-8"))
    return measure(pages, folder)


@pytest.mark.parametrize("scheme", PAPER)
@pytest.mark.parametrize("frame", FRAMES)
def test_fits_is_legible_and_fetches_nothing(measured: dict[str, Any], frame: str, scheme: str) -> None:
    found = measured[f"{frame} {scheme}"]

    check(found, FRAMES[frame][0], scheme)
    assert found["drawings"] >= (0 if frame == "empty" else 8)


def test_only_an_empty_folder_has_no_drawings(measured: dict[str, Any], tmp_path: Path) -> None:
    assert [name for name, found in measured.items() if not found["drawings"]] == ["empty light", "empty dark"]
