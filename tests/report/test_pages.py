"""What holds for the page of every kind of run: a document that needs nothing else, and the same bytes every time."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import os
import re
import tomllib
from pathlib import Path

import matplotlib
import pytest
from report.folders import FEW, FOLDERS, MANY, METRICS, Folder, comparison, meta, search, training
from report.pages import EVIL, page_of, section, summary
from report.reader import read

import backroads.report
from backroads.report import write_meta_report, write_report
from backroads.runs.quantity import Quantity
from backroads.runs.results import SearchTrial
from backroads.runs.schema import Arm, ArmResult, Readings, Resumed, Start


@pytest.fixture(scope="module", params=[*FOLDERS, "many"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with its report."""
    make = FOLDERS.get(request.param, lambda: training(MANY, epochs=3, coefficients={"amp": 0.1}))
    folder = make().write(tmp_path_factory.mktemp(request.param) / "run")
    write_report(folder)
    return folder


def test_is_a_well_formed_accessible_document_that_needs_nothing_else(run: Path) -> None:
    source = (run / "report.html").read_text(encoding="utf-8")
    page = read(source)

    assert source.startswith("<!DOCTYPE html>")
    assert page.one("html").attributes["lang"] == "en"
    assert page.one("title").text == page.one("h1").text
    headings = [int(e.tag[1]) for e in page.all() if re.fullmatch("h[1-6]", e.tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))
    assert all(th.attributes.get("scope") in ("row", "col") for th in page.all("th"))
    drawings = page.all("svg")
    assert len(drawings) >= 4
    for svg in drawings:
        assert svg.attributes.get("aria-hidden") == "true" or len(svg.attributes["aria-label"]) > 15
    ids = [e.attributes["id"] for e in page.all() if "id" in e.attributes]
    links = [e.attributes[name] for e in page.all() for name in ("src", "href") if name in e.attributes]
    references = [link[1:] for link in links if link.startswith("#")] + re.findall(r"url\(#([^)]+)\)", source)
    references += [e.attributes["aria-labelledby"] for e in page.all() if "aria-labelledby" in e.attributes]
    assert len(ids) == len(set(ids))
    assert set(references) <= set(ids)
    assert [link for link in links if not link.startswith("#")] == ["data:,"]
    assert not [
        e for e in page.all() if e.tag in ("script", "img", "image") or any(a[:2] == "on" for a in e.attributes)
    ]
    assert not re.search(r"https?://|@import|@font-face|url\((?!#)", source)
    assert len(source) < 400_000


def test_colours_of_the_drawings_come_from_the_page(run: Path) -> None:
    source = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"#0[123]00[0-9a-f]{2}", source)
    style = read(source).one("style").text
    assert set(re.findall(r"var\((--[\w-]+)\)", source)) <= set(re.findall(r"(--[\w-]+):", style))


def test_a_rule_has_the_same_colour_in_light_and_dark_and_stands_out_in_both() -> None:
    css = (Path(backroads.report.__file__).parent / "templates" / "style.css").read_text()
    light, dark = css.split("prefers-color-scheme: dark", 1)
    series = re.findall(r"--series-\d+: (#[0-9a-f]{6})", light)
    assert len(set(series)) == 10
    assert "--series" not in dark.split("* {")[0]
    for mode in (light, dark[: dark.index("* {")]):
        colours = dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", mode))
        for name, least in {"--text": 7, "--muted": 4.5, "--warning": 4.5}.items():
            assert contrast(colours[name], colours["--paper"]) >= least
        assert min(contrast(colour, colours["--paper"]) for colour in series) >= 3


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_same_files_give_the_same_bytes_whatever_matplotlib_is_told(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "run"
    again.mkdir()
    names = [path.name for path in run.iterdir() if path.name != "report.html"]
    for name in names:
        (again / name).write_bytes((run / name).read_bytes())
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "svg.fonttype": "path", "lines.marker": "x"}):
        told = dict(matplotlib.rcParams)
        write_report(again)
        assert dict(matplotlib.rcParams) == told

    assert (again / "report.html").read_bytes() == (run / "report.html").read_bytes()
    assert sorted(os.listdir(again)) == sorted([*names, "report.html"])


def test_settings_environment_and_command_are_there(run: Path) -> None:
    page = read((run / "report.html").read_text(encoding="utf-8"))
    shown = {row.one("th").text: row.one("td").text for row in section(page, "environment").all("tr")}
    assert shown["cores"] == "2"
    assert shown["uncommitted_changes"] == "false"
    assert section(page, "repeat").one("pre").text == shown["command"]
    assert shown["commit"] in section(page, "repeat").text
    assert section(page, "settings").all("tr")


# --- Nothing in a run can become markup -------------------------------------------------------------------------


def evil_training() -> Folder:
    folder = training((EVIL, "conv"), epochs=1, coefficients={EVIL: 0.1})
    start = folder.of(Start)[0]
    metrics = {**METRICS, EVIL: Quantity(EVIL, EVIL, about=EVIL)}
    arm = Arm(EVIL, 0, {EVIL: EVIL, "conv": EVIL})
    folder.events[0] = dataclasses.replace(start, metrics=metrics, arms=(arm,))
    folder.events.append(Readings(40, {EVIL: {EVIL: 1.0}}, epoch=1.0))
    own = ArmResult(EVIL, 0, "finished", 40, 1.0, accuracy=0.5, collapsed=(EVIL,), dead=(EVIL,))
    folder.results = dataclasses.replace(folder.results, arms=(own,), corrupt_examples={EVIL: EVIL})
    folder.system.append(Resumed(40, 1, (EVIL,)))
    folder.config |= {"model": EVIL, "data": EVIL, "split": EVIL, EVIL: {EVIL: EVIL}}
    return folder


