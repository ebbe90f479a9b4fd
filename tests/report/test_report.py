"""The report of a comparison: what it says, that it needs nothing else, and what it does with damaged folders."""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import statistics
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from report_reader import Element, read
from report_run import COMMAND, LAYERS, RULES, Rule, change_json, write_json, write_run

import backroads.report
from backroads.errors import ConfigError
from backroads.report import write_report
from backroads.report.runs import read_run
from backroads.report.summary import summary

EVIL = "<script>alert(1)</script> \"&' $x_1$ 重み"
NAMES = [rule.name for rule in RULES]
FILES = ["config.toml", "environment.json", "events.jsonl", "results.json"]


def page_of(folder: Path) -> Element:
    return read(write_report(folder).read_text(encoding="utf-8"))


def section(page: Element, name: str) -> Element:
    return page.one("section", **{"aria-labelledby": name})


def cells(page: Element) -> dict[str, list[str]]:
    """The results table: the cells of each rule, in plain spaces."""
    rows = page.one("table", class_="results").one("tbody").all("tr")
    return {row.one("th").text.split()[0]: [" ".join(td.text.split()) for td in row.all("td")] for row in rows}


def change_row(folder: Path, rule: str, **changes: Any) -> None:
    rows = json.loads((folder / "results.json").read_text())["rows"]
    change_json(
        folder / "results.json",
        rows=[row | changes if row["rule"] == rule else row for row in rows],
    )


# --- The page as a document ---------------------------------------------------------------------------------


def test_is_a_well_formed_accessible_document(report: str) -> None:
    page = read(report)

    assert report.startswith("<!DOCTYPE html>")
    assert page.one("html").attributes["lang"] == "en"
    assert page.one("title").text == page.one("h1").text == "Learning rules compared on digits"
    headings = [int(e.tag[1]) for e in page.all() if re.fullmatch("h[1-6]", e.tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))
    assert all(th.attributes.get("scope") in ("row", "col") for th in page.all("th"))


def test_sections_come_in_the_order_of_reading(report: str) -> None:
    headings = [heading.text for heading in read(report).all("h2")]

    assert headings == [
        "Results",
        "Accuracy",
        "Loss",
        "Weight angle",
        "Settings",
        "Rules",
        "Environment",
        "Repeat it",
    ]


def test_every_drawing_says_what_it_shows_or_is_an_ornament(report: str) -> None:
    drawings = read(report).all("svg")

    assert len(drawings) > 3 * 6
    for drawing in drawings:
        if drawing.attributes.get("aria-hidden") != "true":
            assert drawing.attributes["role"] == "img"
            assert len(drawing.attributes["aria-label"]) > 20


def test_ids_are_unique_and_every_reference_has_its_target(report: str) -> None:
    page = read(report)
    ids = [e.attributes["id"] for e in page.all() if "id" in e.attributes]
    references = re.findall(r"url\(#([^)]+)\)", report)
    references += [e.attributes["href"][1:] for e in page.all("use")]
    references += [e.attributes["aria-labelledby"] for e in page.all() if "aria-labelledby" in e.attributes]

    assert len(ids) == len(set(ids))
    assert len(references) > 100
    assert set(references) <= set(ids)


def test_needs_nothing_but_itself(report: str) -> None:
    page = read(report)

    assert not page.all("script")
    assert not [name for e in page.all() for name in e.attributes if name.startswith("on")]
    assert not re.search(r"@import|@font-face|url\((?!#)", report)
    links = [e.attributes[name] for e in page.all() for name in ("src", "href") if name in e.attributes]
    assert [link for link in links if not link.startswith("#")] == ["data:,"]
    assert not re.search(r"https?://", report)


def test_is_small(run_folder: Path) -> None:
    assert (run_folder / "report.html").stat().st_size <= 400_000


