"""A claim: a sentence of a paper, the trainings that it is about, and how it is decided; fixed before anything runs.

Claims ship as ``recipes/claims/ID.toml``. Imports no torch.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from backroads.errors import ConfigError, nearest
from backroads.plasticity.settings import MetaConfig
from backroads.runs.groups import Group, merged
from backroads.runs.settings import checked, read_settings, recipes
from backroads.search.settings import Space
from backroads.search.space import groups_of
from backroads.train.settings import TrainSettings

Scale = Literal["smoke", "desk", "paper"]
FRESH = 10_000  # added to the seeds of trainings that were chosen by trials: no trial has seen these
Labels = dict[str, str]
Where = dict[str, list[str]]


class Decision(Group):
    """A number for each seed, and the value that its mean must exceed for the claim to hold.

    The number is the mean of ``value`` over the trainings in ``plus``, less that over those in ``minus``. It is formed
    from trainings of one seed, so that differences are paired.
    """

    says: str
    """What is decided, in words."""
    value: str = "accuracy"
    """What is read of each training: see :func:`backroads.reproduce.outcome.outcome`."""
    of: str = "main"
    """The set of trainings."""
    plus: Where
    """Labels of the trainings that should have the higher value."""
    minus: Where = Field(default={})
    """Labels of the trainings that should have the lower value; without any, nothing is taken off."""
    less: Where = Field(default={})
    """Labels of a condition whose difference is taken off that of all other conditions, as in what transfer loses."""
    each: str = ""
    """Decide for each label of this axis apart; all must hold."""
    falls: bool = False
    """Decide on how steeply the number falls over ``over``, rather than on its mean."""
    over: str = ""
    """The label over which it falls; see ``places`` of the claim."""
    above: float = 0.0
    """The claim holds where the mean is above this."""
    pairs: Literal["seed", "trial"] = "seed"
    """What the repetitions are."""


class Picture(Group):
    """A figure: ``value`` against the label ``over``, a line for each label ``lines``."""

    over: str
    lines: str
    value: str = "accuracy"
    of: str = "main"


class Trainings(Group):
    """A set of trainings: every combination of the axes, with every seed.

    Settings go over one another in the order recipes, settings, axes, drawn or chosen ones.
    """

    kind: Literal["train", "meta"] = "train"
    recipe: str | None = None
    settings: dict[str, Any] = Field(default={})
    axes: dict[str, dict[str, dict[str, Any]]] = Field(default={})
    """By axis and label, settings by their flags; ``recipe`` among them is a recipe below them, and ``seeds`` are seeds
    in place of the scale's."""
    trials: Annotated[int, Field(ge=0)] = 0
    """So many trainings of each combination, with coefficients and rates drawn at random, alike for every rule."""
    vary: list[str] = Field(default=[])
    ranges: dict[str, list[Any]] = Field(default={})
    best_of: str = ""
    """Train with the drawn values of the best trials of this other set, on seeds that are fresh."""
    top: Annotated[int, Field(ge=1)] = 1
    lifetimes: Annotated[int, Field(ge=1)] = 200
    """Lifetimes on which a meta-training is measured."""
    analysed: Annotated[int, Field(ge=0)] = 0
    """Lifetimes whose updates are compared with gradients."""


class Sized(Group):
    """A scale: seeds, and what differs of each set of trainings; an axis that is named here replaces the claim's."""

    seeds: Annotated[list[int], Field(min_length=1)]
    trainings: dict[str, dict[str, Any]] = Field(default={})


class Claim(Group):
    """One claim."""

    id: str
    source: str
    sentence: str
    quantity: str
    decisions: Annotated[list[Decision], Field(min_length=1)]
    trainings: dict[str, Trainings]
    scales: dict[Scale, Sized]
    places: dict[str, dict[str, float]] = Field(default={})
    """Numbers that stand for the labels of an axis, as the depth of a network."""
    picture: Picture | None = None
    see: str = ""
    """What else says something about the claim."""

    def sized(self, scale: Scale) -> dict[str, Trainings]:
        """The sets of trainings at a scale, by name."""
        found = {}
        for name, own in self.trainings.items():
            more = self.scales[scale].trainings.get(name, {})
            settings = {**own.settings, **more.get("settings", {})}
            axes = {**own.axes, **more.get("axes", {})}
            found[name] = checked(Trainings, {**own.model_dump(), **more, "settings": settings, "axes": axes})
        return found


def claim_ids() -> list[str]:
    """Ids of all claims."""
    return recipes("claims")


def load_claim(id: str) -> Claim:
    """A claim by its id; raises ConfigError for an unknown one."""
    if id not in claim_ids():
        raise ConfigError(f"claim: expected one of {', '.join(claim_ids())}, got {id!r}.{nearest(id, claim_ids())}")
    claim = checked(Claim, {"id": id, **read_settings(id, "claims")})
    for decision in claim.decisions:
        if decision.of not in claim.trainings or (claim.picture and claim.picture.of not in claim.trainings):
            raise ConfigError(f"claim {id}: {decision.says!r} is about trainings {decision.of!r}, which it has none of")
    return claim


class Combination(NamedTuple):
    """One label of each axis, with the number of a trial; settings, in tables; and seeds, if it has its own."""

    labels: Labels
    settings: dict[str, Any]
    seeds: tuple[int, ...]


def combinations(own: Trainings) -> Iterator[Combination]:
    """Every combination of the axes, and of each every trial."""
    axes = [[(axis, label, more) for label, more in of.items()] for axis, of in own.axes.items()]
    for chosen in itertools.product(*axes):
        labels = {axis: label for axis, label, _ in chosen}
        settings = _layered(own, [own.settings, *(more for _, _, more in chosen)])
        seeds = tuple(seed for _, _, more in chosen for seed in more.get("seeds", ()))
        if not own.trials:
            yield Combination(labels, settings, seeds)
        for trial in range(own.trials):
            drew = merged(TrainSettings, settings, drawn(own, settings, trial))
            yield Combination({**labels, "trial": str(trial)}, drew, seeds)


def _layered(own: Trainings, layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Settings in tables: recipes first, then what goes over them."""
    names = [own.recipe, *(layer.get("recipe") for layer in layers)]
    below = [read_settings(name, "meta" if own.kind == "meta" else "") for name in names if name]
    above = [{key: value for key, value in layer.items() if key not in ("recipe", "seeds")} for layer in layers]
    return merged(MetaConfig if own.kind == "meta" else TrainSettings, *below, *above)


class _Draw:
    """What a range asks of a trial: a value that follows from the trial's number and the value's name alone."""

    def __init__(self, trial: int) -> None:
        self.trial = trial

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        u: float = random.Random(f"{self.trial} {name}").random()
        return float(low * (high / low) ** u)

    def suggest_categorical(self, name: str, choices: tuple[Any, ...]) -> Any:
        return random.Random(f"{self.trial} {name}").choice(choices)


def drawn(own: Trainings, settings: dict[str, Any], trial: int) -> dict[str, Any]:
    """Values of a trial, as settings by flags: random search, log-uniform, alike for rules that share a name."""
    (space,) = groups_of([settings["rule"]["name"]], [], Space(vary=own.vary, ranges=own.ranges).varying())
    draw: Any = _Draw(trial)
    found = space.settings(space.suggest(draw), settings["rule"].get("options", {}))
    found.pop("rule")
    return found
