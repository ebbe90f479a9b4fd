"""Decisions and identities, against arithmetic done by hand; nothing is trained."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, get_args

import pytest

from backroads.errors import ConfigError
from backroads.reproduce.arms import Arm, Campaign, arms_of, unique
from backroads.reproduce.claims import Claim, Scale, claim_ids, load_claim
from backroads.reproduce.outcome import Outcome, of_lifetimes, outcome
from backroads.reproduce.run import begin, campaign_in, gather
from backroads.reproduce.verdict import decide, verdict_of
from backroads.runs.schema import Lifetimes
from backroads.runs.statistics import wilson
from backroads.train.settings import TrainSettings


def claim(decisions: list[dict[str, Any]], **more: Any) -> Claim:
    trainings = {"main": {"axes": {"rule": {"backprop": {}, "other": {}}}}}
    words = {"source": "", "sentence": "", "quantity": "", "trainings": trainings, "scales": {}}
    return Claim(id="X", decisions=[{"says": "it holds", **one} for one in decisions], **{**words, **more})


def ended(
    value: float | None, rule: str, seed: int = 0, status: Any = "finished", **labels: str
) -> tuple[Arm, Outcome]:
    own: Any = None
    arm = Arm("X", "main", {"rule": rule, **labels}, seed, "train", "digits", TrainSettings(), own)
    return arm, Outcome(status, {"accuracy": value})


def matches(above: float) -> list[dict[str, Any]]:
    return [{"plus": {"rule": ["other"]}, "minus": {"rule": ["backprop"]}, "above": above}]


def test_a_decision_is_students_interval_of_the_differences_of_each_seed() -> None:
    runs = [ended(v, "backprop", s) for s, v in enumerate((0.5, 0.6, 0.7))]
    runs += [ended(v, "other", s) for s, v in enumerate((0.51, 0.62, 0.73))]
    (one,) = decide(claim(matches(0.0)), runs)
    # Differences 0.01, 0.02, 0.03: mean 0.02, deviation 0.01; Student's t of 2 degrees at 97.5 %: 4.302653.
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert one.differences == pytest.approx((0.01, 0.02, 0.03))
    assert (one.low, one.high) == pytest.approx((0.02 - half, 0.02 + half), rel=1e-5)
    assert one.verdict == "undecided"  # -0.0048 to 0.0448
    assert decide(claim(matches(-0.005)), runs)[0].verdict == "confirmed"
    assert decide(claim(matches(0.045)), runs)[0].verdict == "contradicted"


def test_a_seed_counts_only_with_all_its_trainings_and_one_seed_decides_nothing() -> None:
    runs = [
        ended(0.5, "backprop", 0),
        ended(0.9, "other", 0),
        ended(0.5, "backprop", 1),
        ended(None, "other", 1, "missing"),
    ]
    (one,) = decide(claim(matches(0.0)), runs)
    assert (one.seeds, one.verdict) == ((0,), "undecided")


def test_a_training_that_diverged_has_the_accuracy_of_chance() -> None:
    runs = [ended(0.5, "backprop", 0), ended(None, "other", 0, "diverged")]
    assert decide(claim(matches(0.0)), runs)[0].differences == pytest.approx((0.1 - 0.5,))


@pytest.mark.parametrize(("of", "name"), [("score", "accuracy"), ("retention", "accuracy kept")])
def test_numbers_of_classes_are_named_accuracies_and_those_of_errors_are_not(of: str, name: str) -> None:
    decision = [{**matches(0.0)[0], "value": of}]
    for more, expected in (({"accuracy": 0.5}, name), ({}, of)):
        runs = [
            (arm, Outcome("finished", {of: 0.5, **more})) for arm, _ in (ended(0.5, "backprop"), ended(0.5, "other"))
        ]
        assert decide(claim(decision), runs)[0].value == expected
        assert decide(claim(decision), [(arm, Outcome("missing")) for arm, _ in runs])[0].value == of


def test_the_slope_is_that_of_the_least_squares_line() -> None:
    fall = [{**matches(0.0)[0], "falls": True, "over": "depth"}]
    own = claim(fall, places={"depth": {"a": 1.0, "b": 2.0, "c": 4.0}})
    runs = [ended(0.5, "backprop", s, depth=d) for s in (0, 1) for d in "abc"]
    runs += [
        ended(0.5 - 0.02 * x + 0.1, "other", s, depth=d) for s in (0, 1) for d, x in (("a", 1), ("b", 2), ("c", 4))
    ]
    (one,) = decide(own, runs)
    assert one.differences == pytest.approx((0.02, 0.02))
    assert one.verdict == "confirmed"


def test_what_is_lost_in_transfer_is_a_difference_of_differences() -> None:
    own = [{"plus": {"rule": ["backprop"]}, "minus": {"rule": ["other"]}, "less": {"network": ["home"]}}]
    runs = [ended(0.9, "backprop", network="home"), ended(0.8, "other", network="home")]
    runs += [ended(0.9, "backprop", network="away"), ended(0.5, "other", network="away")]
    assert decide(claim(own), runs)[0].differences == pytest.approx((0.4 - 0.1,))


def test_a_share_of_trials_has_wilsons_interval() -> None:
    assert wilson(10, 10) == pytest.approx((0.722467, 1.0), abs=1e-6)  # 10 / (10 + 1.959964^2)
    own = [{"plus": {"rule": ["other"]}, "value": "failed", "pairs": "trial", "above": 0.5}]
    values = [0.9, *[0.79] * 8, 0.81]  # more than 10 points below the best, 8 of 10
    runs = [ended(v, "other", n, trial=str(n)) for n, v in enumerate(values)]
    (one,) = decide(claim(own), runs)
    assert one.mean == pytest.approx(0.8)
    assert (one.low, one.high) == pytest.approx(wilson(8, 10))


def test_all_decisions_must_hold_and_nothing_is_said_before_the_end() -> None:
    runs = [ended(v, "backprop", s) for s, v in enumerate((0.5, 0.6))]
    runs += [ended(v, "other", s) for s, v in enumerate((0.6, 0.7))]
    yes, no = decide(claim([*matches(0.0), *matches(0.2)]), runs)
    assert (yes.verdict, no.verdict) == ("confirmed", "contradicted")
    assert verdict_of([yes, no], complete=True) == "contradicted"
    assert verdict_of([yes], complete=True) == "confirmed"
    assert verdict_of([yes], complete=False) == "not run"


def test_retention_is_the_score_at_the_end_less_that_right_after_learning() -> None:
    course: list[list[float | None]] = [[0.9, 0.2, 0.2], [0.8, 0.7, 0.2], [0.5, 0.6, 0.9]]
    found = of_lifetimes(Lifetimes("accuracy", 4, mean=0.6, course=course))
    assert found["retention"] == pytest.approx(((0.5 - 0.9) + (0.6 - 0.7)) / 2)
    errors = of_lifetimes(Lifetimes("mean squared error", 4, mean=math.e, course=[[1.0, 9.0], [math.e, 1.0]]))
    assert errors["retention"] == pytest.approx(-1.0)
    assert errors["score"] == pytest.approx(-1.0)


@pytest.mark.parametrize("id", claim_ids())
def test_every_claim_has_valid_settings_at_every_scale_and_decides_on_trainings_that_it_has(id: str) -> None:
    own = load_claim(id)
    for scale in get_args(Scale):
        arms = arms_of(own, Campaign((own,), scale))
        runs = [(arm, Outcome("finished", dict.fromkeys(VALUES, 0.5))) for arm in arms]
        decided = decide(own, runs)
        assert decided
        assert all(one.differences for one in decided), [one.says for one in decided if not one.differences]


VALUES = ("accuracy", "score", "retention", "gradient_angle", "interference")


def test_the_same_training_has_one_identity_whatever_claim_and_machine_it_is_of() -> None:
    K5, K8 = load_claim("K5"), load_claim("K8")
    here = Campaign((K5, K8), "desk", machine={"device": "cpu", "threads": 1})
    there, elsewhere = (
        Campaign((K5, K8), "desk", machine={"device": "cuda"}, data={"cifar10": place})
        for place in ("/elsewhere", "npz:/elsewhere/cifar10.npz")
    )
    both = [*arms_of(K5, here), *arms_of(K8, here)]
    shared = len(both) - len(unique(both))
    assert shared == sum(arm.labels["rule"] == "backprop" for arm in arms_of(K8, here))
    for other in (there, elsewhere):
        assert [a.identity for a in both] == [a.identity for a in [*arms_of(K5, other), *arms_of(K8, other)]]
    seeds = {arm.identity for arm in arms_of(K8, Campaign((K8,), "desk", seeds=(7,)))}
    assert not seeds & {arm.identity for arm in both}


def test_no_recipe_takes_off_an_ablation_what_it_is() -> None:
    claim = load_claim("L1")
    arms = {
        (arm.labels["learner"], arm.labels["task"]): arm.config for arm in arms_of(claim, Campaign((claim,), "desk"))
    }
    for (learner, task), config in arms.items():
        full = arms["flp", task].model_dump()
        differs = {
            f"{table}.{name}": value
            for table, fields in config.model_dump().items()
            if isinstance(fields, dict)
            for name, value in fields.items()
            if value != full[table][name] and name != "seed"
        }
        assert (
            differs
            == {
                "flp": {},
                "flp_no_feedback": {"plasticity.hidden_shift": "none"},
                "flp_fixed_feedback": {"meta.lr_feedback": 0.0},
                "flp_output_only": {"plasticity.plastic_layers": "output"},
                "flp_fixed_plasticity": {"meta.lr_plasticity": 0.0},
            }[learner]
        ), (learner, task)


def test_drawn_values_are_alike_for_rules_that_share_a_name_and_within_their_range() -> None:
    K3 = load_claim("K3")
    trials = [arm for arm in arms_of(K3, Campaign((K3,), "desk")) if arm.of == "trials"]
    drawn = {(a.labels["rule"], a.labels["trial"]): a.config.model_dump() for a in trials}
    rates = set()
    for n in range(100):
        mirror, aligned = drawn["weight_mirror", str(n)], drawn["information_alignment", str(n)]
        assert mirror["optimizer"]["learning_rate"] == aligned["optimizer"]["learning_rate"]
        assert mirror["rule"]["options"]["amp"] == aligned["rule"]["options"]["amp"]
        rates.add(mirror["optimizer"]["learning_rate"])
    assert len(drawn) == 200
    assert len(rates) == 100
    assert 0.02 <= min(rates) < 0.03
    assert 0.4 < max(rates) <= 0.5


def test_a_damaged_training_is_told_and_gives_no_verdict(tmp_path: Path) -> None:
    campaign = Campaign((load_claim("K8"),), "smoke")
    begin(campaign, tmp_path / "out", resume=False)
    arm = arms_of(campaign.claims[0], campaign)[0]
    folder = tmp_path / "out" / arm.folder
    folder.mkdir(parents=True)
    assert outcome(folder, "train").status == "unfinished"
    (folder / "results.json").write_text(json.dumps({"kind": "train"}))
    (found,) = gather(campaign_in(tmp_path / "out"), tmp_path / "out").claims
    assert found.verdict == "not run"
    assert len(found.problems) == 1


def test_trainings_that_diverged_are_counted_and_are_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = Campaign((load_claim("K8"),), "smoke")
    begin(campaign, tmp_path / "out", resume=False)
    monkeypatch.setattr(Arm, "outcome", lambda *_: Outcome("diverged", {"accuracy": None}))
    (found,) = gather(campaign, tmp_path / "out").claims
    assert found.diverged == found.done == 4
    assert not found.problems


def test_a_folder_is_gone_on_with_only_when_asked_and_only_as_what_it_is(tmp_path: Path) -> None:
    K8, out = load_claim("K8"), tmp_path / "out"
    begin(Campaign((K8,), "smoke"), out, resume=False)
    with pytest.raises(ConfigError, match="go on with --resume"):
        begin(Campaign((K8,), "smoke"), out, resume=False)
    with pytest.raises(ConfigError, match="scale: the folder has 'smoke', now 'desk'"):
        begin(Campaign((K8,), "desk"), out, resume=True)
    begin(Campaign((load_claim("K5"),), "smoke"), out, resume=True)
    assert [claim.id for claim in campaign_in(out).claims] == ["K5", "K8"]
    with pytest.raises(ConfigError, match="got 'K9'"):
        load_claim("K9")
