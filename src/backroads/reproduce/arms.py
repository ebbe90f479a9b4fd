"""The trainings of a campaign: each once, however many claims need it. Imports no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from backroads.plasticity.settings import MetaConfig
from backroads.plasticity.settings import resolve as resolve_meta
from backroads.reproduce.claims import FRESH, Claim, Labels, Scale, Trainings, combinations, drawn
from backroads.reproduce.outcome import Outcome, outcome
from backroads.runs.groups import merged
from backroads.train.settings import HARMLESS, TrainSettings
from backroads.train.settings import resolve as resolve_train

MACHINE = HARMLESS | {"device", "threads"}  # settings that make no other training
_DATA = {"train": ("data", "name"), "meta": ("task", "task")}  # the table and the setting that name the data


@dataclasses.dataclass(frozen=True)
class Campaign:
    """What is run into one folder.

    Attributes:
        claims: in order. scale: of all. seeds: in place of the claims' own; empty: those.
        data: places of data sets by name: ``folder:PATH`` or ``npz:PATH`` in place of the name, or a root.
        machine: settings of the machine: device, threads.
    """

    claims: tuple[Claim, ...]
    scale: Scale
    seeds: tuple[int, ...] = ()
    data: dict[str, str] = dataclasses.field(default_factory=dict)
    machine: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One training of a claim.

    Attributes:
        claim, of: id of the claim and name of its set of trainings. labels: by axis. data: name of its data set,
            wherever that lies. config: its settings. own: the set it belongs to.
    """

    claim: str
    of: str
    labels: Labels
    seed: int
    kind: Literal["train", "meta"]
    data: str
    config: TrainSettings | MetaConfig
    own: Trainings

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.claim} {' '.join([*self.labels.values()])} seed {self.seed}"

    @property
    def identity(self) -> str:
        """The same for trainings that are the same, whatever claims they serve."""
        data = self.config.model_dump(exclude_none=True)
        table, field = _DATA[self.kind]
        data[table][field] = self.data
        data = {k: _kept(v) if isinstance(v, dict) else v for k, v in data.items()}
        measured = [self.own.lifetimes, self.own.analysed] if self.kind == "meta" else []
        return hashlib.sha256(json.dumps([self.kind, data, measured], sort_keys=True).encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Of the run, in the folder of the campaign."""
        return Path("runs") / f"{self.kind}-{self.identity}"

    def outcome(self, out: Path) -> Outcome:
        """What came of it in the folder ``out`` of a campaign."""
        return outcome(out / self.folder, self.kind, analysed=self.own.analysed > 0)


def _kept(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key not in MACHINE}


def arms_of(claim: Claim, campaign: Campaign, out: Path | None = None) -> list[Arm]:
    """All trainings of a claim that are known by now.

    Args:
        claim: of the campaign. campaign: scale, seeds and places of data.
        out: its folder. Trainings with the values of the best trials are known once all trials have ended in it;
            without a folder, those of the first trials stand for them, as for a count of what is to come.

    Raises:
        ConfigError: for settings that do not fit.
    """
    usual = tuple(claim.scales[campaign.scale].seeds)
    found: dict[str, list[Arm]] = {}
    for name, own in claim.sized(campaign.scale).items():
        if not own.best_of:
            # A trial is one training with a seed of its own; the seeds are for what the trials choose.
            found[name] = [
                _arm(claim, name, own, labels, settings, seed, campaign)
                for labels, settings, few in combinations(own)
                for seed in ([int(labels["trial"])] if "trial" in labels else campaign.seeds or few or usual)
            ]
            continue
        drawing = claim.sized(campaign.scale)[own.best_of]
        best, found[name] = _best(found[own.best_of], own.top, out), []
        for labels, settings, few in combinations(own):
            seeds = campaign.seeds or few or usual
            if labels["rule"] not in best:  # what the chosen ones are compared with
                found[name] += [_arm(claim, name, own, labels, settings, FRESH + seed, campaign) for seed in seeds]
            for trial in best.get(labels["rule"], ()):
                chosen = merged(TrainSettings, settings, drawn(drawing, settings, trial))
                picked = {**labels, "trial": str(trial)}
                found[name] += [_arm(claim, name, own, picked, chosen, FRESH + seed, campaign) for seed in seeds]
    return [arm for own in found.values() for arm in own]


def _arm(
    claim: Claim, name: str, own: Trainings, labels: Labels, settings: dict[str, Any], seed: int, campaign: Campaign
) -> Arm:
    table, field = _DATA[own.kind]
    group = settings.get(table, {})
    data = str(group.get(field, "sinusoid" if own.kind == "meta" else "digits"))
    place = campaign.data.get(data)
    if place is not None:
        group = {**group, field if place.startswith(("folder:", "npz:")) else "root": place}
    run = {**settings.get("run", {}), **campaign.machine, "seed": seed}
    settings = {**settings, table: group, "run": run}
    kind = own.kind
    config: TrainSettings | MetaConfig
    if kind == "meta":  # the learner goes over what a recipe says: an ablation stays one
        config = resolve_meta(settings, {"learner": settings["learner"]} if "learner" in settings else {})
    else:
        config = resolve_train(settings)
    return Arm(claim.id, name, labels, seed, kind, data, config, own)


def _best(trials: Sequence[Arm], top: int, out: Path | None) -> dict[str, list[int]]:
    """Numbers of the best trials by rule, none before all of its trials have ended; without a folder the first."""
    chosen: dict[str, list[int]] = {}
    for rule in dict.fromkeys(arm.labels["rule"] for arm in trials):
        own = [arm for arm in trials if arm.labels["rule"] == rule]
        ends = [arm.outcome(out) for arm in own] if out is not None else []
        order = sorted(range(len(own)), key=lambda n: -_accuracy(ends[n])) if ends else range(len(own))
        chosen[rule] = list(order[:top]) if all(end.done for end in ends) else []
    return chosen


def _accuracy(end: Outcome) -> float:
    value = end.values.get("accuracy")
    return -1.0 if value is None or end.status == "diverged" else value


def unique(arms: Sequence[Arm]) -> list[Arm]:
    """Each training once, in the order in which they run: trials before what they choose, and all arms seed by seed."""
    found: dict[str, Arm] = {}
    for arm in sorted(arms, key=lambda arm: (bool(arm.own.best_of), arm.seed)):
        found.setdefault(arm.identity, arm)
    return list(found.values())
