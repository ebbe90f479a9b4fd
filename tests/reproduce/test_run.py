"""Campaigns of a few tiny trainings: several processes, interruptions, and what several claims share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backroads.cli import main
from backroads.cli.reproduce import PLACES
from backroads.errors import ConfigError
from backroads.reproduce import run as runs
from backroads.reproduce.arms import Arm, Campaign, arms_of, unique
from backroads.reproduce.claims import Scale, claim_ids, load_claim
from backroads.reproduce.outcome import Outcome
from backroads.runs.files import write_json
from backroads.runs.progress import Progress, Report
from backroads.runs.schema import TrainingResults
from backroads.runs.settings import read_settings
from backroads.runs.verdicts import Reproduction, Trained
from backroads.train.settings import resolve
from backroads.train.trainer import train

AT_DESK = ["reproduce", "run", "M1", "M2", "--scale", "desk", "--seeds", "0"]


def campaign(*ids: str) -> Campaign:
    return Campaign(tuple(map(load_claim, ids)), "smoke", machine={"threads": 1})


@pytest.fixture
def performed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the trainings that were run, in order."""
    names: list[str] = []
    real = runs.perform

    def perform(arm: Arm, out: Path, storage: str | None, report: Report) -> str | int:
        names.append(arm.identity)
        return real(arm, out, storage, report)

    monkeypatch.setattr(runs, "perform", perform)
    return names


def test_what_claims_share_is_run_once(tmp_path: Path, performed: list[str]) -> None:
    own, told = campaign("K5", "K8"), list[Progress]()
    runs.begin(own, tmp_path / "out", resume=False)
    runs.run(own, tmp_path / "out", told.append)
    assert sum(one.line is not None and one.line.endswith(": finished") for one in told) == len(performed)
    steps = [one for one in told if one.line is None]  # of the trainings themselves
    assert sum(one.done == one.total for one in steps) >= len(performed)
    arms = [arm for claim in own.claims for arm in arms_of(claim, own)]
    assert len(performed) == len(set(performed)) == len(unique(arms)) < len(arms)
    assert {claim.verdict for claim in runs.gather(own, tmp_path / "out").claims} == {"not judged"}


