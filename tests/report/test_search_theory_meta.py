"""The pages of a search, of the theory, of meta-trainings and of claims."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
from report.folders import Folder, meta, reproduction, search, theory
from report.pages import key, labels, page_of, section, summary, table, words

from backroads.errors import ConfigError
from backroads.report import write_report
from backroads.report.read import read_record
from backroads.report.search import PRIMITIVES, effects
from backroads.report.theory import agreement
from backroads.runs.results import NetworkDiagram, Outcome, Transfer, TransferCell, TransferRow
from backroads.runs.schema import Lifetimes, MetaResults, Resumed, Step, Stopped

# --- Search ----------------------------------------------------------------------------------------------------------


def test_groups_stand_by_rank_with_their_numbers(tmp_path: Path) -> None:
    folder = search()
    page = page_of(folder, tmp_path)
    rows = table(section(page, "ranking"))
    ranked = sorted(folder.results.groups, key=lambda group: -group.best)

    assert list(rows) == [group.group for group in ranked]
    for group in ranked:
        best, median, test, complete, pruned, failed, _ = rows[group.group]
        assert (best, median) == (f"{100 * group.best:.1f}", f"{100 * group.quartiles[1]:.1f}")
        assert test == "96.5 ± 6.3"
        assert (complete, pruned) == (str(group.ended["complete"]), str(group.ended["pruned"]))
        assert failed == str(group.ended["diverged"])
    assert page.one("h1").text == "Subsets of the primitives searched on handwritten digits"
    assert f"trial {ranked[0].best_number} of {ranked[0].group}" in summary(page)
    assert "Trained again on the whole training split with 3 fresh seeds" in summary(page)
    top = f"{folder.beside['promote.json'].rows[0].number} none"
    assert table(section(page, "promoted"))[top][1:] == ["96.5 ± 6.3", "3, 1 diverged"]
    assert table(section(page, "transfer")) == {"backprop": ["97.0", "97.0"]}
    assert "4 × " not in page.text
    assert table(section(page, "failures")) == {"diverged: the loss of step … is not finite": ["4"]}


def test_every_value_has_a_slice_with_its_choices_by_name_and_the_numbers_have_pairs(tmp_path: Path) -> None:
    page = page_of(search(), tmp_path)
    slices = {panel.one("p").text: panel for panel in section(page, "slices").all("div", class_="panel")}
    assert list(slices) == ["learning_rate", "center_input", "decay", "amp"]
    assert {"false", "true"} <= {label.text for label in slices["center_input"].all("text")}
    pairs = [panel.one("p").text for panel in section(page, "pairs").all("div", class_="panel")]
    assert pairs == ["decay (upwards) and learning_rate", "amp (upwards) and learning_rate", "amp (upwards) and decay"]
    assert len(key(section(page, "pairs"))) == 7
    assert table(section(page, "importance"))["learning_rate"][1] == "70.0"


def test_a_search_that_has_just_begun_has_its_page(tmp_path: Path) -> None:
    folder = search()
    empty = dataclasses.replace(folder.results.groups[0], best=None, quartiles=None, best_number=None, ended={})
    folder.results = dataclasses.replace(folder.results, groups=(empty,), trials=(), settled=0, importances={})
    folder.beside = {}
    page = page_of(folder, tmp_path)
    assert summary(page).startswith("Unfinished No trial is complete yet. 48 trials still to come.")
    assert "No trial is complete yet." in section(page, "best").text


def test_a_search_without_groups_is_damaged(tmp_path: Path) -> None:
    folder = search()
    folder.results = dataclasses.replace(folder.results, groups=())
    with pytest.raises(ConfigError, match="expected at least one group"):
        write_report(folder.write(tmp_path))


def test_effects_of_primitives_are_means_over_the_others() -> None:
    """An accuracy that is linear in the primitives, with one pair that helps beyond their sum."""
    gain = dict(zip(PRIMITIVES, (0.01, -0.02, 0.03, 0.0, 0.05), strict=True))
    scores = {
        frozenset(names): 0.5 + sum(gain[name] for name in names) + (0.1 if {"decay", "amp"} <= set(names) else 0.0)
        for size in range(6)
        for names in itertools.combinations(PRIMITIVES, size)
    }
    found = effects(scores)
    assert found[2, 2] == pytest.approx(0.03)  # null alone
    assert found[0, 0] == pytest.approx(0.01 + 0.05)  # half of the others' subsets have amp
    assert found[1, 0] == pytest.approx(0.01 - 0.02 + 0.1)
    assert found[4, 2] == pytest.approx(0.08)
    del scores[frozenset()]
    assert effects({frozenset(): 0.5}) == {}
    assert effects(scores)[2, 2] == pytest.approx(0.03)  # pairs without an accuracy are left out


def test_effects_where_seeds_diverged_are_of_medians_and_leave_out_what_mostly_diverged(tmp_path: Path) -> None:
    folder = search()
    accuracies = {
        "none": (0.90, None, 0.92),  # a seed that diverged counts as 0: the median is 0.90
        "decay": (0.95, 0.97, 0.96),
        "amp": (None, 0.99, None),  # most diverged: no accuracy
        "decay+amp": (0.80, 0.80, 0.80),
    }
    promotion = folder.beside["promote.json"]
    rows = tuple(dataclasses.replace(row, accuracies=accuracies[row.group]) for row in promotion.rows)
    folder.beside["promote.json"] = dataclasses.replace(promotion, rows=rows)
    effect = table(section(page_of(folder, tmp_path), "together"))
    assert effect["decay"][0] == "+6.0"  # 0.96 - 0.90; with amp there is nothing to compare it with
    assert effect["amp"][:2] == ["−10.0", "−16.0"]  # 0.80 - 0.90 with decay too; 0.80 - 0.96


def test_a_groups_test_accuracy_is_that_of_its_best_trial(tmp_path: Path) -> None:
    folder = search()
    promotion = folder.beside["promote.json"]
    second = [dataclasses.replace(row, number=row.number + 1000, mean=0.5, interval=None) for row in promotion.rows]
    folder.beside["promote.json"] = dataclasses.replace(promotion, rows=(*promotion.rows, *second))
    rows = table(section(page_of(folder, tmp_path), "ranking"))
    assert {row[2] for row in rows.values()} == {"96.5 ± 6.3"}


def test_points_lost_in_transfer_have_their_sign(tmp_path: Path) -> None:
    """Backprop: 90 % at home, 95 % there. The rule: 80 % and 60 %: gaps of 10 and 35 points, so 25 are lost."""

    def cells(home: float, there: float, lost: float) -> dict[str, TransferCell]:
        return {"home": TransferCell((home,), home, None, 0.0), "there": TransferCell((there,), there, None, lost)}

    folder = search()
    rows = (TransferRow("backprop", cells(0.9, 0.95, 0.0)), TransferRow("decay", cells(0.8, 0.6, 0.25)))
    folder.beside["transfer.json"] = Transfer(("home", "there"), rows)
    page = page_of(folder, tmp_path)
    assert table(section(page, "transfer")) == {"backprop": ["90.0", "95.0"], "decay": ["80.0", "60.0 +25.0"]}


# --- Theory ----------------------------------------------------------------------------------------------------------


def test_the_headline_says_how_the_network_compares_and_the_key_has_what_is_drawn(tmp_path: Path) -> None:
    folder = theory()
    page = page_of(folder, tmp_path)
    diagram = folder.results["diagram"]
    fates = {fate for name in ("closed", "followed") for row in diagram[name] for fate in row}
    assert set(key(section(page, "diagram"))) == fates
    marks = {outcome["fate"] for row in folder.results["network"]["outcomes"] for outcome in row}
    assert set(key(section(page, "network"))) == marks
    assert "A network trained for a short time does what the closed form says" in summary(page)
    agreed, of = agreement(read_record(tmp_path).results.network)
    assert f"at {agreed} of {of} points of the diagram" in summary(page)
    assert agreed < of
    assert "Where they do not: the closed form treats one layer" in words(section(page, "network"))
    ticks = [label.text for drawing in section(page, "mirror").all("svg", role="img") for label in drawing.all("text")]
    assert "1" in ticks
    assert not [tick for tick in ticks if "10^" in tick or "×" in tick]


def test_agreement_counts_marks_that_shrink_where_the_theory_expects_it() -> None:
    fates = (("collapses", "settles"), ("settles", "explodes"))
    outcomes = tuple(tuple(Outcome(fate, None, None, None) for fate in row) for row in fates)  # type: ignore[arg-type]
    found = NetworkDiagram((0.0, 1.0), (0.0, 1.0), outcomes, {}, ((-1.0, 1.0), (-1.0, 1.0)), (0.0, 1.0), (0.0, 1.0))
    assert agreement(found) == (3, 4)


def test_without_a_network_there_is_no_such_section(tmp_path: Path) -> None:
    folder = theory()
    folder.results["network"] = None
    page = page_of(folder, tmp_path)
    assert not page.all("section", **{"aria-labelledby": "network"})
    assert "A network" not in summary(page)


# --- Meta-training ---------------------------------------------------------------------------------------------------


def test_a_meta_training_that_finished(tmp_path: Path) -> None:
    page = page_of(meta(), tmp_path)
    assert page.one("h1").text == "FLP learns to learn Omniglot"
    assert summary(page).startswith("Finished after 100 steps: 87.9 ± 2.0 % accuracy on validation tasks.")
    rows = section(page, "results").one("tbody").all("tr")
    assert [words(row.all("td")[0]) for row in rows] == ["2", "4", "8"]
    assert "weights of meta-step 100" in words(rows[0])
    assert "from" in labels(section(page, "loss"))[0]
    scale = [label.text for label in section(page, "retention").one("svg", role="img").all("text")]
    assert {"0", "100"} <= set(scale)
    assert len(section(page, "updates").all("div", class_="panel")) == 3


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (None, "Unfinished at step 40 of 100: still running, or killed."),
        (Stopped(40, 15), "Stopped by signal 15 (SIGTERM) at step 40 of 100, before its end."),
        ("diverged", "Diverged at step 40 of 100: gradients were not finite."),
    ],
)
def test_an_interrupted_one_says_so_in_the_headline(end: Any, said: str, tmp_path: Path) -> None:
    folder = meta().until(40)
    folder.beside = {}
    if isinstance(end, Stopped):
        folder.system.append(end)
    if end == "diverged":
        reason = "gradients were not finite"
        folder.results = MetaResults("meta", "diverged", 40, reason, skipped=3, skipped_by_parameter={"W1": 3})
    page = page_of(folder, tmp_path)
    assert summary(page).startswith(said)
    assert ("3 meta-steps skipped" in page.text) == (end == "diverged")
    assert "weights of meta-step 40" in section(page, "results").text


def test_errors_instead_of_accuracies_have_an_axis_of_their_own(tmp_path: Path) -> None:
    folder = meta(measure="mean squared error").change(Lifetimes, lambda one: one.step == 20, mean=None)
    folder.change(Step, lambda one: one.step == 5, loss=None)
    folder.system.append(Resumed(40, problems=("step 40: another checksum",)))
    folder.beside = {}
    page = page_of(folder, tmp_path)
    assert "mean squared error on validation tasks" in summary(page)
    assert "%" not in section(page, "validation").text
    assert "1 checkpoint damaged" in page.one("div", class_="alert").text


def test_one_that_has_only_begun_has_its_page(tmp_path: Path) -> None:
    folder = meta().until(0)
    folder.events, folder.beside = folder.events[:1], {}
    assert "Nothing was evaluated yet" in summary(page_of(Folder(folder.config, folder.events), tmp_path))


# --- Claims ----------------------------------------------------------------------------------------------------------


def test_what_has_an_order_is_shown_as_lines_and_what_has_none_as_rows(tmp_path: Path) -> None:
    folder = reproduction()
    page = page_of(folder, tmp_path)
    assert not section(page, "K5").all("div", class_="panel")
    assert "1 of 6 trainings" in section(page, "K5").text
    line = folder.results.claims[0].lines[0]
    assert set(line.labels) <= {label.text for label in section(page, folder.results.claims[0].id).all("text")}
    panels = {panel.one("p").text: panel for panel in section(page, "K7").all("div", class_="panel")}
    names = [line.name for line in folder.results.claims[1].lines]
    assert list(panels) == ["0", "0.001", "0.01"]
    for panel in panels.values():
        assert names == [label.text for label in panel.all("text") if label.text in names]
