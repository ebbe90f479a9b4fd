"""What is gathered of meta-trainings is what their run folders say."""

from __future__ import annotations

import json
from pathlib import Path

from scripts import script

from backroads.reproduce import run as runs
from backroads.reproduce.arms import Campaign
from backroads.reproduce.claims import load_claim


def test_rows_hold_what_stands_in_the_run_folders(tmp_path: Path) -> None:
    own = Campaign((load_claim("L2"), load_claim("L5")), "smoke", (3,), machine={"threads": 1})
    runs.begin(own, tmp_path / "out", resume=False)
    assert runs.run(own, tmp_path / "out", lambda progress: None) == []
    gather = script("meta_learning")
    found = gather["collected"](tmp_path / "out", {}, 2)
    rows = {(row["experiment"], row["learner"]): row["seeds"]["3"] for row in found["rows"]}
    assert {name for name, _ in rows} == {"sinusoid iid", "sinusoid continual"}
    assert {learner for name, learner in rows if name == "sinusoid continual"} == {"flp", "oml"}
    for (experiment, _), row in rows.items():
        folder = tmp_path / "out" / "runs" / row["run"]
        (evaluation,) = json.loads((folder / "evaluation.json").read_text())["ways"].values()
        assert row["mean"] == evaluation["mean"]
        assert row["course"] == evaluation["course"]
        assert [step for step, _ in row["curve"]] == [0, 3]
        assert (row["gradient_angle"] is None) == (experiment == "sinusoid iid")  # L5 alone compares with gradients
    assert len(gather["table"](found, "sinusoid continual").splitlines()) == 2 + 2
    # Of a folder that has them from another campaign, and of one that has others, they stay.
    known = runs.known_in(write(own, tmp_path / "out"))
    runs.begin(own, tmp_path / "two", resume=False)
    runs.add_known(known, tmp_path / "two")
    assert gather["collected"](tmp_path / "two", found, 2) == found
    less = Campaign((load_claim("L2"),), "smoke", (4,), machine={"threads": 1})
    runs.begin(less, tmp_path / "three", resume=False)
    runs.run(less, tmp_path / "three", lambda progress: None)
    both = gather["collected"](tmp_path / "three", found, 2)
    seeds = {(row["experiment"], row["learner"]): set(row["seeds"]) for row in both["rows"]}
    assert seeds["sinusoid continual", "flp"] == {"3"}
    assert seeds["sinusoid iid", "flp"] == {"3", "4"}


def write(own: Campaign, out: Path) -> Path:
    """Results of a campaign, in a file."""
    runs.write_results(own, out)
    return out / "results.json"
