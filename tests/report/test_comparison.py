"""The page of a comparison: the numbers of its table are those of the results, and its curves those of the events."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from report.folders import FEW, MANY, METRICS, RULES, Folder, comparison
from report.pages import key, labels, page_of, section, summary, table, words
from scipy import stats

from backroads.cli.compare import table as compared
from backroads.report import write_report
from backroads.runs.schema import ArmResult, Evaluation, Readings
from backroads.runs.statistics import summarise

NAMES = [name.replace("_", " ") for name in RULES]


def results_with(folder: Folder, **accuracies: list[float | None]) -> Folder:
    """The folder with these accuracies in its results, by rule, a number a seed."""

    def changed(arm: ArmResult) -> ArmResult:
        value = accuracies.get(arm.name, [arm.accuracy] * 9)[arm.seed]
        status: Any = "finished" if value is not None else "diverged"
        return dataclasses.replace(arm, accuracy=value, status=status)

    folder.results = dataclasses.replace(folder.results, arms=tuple(map(changed, folder.results.arms)))
    return folder


def panels(page: Any, name: str) -> list[str]:
    return [panel.one("p").text for panel in section(page, name).all("div", class_="panel")]


def test_the_table_shows_the_results_with_paired_intervals_n_and_p(tmp_path: Path) -> None:
    own, base = [0.97, 0.95, 0.96], [0.98, 0.97, 0.975]
    folder = comparison(["backprop", "kolen_pollack"])
    page = page_of(results_with(folder, kolen_pollack=own, backprop=base), tmp_path)
    rows = table(section(page, "results"))
    told = stats.ttest_rel(own, base)
    half = (told.confidence_interval(0.95).high - told.confidence_interval(0.95).low) / 2

    assert list(rows) == ["backprop", "kolen pollack"]
    assert rows["backprop"] == ["97.5 ± 0.5", "", "", "", "", "1.00 0.97–1.03"]
    accuracy, gap, _, n, p, time = rows["kolen pollack"]
    assert accuracy == f"96.0 ± {100 * statistics.stdev(own):.1f}"
    assert gap == f"−1.5 ± {100 * half:.1f}"
    assert (n, p, time) == ("3", f"{told.pvalue:.2g}", "1.12 1.09–1.15")
    legend = section(page, "results").one("table", class_="pairs")
    assert [th.text for th in legend.all("th")] == ["Accuracy", "Gap", "n, p", "Step time"]
    assert "measured interleaved, step by step, in the same run" in legend.text


def test_a_seed_that_diverged_is_said_and_left_out(tmp_path: Path) -> None:
    page = page_of(comparison(lost={("feedback_alignment", 2): 6}), tmp_path)
    rows = table(section(page, "results"))

    assert rows["feedback alignment 1 of 3 seeds diverged"][3] == "2"
    assert "seeds diverged under feedback alignment (1 of 3)" in summary(page)
    for name in ("accuracy", "loss"):
        notes = section(page, name).one("ul", class_="notes").text
        assert "feedback alignment: not finite: seed 2, epoch 6–15. Mean and band are over the others." in notes
        assert "symmetric alignment" not in notes


def test_every_rule_appears_in_the_table_and_in_the_figures(tmp_path: Path) -> None:
    page = page_of(comparison(), tmp_path)
    assert page.one("h1").text == "Learning rules compared: a small convolutional network on handwritten digits"
    assert list(table(section(page, "results"))) == NAMES
    assert panels(page, "accuracy") == panels(page, "loss") == NAMES
    with_angle = [name.replace("_", " ") for name, rule in RULES.items() if rule[2] is not None]
    assert panels(page, "metric-0") == with_angle
    assert panels(page, "metric-2") == NAMES  # the angle of the update: direct feedback has one too
    assert "Without such a number: direct feedback alignment." in section(page, "metric-0").text
    for name in ("accuracy", "loss", "metric-0"):
        assert [label.split(":")[0] for label in labels(section(page, name))] == panels(page, name)
    assert list(key(section(page, "loss"))) == ["validation loss", "training loss"]
    assert list(key(section(page, "metric-0"))) == list(FEW)
    shown = {row.one("th").text: words(row.one("td")) for row in section(page, "rules").all("tr")}
    assert shown == {name.replace("_", " "): rule[4] for name, rule in RULES.items()}
    headings = ["Results", "Accuracy", "Loss", *("Weight angle", "|B| / |W|", "Update angle"), "Metrics at the end"]
    assert [h.text for h in page.all("h2")] == [*headings, "Rules", "Settings", "Environment", "Repeat it"]


def test_with_methods_that_are_no_feedback_rules_it_speaks_of_methods(tmp_path: Path) -> None:
    folder = comparison(["backprop", "kolen_pollack"])
    folder.config["compare"] = {"rules": [], "methods": ["kolen_pollack"]}
    page = page_of(folder, tmp_path)
    assert page.one("h1").text.startswith("Learning methods compared")
    assert "2 methods" in page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert "rule" not in section(page, "results").text.lower()


def test_metrics_at_the_end_are_means_over_layers_and_seeds(tmp_path: Path) -> None:
    folder = comparison(["backprop", "kolen_pollack"])
    readings = {"weight_angle": {"conv1": 10.0, "readout": 20.0}, "update_angle": {"": 30.0}}
    folder.results = dataclasses.replace(
        folder.results, arms=tuple(dataclasses.replace(arm, readings=readings) for arm in folder.results.arms)
    )
    rows = table(section(page_of(folder, tmp_path), "alignment"))
    assert rows["kolen pollack"] == ["15.0 ± 0.0", "–", "30.0 ± 0.0"]


@pytest.mark.parametrize(
    ("rules", "accuracies", "expected"),
    [
        (
            ["backprop", "symmetric_alignment", "kolen_pollack", "direct_feedback_alignment"],
            {
                "backprop": 0.98,
                "symmetric_alignment": 0.9696,
                "kolen_pollack": 0.9694,
                "direct_feedback_alignment": 0.9,
            },
            "Within one point of backprop at 98.0 ± 0.0 % test accuracy or above it: symmetric alignment; the lowest: "
            "direct feedback alignment at 90.0 ± 0.0 % (gap −8.0 points); n = 2 seeds.",
        ),
        (
            ["backprop", "symmetric_alignment", "kolen_pollack"],
            {"backprop": 0.9, "symmetric_alignment": 0.95, "kolen_pollack": 0.9},
            "Within one point of backprop at 90.0 ± 0.0 % test accuracy or above it: all 2 other rules; the lowest: "
            "kolen pollack at 90.0 ± 0.0 % (gap 0.0 points); n = 2 seeds.",
        ),
        (["backprop"], {"backprop": 0.9}, "Backprop at 90.0 ± 0.0 % test accuracy, alone; n = 2 seeds."),
        (
            ["symmetric_alignment", "kolen_pollack"],
            {"symmetric_alignment": 0.95, "kolen_pollack": 0.9},
            "The highest test accuracy: symmetric alignment at 95.0 ± 0.0 %; no baseline to compare; the lowest: kolen "
            "pollack at 90.0 ± 0.0 %; n = 2 seeds.",
        ),
    ],
)
def test_the_summary(rules: list[str], accuracies: dict[str, float], expected: str, tmp_path: Path) -> None:
    folder = comparison(rules, seeds=2, epochs=2)
    assert summary(page_of(results_with(folder, **{n: [a, a] for n, a in accuracies.items()}), tmp_path)) == expected


def test_a_run_in_which_everything_diverged_still_has_its_figures(tmp_path: Path) -> None:
    rules = ["backprop", "kolen_pollack"]
    page = page_of(comparison(rules, lost={(name, seed): 1 for name in rules for seed in range(3)}), tmp_path)
    assert "No rule has a finite test accuracy" in summary(page)
    assert len(panels(page, "accuracy")) == 2
    assert table(section(page, "results"))["kolen pollack 3 of 3 seeds diverged"][0] == "–"


def test_one_that_is_running_shows_what_is_there(tmp_path: Path) -> None:
    folder = comparison(["backprop", "kolen_pollack"], epochs=4).until(120)
    page = page_of(folder, tmp_path)
    assert summary(page).startswith("Unfinished at step 120 of 160 (epoch 3): still running, or killed. ")
    last = [e.eval_accuracy for e in folder.of(Evaluation) if e.epoch == 3 and e.arm >= 3]
    assert table(section(page, "results"))["kolen pollack"][0].startswith(f"{100 * statistics.mean(last):.1f} ±")


def test_the_line_follows_the_means_over_the_seeds_on_a_linear_axis(tmp_path: Path) -> None:
    folder = comparison(["backprop", "symmetric_alignment"])
    own = [e for e in folder.of(Evaluation) if e.arm >= 3]
    means = [statistics.mean(e.eval_accuracy for e in own if e.epoch == n) for n in range(16)]
    page = write_report(folder.write(tmp_path)).read_text(encoding="utf-8")
    panel = re.search(r'<svg[^>]*aria-label="symmetric alignment: mean validation accuracy.*?</svg>', page)
    assert panel
    (path,) = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: var\(--series-1\)', panel[0])
    line = [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)]
    assert len(line) == 16
    steps = [after[0] - before[0] for before, after in itertools.pairwise(line)]
    assert max(steps) - min(steps) < 0.05
    scale = (line[0][1] - line[-1][1]) / (means[-1] - means[0])
    assert scale > 0
    assert [y for _, y in line] == pytest.approx([line[0][1] - scale * (m - means[0]) for m in means], abs=0.05)


def test_losses_that_explode_do_not_flatten_the_others(tmp_path: Path) -> None:
    folder = comparison(["backprop", "symmetric_alignment"])
    folder.change(Evaluation, lambda e: e.arm == 4 and e.epoch == 3, train_loss=1e308, eval_loss=1e200)
    loss = section(page_of(folder, tmp_path), "loss")
    assert "are cut off" in loss.one("figcaption").text
    ticks = [float(label.text) for label in loss.all("div", class_="panel")[0].all("text")]
    assert max(ticks) <= 100


def test_one_epoch_zero_losses_and_one_seed_are_drawn(tmp_path: Path) -> None:
    folder = comparison(["backprop", "kolen_pollack"], seeds=1, epochs=1).change(Evaluation, eval_loss=0.0)
    page = page_of(folder, tmp_path)
    assert len(panels(page, "loss")) == 2
    assert "Logarithmic" not in section(page, "loss").text
    assert table(section(page, "results"))["kolen pollack"][3:5] == ["1", "–"]  # one pair has no test


def test_all_panels_share_their_axes_however_long_their_rule_was_measured(tmp_path: Path) -> None:
    folder = comparison(["backprop", "symmetric_alignment", "kolen_pollack"])
    kinds = (Evaluation, Readings)
    folder.events = [e for e in folder.events if not (isinstance(e, kinds) and e.arm >= 6 and (e.epoch or 0) > 4)]
    page = page_of(folder, tmp_path)
    for name in ("accuracy", "loss", "metric-0"):
        ticks = [
            [label.text for label in panel.all("text")] for panel in section(page, name).all("div", class_="panel")
        ]
        assert ticks[0] == ticks[-1]
        assert "15" in ticks[-1]
    assert "not finite: seed 0, epoch 5–15; seed 1" in section(page, "accuracy").text


def test_many_layers_become_their_median_and_range(tmp_path: Path) -> None:
    page = page_of(comparison(["backprop", "kolen_pollack"], layers=MANY, epochs=2), tmp_path)
    angle = section(page, "metric-0")
    assert "median over 110 layers; the band is from lowest to highest" in words(angle)
    assert METRICS["weight_angle"].about in words(angle)
    assert not angle.all("ul", class_="key")
    assert "median from 90.0 at epoch 0" in labels(angle)[1]


def test_a_gap_is_above_zero_where_the_rule_is_better_than_the_baseline(tmp_path: Path) -> None:
    # By seed: baseline 0.70 and 0.60; the better rule is 0.20 above it in both, the worse one 0.10 below.
    own = {"backprop": [0.7, 0.6], "kolen_pollack": [0.9, 0.8], "weight_mirror": [0.6, 0.5]}
    folder = results_with(comparison(list(own), seeds=2, epochs=1), **own)
    gaps = {row.name: row.gap.mean for row in summarise(folder.results) if row.gap is not None}
    assert gaps == {
        "backprop": 0.0,
        "kolen_pollack": pytest.approx(0.2),
        "weight_mirror": pytest.approx(-0.1),
    }
    printed = {line.split("  ")[0]: line for line in compared(folder.results).splitlines() if line}
    assert "+20.00" in printed["kolen pollack"]
    assert "-10.00" in printed["weight mirror"]

    page = page_of(folder, tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())["arms"]
    assert {arm["name"]: arm["accuracy"] for arm in written if arm["seed"] == 0}["kolen_pollack"] == 0.9
    assert "or above it: kolen pollack; the lowest: weight mirror" in summary(page)
    assert "(gap −10.0 points)" in summary(page)
    assert "+20.0" in table(section(page, "results"))["kolen pollack"][1]
    assert "−10.0" in table(section(page, "results"))["weight mirror"][1]
    drawings = {svg.attributes["aria-label"]: svg for svg in section(page, "results").all("svg", role="img")}
    sides = {}
    for label, svg in drawings.items():
        (mark,) = svg.all("use")
        zero = next(path.attributes["d"] for path in svg.all("path") if "M " in path.attributes["d"])
        sides[label.partition(" points")[0]] = float(mark.attributes["x"]) - float(zero.split()[1])
    assert sides["Gap of kolen pollack: +20.0"] > 0 > sides["Gap of weight mirror: −10.0"]
    assert sides["Gap of kolen pollack: +20.0"] == pytest.approx(-2 * sides["Gap of weight mirror: −10.0"], rel=0.01)