def test_colours_of_the_drawings_come_from_the_page_and_stand_out_in_light_and_dark(report: str) -> None:
    style = read(report).one("style").text
    light, dark = style.split("prefers-color-scheme: dark", 1)
    dark = dark[: dark.index("* {")]
    used = set(re.findall(r"var\((--[\w-]+)\)", report))

    assert {f"--series-{n}" for n in range(1, 8)} <= used
    assert not re.search(r"#0[12]00[0-9a-f]{2}", report)
    for mode in (light, dark):
        colours = dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", mode))
        assert used <= colours.keys()
        for name, least in {"--text": 7, "--muted": 4.5, "--warning": 4.5}.items():
            assert contrast(colours[name], colours["--paper"]) >= least
        series = [value for name, value in colours.items() if name.startswith("--series")]
        assert len(series) == len(set(series)) == 10
        assert min(contrast(colour, colours["--paper"]) for colour in series) >= 3


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


# --- What it says -------------------------------------------------------------------------------------------


def test_table_shows_the_numbers_of_the_results(tmp_path: Path) -> None:
    write_run(tmp_path, RULES[:3])
    change_row(
        tmp_path,
        "kolen_pollack",
        accuracy_mean=0.9764,
        accuracy_std=0.0123,
        gap_mean=-0.0068,
        gap_std=0.0022,
        weight_angle_mean=12.34,
        step_ratio=1.234,
        step_ratio_spread=[1.2, 1.266],
    )
    change_row(tmp_path, "symmetric_alignment", gap_mean=0.004, weight_angle_mean=None, accuracy_std=None)

    table = cells(page_of(tmp_path))

    assert list(table) == ["backprop", "symmetric_alignment", "kolen_pollack"]
    assert table["kolen_pollack"] == ["97.6 ± 1.2", "−0.7 ± 0.2", "12.3", "1.23 1.20–1.27"]
    assert table["symmetric_alignment"][0] == "97.4"
    assert table["symmetric_alignment"][1].startswith("+0.4")
    assert table["symmetric_alignment"][2] == "–"
    assert table["backprop"][1] == "0"


def test_table_explains_its_columns_and_the_dash(report: str) -> None:
    legend = read(report).one("dl", class_="legend")

    assert [dt.text for dt in legend.all("dt")] == ["Accuracy", "Gap", "Angle", "Step time", "–"]
    assert "measured interleaved, step by step, in the same run" in legend.text
    assert "sample standard deviation" in legend.text


def test_every_rule_appears_in_the_table_and_in_the_figures(report: str) -> None:
    page = read(report)
    panels = {
        name: [p.one("p").text for p in section(page, name).all("div", class_="panel")]
        for name in ("accuracy", "loss", "angle")
    }

    assert list(cells(page)) == NAMES
    assert panels["accuracy"] == panels["loss"] == NAMES
    assert panels["angle"] == [rule.name for rule in RULES if rule.angle is not None]
    overview = section(page, "accuracy").one("div", class_="overview")
    assert all(name in overview.one("ul", class_="key").text for name in NAMES)
    assert all(name in overview.all("svg")[0].attributes["aria-label"] for name in NAMES)
    for name in ("accuracy", "loss", "angle"):
        labels = [p.one("svg").attributes["aria-label"] for p in section(page, name).all("div", class_="panel")]
        assert [label.split(":")[0] for label in labels] == panels[name]


def test_key_lists_the_best_rule_first(report: str) -> None:
    items = section(read(report), "accuracy").one("ul", class_="key").all("li")
    finals = [float(item.one("span", class_="number").text) for item in items]

    assert len(finals) == len(RULES)
    assert finals == sorted(finals, reverse=True)


def test_key_of_the_losses_names_its_lines(report: str) -> None:
    items = section(read(report), "loss").one("ul", class_="key").all("li")

    assert [item.text.strip() for item in items] == ["test loss", "training loss", "test loss of backprop"]


def test_every_layer_is_in_the_key_of_the_angles(report: str) -> None:
    angle = section(read(report), "angle")

    assert [item.text.strip() for item in angle.one("ul", class_="key").all("li")] == list(LAYERS)
    assert "Without weights to compare: backprop, direct_feedback_alignment" in angle.text


