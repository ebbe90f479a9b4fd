"""Reading folders: whatever is missing, damaged or cut off is named, nothing is guessed, and long logs stay small."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from report.folders import FEW, FOLDERS, comparison, meta, search, training
from report.pages import page_of, section, summary, table

from backroads.errors import ConfigError
from backroads.report import write_meta_report, write_report
from backroads.report.curve import Thinned, over_layers, over_seeds, through
from backroads.report.read import read_record
from backroads.runs.schema import Readings, Start, Step, as_data


def change(path: Path, **changes: Any) -> None:
    """Replace top-level keys of a JSON file; None takes them out."""
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in data.items() if value is not ...}))


def refused(folder: Path, message: str, *, damaged: bool = True) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        write_report(folder)
    assert not damaged or "run its command again" in str(caught.value)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("kind", FOLDERS)
def test_the_start_or_the_results_say_which_kind_of_run_it_is(kind: str, tmp_path: Path) -> None:
    folder = FOLDERS[kind]().write(tmp_path)
    assert read_record(folder).kind == kind
    if kind not in ("search", "theory"):
        (folder / "results.json").unlink()
        assert read_record(folder).kind == kind
        write_report(folder)


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_missing_file_is_named(kind: str, tmp_path: Path) -> None:
    folder = FOLDERS[kind]()
    names = (
        ["environment.json"] if kind in ("search", "theory") else ["config.toml", "environment.json", "events.jsonl"]
    )
    for name in names:
        own = folder.write(tmp_path / name)
        (own / name).unlink()
        refused(own, rf"{name}, but it cannot be read .* run its command again")


def test_a_folder_that_is_none_and_one_of_something_else_are_named(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", r"nowhere is not a folder; give the folder of a run", damaged=False)
    (tmp_path / "notes.txt").write_text("")
    refused(tmp_path, "holds none of a run's files", damaged=False)
    with pytest.raises(ConfigError, match=r"expected the folder of a meta-training, and .* is one of 'train'"):
        write_meta_report([training(epochs=1).write(tmp_path / "a")], tmp_path / "page.html")


def test_a_run_that_has_not_begun_is_told_to_wait(tmp_path: Path) -> None:
    folder = training().until(-1)
    folder.events = []
    folder.write(tmp_path)
    (tmp_path / "events.jsonl").write_text("")
    refused(tmp_path, "the run has not begun", damaged=False)


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize(("version", "said"), [(..., "without a version, from backroads 0.1"), (2, "of version 2")])
def test_files_of_another_version_are_named(kind: str, version: Any, said: str, tmp_path: Path) -> None:
    folder = FOLDERS[kind]().write(tmp_path)
    change(folder / "results.json", version=version)
    refused(folder, rf"results\.json: expected a file of version 1, but it is {said}")
    if (folder / "events.jsonl").exists():
        (folder / "results.json").unlink()
        first, *rest = (folder / "events.jsonl").read_text().splitlines(keepends=True)
        start = json.loads(first) | {"version": version}
        first = json.dumps({name: value for name, value in start.items() if value is not ...}) + "\n"
        (folder / "events.jsonl").write_text("".join([first, *rest]))
        refused(folder, rf"events\.jsonl, line 1: expected a file of version 1, but it is {said}")


START = json.dumps({"event": "start", **as_data(training(epochs=1).of(Start)[0])}) + "\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.toml", "rule = ", r"config\.toml: expected TOML, but found"),
        ("config.toml", b"data = '\xff'", r"config\.toml: expected TOML"),
        ("environment.json", "[1]", r"environment\.json: expected a JSON object, but found \[1\]"),
        ("results.json", "{", r"results\.json: expected a JSON object"),
        ("results.json", {"kind": "other"}, r"field kind: expected one of train, .*, but found 'other'"),
        ("results.json", {"arms": [{"name": "a", "seed": 0}]}, r"expected the field arms\.0\.status, but found none"),
        ("results.json", {"arms": []}, r"results\.json: expected as many arms as began, 1, but found 0"),
        ("results.json", {"split": "third"}, r"field split: expected 'test' or 'validation', but found 'third'"),
        ("results.json", {"seconds": "3"}, r"field seconds: expected a valid number, but found '3'"),
        (
            "events.jsonl",
            START + '{"event": "evaluation", "step": 1}\n',
            r"line 2: expected the field epoch, but found none",
        ),
        ("events.jsonl", START + '{"eve\n', r"events\.jsonl, line 2: expected a JSON object"),
        ("events.jsonl", START + '{"no": 1}\n', r"line 2: expected an object with a text \"event\""),
        (
            "events.jsonl",
            START + '{"event": "step", "step": 1, "arm": 1}\n',
            r"line 2, field arm: expected one of the 1 arms",
        ),
        ("events.jsonl", '{"event": "step", "step": 1}\n', r"line 1: expected the start of a run as the first event"),
        ("events.jsonl", "", r"events\.jsonl: expected a first line that is the start of a run"),
        ("events.jsonl", START.replace('"train"', '"walk"'), r"field run: expected one of train, .*, but found 'walk'"),
    ],
)
def test_a_damaged_file_is_explained(
    name: str, content: str | bytes | dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = training(epochs=1).write(tmp_path) / name
    if isinstance(content, dict):
        change(path, **content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(tmp_path, message)


@pytest.mark.parametrize("name", ["promote.json", "transfer.json", "evaluation.json", "analysis.json"])
def test_damaged_files_beside_the_results_are_explained(name: str, tmp_path: Path) -> None:
    folder = (search() if name in ("promote.json", "transfer.json") else meta()).write(tmp_path)
    (folder / name).write_text('{"rows": [{"number": "one"}], "step": "one"}')
    refused(folder, name.replace(".", r"\."))


@pytest.mark.parametrize("make", [lambda: training(epochs=2).until(65), lambda: comparison(["backprop"], epochs=2)])
@pytest.mark.parametrize("cut", [1, 25, 60])
def test_lines_that_were_cut_off_are_left_out_and_said(cut: int, make: Any, tmp_path: Path) -> None:
    folder = make().write(tmp_path)
    complete = page_of(folder)
    with (tmp_path / "events.jsonl").open("a") as events:
        events.write((tmp_path / "events.jsonl").read_text().splitlines()[-1][:cut])
    with (tmp_path / "system.jsonl").open("a") as system:
        system.write('{"event": "spe\n{"event": "weather", "wind": 3}\n{"event": "saved", "step"')
    page = page_of(folder)

    assert "The last line of events.jsonl was cut off" in section(page, "repeat").text
    assert "2 lines of system.jsonl could not be read" in section(page, "repeat").text
    assert "left out" not in section(complete, "repeat").text
    assert summary(page) == summary(complete)


def test_a_whole_last_line_without_its_end_counts_and_unknown_events_are_no_damage(tmp_path: Path) -> None:
    folder = training(epochs=2).write(tmp_path)
    lines = (folder / "events.jsonl").read_text().splitlines()
    before = write_report(folder).read_bytes()
    (folder / "events.jsonl").write_text("\n".join([lines[0], '{"event": "weather", "wind": 3}', *lines[1:]]))
    assert write_report(folder).read_bytes() == before


def test_numbers_that_are_not_finite_are_missing(tmp_path: Path) -> None:
    folder = training(epochs=1).write(tmp_path)
    with (folder / "events.jsonl").open("a") as events:
        events.write('{"event": "step", "step": 40, "loss": NaN, "learning_rate": Infinity, "new": 1}\n')
    arm = read_record(folder).arms[0]
    assert arm.steps.last["loss"] is None
    assert arm.steps.missing("loss") == 1


def test_a_log_of_any_length_becomes_few_points_that_are_its_means(tmp_path: Path) -> None:
    log, values = Thinned(10), [float(n % 7) for n in range(1000)]
    for n, value in enumerate(values):
        log.add(n, {"a": value, "b": None if n % 2 else 1.0})
    found = log.curve("a")
    size = log.size
    assert len(found.x) <= 20
    assert size == 64
    expected = [statistics.mean(values[n : n + size]) for n in range(0, 1000, size)]
    assert list(found.y) == pytest.approx(expected)
    assert found.x[0] == pytest.approx((size - 1) / 2)
    assert log.last == {"a": values[-1], "b": None}
    assert log.missing("b") == 500
    assert set(log.curve("b").y) == {1.0}

    folder = training(epochs=1)
    folder.results = None
    folder.events += [Step(41 + n, loss=1.0) for n in range(20_000)]
    arm = read_record(folder.write(tmp_path)).arms[0]
    assert len(arm.steps.points) <= 480
    assert write_report(tmp_path).stat().st_size < 120_000


def test_bands_are_sample_deviations_over_seeds_and_ranges_over_layers() -> None:
    found = over_seeds([{0: 0.1, 1: 0.4, 2: None}, {0: 0.2, 1: None, 2: 0.3}, {0: 0.6, 1: 0.5}])
    assert found.x == (0, 1, 2)
    assert list(found.y) == [pytest.approx(0.3), pytest.approx(0.45), 0.3]
    spread = statistics.stdev([0.1, 0.2, 0.6])
    assert (found.low[0], found.high[0]) == (pytest.approx(0.3 - spread), pytest.approx(0.3 + spread))
    assert found.low[2] != found.low[2]  # one seed has no spread
    assert through([]).last is None
    assert through([(1, float("inf"))]).known == []
    layers = over_layers([through(enumerate(values)) for values in ((1.0, None), (5.0, 2.0), (3.0, 4.0))])
    assert layers.y == (3.0, 3.0)
    assert layers.low == (1.0, 2.0)
    assert layers.high == (5.0, 4.0)


def test_readings_without_epochs_are_drawn_by_step(tmp_path: Path) -> None:
    folder = training(epochs=2)
    folder.change(Readings, epoch=None).change(Start, steps_per_epoch=None)
    page = page_of(folder, tmp_path)
    assert "against step" in section(page, "metric-0").text
    assert next(iter(table(section(page, "rules"), 1))) == f"1 {FEW[0]}"
