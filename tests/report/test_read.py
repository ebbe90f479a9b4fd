"""Reading folders: whatever is missing, damaged or cut off is named, nothing is guessed, and long logs stay small."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report.folders import FEW, FOLDERS, comparison, meta, search, training
from report.pages import labels, page_of, section, summary, table, words

from backroads.errors import ConfigError
from backroads.report import text, write_meta_report, write_report
from backroads.report.curve import COLUMNS, Log, Numbers, line, merged, over_layers, over_seeds, through
from backroads.report.read import read_record
from backroads.runs.schema import Evaluation, Event, Readings, Speed, Start, Step, as_data


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
    if kind not in ("search", "theory", "reproduce"):
        (folder / "results.json").unlink()
        assert read_record(folder).kind == kind
        write_report(folder)


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_missing_file_is_named(kind: str, tmp_path: Path) -> None:
    folder = FOLDERS[kind]()
    names = (
        ["environment.json"]
        if kind in ("search", "theory", "reproduce")
        else ["config.toml", "environment.json", "events.jsonl"]
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
@pytest.mark.parametrize(("version", "said"), [(..., "got None"), (1, "got 1")])
def test_files_of_another_version_are_named(kind: str, version: Any, said: str, tmp_path: Path) -> None:
    folder = FOLDERS[kind]().write(tmp_path)
    change(folder / "results.json", version=version)
    refused(folder, rf"results\.json: expected a file of version 2, {said}")
    if (folder / "events.jsonl").exists():
        (folder / "results.json").unlink()
        first, *rest = (folder / "events.jsonl").read_text().splitlines(keepends=True)
        start = json.loads(first) | {"version": version}
        first = json.dumps({name: value for name, value in start.items() if value is not ...}) + "\n"
        (folder / "events.jsonl").write_text("".join([first, *rest]))
        refused(folder, rf"events\.jsonl, line 1: expected a file of version 2, {said}")


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
            "results.json",
            {"seconds": [[["deep"] * 9] * 9] * 9},
            r"field seconds: expected a valid number, but found \[\[",
        ),
        ("results.json", '{"a": ' + "[" * 100_000, r"results\.json: expected a JSON object"),
        ("results.json", '{"version": ' + "9" * 5_000 + "}", r"results\.json: expected a JSON object"),
        ("environment.json", "[" * 100_000, r"environment\.json: expected a JSON object"),
        ("config.toml", "a = " + "[" * 100_000, r"config\.toml: expected TOML"),
        ("config.toml", "a = " + "9" * 5_000, r"config\.toml: expected TOML"),
        (
            "events.jsonl",
            START + '{"event": "evaluation", "step": 1, "epoch": 1, "eval_accuracy": 97.5}\n',
            r"line 2, field eval_accuracy: expected a fraction from 0 to 1, but found 97\.5",
        ),
        (
            "events.jsonl",
            START + '{"event": "evaluation", "step": 1, "epoch": 1, "eval_top5": -1e999}\n',
            r"line 2, field eval_top5: expected a fraction from 0 to 1, but found -inf",
        ),
        (
            "events.jsonl",
            START + '{"event": "step", "step": -1}\n',
            r"line 2, field step: expected greater than or equal",
        ),
        (
            "events.jsonl",
            START + f'{{"event": "step", "step": 1{"0" * 400}}}\n',
            r"line 2, field step: expected less than",
        ),
        ("events.jsonl", START + '{"event": "step", "step": 1e999}\n', r"line 2, field step: expected"),
        ("events.jsonl", START + '{"event": "step", "step": 1.5}\n', r"line 2, field step: expected"),
        ("events.jsonl", START + '{"event": "step", "step": 1\n', r"line 2: expected a JSON object"),
        ("events.jsonl", START + '{"event": "step", "step": ' + "[" * 9_999 + "\n", r"line 2: expected a JSON object"),
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


@pytest.mark.parametrize(
    ("accuracy", "said"),
    [(7.3, "a fraction from 0 to 1, but found 7.3"), (-0.1, "a fraction from 0 to 1"), ("1", "a valid number")],
)
def test_accuracies_of_results_are_fractions(accuracy: Any, said: str, tmp_path: Path) -> None:
    folder = training(epochs=1).write(tmp_path)
    results = json.loads((folder / "results.json").read_text())
    results["arms"][0]["accuracy"] = accuracy
    (folder / "results.json").write_text(json.dumps(results))
    refused(folder, rf"results\.json, field arms\.0\.accuracy: expected {said}")


def test_infinite_numbers_that_must_be_there_are_refused(tmp_path: Path) -> None:
    folder = training(epochs=1).write(tmp_path)
    results = json.loads((folder / "results.json").read_text())
    results["arms"][0]["step_ratio"] = [1.0, float("inf"), 2.0]
    (folder / "results.json").write_text(json.dumps(results))
    refused(folder, r"field arms\.0\.step_ratio\.1: expected a finite number, but found inf")


@pytest.mark.parametrize("name", ["config.toml", "environment.json", "results.json", "events.jsonl", "system.jsonl"])
def test_a_pipe_in_place_of_a_file_is_named_and_not_waited_for(name: str, tmp_path: Path) -> None:
    folder = training(epochs=1).write(tmp_path)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    refused(folder, rf"{name}, but it cannot be read \(it is no file\)")


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
    assert arm.steps.lost["loss"] == 1


def by_column(x: Numbers, y: Numbers, columns: int) -> dict[int, tuple[float, ...]]:
    """First, lowest, highest and last value in each of equally wide columns over the places of the whole log."""
    found: dict[int, list[float]] = {}
    for place, value in zip(x, y, strict=True):
        found.setdefault(int(place / (LENGTH - 1) * columns), []).append(value)
    return {column: (own[0], min(own), max(own), own[-1]) for column, own in found.items()}


LENGTH = 50_000


def test_the_points_of_a_long_log_fill_each_column_of_a_figure_as_all_of_them_do() -> None:
    random = np.random.default_rng(0)
    log, values = Log(), random.normal(size=LENGTH).cumsum()
    values[31_234] = 1e4  # a spike of one line
    for n, value in enumerate(values.tolist()):
        log.add(n, {"a": value, "b": None if n % 2 else 1.0, "late": 2.0} if n > 9 else {"a": value, "b": 3.0})
    found = log.curve("a")
    assert len(found.x) <= 4 * (COLUMNS + 1)
    assert by_column(np.array(found.x), np.array(found.y), COLUMNS) == by_column(log.places, values, COLUMNS)
    assert set(zip(found.x, found.y, strict=True)) <= set(enumerate(values.tolist()))
    assert (found.x[0], found.x[-1], max(found.y)) == (0, LENGTH - 1, 1e4)
    assert log.last == {"a": values[-1], "b": None, "late": 2.0}
    assert (log.lost["b"], log.lost["a"]) == ((LENGTH - 10) // 2, 0)
    assert np.isnan(log.values("late")[:10]).all()
    assert log.curve("late").known[0] == (10, 2.0)
    assert log.curve("none").known == []


def test_a_gap_of_a_long_log_stays_a_gap() -> None:
    x, y = np.arange(10_000.0), np.ones(10_000)
    y[4_000:6_000] = np.nan
    curve = line(x, y)
    holes = [place for place, value in zip(curve.x, curve.y, strict=True) if value != value]
    assert 4_000 <= holes[0] < holes[-1] < 6_000
    assert holes[-1] - holes[0] > 1_900


def test_seeds_of_long_logs_are_joined_place_by_place() -> None:
    logs = [Log(), Log()]
    for n in range(5_000):
        logs[0].add(n, {"a": float(n), "b": 1.0})
        if n % 2 == 0:
            logs[1].add(n, {"a": n + 2.0, "b": 3.0})
    found = merged(logs, ["a", "b"], together=True)
    assert found["a"].x == found["b"].x
    assert len(found["a"].x) <= 4 * (COLUMNS + 1)
    for x, a, b, low in zip(found["a"].x, found["a"].y, found["b"].y, found["a"].low, strict=True):
        # Two values 2 apart have the sample deviation sqrt(2); at odd places there is one seed alone.
        assert (a, b) == ((x, 1.0) if x % 2 else (x + 1, 2.0))
        assert math.isnan(low) if x % 2 else low == pytest.approx(x + 1 - math.sqrt(2))


def long_log(folder: Path, events: int) -> tuple[list[float], list[float], list[float]]:
    """Write the log of a training with so many events; returns its losses, test accuracies and speeds."""
    run = training(epochs=1)
    run.results = None
    run.write(folder)
    random, steps = np.random.default_rng(1), events * 98 // 100
    losses = (0.1 + 2.3 * np.exp(-np.arange(steps) / steps * 5) * random.lognormal(0, 0.1, steps)).tolist()
    accuracies, speeds = random.uniform(0.5, 0.9, events // 100).tolist(), random.normal(2400, 100, steps).tolist()
    with (folder / "events.jsonl").open("w") as file, (folder / "system.jsonl").open("w") as system:
        file.write(json.dumps({"event": "start", **as_data(run.of(Start)[0])}) + "\n")
        for n, loss in enumerate(losses):
            rates = {"learning_rate": 0.1 * (1 - n / steps), "backward_rate": 1.0, "gradient_norm": loss}
            found: list[Event] = [Step(n + 1, 0, (n + 1) / 98, loss, 0.5, **rates, coefficients={"amp": 0.1})]
            if n % 98 == 97:
                epoch = n // 98 + 1
                accuracy = accuracies[epoch - 1]
                found.append(Readings(n + 1, {"weight_angle": dict.fromkeys(FEW, 90 * loss / 3)}, epoch=epoch))
                found.append(Evaluation(n + 1, epoch, 0, loss, 0.5, loss, accuracy, 0.95))
            file.writelines(json.dumps({"event": one.kind, **as_data(one)}) + "\n" for one in found)
            speed = Speed(n + 1, speeds[n], 50.0, 1800.0)
            system.write(json.dumps({"event": "speed", **as_data(speed)}) + "\n")
    return losses, accuracies, speeds


def test_what_is_said_of_a_long_log_comes_from_all_of_it(tmp_path: Path) -> None:
    losses, accuracies, speeds = long_log(tmp_path, 20_000)
    best, page = max(range(len(accuracies)), key=lambda n: accuracies[n]), page_of(tmp_path)
    assert f"; the best, {text.percent(accuracies[best])} %, after epoch {best + 1}." in summary(page)
    last = f"{text.percent(accuracies[-1])} % validation accuracy, top-5 95.0 % after epoch {len(accuracies)}"
    assert last in summary(page)
    assert f"{text.number(statistics.median(speeds))} examples a second" in words(page.one("p", class_="facts"))
    first, last = text.number(losses[0]), text.number(losses[-1])
    end = text.plain(len(losses) / 98)
    assert f"Training loss from {first} at epoch 0.01 to {last} at epoch {end}." in labels(section(page, "loss"))[0]
    assert len(page.text) < 1_000_000


# The peak is the kernel's of this program alone: ru_maxrss is that of the parent, too, where that was larger.
LONG = """
import sys, time
from pathlib import Path
from backroads.report import write_report
began = time.process_time()
write_report(Path(sys.argv[1]))
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(time.process_time() - began, int(peak) / 1024)
"""


@pytest.mark.slow
def test_the_report_of_a_long_log_takes_seconds_and_little_memory(tmp_path: Path) -> None:
    long_log(tmp_path, 200_000)
    done = subprocess.run([sys.executable, "-c", LONG, str(tmp_path)], check=True, capture_output=True, text=True)
    seconds, megabytes = map(float, done.stdout.split())
    assert seconds < 10
    assert megabytes < 300
    assert (tmp_path / "report.html").stat().st_size < 1_000_000


def test_many_evaluations_are_few_points_too(tmp_path: Path) -> None:
    run = comparison(["backprop", "feedback_alignment"], seeds=2, epochs=1)
    run.results, start = None, run.of(Start)[0]
    run.events = [start]
    for epoch in range(3_000):
        run.events += [
            Evaluation(epoch, epoch, arm, 0.5, 0.5, None if epoch % 2 else 0.1, 0.25 + 0.1 * arm) for arm in range(4)
        ]
    page = page_of(run, tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 500_000
    accuracy = {name: cells[0] for name, cells in table(section(page, "results")).items()}
    assert {name: cell.split()[0] for name, cell in accuracy.items()} == {
        "backprop": "30.0",
        "feedback alignment": "50.0",
    }
    assert "seed 0, epoch 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23 and 1488 more" in section(page, "loss").text


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