def test_settings_formulas_environment_and_command_are_all_there(report: str, run_folder: Path) -> None:
    page = read(report)
    environment = json.loads((run_folder / "environment.json").read_text())
    shown = {row.one("th").text: row.one("td").text for row in section(page, "environment").one("table").all("tr")}
    settings = {row.one("th").text: row.one("td").text for row in section(page, "settings").all("tr")}

    assert shown.keys() == environment.keys()
    assert shown["cores"] == "2"
    assert shown["uncommitted_changes"] == "false"
    assert settings["learning_rate"] == "0.1"
    assert settings["seeds"] == "0, 1, 2"
    assert settings["rules"] == ", ".join(NAMES)
    assert [code.text for code in section(page, "rules").all("code")] == [rule.formula for rule in RULES]
    assert page.one("pre").text == COMMAND
    assert environment["commit"] in section(page, "repeat").text


def test_a_table_of_settings_gets_its_name_and_a_missing_command_is_said(tmp_path: Path) -> None:
    write_run(tmp_path, RULES[:2])
    (tmp_path / "config.toml").write_text('[training]\ndata = "mnist"\nlearning_rate = 0.5\n')
    write_json(tmp_path / "environment.json", {"commit": None})

    page = page_of(tmp_path)

    assert section(page, "settings").one("caption").text == "training"
    assert page.one("h1").text == "Learning rules compared on mnist"
    assert not page.all("pre")
    assert "not recorded" in section(page, "repeat").text
    assert section(page, "environment").one("td").text == "–"


def summary_of(folder: Path) -> str:
    return summary(read_run(folder)).replace("\N{NO-BREAK SPACE}", " ")


def test_summary_stands_on_the_page(report: str, run_folder: Path) -> None:
    assert read(report).one("p", class_="summary").text == summary(read_run(run_folder))


def test_summary_names_the_near_ones_the_lowest_and_the_seeds(tmp_path: Path) -> None:
    write_run(tmp_path, (*RULES[:3], RULES[-1]))
    change_row(tmp_path, "backprop", accuracy_mean=0.981, accuracy_std=0.004)
    change_row(tmp_path, "symmetric_alignment", accuracy_mean=0.971, gap_mean=-0.0104)
    change_row(tmp_path, "kolen_pollack", accuracy_mean=0.97, gap_mean=-0.0106)
    change_row(tmp_path, "direct_feedback_alignment", accuracy_mean=0.91, accuracy_std=0.002, gap_mean=-0.071)

    assert summary_of(tmp_path) == (
        "On digits, symmetric_alignment ends within one point of backprop’s 98.1 ± 0.4 % test accuracy; "
        "the lowest is direct_feedback_alignment at 91.0 ± 0.2 % (gap −7.1 points); "
        "n = 3 seeds, spread = sample standard deviation."
    )


def test_summary_of_all_none_and_one(tmp_path: Path) -> None:
    write_run(tmp_path / "all", RULES[:3])
    for rule, gap in {"symmetric_alignment": -0.001, "kolen_pollack": 0.03}.items():
        change_row(tmp_path / "all", rule, gap_mean=gap)
    write_run(tmp_path / "none", (RULES[0], *RULES[-2:]))
    write_run(tmp_path / "one", RULES[:1], seeds=1)
    write_run(tmp_path / "without", RULES[1:3], seeds=1)

    assert "all 2 other rules end within one point of" in summary_of(tmp_path / "all")
    assert "test accuracy or above it;" in summary_of(tmp_path / "all")
    assert "no other rule ends within one point of backprop’s" in summary_of(tmp_path / "none")
    assert "backprop reaches" in summary_of(tmp_path / "one")
    assert summary_of(tmp_path / "one").endswith("n = 1 seed, no spread.")
    assert "and backprop has none to compare; the lowest is" in summary_of(tmp_path / "without")


# --- Curves -------------------------------------------------------------------------------------------------


def points_of(drawing: str, colour: str) -> list[tuple[float, float]]:
    """The corners of the line in this colour."""
    (path,) = re.findall(rf'<path d="([^"]*)"[^>]*style="fill: none; stroke: {re.escape(colour)}', drawing)
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)]


