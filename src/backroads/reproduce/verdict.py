"""From the outcomes of trainings to a verdict, by the rule that stands in the claim. Imports no torch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from backroads.reproduce.arms import Arm
from backroads.reproduce.claims import Claim, Decision, Picture, Where
from backroads.reproduce.outcome import Outcome
from backroads.runs.statistics import estimate, wilson
from backroads.runs.verdicts import Decided, Line, Verdict

Ended = Sequence[tuple[Arm, Outcome]]
# What the numbers of lifetimes are where each sample belongs to a class.
OF_CLASSES = {"score": "accuracy", "retention": "accuracy kept"}
FAILS = 0.10  # accuracy below the best trial, from which on a trial has failed
CLASSES = {"digits": 10, "mnist": 10, "cifar10": 10, "imagenette": 10, "imagenet": 1000}


def decide(claim: Claim, ended: Ended) -> tuple[Decided, ...]:
    """All decisions of a claim, from its trainings."""
    found = []
    for decision in claim.decisions:
        own = [(arm, end) for arm, end in ended if arm.of == decision.of]
        if not decision.each:
            found.append(_decided(claim, decision, own))
        for label in dict.fromkeys(arm.labels[decision.each] for arm, _ in own) if decision.each else ():
            part = [(arm, end) for arm, end in own if arm.labels[decision.each] == label]
            found.append(_decided(claim, decision.model_copy(update={"says": f"{decision.says}: {label}"}), part))
    return tuple(found)


def is_decisive(claim: Claim, arm: Arm) -> bool:
    """Whether a decision of the claim reads this training; others are shown beside them."""
    return any(
        arm.of == decision.of and all(arm.labels.get(axis) in labels for axis, labels in where.items())
        for decision in claim.decisions
        for where in filter(None, (decision.plus, decision.minus))
    )


def verdict_of(decided: Sequence[Decided], *, complete: bool) -> Verdict:
    """Of a whole claim: all its decisions must hold; nothing is said before all that they read has ended."""
    if not complete or not decided:
        return "not run"
    each = {one.verdict for one in decided}
    for verdict in ("not run", "contradicted", "undecided"):
        if verdict in each:
            return verdict
    return "confirmed"


def _decided(claim: Claim, decision: Decision, own: Ended) -> Decided:
    values = [end.values for _, end in own if end.done]
    of_classes = values and all("accuracy" in each for each in values)
    value = OF_CLASSES.get(decision.value, decision.value) if of_classes else decision.value
    blank = Decided(decision.says, "not run", value, decision.above)
    best = max((v for _, end in own if end.done and (v := end.values.get("accuracy")) is not None), default=None)
    seeds: dict[int, list[tuple[Arm, Outcome]]] = {}
    for arm, end in own:
        number = int(arm.labels["trial"]) if decision.pairs == "trial" else arm.seed
        seeds.setdefault(number, []).append((arm, end))
    numbers = {seed: _number(claim, decision, of, best) for seed, of in sorted(seeds.items())}
    known = {seed: number for seed, number in numbers.items() if number is not None}
    if not known:
        return blank
    found = estimate(known.values())
    low = high = None
    if found.half is not None and found.mean is not None:
        low, high = found.mean - found.half, found.mean + found.half
    if decision.value == "failed" and not decision.minus:
        low, high = wilson(round(sum(known.values())), len(known))
    verdict: Verdict = "undecided"
    if low is not None and high is not None:
        verdict = "confirmed" if low > decision.above else "contradicted" if high < decision.above else "undecided"
    return replace(
        blank,
        verdict=verdict,
        differences=tuple(known.values()),
        seeds=tuple(known),
        mean=found.mean,
        low=low,
        high=high,
    )


def _number(claim: Claim, decision: Decision, own: Ended, best: float | None) -> float | None:
    """The number of one seed; None where a training that it needs has no number."""

    def contrast(of: Ended) -> float | None:
        plus = _mean(decision, _where(of, decision.plus), best)
        if not decision.minus or plus is None:
            return plus
        minus = _mean(decision, _where(of, decision.minus), best)
        return None if minus is None else plus - minus

    if decision.less:
        home = _where(own, decision.less)
        there = [one for one in own if one not in home]
        return _less(contrast(there), contrast(home))
    if not decision.falls:
        return contrast(own)
    labels = dict.fromkeys(arm.labels[decision.over] for arm, _ in own)
    places = [claim.places[decision.over][label] for label in labels]
    values = [contrast(_where(own, {decision.over: [label]})) for label in labels]
    known = [value for value in values if value is not None]
    if len(known) < len(values) or len(set(places)) < 2:
        return None
    return -statistics.linear_regression(places, known).slope


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _where(own: Ended, where: Where) -> list[tuple[Arm, Outcome]]:
    return [(arm, end) for arm, end in own if all(arm.labels.get(axis) in labels for axis, labels in where.items())]


def _mean(decision: Decision, own: Ended, best: float | None) -> float | None:
    values = [value_of(arm, end, decision.value, best) for arm, end in own]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def value_of(arm: Arm, end: Outcome, name: str, best: float | None) -> float | None:
    """A number of a training; None if it has none.

    A training that diverged has the accuracy of chance: left out, it would make a fragile rule look better.
    """
    if not end.done:
        return None
    accuracy = end.values.get("accuracy")
    if name == "failed":
        return None if best is None else float(end.status == "diverged" or (accuracy or 0.0) < best - FAILS)
    if name == "accuracy" and arm.kind == "train" and end.status == "diverged":
        return 1 / CLASSES.get(arm.data, 10)
    return end.values.get(name)


def lines(claim: Claim, picture: Picture, ended: Ended) -> tuple[Line, ...]:
    """The lines of a claim's figure, means over seeds and over the other axes. Trials stand in order of their value."""
    own = [(arm, end) for arm, end in ended if arm.of == picture.of]
    found = []
    for name in dict.fromkeys(arm.labels[picture.lines] for arm, _ in own):
        of = [(arm, end) for arm, end in own if arm.labels[picture.lines] == name]
        labels = dict.fromkeys(arm.labels.get(picture.over, "") for arm, _ in of)
        estimates = {}
        for label in labels:
            at = [(arm, end) for arm, end in of if arm.labels.get(picture.over, "") == label]
            seeds = dict.fromkeys(arm.seed for arm, _ in at)
            by_seed = [[value_of(a, e, picture.value, None) for a, e in at if a.seed == seed] for seed in seeds]
            means = [statistics.fmean(known) for of in by_seed if (known := [v for v in of if v is not None])]
            if means:
                estimates[label] = estimate(means)
        if picture.over == "trial":
            order = sorted(estimates, key=lambda label: estimates[label].mean or 0.0)
            estimates = {label: estimates[label] for label in order}
        places = claim.places.get(picture.over, {}) if picture.over != "trial" else {}
        x = tuple(float(places.get(label, n)) for n, label in enumerate(estimates))
        drawn = list(estimates.values())
        if drawn:
            mean, half = tuple(one.mean for one in drawn), tuple(one.half for one in drawn)
            found.append(Line(name, x, tuple(estimates), mean, half, tuple(one.n for one in drawn)))
    return tuple(found)
