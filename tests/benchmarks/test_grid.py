"""``benchmarks/grid.py``: what is recorded is not done again, and the numbers are those of the outcomes."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripts import script

GRID = script("grid")
ACCURACIES = {"backprop": {0: 0.9, 1: 0.8, 2: 0.7}, "mirror": {0: 0.85, 1: None, 2: 0.71}}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[Any, list[Any]]]:
    """Completes a grid of two rules with settings; the results, and what was done for them."""

    def run_grid(settings: dict[str, Any], *words: str) -> tuple[Any, list[Any]]:
        done = []

        def one(arm: Any, seed: int, folder: Path, machine: dict[str, Any]) -> dict[str, Any]:
            done.append((arm.labels["rule"], seed))
            if seed == 2 and "stop" in settings:
                raise SystemExit(143)
            accuracy = ACCURACIES[arm.labels["rule"]][seed]
            status = "diverged" if accuracy is None else "finished"
            return {"status": status, "accuracy": accuracy, "angles": {"a": 10.0 * seed, "b": None}}

        parse: argparse.ArgumentParser = GRID["parser"]("", "unused", data=False)
        given = parse.parse_args(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out.json"), *words])
        arms = [GRID["Arm"]({"rule": rule}, {"rate": settings["rate"]}) for rule in ACCURACIES]
        try:
            GRID["run_grid"](arms, given, one)
        except SystemExit as stopped:
            if stopped.code != 143:
                raise
        return json.loads((tmp_path / "out.json").read_text()), done

    return run_grid


def test_recorded_outcomes_are_not_done_again(run: Callable[..., tuple[Any, list[Any]]]) -> None:
    _, done = run({"rate": 1, "stop": True})
    assert done == [("backprop", 0), ("mirror", 0), ("backprop", 1), ("mirror", 1), ("backprop", 2)]
    results, done = run({"rate": 1}, "--only", "rule=mir*")
    assert done == [("mirror", 2)]
    assert [list(arm["seeds"]) for arm in results["arms"]] == [["0", "1"], ["0", "1", "2"]]
    results, done = run({"rate": 1})
    assert done == [("backprop", 2)]
    assert run({"rate": 1}) == (results, [])


def test_numbers_are_means_over_seeds_and_gaps_are_paired(run: Callable[..., tuple[Any, list[Any]]]) -> None:
    results, _ = run({"rate": 1})
    backprop, mirror = GRID["rows_of"](results)
    assert backprop["accuracy_mean"] == pytest.approx(0.8)
    assert backprop["accuracy_std"] == pytest.approx(0.1)
    assert backprop["gap_points"] == 0
    assert (mirror["rule"], mirror["n"], mirror["diverged"]) == ("mirror", 3, 1)
    assert mirror["accuracy_mean"] == pytest.approx((0.85 + 0.71) / 2)
    gaps = [100 * (0.85 - 0.9), 100 * (0.71 - 0.7)]  # of the seeds that did not diverge
    assert (mirror["gap_points"], mirror["gap_std"]) == pytest.approx((statistics.fmean(gaps), statistics.stdev(gaps)))
    assert mirror["gap_half"] == pytest.approx(12.7062 * statistics.stdev(gaps) / 2**0.5, rel=1e-5)  # t(1) at 0.975
    assert (mirror["angle_mean"], mirror["angle_max"]) == (10.0, 20.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "has 'backprop' with other settings; give another --out"),
        (("--only", "rul=mirror"), "expected LABEL=PATTERN with a label of rule, got 'rul=mirror'"),
        (("--only", "rule=none"), "no arm fits; there are: backprop; mirror"),
    ],
)
def test_other_settings_and_unknown_labels_are_refused(
    run: Callable[..., tuple[Any, list[Any]]], words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    run({"rate": 1}, "--seeds", "0")
    before = (tmp_path / "out.json").read_bytes()
    with pytest.raises(SystemExit, match=message):
        run({"rate": 1 if words else 2}, *words)
    assert (tmp_path / "out.json").read_bytes() == before


def test_a_file_that_no_grid_wrote_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text('{"rows": []}')
    given = GRID["parser"]("", "unused", data=False).parse_args(
        ["--runs", str(tmp_path), "--out", str(tmp_path / "out.json")]
    )
    with pytest.raises(SystemExit, match="was not written by this grid"):
        GRID["run_grid"]([GRID["Arm"]({"rule": "backprop"}, {})], given)
