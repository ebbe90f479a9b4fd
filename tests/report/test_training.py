"""The page of a training: what it says at every moment of its life, and the numbers that it shows."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report.folders import FEW, MANY, PER_EPOCH, Folder, diverged, training
from report.pages import key, labels, page_of, section, summary, table, words
from report.reader import Element

from backroads.errors import ConfigError
from backroads.report import figure, text, write_report
from backroads.report.page import words as breaking
from backroads.runs.quantity import Quantity
from backroads.runs.schema import Arm, Evaluation, Fields, Readings, Resumed, Speed, Start, Step, Stopped, as_data


def fixed(folder: Folder) -> Folder:
    """The same with round accuracies: 0.5 after every epoch but 0.75 after epoch 3, top-5 0.9; test 0.6, top-5 0.8."""
    folder.change(Evaluation, eval_accuracy=0.5, eval_top5=0.9)
    folder.change(Evaluation, lambda one: one.test_accuracy is not None, test_accuracy=0.6, test_top5=0.8)
    return folder.change(Evaluation, lambda one: one.epoch == 3, eval_accuracy=0.75)


def label(page: Element, name: str) -> str:
    (found,) = labels(section(page, name))
    return found


def test_finished(tmp_path: Path) -> None:
    page = page_of(fixed(training(epochs=4)), tmp_path)

    assert page.one("h1").text == "ResNet-110 on CIFAR-10 with symmetric alignment"
    assert summary(page) == (
        "Finished after 4 epochs: 60.0 % test accuracy, top-5 80.0 %; 50.0 % validation accuracy, top-5 90.0 %; the "
        "best, 75.0 %, after epoch 3."
    )
    resume = words(section(page, "resume").one("pre"))
    assert resume == f"backroads train --resume --out {tmp_path.name} --epochs MORE"
    assert not page.all("div", class_="alert")
    assert not page.all("ul", class_="notes")
    headings = ["Accuracy", "Loss", "Weight angle", "|B| / |W|", "Update angle", "Rates", "Rules", "Go on"]
    assert [h.text for h in page.all("h2")] == [*headings, "Settings", "Environment", "Repeat it"]


def test_facts(tmp_path: Path) -> None:
    folder = training(epochs=2)
    speeds = itertools.cycle([1000.0, 2000.0, 3000.0])
    folder.system = [
        dataclasses.replace(event, examples_per_second=next(speeds)) if isinstance(event, Speed) else event
        for event in folder.system
    ]
    assert words(page_of(folder, tmp_path).one("p", class_="facts")) == (
        "1,730,714 parameters · 45,000 training examples · 5,000 to validate on · 10,000 to test on · "
        "2,000 examples a second · 1,808 MiB of memory at most · 90 min · 2026-03-01"
    )


@pytest.mark.parametrize(
    ("step", "place", "told"),
    [
        (0, "step 0 of 160 (epoch 0)", "50.0 % validation accuracy, top-5 90.0 % before training."),
        (15, "step 10 of 160 (epoch 0.25)", "50.0 % validation accuracy, top-5 90.0 % before training."),
        (
            130,
            "step 130 of 160 (epoch 3.25)",
            "75.0 % validation accuracy, top-5 90.0 % after epoch 3, the best of its",
        ),
    ],
)
def test_running_or_killed_is_unfinished(step: int, place: str, told: str, tmp_path: Path) -> None:
    page = page_of(fixed(training(epochs=4)).until(step), tmp_path)
    assert summary(page).startswith(f"Unfinished at {place}: still running, or killed. {told}")
    resume = section(page, "resume")
    assert words(resume.one("pre")) == f"backroads train --resume --out {tmp_path.name}"
    assert "once nothing trains in this folder any more" in resume.text
    assert "when last measured" in section(page, "rules").text


def test_without_a_validation_part_there_is_the_test_at_the_end_alone(tmp_path: Path) -> None:
    folder = fixed(training(epochs=4)).change(Evaluation, eval_loss=None, eval_accuracy=None, eval_top5=None)
    folder.change(Start, eval_examples=None)
    page = page_of(folder, tmp_path / "end")
    assert summary(page) == "Finished after 4 epochs: 60.0 % test accuracy, top-5 80.0 %."
    assert list(key(section(page, "accuracy"))) == ["training accuracy", "test accuracy"]
    assert not page.all("ul", class_="notes")
    begun = page_of(folder.until(50), tmp_path / "begun")
    assert summary(begun).endswith("killed. The test split is read once, at the end.")
    assert list(key(section(begun, "loss"))) == ["training loss"]


def test_a_start_and_nothing_else(tmp_path: Path) -> None:
    folder = training().until(-1)
    folder.system = []
    page = page_of(folder, tmp_path)
    assert not page.all("svg")
    assert [words(section(page, name).one("p")) for name in ("accuracy", "loss")] == [
        "Nothing was evaluated yet.",
        "No loss was measured yet.",
    ]
    assert "Nothing was evaluated yet" in summary(page)


def test_a_best_that_was_equally_good_is_the_first_of_them(tmp_path: Path) -> None:
    folder = fixed(training(epochs=4)).change(Evaluation, lambda one: one.epoch in (2, 4), eval_accuracy=0.75)
    assert "75.0 % validation accuracy, top-5 90.0 %; the best, also 75.0 %, after epoch 2." in summary(
        page_of(folder, tmp_path)
    )


def test_stopped_by_a_signal_until_it_goes_on(tmp_path: Path) -> None:
    folder = fixed(training(epochs=4)).until(125)
    folder.system.append(Stopped(127, 15))
    page = page_of(folder, tmp_path / "stopped")
    assert summary(page).startswith("Stopped by signal 15 (SIGTERM) at step 127 of 160 (epoch 3.17), before its end.")
    assert "saved when it stopped" in section(page, "resume").text

    folder.system.append(Resumed(127))
    assert summary(page_of(folder, tmp_path / "on")).startswith("Unfinished at step 120 of 160")


def test_diverged(tmp_path: Path) -> None:
    reason = "the loss of step 150 is not finite; first: block1.conv"
    page = page_of(diverged(fixed(training(epochs=4)), 150, reason, "block1.conv"), tmp_path / "one")
    assert summary(page) == (
        f"Diverged at step 150 of 160 (epoch 3.75): {reason}. The last good checkpoint, of step 120, is kept. "
        "75.0 % validation accuracy, top-5 90.0 % after epoch 3, the best of its epochs."
    )
    assert page.one("strong", class_="bad").text == "Diverged"
    folder = diverged(training(epochs=4), 150, "weights are not finite", "fc.weight")
    folder.results, folder.system = None, []
    page = page_of(folder, tmp_path / "other")
    assert "(epoch 3.75): weights are not finite (in fc.weight). The last good checkpoint is kept." in summary(page)


def test_results_of_an_earlier_end_are_left_out(tmp_path: Path) -> None:
    longer = training(epochs=6).until(190)  # taken up again for more epochs
    longer.results = training(epochs=4).results
    again = training(epochs=4).until(80)  # taken up again before where it diverged
    again.results = diverged(training(epochs=4), 110, "not finite", "conv1").results
    for name, folder, said in (("longer", longer, "step 190 of 240"), ("again", again, "step 80 of 160")):
        page = page_of(folder, tmp_path / name)
        assert summary(page).startswith(f"Unfinished at {said}")
        assert "went on after results.json was written" in section(page, "repeat").text


def test_collapsed_dead_and_skipped_are_named(tmp_path: Path) -> None:
    folder = training(epochs=1)
    own = dataclasses.replace(folder.results.arms[0], collapsed=("conv1", "readout"), dead=("readout",))
    images = {f"images/{number}.jpg": "truncated" for number in range(14)}
    folder.results = dataclasses.replace(folder.results, arms=(own,), corrupt_examples=images)
    folder.system.append(Resumed(40, 2, ("step 50: another checksum",)))
    page = page_of(folder, tmp_path)
    alert = page.one("div", class_="alert")

    assert "2 layers collapsed. B stands at a right angle to W" in words(alert)
    assert "although the rule should have brought them together: conv1 and readout." in words(alert)
    assert "1 layer dead. W got a gradient of zeros" in words(alert)
    assert "14 examples skipped." in words(alert)
    assert "1 checkpoint damaged." in words(alert)
    items = [item.text for item in alert.all("li")]
    assert (items[0], items[12], items[13]) == (
        "images/0.jpg: truncated",
        "and 2 more, in results.json",
        "step 50: another checksum",
    )
    assert list(table(section(page, "rules"), 1)) == ["1 conv1 collapsed", "2 block1.conv", "3 readout collapsed, dead"]


def test_skipped_images_are_known_before_the_end(tmp_path: Path) -> None:
    folder = training(epochs=2).until(50)
    folder.system.append(Speed(50, corrupt_examples=3))
    assert "3 examples skipped. They could not be read." in words(page_of(folder, tmp_path).one("div", class_="alert"))


def test_values_that_are_not_finite_are_said(tmp_path: Path) -> None:
    folder = training(epochs=4).change(Evaluation, lambda e: e.epoch in (2, 3), eval_accuracy=None, eval_loss=None)
    folder.change(Step, lambda line: line.step == 30, loss=None)
    angles = {"weight_angle": {"conv1": 91.0, "readout": 85.0, "block1.conv": 84.9}}
    folder.change(Readings, lambda one: one.step == 160, values=angles)
    folder.change(Readings, lambda one: one.step == 80, values={"weight_angle": {"conv1": None}})
    page = page_of(folder, tmp_path)

    assert "validation accuracy: not finite at epochs 2–3." in section(page, "accuracy").text
    notes = section(page, "loss").one("ul", class_="notes").text
    assert "validation loss: not finite at epochs 2–3." in notes
    assert "training loss: not finite in 1 line of the log." in notes
    angle = section(page, "metric-0")
    assert "At 85° or more when last measured: 2 of 3 layers: conv1 and readout." in words(angle)
    assert "conv1: not finite at some measurements." in angle.one("ul", class_="notes").text


def test_a_training_of_which_nothing_is_finite_still_has_its_page(tmp_path: Path) -> None:
    folder = training(epochs=2).change(Step, loss=None, learning_rate=None, backward_rate=None)
    folder.change(Evaluation, **dict.fromkeys(f.name for f in dataclasses.fields(Evaluation) if "_" in f.name))
    folder.change(Readings, values={"weight_angle": dict.fromkeys(FEW)})
    folder.system = [Speed(40)]
    page = page_of(folder, tmp_path)
    assert summary(page) == "Finished after 2 epochs: no validation accuracy is finite."
    assert words(section(page, "metric-0").one("p")) == "No finite number was measured here."


def test_figures_say_where_their_curves_begin_and_end(tmp_path: Path) -> None:
    folder = training(epochs=3).change(Evaluation, lambda e: e.epoch == 0, eval_accuracy=0.1, eval_loss=2.3)
    folder.change(Evaluation, lambda e: e.epoch == 3, eval_accuracy=0.875, train_accuracy=0.9, eval_loss=0.4)
    folder.change(Evaluation, lambda e: e.epoch == 3, test_accuracy=0.8, test_loss=0.6)
    folder.change(Step, lambda line: line.step == 3 * PER_EPOCH, loss=0.31)
    page = page_of(folder, tmp_path)

    assert "Validation accuracy from 10.0 at epoch 0 to 87.5 at epoch 3. Test accuracy is 80.0" in label(
        page, "accuracy"
    )
    shown = {"training accuracy": "90.0", "validation accuracy": "87.5", "test accuracy": "80.0"}
    assert key(section(page, "accuracy")) == shown
    assert "Validation loss from 2.3 at epoch 0 to 0.4 at epoch 3. Test loss is 0.6 at" in label(page, "loss")
    assert key(section(page, "loss")) == {"training loss": "0.31", "validation loss": "0.4", "test loss": "0.6"}
    last = folder.of(Readings)[-1].values["weight_angle"]
    shown = {name: text.degrees(angle) for name, angle in last.items()}
    assert key(section(page, "metric-0")) == shown
    assert {name.split()[1]: cells[0] for name, cells in table(section(page, "rules"), 1).items()} == shown
    assert list(key(section(page, "metric-2"))) == ["the whole network"]


def test_many_layers_become_a_map_with_a_scale_and_one_row_a_rule(tmp_path: Path) -> None:
    folder = training(MANY, epochs=5)
    formulas = {layer: "first" if layer == "conv1" else "others" for layer in MANY}
    folder.change(Start, arms=(Arm("symmetric_alignment", 0, formulas),))
    ends = {"weight_angle": dict.fromkeys(MANY, 5.0) | {"fc": 88.0, "conv1": 12.0}}
    folder.change(Readings, lambda one: one.epoch == 5, values=ends)
    own = dataclasses.replace(folder.results.arms[0], readings=ends)
    folder.results = dataclasses.replace(folder.results, arms=(own,))
    page = page_of(folder, tmp_path)

    angle = section(page, "metric-0")
    assert "At the end: 5.0 to 88.0, median 5.0." in label(page, "metric-0")
    assert "At 85° or more when last measured: 1 of 110 layers: fc." in words(angle)
    ticks = [tick.text for tick in angle.one("svg", role="img").all("text")]
    assert {"0", "30", "60", "90"} <= set(ticks)  # the bar beside the map
    mean = text.degrees((107 * 5 + 5 + 88) / 109)
    assert {rule: (cells[-1], cells[0]) for rule, cells in table(section(page, "rules")).items()} == {
        "first": ("1: conv1", "12.0"),
        "others": ("109: stage1.0.conv1, stage1.0.conv2, stage1.1.conv1 and 106 more", mean),
    }
    assert len(table(section(page, "rules"), 1)) == len(MANY)


def test_rates_and_coefficients_have_panels(tmp_path: Path) -> None:
    folder = training(epochs=2, coefficients={"amp": 1 / 80}).change(Step, learning_rate=0.001, gradient_norm=2.0)
    folder.change(Step, lambda line: line.step == 10, learning_rate=0.1)
    panels = section(page_of(folder, tmp_path), "rates").all("div", class_="panel")
    titles = ["learning rate of W, log", "learning rate of B", "norm of W’s gradient", "coefficient amp"]
    titles.append("examples a second")
    assert [panel.one("p").text for panel in panels] == titles
    found = [labels(panel)[0] for panel in panels]
    assert found[0] == "learning rate of W against step: from 0.1 at step 10 to 0.001 at step 80."
    assert found[3] == "coefficient amp against step: from 0.125 at step 10 to 1 at step 80."


def test_resumes_and_the_speed_are_there(tmp_path: Path) -> None:
    folder = training(epochs=2)
    folder.system.insert(4, Resumed(20))
    page = page_of(folder, tmp_path)
    assert "taken up again at step 20 · 90 min since then" in words(page.one("p", class_="facts"))
    assert "examples a second" in [panel.one("p").text for panel in section(page, "rates").all("div", class_="panel")]


def test_one_epoch_and_top5_of_few_classes(tmp_path: Path) -> None:
    page = page_of(training(epochs=1, classes=5), tmp_path)
    assert summary(page).startswith("Finished after 1 epoch: ")
    assert "top-5" not in summary(page)


def test_a_folder_is_named_however_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = training(epochs=1).write(tmp_path / "-my run")
    monkeypatch.chdir(folder)
    assert "--out './-my run'" in section(page_of(Path(".")), "resume").one("pre").text


# --- Parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "log", "unit", "expected"),
    [
        ([0.5, 2.0], True, "", (0.5 / 1.3, 2.6, True)),
        ([0.0, 2.0], True, "", (0.0, 2.12, False)),  # no logarithm of 0
        ([5.0, 80.0], False, "degrees", (-2.0, 92.0, False)),
        ([5.0, 92.0], False, "degrees", (-2.0, 94.0, False)),
        ([5.0, 130.0], False, "degrees", (-2.0, 182.0, False)),
        ([], False, "", (0.0, 1.06, False)),
    ],
)
def test_axes_hold_their_values(values: list[float], log: bool, unit: str, expected: tuple[float, float, bool]) -> None:
    found = figure.scale_of(values, log=log, unit=unit)
    assert (found.low, found.high, found.log) == pytest.approx(expected)


def test_no_two_of_forty_lines_look_the_same() -> None:
    looks = [figure.look(number) for number in range(40)]
    assert len(set(looks)) == 40
    for one, other in itertools.pairwise(looks):  # neighbours differ in more than their colour
        assert one.dashes != other.dashes
        assert one.marker != other.marker


def test_words_break_only_inside_long_names_and_are_escaped() -> None:
    assert breaking("a b_c") == 'a <span class="word">b_<wbr>c</span>'
    assert breaking("<b> x_<i>") == '&lt;b&gt; <span class="word">x_<wbr>&lt;i&gt;</span>'


@pytest.mark.parametrize(
    ("show", "cases"),
    [
        (text.percent, {0.981: "98.1", None: "–"}),
        (text.points, {-0.0061: "−0.6", 0.0061: "+0.6", -0.0001: "0.0"}),
        (text.degrees, {12.34: "12.3"}),
        (text.number, {0.012345: "0.0123", -1234567.0: "−1.23e+06", 12345.6: "12,346"}),
        (text.probability, {0.0432: "0.043", 1e-9: "< 0.001"}),
        (text.short, {20000.0: "20k", 0.0001: "1e−4", 1.2e-10: "1.2e−10"}),
        (text.plain, {2.456: "2.46"}),
        (text.duration, {65.2: "65 s", 9000.0: "2.5 h"}),
        (text.ranges, {(3, 6, 7, 8): "3, 6–8"}),
        (text.listing, {("a", "b", "c"): "a, b and c"}),
        (text.setting, {None: "–", True: "true"}),
        (
            lambda value: text.setting([list(v) if isinstance(v, tuple) else v for v in value]),
            {(0, 1.5, "a", True): "0, 1.5, a, true", (): "–", ((1,), 2): "[[1], 2]"},
        ),
        (
            text.title,
            {"resnet8": "ResNet-8", "cifar10": "CIFAR-10", "kolen_pollack": "kolen pollack", "a.b:M": "a.b:M"},
        ),
        (lambda value: text.measured(value, Quantity("a", "degrees")), {12.34: "12.3"}),
        (lambda value: text.measured(value, Quantity("a", "nats")), {1.5: "1.5 nats"}),
    ],
)
def test_numbers_and_lists_as_text(show: Callable[[object], str], cases: dict[object, str]) -> None:
    assert {value: show(value) for value in cases} == cases


def test_what_a_training_writes_is_understood(tmp_path: Path) -> None:
    from backroads.train.settings import resolve
    from backroads.train.trainer import train

    config = resolve({"epochs": 1, "model_options": {"width": 2}, "threads": 1, "log_every": 4, "clip_norm": 5.0})
    results = train(config, tmp_path / "run", lambda progress: None)
    page = page_of(tmp_path / "run")
    (own,) = results.arms
    assert f"{text.percent(own.accuracy)} % test accuracy" in summary(page)
    assert [name.split()[1] for name in table(section(page, "rules"), 1)] == list(own.readings["weight_angle"])
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == json.loads(json.dumps(as_data(results)))
    assert "could not be read" not in page.text


def stored(shape: tuple[int, int, int, int], units: int, layer: str = "conv1") -> Fields:
    """Bytes 0, 1, 2, ... as images."""
    return Fields(layer, units, shape, base64.b64encode(bytes(n % 256 for n in range(math.prod(shape)))).decode())  # type: ignore[arg-type]


def with_fields(fields: Fields | None) -> Folder:
    folder = training(epochs=1)
    own = dataclasses.replace(folder.results.arms[0], fields=fields)
    folder.results = dataclasses.replace(folder.results, arms=(own,))
    return folder


@pytest.mark.parametrize("channels", [1, 3])
def test_weights_of_the_first_layer_are_shown_as_images(channels: int, tmp_path: Path) -> None:
    """The picture holds the stored bytes, one colour a weight, and nothing (transparent) between units."""
    fields = stored((4, 3, 3, channels), 12)
    page = page_of(with_fields(fields), tmp_path)
    shown = section(page, "fields")
    assert label(page, "fields") == "Weights of conv1: the first 4 of 12 units, as images of 3 by 3 pixels."
    (link,) = [value for image in shown.all("image") for key, value in image.attributes.items() if key == "href"]
    with Image.open(io.BytesIO(base64.b64decode(link.partition("base64,")[2]))) as opened:
        pixels = np.array(opened.convert("RGBA"))
    side = 3 * 8 + 2  # 8 pixels a weight, 2 between units; 3 units in the first row
    assert pixels.shape == (2 * side - 2, 3 * side - 2, 4)
    assert not pixels[:, 24:26, 3].any()
    assert not pixels[24:26, :, 3].any()
    expected = np.frombuffer(base64.b64decode(fields.values), np.uint8).reshape(fields.shape)
    for k in range(4):
        unit = pixels[side * (k // 3) :, side * (k % 3) :][:24, :24][4::8, 4::8]
        assert (unit[..., 3] == 255).all()
        np.testing.assert_array_equal(unit[..., :3], np.broadcast_to(expected[k], (3, 3, 3)))


def test_without_weights_of_images_there_is_no_such_section(tmp_path: Path) -> None:
    page = page_of(with_fields(None), tmp_path)
    assert "First layer" not in [h.text for h in page.all("h2")]


@pytest.mark.parametrize(
    "change", [{"values": "AAAA"}, {"values": "no base64!"}, {"shape": [4, 3, 3, 2]}, {"shape": [0, 3, 3, 1]}]
)
def test_weights_that_do_not_fit_their_shape_are_damage(change: dict[str, object], tmp_path: Path) -> None:
    folder = with_fields(stored((4, 3, 3, 1), 4)).write(tmp_path)
    data = json.loads((folder / "results.json").read_text())
    data["arms"][0]["fields"] |= change
    (folder / "results.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=r"results.json, field arms.0.fields.*the run folder is damaged"):
        write_report(folder)
