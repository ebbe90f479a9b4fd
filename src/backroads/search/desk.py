"""What a worker asks of the study, and tells it: a trial to train, accuracies, whether to end early."""

from __future__ import annotations

import functools
import math
from typing import Any

from optuna.pruners import HyperbandPruner, NopPruner
from optuna.storages import BaseStorage

from backroads.search.ledger import Claim, Ledger
from backroads.search.process import me
from backroads.search.sampling import GroupStudy, make_pruner, make_sampler, propose
from backroads.search.settings import SearchConfig
from backroads.search.space import Group, groups_of
from backroads.search.storage import retrying

FRESH = 2.0  # seconds for which a pruner holds a trial against what was read of the others


class Desk:
    """What the leading process of a worker knows of the study: its ledger, samplers and pruner."""

    def __init__(self, storage: BaseStorage, name: str, config: SearchConfig, worker: int) -> None:
        self.config = config
        self.storage = storage
        self.ledger = Ledger(
            storage,
            name,
            config.trials,
            retries=config.retries,
            grace=config.grace,
            patience=config.patience,
        )
        self.groups = groups_of(config)
        sampler, pruner = make_sampler(config, worker), make_pruner(config)

        def views(age: float, window: int | None) -> dict[str, GroupStudy]:
            read = functools.partial(self.ledger.trials, age)
            return {
                group.name: retrying(
                    functools.partial(
                        GroupStudy, name, storage, group.name, read=read, sampler=sampler, pruner=pruner, window=window
                    ),
                    config.patience,
                )
                for group in self.groups
            }

        # The ledger has just looked when it asks for values.
        self._samples, self._prunes = views(math.inf, config.window), views(FRESH, None)
        self.me = me()

    def group(self, slot: int) -> Group:
        """The group whose turn a slot is."""
        return self.groups[slot % len(self.groups)]

    def take(self) -> Claim | None:
        """A trial to train; None if there is none now."""

        def proposed(slot: int) -> tuple[dict[str, Any], dict[str, Any], str]:
            group = self.group(slot)
            space = group.distributions()
            study = self._samples[group.name]
            return retrying(lambda: propose(study, space), self.config.patience), space, group.name

        return self.ledger.take(self.me, proposed)

    def settled(self) -> bool:
        """Whether every slot is."""
        board = self.ledger.board()
        return sum(slot.done is not None for k, slot in board.items() if k < self.config.trials) >= self.config.trials

    def report(self, claim: Claim, epoch: int, value: float) -> bool:
        """Tell an accuracy; whether the trial should end early."""
        self.ledger.report(claim, epoch, value)
        if epoch >= self.config.epochs:
            return False
        study = self._prunes[self.group(claim.slot).name]
        if isinstance(study.pruner, NopPruner):
            return False
        trial = claim.trial
        if isinstance(study.pruner, HyperbandPruner):  # it keeps its rungs in the storage
            trial = retrying(lambda: self.storage.get_trial(claim.id), self.config.patience)
        found: list[bool] = []
        self.ledger.own(lambda: found.append(study.pruner.prune(study, trial)))
        return found[-1]