def evil_comparison() -> Folder:
    folder = comparison({EVIL: (0.9, 0.5, 10.0, 1.0, EVIL), "backprop": (0.9, 0.5, 10.0, 1.0, "")}, layers=(EVIL,))
    folder.config |= {"model": EVIL, "data": EVIL}
    return folder


def evil_search() -> Folder:
    folder = search()
    rename = {folder.results.groups[0].group: EVIL}

    def renamed(row: object) -> object:
        return dataclasses.replace(row, group=rename.get(row.group, row.group))  # type: ignore[type-var,attr-defined]

    def odd(trial: SearchTrial) -> SearchTrial:
        return dataclasses.replace(trial, params={**trial.params, EVIL: EVIL, "number": 1.0}, reason=EVIL)

    results = folder.results
    folder.results = dataclasses.replace(
        results,
        groups=tuple(map(renamed, results.groups)),
        trials=tuple(odd(renamed(trial)) for trial in results.trials),  # type: ignore[arg-type]
        importances={EVIL: {EVIL: 0.5}},
        settings={**results.settings, "data": EVIL, "model": EVIL},
    )
    return folder


def evil_meta() -> Folder:
    folder = meta()
    folder.config |= {"learner": EVIL, "task": EVIL}
    return folder


@pytest.mark.parametrize("make", [evil_training, evil_comparison, evil_search, evil_meta])
def test_names_and_commands_cannot_become_markup(make: object, tmp_path: Path) -> None:
    folder: Folder = make()  # type: ignore[operator]
    folder.environment |= {"command": EVIL, "commit": EVIL, EVIL: EVIL}
    page = page_of(folder, tmp_path / "<script>run")

    assert not page.all("script")
    assert not page.all("i")
    evil = EVIL.split()[0]
    sections = [section(page, name) for name in ("environment", "repeat")]
    assert [one.tag for one in (page.one("h1"), *sections) if evil not in one.text] == []
    # Everything that looks like it came from a run is text: the page has as many elements as one of harmless names.
    assert page.text.count("<script>") > 5


# --- Writing ----------------------------------------------------------------------------------------------------


def test_a_failure_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = training(epochs=1).write(tmp_path)
    (folder / "report.html").write_text("old")
    files = sorted(os.listdir(folder))

    def refuse(*_: object) -> None:
        raise OSError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="no room"):
            write_report(folder)
    assert (folder / "report.html").read_text() == "old"
    assert sorted(os.listdir(folder)) == files


def test_several_meta_trainings_on_one_page(tmp_path: Path) -> None:
    one, other = meta().write(tmp_path / "one"), meta(20)
    other.config["learner"] = "oml"
    target = write_meta_report([one, other.write(tmp_path / "other")], tmp_path / "both.html")
    page = read(target.read_text(encoding="utf-8"))
    assert page.one("h1").text == "2 runs that learn to learn Omniglot"
    assert "Flp, continual, seed 0: finished" in summary(page)
    assert "Oml, continual, seed 0: finished after 20 steps" in summary(page)
    assert len(section(page, "retention").all("div", class_="panel")) == 2


# --- Every metric, without the report knowing it ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["train", "compare"])
def test_a_metric_that_a_user_registered_has_a_figure_and_a_column(kind: str, tmp_path: Path) -> None:
    folder = training(epochs=3) if kind == "train" else comparison(["backprop", "kolen_pollack"], epochs=3)
    quantity = Quantity("zeros in W", "%", ideal=12.5, about="Fraction of W’s entries that are 0.")
    folder.events[0] = dataclasses.replace(folder.of(Start)[0], metrics={**METRICS, "sparsity": quantity})
    folder.change(Readings, values={"sparsity": {layer: 3.0 + n for n, layer in enumerate(FEW)}, "bare": {"": 7.25}})
    arms = tuple(dataclasses.replace(arm, readings=folder.of(Readings)[0].values) for arm in folder.results.arms)
    folder.results = dataclasses.replace(folder.results, arms=arms)
    page = page_of(folder, tmp_path)

    figure = next(s for s in page.all("section") if s.one("h2").text == "Zeros in W")
    assert "Fraction of W’s entries that are 0." in figure.text
    assert "it would be 12.5." in figure.text
    heads = [th.text for th in page.all("th", scope="col")]
    assert "Zeros in W,\xa0%" in heads
    assert any(s.one("h2").text == "Bare" for s in page.all("section"))
    assert any("4" in cell.text.split() for cell in page.all("td"))  # the mean of 3, 4 and 5


# --- The package --------------------------------------------------------------------------------------------------


def test_every_text_under_a_figure_is_used() -> None:
    folder = Path(backroads.report.__file__).parent
    source = "".join(path.read_text() for path in folder.glob("*.py"))
    texts = tomllib.loads((folder / "templates" / "captions.toml").read_text(encoding="utf-8"))
    assert [name for name in texts if f'"{name}"' not in source and not name.startswith("go_on_")] == []


def test_the_report_needs_no_torch_and_only_what_stands_below_it() -> None:
    imported = set()
    for path in Path(backroads.report.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
    assert "torch" not in {name.split(".")[0] for name in imported}
    own = {name for name in imported if name.startswith("backroads") and not name.startswith("backroads.report")}
    assert {name.split(".")[1] for name in own} == {"errors", "runs"}