def test_the_line_follows_the_means_over_the_seeds(tmp_path: Path) -> None:
    low = tuple(Rule(r.name, 0.5, 0.2, r.angle, r.ratio, r.formula) for r in RULES[:2])
    write_run(tmp_path, low)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    own = [e for e in events if e.get("rule") == "symmetric_alignment"]
    means = [statistics.mean(e["eval_accuracy"] for e in own if e["epoch"] == n) for n in range(16)]

    page = write_report(tmp_path).read_text(encoding="utf-8")
    panel = re.search(r'<svg[^>]*aria-label="symmetric_alignment: mean test accuracy.*?</svg>', page)

    assert panel
    line = points_of(panel[0], "var(--series-1)")
    assert len(line) == 16
    steps = [after[0] - before[0] for before, after in itertools.pairwise(line)]
    assert max(steps) - min(steps) < 0.05
    scale = (line[0][1] - line[-1][1]) / (means[-1] - means[0])
    assert scale > 0
    assert [y for _, y in line] == pytest.approx([line[0][1] - scale * (m - means[0]) for m in means], abs=0.05)


@pytest.mark.parametrize(
    ("best", "stretched", "expected"),
    [
        (0.5, False, ["0", "20", "40"]),
        (0.95, True, ["0", "50", "80", "90", "95"]),
        (1.0, True, ["0", "50", "90", "99", "99.9"]),
    ],
)
def test_accuracy_axis_is_stretched_only_where_curves_crowd(
    best: float, stretched: bool, expected: list[str], tmp_path: Path
) -> None:
    write_run(tmp_path, RULES[:2], seeds=1, epochs=3)
    text = (tmp_path / "events.jsonl").read_text()
    text = re.sub(r'("epoch": 3,.*?"eval_accuracy": )[\d.]+', rf"\g<1>{best}", text)
    text = re.sub(r'("epoch": [12],.*?"eval_accuracy": )[\d.]+', r"\g<1>0.3", text)
    (tmp_path / "events.jsonl").write_text(text)

    accuracy = section(page_of(tmp_path), "accuracy")

    assert ("stretched" in accuracy.text) == stretched
    labels = [label.text for label in accuracy.all("div", class_="panel")[0].all("text")]
    assert labels == ["0", "1", "2", "3", *expected]


def test_an_epoch_measured_twice_counts_once_the_last_time(tmp_path: Path) -> None:
    write_run(tmp_path, RULES[:2])
    before = write_report(tmp_path).read_text()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    stale = json.dumps(json.loads(lines[1]) | {"eval_accuracy": 0.5, "eval_loss": 9.0})
    (tmp_path / "events.jsonl").write_text("\n".join([stale, *lines]) + "\n")

    assert write_report(tmp_path).read_text() == before


def test_a_diverged_seed_is_said_in_the_table_and_under_each_figure(report: str) -> None:
    page = read(report)
    row = next(r for r in page.all("tr") if r.text.split()[:1] == ["feedback_alignment"])

    assert "1 of 3 seeds diverged; accuracy over 2 seeds" in row.text
    assert "seeds diverged under feedback_alignment (1 of 3)" in page.one("p", class_="summary").text
    for name, what in {
        "accuracy": "test accuracy",
        "loss": "training or test loss",
        "angle": "weight angle",
    }.items():
        notes = section(page, name).one("ul", class_="notes").text
        assert f"feedback_alignment: 1 of 3 seeds diverged; no finite {what} for seed 2 at epochs 6–15." in notes
        assert "symmetric_alignment" not in notes


def test_a_run_in_which_everything_diverged_still_has_its_figures(tmp_path: Path) -> None:
    write_run(tmp_path, RULES[:3], diverged={(rule.name, seed): 0 for rule in RULES[:3] for seed in range(3)})

    page = page_of(tmp_path)

    assert "no rule has a finite test accuracy" in page.one("p", class_="summary").text
    assert len(section(page, "accuracy").all("div", class_="panel")) == 3
    assert cells(page)["kolen_pollack"][:3] == ["–", "–", "–"]
    assert "No rule of this run has backward weights" in section(page, "angle").text


def test_losses_that_explode_do_not_flatten_the_others(tmp_path: Path) -> None:
    write_run(tmp_path, RULES[:2], diverged={("symmetric_alignment", 1): 4})
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    for event in lines:
        if (event.get("rule"), event.get("seed"), event.get("epoch")) == ("symmetric_alignment", 1, 3):
            event |= {"train_loss": 1e308, "eval_loss": 1e200}
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in lines))

    loss = section(page_of(tmp_path), "loss")

    assert "cut off at the top" in loss.one("figcaption").text
    ticks = [float(label.text) for label in loss.all("div", class_="panel")[0].all("text")]
    assert max(ticks) <= 100


