"""What is tried next, and what is ended early: optuna's TPE and pruners, each rule or subset among its own trials."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Container
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from backroads.search.ledger import ABOUT
from backroads.search.settings import SearchConfig

_NOBODY = {"group": None}
BEST = 50  # of the window: TPE counts at most the best 25 as good


class GroupStudy(optuna.Study):
    """A study as seen by one group: no other group's trials, and for ``window`` no more than that many.

    Within a window are the best finished trials, all running ones, and the newest others. TPE compares the density of
    the good trials, which are all within, with that of the others, of which the newest are a sample: its cost stays
    bounded, however long the study.

    Args:
        read: all trials of the study, by number; how fresh is the caller's choice. sampler, pruner: who looks.
    """

    def __init__(
        self,
        name: str,
        storage: BaseStorage,
        group: str,
        *,
        read: Callable[[], list[FrozenTrial]],
        sampler: optuna.samplers.BaseSampler,
        pruner: optuna.pruners.BasePruner,
        window: int | None = None,
    ) -> None:
        super().__init__(name, storage, sampler, pruner)
        self.group, self.read, self.window = group, read, window
        self._from: list[FrozenTrial] | None = None
        self._own: list[FrozenTrial] = []

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """The group's trials, by number."""
        return self._get_trials(deepcopy, states)

    # What optuna's samplers read; kept to this signature in optuna 5.
    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = self.read()
        if trials is not self._from:  # once for all that is asked of one reading
            own = [trial for trial in trials if trial.user_attrs.get(ABOUT, _NOBODY)["group"] == self.group]
            self._own = own if self.window is None or len(own) <= self.window else windowed(own, self.window)
            self._from = trials
        return [trial for trial in self._own if states is None or trial.state in states]


def windowed(trials: list[FrozenTrial], most: int) -> list[FrozenTrial]:
    """The best of ``trials``, those still running, and the newest others: at most about ``most``, by number."""
    finished = [trial for trial in trials if trial.state.is_finished()]
    ranked = sorted(finished, key=lambda t: -math.inf if t.value is None else t.value, reverse=True)
    kept = {trial.number for trial in ranked[:BEST]}
    kept |= {trial.number for trial in finished[-(most - BEST) :]}
    return [trial for trial in trials if trial.number in kept or not trial.state.is_finished()]


def make_sampler(config: SearchConfig, worker: int) -> optuna.samplers.BaseSampler:
    """The sampler of a worker. All of optuna's switches are spelt out: their defaults change between versions.

    Workers with one seed would propose the same values; each has the seed plus its number.
    """
    seed = config.seed + worker
    if config.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            n_startup_trials=config.startup,
            n_ei_candidates=24,
            seed=seed,
            multivariate=True,
            group=False,
            # The values of a running trial are written when it is taken: none is told twice.
            constant_liar=True,
        )


def make_pruner(config: SearchConfig) -> optuna.pruners.BasePruner:
    """The pruner of a study."""
    if config.pruner == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=max(4, config.startup // 2), n_warmup_steps=max(1, config.epochs // 5)
        )
    if config.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=config.report_every, max_resource=config.epochs, reduction_factor=3
        )
    return optuna.pruners.NopPruner()


def propose(study: GroupStudy, space: dict[str, BaseDistribution]) -> dict[str, Any]:
    """Values for a new trial of the group; nothing is written."""
    if not space:
        return {}
    # The sampler writes what it proposes into a running trial, for other workers: here the trial is written whole.
    nobody = create_trial(state=TrialState.RUNNING)
    sampler = study.sampler
    if isinstance(sampler, optuna.samplers.TPESampler):
        values = sampler._sample_relative(study, nobody, space)
    else:
        values = sampler.sample_relative(study, nobody, space)
    for name, distribution in space.items():
        if name not in values:
            values[name] = sampler.sample_independent(study, nobody, name, distribution)
    return values
