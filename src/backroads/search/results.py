"""What came of a study: counts, the best of each group, importances; as plain data for tables and the report."""

from __future__ import annotations

import datetime
import math
import statistics
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from backroads.errors import RunError
from backroads.runs.folder import write_atomically
from backroads.search.ledger import ABOUT, Slot, outcome, read_slots, reason
from backroads.search.settings import SearchConfig
from backroads.search.space import Group, groups_of
from backroads.search.storage import without_password

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

LEAST = 10  # finished trials of a group before importances are computed


def settled(trials: list[FrozenTrial], config: SearchConfig) -> list[FrozenTrial]:
    """The trial that settled each slot, in the order in which they ended."""
    board = read_slots(trials, config.retries)
    done = [slot.done for k, slot in board.items() if slot.done is not None and k < config.trials]
    return sorted(done, key=lambda trial: (trial.datetime_complete or datetime.datetime.max, trial.number))


def running(trials: list[FrozenTrial], config: SearchConfig) -> list[FrozenTrial]:
    """The trials that are being trained."""
    board: dict[int, Slot] = read_slots(trials, config.retries)
    return [slot.running for slot in board.values() if slot.running is not None and slot.done is None]


def ranked(trials: list[FrozenTrial], config: SearchConfig) -> list[FrozenTrial]:
    """The complete trials, the best first; of equals, the earlier slot."""
    complete = [trial for trial in settled(trials, config) if outcome(trial) == "complete"]
    return sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.user_attrs[ABOUT]["slot"]))


def best_of_groups(trials: list[FrozenTrial], config: SearchConfig) -> dict[str, FrozenTrial]:
    """The best complete trial of each group that has one, the best group first."""
    found: dict[str, FrozenTrial] = {}
    for trial in ranked(trials, config):
        found.setdefault(trial.user_attrs[ABOUT]["group"], trial)
    return found


def gather(storage: BaseStorage, config: SearchConfig) -> dict[str, Any]:
    """The results of a study as plain data; it may still be running."""
    trials = storage.get_all_trials(storage.get_study_id_from_name(config.name), deepcopy=False)
    done = settled(trials, config)
    groups = groups_of(config)
    began = [trial.datetime_start for trial in done if trial.datetime_start is not None]
    ended = [trial.datetime_complete for trial in done if trial.datetime_complete is not None]
    settings = config.model_dump(exclude_none=True)
    if config.storage is not None:
        settings["storage"] = without_password(config.storage)
    return {
        "kind": "search",
        "settings": settings,
        "planned": config.trials,
        "settled": len(done),
        "running": len(running(trials, config)),
        "lost_attempts": sum(outcome(trial) == "lost" for trial in trials),
        "seconds": (max(ended) - min(began)).total_seconds() if began and ended else None,
        "groups": [_row(group, n, done, config, len(groups)) for n, group in enumerate(groups)],
        "trials": [_trial(trial) for trial in done],
        "importances": _importances(storage, config, groups, done),
    }


def _row(group: Group, n: int, done: list[FrozenTrial], config: SearchConfig, groups: int) -> dict[str, Any]:
    own = [trial for trial in done if trial.user_attrs[ABOUT]["group"] == group.name]
    values = sorted((t.value for t in own if outcome(t) == "complete" and t.value is not None), reverse=True)
    best = next((t for t in own if outcome(t) == "complete" and values and t.value == values[0]), None)
    ends = [outcome(trial) for trial in own]
    return {
        "group": group.name,
        "subset": None if group.subset is None else [name.rstrip("_") for name in group.subset],
        "planned": len(range(n, config.trials, groups)),
        "ended": {kind: ends.count(kind) for kind in ("complete", "pruned", "diverged", "error", "lost")},
        "best": values[0] if values else None,
        "quartiles": statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else None,
        "best_slot": None if best is None else best.user_attrs[ABOUT]["slot"],
        "best_params": None if best is None else dict(best.params),
    }


def _trial(trial: FrozenTrial) -> dict[str, Any]:
    """One trial, in few letters: a study has thousands."""
    seconds = (
        (trial.datetime_complete - trial.datetime_start).total_seconds()
        if trial.datetime_complete is not None and trial.datetime_start is not None
        else None
    )
    row = {
        "slot": trial.user_attrs[ABOUT]["slot"],
        "group": trial.user_attrs[ABOUT]["group"],
        "end": outcome(trial),
        "value": None if trial.value is None else round(trial.value, 6),
        "seconds": None if seconds is None else round(seconds, 2),
        "params": {name: _short(value) for name, value in trial.params.items()},
    }
    return {**row, "reason": reason(trial)} if reason(trial) else row


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _importances(
    storage: BaseStorage, config: SearchConfig, groups: list[Group], done: list[FrozenTrial]
) -> dict[str, dict[str, float]]:
    """By group: the share of each dimension in what makes a trial one of the better half.

    PED-ANOVA: Watanabe, Bansal, Hutter, IJCAI 2023.
    """
    import optuna

    from backroads.search.sampling import GroupStudy

    found: dict[str, dict[str, float]] = {}
    for group in groups:
        complete = [t for t in done if t.user_attrs[ABOUT]["group"] == group.name and outcome(t) == "complete"]
        if len(complete) < LEAST or len({t.value for t in complete}) < 2 or len(group.space) < 2:
            continue
        study = GroupStudy(
            config.name,
            storage,
            group.name,
            read=lambda: done,
            sampler=optuna.samplers.RandomSampler(),
            pruner=optuna.pruners.NopPruner(),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                shares = optuna.importance.get_param_importances(
                    study,
                    evaluator=optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.5),
                )
            except (ValueError, RuntimeError):
                continue  # too few different values
        found[group.name] = {name: round(v, 4) for name, v in shares.items() if math.isfinite(v)}
    return found


def training_of(trial: FrozenTrial, config: SearchConfig, **changes: Any) -> dict[str, Any]:
    """The settings of a trial, to train it again on the whole training split, as data for TOML."""
    group = next(g for g in groups_of(config) if g.name == trial.user_attrs[ABOUT]["group"])
    found = group.settings(trial.params, config.train.get("rule_options"))
    return config.training(**{"split": "test", **found, **changes}).model_dump(exclude_none=True)


def write_best(storage: BaseStorage, config: SearchConfig, folder: Path, group: str | None = None) -> tuple[Path, str]:
    """Write the best configuration as TOML for ``backroads train --config``.

    Args:
        group: the best of this rule or subset only.

    Returns:
        The file, and a line about it.

    Raises:
        RunError: no trial is complete yet.
    """
    trials = storage.get_all_trials(storage.get_study_id_from_name(config.name), deepcopy=False)
    best = best_of_groups(trials, config)
    if not best or (group is not None and group not in best):
        raise RunError(f"no trial{'' if group is None else f' of {group!r}'} is complete yet; go on with the search")
    trial = next(iter(best.values())) if group is None else best[group]
    about = trial.user_attrs[ABOUT]
    n = sum(outcome(t) == "complete" for t in settled(trials, config))
    line = (
        f"trial {about['slot']} [{about['group']}]: validation accuracy {100 * (trial.value or 0.0):.2f} %, "
        f"the best of {n} complete trials"
    )
    path = folder / ("best.toml" if group is None else f"best-{group}.toml")
    text = (
        f'# {line}.\n# It trains on the whole training split; with split = "validation" it repeats the trial.\n'
        + tomli_w.dumps(training_of(trial, config))
    )
    write_atomically(path, text)
    return path, line