def test_one_epoch_zero_losses_and_one_seed_are_drawn(tmp_path: Path) -> None:
    write_run(tmp_path, RULES[:2], seeds=1, epochs=1)
    text = (tmp_path / "events.jsonl").read_text()
    (tmp_path / "events.jsonl").write_text(re.sub(r'"eval_loss": [\d.]+', '"eval_loss": 0.0', text))

    loss = section(page_of(tmp_path), "loss")

    assert len(loss.all("div", class_="panel")) == 2
    assert "Logarithmic" not in loss.text


def test_all_panels_share_their_axes_however_long_their_rule_was_measured(tmp_path: Path) -> None:
    write_run(tmp_path, RULES[:3])
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    short = [line for line in lines if not ('"kolen_pollack"' in line and json.loads(line)["epoch"] > 4)]
    (tmp_path / "events.jsonl").write_text("\n".join(short) + "\n")

    page = page_of(tmp_path)

    for name in ("accuracy", "loss", "angle"):
        panels = section(page, name).all("div", class_="panel")
        ticks = [[label.text for label in panel.all("text")] for panel in panels]
        assert ticks[0] == ticks[-1]
        assert "15" in ticks[-1]
    assert "no finite test accuracy for seed 0 at epochs 5–15" in section(page, "accuracy").text


# --- Nothing in the run can become markup -------------------------------------------------------------------


def test_names_and_commands_cannot_become_markup(tmp_path: Path) -> None:
    rules = (RULES[0], Rule("evil", 0.9, 0.5, 10.0, 1.0, f"rule({EVIL})", label=EVIL))
    write_run(tmp_path, rules, layers=(EVIL,))
    change_json(tmp_path / "environment.json", command=EVIL, **{EVIL: EVIL})
    change_json(tmp_path / "results.json", split="<i>test</i>")
    (tmp_path / "config.toml").write_text(
        f"data = {json.dumps(EVIL)}\n[{json.dumps(EVIL)}]\nkey = {json.dumps(EVIL)}\n"
    )

    page = page_of(tmp_path)

    assert not page.all("script")
    assert not page.all("i")
    evil = EVIL.split()[0]
    for place in (page.one("h1"), page.one("table", class_="results"), page.one("pre"), page.one("caption")):
        assert evil in place.text
    for name in ("accuracy", "loss", "angle"):
        panel = section(page, name).all("div", class_="panel")[-1]
        assert panel.one("p").text == EVIL
        assert panel.one("svg").attributes["aria-label"].startswith(EVIL)
    assert section(page, "angle").one("ul", class_="key").text.strip() == EVIL


# --- Writing ------------------------------------------------------------------------------------------------


def test_same_run_gives_the_same_bytes_wherever_it_lies_and_whatever_matplotlib_is_told(
    run_folder: Path, tmp_path: Path
) -> None:
    for name in FILES:
        (tmp_path / name).write_bytes((run_folder / name).read_bytes())

    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "svg.fonttype": "path", "lines.marker": "x"}):
        told = dict(matplotlib.rcParams)
        path = write_report(tmp_path)
        assert dict(matplotlib.rcParams) == told

    assert path == tmp_path / "report.html"
    assert path.read_bytes() == (run_folder / "report.html").read_bytes()
    assert sorted(os.listdir(tmp_path)) == sorted([*FILES, "report.html"])


def test_a_failure_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path, RULES[:1], seeds=1, epochs=1)
    (tmp_path / "report.html").write_text("old")

    def refuse(*_: object) -> None:
        raise OSError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="no room"):
            write_report(tmp_path)

    assert (tmp_path / "report.html").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == sorted([*FILES, "report.html"])