def test_an_interrupted_campaign_goes_on_and_repeats_nothing(
    tmp_path: Path, performed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, whole = campaign("K8"), runs.perform
    runs.begin(own, tmp_path / "out", resume=False)
    monkeypatch.setattr(runs, "perform", lambda *words: 15 if len(performed) == 2 else whole(*words))
    with pytest.raises(runs.Interrupted):
        runs.run(own, tmp_path / "out", lambda progress: None)
    assert runs.gather(own, tmp_path / "out").claims[0].verdict == "not run"
    monkeypatch.setattr(runs, "perform", whole)
    assert runs.run(own, tmp_path / "out", lambda progress: None) == []
    assert len(performed) == len(set(performed)) == 4


def test_a_verdict_waits_for_what_it_is_about_alone(tmp_path: Path) -> None:
    own, out = campaign("M1"), tmp_path / "out"
    runs.begin(own, out, resume=False)
    # At this scale all is in float32, so that two of the arms are the same trainings.
    arms = [arm for arm in arms_of(own.claims[0], own) if arm.labels["rule"] != "backprop in float32"]
    arms.sort(key=lambda arm: arm.labels["rule"] in ("backprop", "weight_mirror"))
    verdicts = []
    for arm in arms:
        assert runs.perform(arm, out) == ""
        verdicts.append((arm.labels["rule"], runs.gather(own, out).claims[0].verdict))
    ends = [verdict for rule, verdict in verdicts if rule == "backprop"]
    assert [verdict for rule, verdict in verdicts if rule != "backprop"].count("not judged") == 1  # after the mirror
    assert ends == ["not run", "not judged"]


def test_damaged_results_are_written_again_from_the_checkpoint(tmp_path: Path) -> None:
    own, out = campaign("K8"), tmp_path / "out"
    runs.begin(own, out, resume=False)
    arm = arms_of(own.claims[0], own)[0]
    assert runs.perform(arm, out) == ""
    path = out / arm.folder / "results.json"
    whole = arm.outcome(out)
    path.write_text(path.read_text()[:40])
    assert arm.outcome(out).status == "damaged"
    assert runs.perform(arm, out) == ""
    assert arm.outcome(out).values["accuracy"] == whole.values["accuracy"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["K5", "--storage", "sqlite:///a.db"], "storage: expected postgresql://USER@HOST/DATABASE"),
        (["K5", "--storage", "mysql://a"], "storage: expected sqlite:///FILE, postgresql://USER@HOST/DATABASE"),
        (["K5", "--data", "cifar10"], "data: expected NAME=PLACE"),
        (["K5", "--data", "cifar=here"], "Did you mean 'cifar10'?"),
        (["K55"], "claim: expected one of"),
        (["K5", "--seeds", "1", "1"], "seeds: expected different"),
    ],
)
def test_bad_words_are_answered_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "run", *words, "--scale", "smoke", "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_data_that_are_not_there_are_named_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*AT_DESK, "--out", str(tmp_path / "out"), "--data", f"cifar10=folder:{tmp_path / 'none'}"])
    assert ended.value.code == 2
    assert f"cifar10: data: expected a folder of images, and {tmp_path / 'none'} is none" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_a_place_of_data_the_other_trainings_run_and_a_place_may_be_added(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    monkeypatch.setattr(runs, "perform", lambda arm, out, storage, report: names.append(arm.data) or "")
    for split in ("train", "test"):
        for name in ("one", "two"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / split / name / "0.png")
    words = [*AT_DESK, "--out", str(tmp_path / "out"), "--data", f"cifar10=folder:{tmp_path / 'data'}"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "--data imagenette=PLACE" in line
    assert set(names) == {"cifar10"}
    with pytest.raises(SystemExit) as ended:
        main([*words, f"imagenette=folder:{tmp_path / 'data'}", "--resume"])
    assert ended.value.code == 0
    assert set(names) == {"cifar10", "imagenette"}
    with pytest.raises(SystemExit):
        main([*AT_DESK, "--out", str(tmp_path / "out"), "--resume"])
    assert "resume: data: the folder has" in capsys.readouterr().err


def test_arms_with_seeds_of_their_own_have_these_unless_all_are_given() -> None:
    claim = load_claim("M1")
    for seeds, few, usual in (((), {0}, set(range(10))), ((7, 8), {7, 8}, {7, 8})):
        arms = arms_of(claim, Campaign((claim,), "desk", seeds))
        for rule, expected in (("weight_mirror", few), ("backprop", usual)):
            assert {arm.seed for arm in arms if arm.labels["rule"] == rule} == expected


def test_trainings_run_seed_by_seed_and_trials_before_what_they_choose() -> None:
    """What is stopped early has all arms with fewer seeds, not some arms with all."""
    claims = tuple(load_claim(id) for id in ("K5", "K2"))
    arms = unique([arm for claim in claims for arm in arms_of(claim, Campaign(claims, "desk"))])
    kinds = [bool(arm.own.best_of) for arm in arms]
    assert kinds == sorted(kinds)
    assert {True, False} == set(kinds)
    for chosen in (True, False):
        seeds = [arm.seed for arm in arms if bool(arm.own.best_of) is chosen]
        assert seeds == sorted(seeds)


def test_every_data_set_of_the_claims_can_be_given_a_place() -> None:
    scales: tuple[Scale, ...] = ("smoke", "desk", "paper")
    needed = {
        arm.data
        for scale in scales
        for claim in map(load_claim, claim_ids())
        for arm in arms_of(claim, Campaign((claim,), scale, (0,)))
    }
    assert needed - {"digits", "sinusoid"} == set(PLACES)


@pytest.mark.slow
def test_the_recipe_of_imagenette_trains_on_a_handful_of_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("one", "two"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for n in range(count):
                Image.fromarray(rng.integers(0, 255, (160, 160, 3), dtype=np.uint8)).save(folder / f"{n}.jpg")
    more = {"data": {"name": f"folder:{tmp_path / 'data'}"}, "run": {"epochs": 1, "batch_size": 4, "threads": 1}}
    config = resolve(read_settings("imagenette-resnet18"), more)
    results = train(config, tmp_path / "run", lambda progress: None)
    assert isinstance(results, TrainingResults)
    assert (results.arms[0].status, results.arms[0].step) == ("finished", 2)


def test_trainings_of_another_campaign_are_taken_from_its_results_and_decide_as_there(
    tmp_path: Path, performed: list[str]
) -> None:
    first, both = campaign("K8"), campaign("K8", "L5")
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    runs.begin(first, one, resume=False)
    runs.run(first, one, lambda progress: None)
    there, ran = runs.write_results(first, one), len(performed)
    runs.begin(both, two, resume=False)
    runs.add_known(runs.known_in(one / "results.json"), two)
    runs.run(both, two, lambda progress: None)
    here = runs.write_results(both, two)
    new = {arm.identity for arm in arms_of(both.claims[1], both)}
    assert set(performed[ran:]) == new
    assert here.claims[0].known == here.claims[0].done == there.claims[0].done
    assert here.claims[1].known == 0
    assert here.claims[0].decisions == there.claims[0].decisions
    assert here.claims[0].lines == there.claims[0].lines
    # What came of meta-trainings, and what came from elsewhere before, goes on to a third.
    runs.begin(both, three, resume=False)
    runs.add_known(runs.known_in(two / "results.json"), three)
    assert runs.run(both, three, lambda progress: None) == []
    assert len(performed) == ran + len(new)
    assert [claim.decisions for claim in runs.gather(both, three).claims] == [one.decisions for one in here.claims]


def test_what_is_known_replaces_nothing_and_a_damaged_one_is_run(tmp_path: Path, performed: list[str]) -> None:
    own, out = campaign("K8"), tmp_path / "out"
    arm, other = unique(arms_of(own.claims[0], own))[:2]
    runs.begin(own, out, resume=False)
    assert runs.perform(arm, out, None, lambda progress: None) == ""
    ended = arm.outcome(out)
    runs.add_known({arm.folder.name: Trained(arm.name, "finished", {"accuracy": 0.123})}, out)
    assert arm.outcome(out) == ended
    runs.add_known({other.folder.name: Trained(other.name, "diverged", {"accuracy": None}, "a reason")}, out)
    assert other.outcome(out) == Outcome("diverged", {"accuracy": None}, "a reason", known=True)
    (out / f"{other.folder}.json").write_text("{")
    assert other.outcome(out).status == "damaged"
    assert runs.perform(other, out, None, lambda progress: None) == ""
    assert other.outcome(out).status == "finished"
    assert not other.outcome(out).known


@pytest.mark.parametrize("name", ["train-../../x", "../train-0123456789abcdef", "train-0123456789abcdef\n", "a"])
def test_names_of_known_trainings_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    trained = Trained("x", "finished", {})
    write_json(tmp_path / "results.json", Reproduction("reproduce", "smoke", (), trainings={name: trained}))
    with pytest.raises(ConfigError, match="known: expected results"):
        runs.known_in(tmp_path / "results.json")


@pytest.mark.parametrize("content", [None, "", "{}", '{"kind": "train"}', "\xff"])
def test_a_file_that_is_no_results_of_a_campaign_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    words = ["reproduce", "run", "K8", "--scale", "smoke", "--known", str(tmp_path / "results.json")]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "known: expected results.json of a campaign" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
