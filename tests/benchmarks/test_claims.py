"""What the docs show of a campaign."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from scripts import script

from backroads.cli import main
from backroads.reproduce import run as runs
from backroads.reproduce.arms import Campaign
from backroads.reproduce.claims import load_claim

ROOT = Path(__file__).parents[2]


def test_the_file_of_the_docs_has_the_numbers_of_the_runs_and_no_place_on_this_machine(tmp_path: Path) -> None:
    folder, data = tmp_path / "campaign", tmp_path / "nowhere"
    words = ["reproduce", "run", "M1", "--scale", "smoke", "--out", str(folder), "--threads", "1"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--data", f"cifar10=folder:{data}"])
    assert not ended.value.code
    claims = script("claims")
    found = claims["collected"](folder)
    assert str(tmp_path) not in json.dumps(found)
    assert found["settings"]["data"] == {"cifar10": "PATH"}
    (machine,) = found["machines"]
    assert machine["claims"] == ["M1"]
    assert machine["torch"] == torch.__version__
    ends = [json.loads(path.read_text())["arms"][0] for path in folder.glob("runs/*/results.json")]
    accuracy = {(end["name"], end["seed"]): end["accuracy"] for end in ends}
    gaps = [accuracy["mirrored_kolen_pollack", seed] - accuracy["backprop", seed] for seed in (0, 1)]
    (decision,) = found["claims"][0]["decisions"]
    assert decision["differences"] == pytest.approx(gaps, abs=1e-12)
    (row,) = claims["verdicts"](found).splitlines()[2:]
    assert f"{100 * sum(gaps) / 2:+.2f}" in row
    assert "11 of 11" in row  # 13 arms, two of which others are, too: the recipe of this scale is in float32 already
    rows = claims["accuracies"](found).splitlines()[2:]
    assert {line.split("|")[1].strip() for line in rows} == {"M1"}
    shown = {line.split("|")[3].strip(" `"): line.split("|")[5].strip() for line in rows}
    assert shown == {
        "backprop": "2",
        "mirrored_kolen_pollack": "2",
        "feedback_alignment": "3",
        "weight_mirror": "1",
        "backprop in float32": "5",
    }
    for old in ("old\n", ""):  # a table, or none yet
        text = claims["readme"](f"before\n{claims['BEGIN']}\n{old}{claims['END']}\nafter\n", found)
        assert text.startswith("before\n")
        assert text.endswith(f"{claims['END']}\nafter\n")
        assert "old" not in text
    with pytest.raises(ValueError, match="expected the lines"):
        claims["readme"]("before\nafter\n", found)
    assert "| M1 |" in text
    assert claims["readme"](text, found) == text
    # A campaign elsewhere, of another claim, adds to it and takes nothing away.
    with pytest.raises(SystemExit):
        main(["reproduce", "run", "L2", "--scale", "smoke", "--out", str(tmp_path / "other"), "--threads", "1"])
    with pytest.raises(SystemExit):
        main(["reproduce", "run", "M1", "--scale", "smoke", "--out", str(tmp_path / "third"), "--seeds", "7"])
    whole = claims["added"](claims["collected"](tmp_path / "other"), found)
    assert whole["claims"] == [*claims["collected"](tmp_path / "other")["claims"], *found["claims"]]
    assert whole["trainings"].keys() > found["trainings"].keys()
    (machine,) = whole["machines"]
    assert machine["claims"] == ["L2", "M1"]
    less = claims["added"](claims["collected"](tmp_path / "third"), found)
    assert less["claims"] == found["claims"]
    assert less["trainings"].keys() > found["trainings"].keys()
    with pytest.raises(ValueError, match="expected results of the scale desk, got smoke"):
        claims["added"](found, {**found, "scale": "desk"})


def test_the_table_of_the_readme_is_that_of_the_committed_results() -> None:
    claims, text = script("claims"), (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count(claims["BEGIN"]) == text.count(claims["END"]) == 1
    results = json.loads((ROOT / "benchmarks/results/claims.json").read_text(encoding="utf-8"))
    assert claims["readme"](text, results) == text


def test_committed_verdicts_follow_from_the_committed_trainings(tmp_path: Path) -> None:
    file = ROOT / "benchmarks/results/claims.json"
    committed = {claim["id"]: claim for claim in json.loads(file.read_text(encoding="utf-8"))["claims"]}
    own = Campaign(tuple(load_claim(id) for id in committed), "desk")
    runs.begin(own, tmp_path / "out", resume=False)
    runs.add_known(runs.known_in(file), tmp_path / "out")
    whole = [claim for claim in runs.gather(own, tmp_path / "out").claims if claim.known == claim.trainings]
    assert {"L2", "L4", "L5"} <= {claim.id for claim in whole}
    for claim in whole:
        before = committed[claim.id]
        assert claim.verdict == before["verdict"]
        for here, there in zip(claim.decisions, before["decisions"], strict=True):
            assert here.differences == pytest.approx(there["differences"], abs=1e-12)
            assert (here.low, here.mean, here.high) == pytest.approx(
                (there["low"], there["mean"], there["high"]), abs=1e-12
            )


def test_the_table_of_the_mirrored_rule_in_the_readme_is_that_of_the_committed_results() -> None:
    results = json.loads((ROOT / "benchmarks/results/local_rules.json").read_text(encoding="utf-8"))
    _, _, *rows = script("local_rules")["claims"](results).splitlines()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(rows) == 15
    assert [row for row in rows if row not in text] == []