# --- Missing and damaged files ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    write_run(tmp_path, RULES[:1], seeds=1, epochs=1)
    (tmp_path / name).unlink()

    with pytest.raises(ConfigError, match=rf"{name}, but it cannot be read .* run its command again"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere is not a folder: give the folder of a run"):
        write_report(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.toml", "data = ", r"config\.toml: expected TOML, but found"),
        ("config.toml", b"data = '\xff'", r"config\.toml: expected TOML"),
        ("environment.json", "[1]", r"environment\.json: expected a JSON object, but found \[1\]"),
        ("environment.json", "{", r"environment\.json: expected a JSON object"),
        ("results.json", "{", r"results\.json: expected a JSON object"),
        ("results.json", {"kind": "other"}, r"field kind: expected 'compare', but found 'other'"),
        ("results.json", {"rows": []}, r"expected at least one row and every rule once"),
        ("results.json", {"rows": [{"rule": "a"}]}, r"expected the field rows\.0\.label, but found none"),
        (
            "results.json",
            {"rows": [{"rule": "a", "label": "a", "accuracy_mean": "0.9"}]},
            r"field rows\.0\.accuracy_mean: expected a valid number, but found '0\.9'",
        ),
        (
            "results.json",
            {"rows": [{"rule": "a", "label": "a"}, {"rule": "a", "label": "b"}]},
            r"every rule once, but found the rules \['a', 'a'\]",
        ),
        ("events.jsonl", "", r"events\.jsonl: expected at least one line with"),
        ("events.jsonl", '{"event": "epoch"}\n', r"line 1: expected the field rule, but found none"),
        ("events.jsonl", '{"event": "start"}\n{"eve\n', r"events\.jsonl, line 2: expected a JSON object"),
        ("events.jsonl", '{"no": 1}\n', r"line 1: expected an object with a text \"event\""),
    ],
)
def test_a_damaged_file_is_explained(
    name: str, content: str | bytes | dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write_run(tmp_path, RULES[:1], seeds=1, epochs=1) / name
    if isinstance(content, dict):
        change_json(path, **content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(ConfigError, match=message) as caught:
        write_report(tmp_path)
    assert str(path) in str(caught.value)
    assert "run its command again" in str(caught.value)


@pytest.mark.parametrize("cut", [1, 25, 60])
def test_a_last_line_that_was_cut_off_is_left_out_and_said(cut: int, tmp_path: Path) -> None:
    write_run(tmp_path, RULES[:2], seeds=1, epochs=2)
    complete = page_of(tmp_path)
    *lines, _ = (tmp_path / "events.jsonl").read_text().splitlines()
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n" + lines[-1][:cut])

    page = page_of(tmp_path)

    assert "events.jsonl was cut off" in section(page, "repeat").text
    assert "events.jsonl was cut off" not in section(complete, "repeat").text
    assert cells(page) == cells(complete)


def test_a_last_line_without_a_newline_that_is_whole_counts(tmp_path: Path) -> None:
    write_run(tmp_path, RULES[:1], seeds=1, epochs=2)
    lines = (tmp_path / "events.jsonl").read_text().splitlines()[:-1]
    (tmp_path / "events.jsonl").write_text("\n".join(lines))

    page = page_of(tmp_path)

    assert "cut off" not in section(page, "repeat").text
    assert not page.all("ul", class_="notes")


def test_unknown_events_and_numbers_that_are_not_finite_are_no_damage(tmp_path: Path) -> None:
    write_run(tmp_path, RULES[:2], seeds=1, epochs=2)
    extra = {"event": "epoch", "rule": "backprop", "seed": 0, "epoch": 3, "new": 1}
    extra |= {"train_loss": 0.1, "eval_loss": float("nan")}
    with (tmp_path / "events.jsonl").open("a") as events:
        events.write('{"event": "weather", "wind": 3}\n' + json.dumps(extra) + "\n")

    notes = section(page_of(tmp_path), "loss").one("ul", class_="notes").text

    assert "backprop: no finite training or test loss for seed 0 at epoch 3." in notes


def test_curves_of_a_rule_without_a_row_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, RULES[:3], seeds=1, epochs=1)
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    change_json(tmp_path / "results.json", rows=rows[:2])

    assert "no row for it: kolen_pollack" in section(page_of(tmp_path), "repeat").text


# --- The package --------------------------------------------------------------------------------------------


def test_the_report_needs_only_the_errors_of_the_package() -> None:
    imported = set()
    for path in Path(backroads.report.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")

    assert "torch" not in {name.split(".")[0] for name in imported}
    own = {name for name in imported if name.startswith("backroads") and not name.startswith("backroads.report")}
    assert own == {"backroads.errors"}
