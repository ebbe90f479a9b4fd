"""What came of a search: counts, the best of each rule or subset, importances; typed, as the report reads it."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import tomli_w

from backroads.errors import ConfigError, RunError, nearest
from backroads.runs.files import write_atomically
from backroads.runs.results import SearchGroup, SearchResults, SearchTrial
from backroads.search.faults import writing
from backroads.search.record import DIVERGED, ERROR, LOST, RETRIED, Record, settled
from backroads.search.study import StudyClient

LEAST = 10  # complete trials of a group before importances are computed


def ranked(records: Iterable[Record]) -> list[Record]:
    """The complete ones of some trials, the best first; of equals, the one of the smaller number."""
    complete = [record for record in records if record.outcome == "complete"]
    return sorted(complete, key=lambda record: (-(record.value or 0.0), record.number))


def best_of_groups(records: Iterable[Record]) -> dict[str, Record]:
    """The best complete trial of each group that has one, the best group first."""
    found: dict[str, Record] = {}
    for record in ranked(records):
        found.setdefault(record.group, record)
    return found


def gather(client: StudyClient) -> SearchResults:
    """The results of a search, finished or not."""
    by_group = {group: client.records(group) for group in client.groups}
    records = [record for own in by_group.values() for record in own]
    done = settled(records)
    spans = [(trial.datetime_start, trial.datetime_complete) for trial in (record.trial for record in done)]
    return SearchResults(
        kind="search",
        settings=client.config.as_toml(),
        planned=client.config.search.trials,
        settled=len(done),
        running=sum(record.outcome == "running" for record in records),
        groups=tuple(_group(client, group, own) for group, own in by_group.items()),
        trials=tuple(_trial(record) for record in done),
        importances={group: found for group, own in by_group.items() if (found := _importances(client, group, own))},
        lost_attempts=sum(record.outcome in (LOST, RETRIED) for record in records),
        seconds=seconds_of(spans),
    )


def seconds_of(spans: Iterable[tuple[datetime | None, datetime | None]]) -> float | None:
    """How long some trial was under way, from when each began and ended; None without any. A search may rest."""
    seconds, until = None, datetime.min
    for began, ended in sorted((began, ended) for began, ended in spans if began is not None and ended is not None):
        seconds = (seconds or 0.0) + max(0.0, (ended - max(began, until)).total_seconds())
        until = max(until, ended)
    return seconds


def _group(client: StudyClient, group: str, records: list[Record]) -> SearchGroup:
    best = ranked(records)
    values = [record.value for record in best if record.value is not None]
    outcomes = [record.outcome for record in records]
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else []
    return SearchGroup(
        group=group,
        planned=client.planned[group],
        ended={kind: outcomes.count(kind) for kind in ("complete", "pruned", DIVERGED, ERROR, LOST)},
        subset=client.groups[group].subset,
        best=values[0] if values else None,
        quartiles=(quartiles[0], quartiles[1], quartiles[2]) if quartiles else None,
        best_number=best[0].number if best else None,
        best_params=dict(best[0].trial.params) if best else None,
    )


def _trial(record: Record) -> SearchTrial:
    """A trial in few digits: a search has thousands."""
    value = record.trial.value
    return SearchTrial(
        number=record.number,
        group=record.group,
        end=record.outcome,  # type: ignore[arg-type]
        value=None if value is None else round(value, 6),
        seconds=None if record.seconds is None else round(record.seconds, 2),
        params={name: _short(value) for name, value in record.trial.params.items()},
        reason=record.reason,
    )


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _importances(client: StudyClient, group: str, records: list[Record]) -> dict[str, float]:
    """The share of each value in what makes a trial one of the better half; empty for too few trials.

    PED-ANOVA: Watanabe, Bansal, Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
    Subspaces", IJCAI 2023.
    """
    values = [record.value for record in records if record.outcome == "complete"]
    if len(values) < LEAST or len(set(values)) < 2 or len(client.groups[group].space) < 2:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            shares = optuna.importance.get_param_importances(client.studies[group], evaluator=evaluator)
        except (ValueError, RuntimeError):  # too few different values
            return {}
    return {name: round(share, 4) for name, share in shares.items() if math.isfinite(share)}


def training_of(client: StudyClient, record: Record) -> dict[str, Any]:
    """The settings of a trial, to train it again on the whole training split, as data for TOML."""
    config = client.config
    group = client.groups[record.group]
    params = {name: record.trial.params[name] for name in group.space if name in record.trial.params}
    found = group.settings(params, config.rule.options)
    return config.training(split="test", **found).as_toml()


def write_best(client: StudyClient, folder: Path, group: str | None = None) -> tuple[Path, str]:
    """Write the settings of the best trial as TOML for ``backroads train --config``.

    Args:
        folder: where to. group: take the best of this rule or subset.

    Returns:
        The file, and a line about the trial.

    Raises:
        ConfigError: no such group. RunError: no trial is complete yet.
    """
    if group is not None and group not in client.groups:
        raise ConfigError(
            f"group: expected a rule, subset or method of this search, got {group!r}.{nearest(group, client.groups)} "
            f"It has: {', '.join(client.groups)}"
        )
    records = client.all_records()
    best = ranked(record for record in records if group in (None, record.group))
    if not best:
        raise RunError(f"no trial{'' if group is None else f' of {group!r}'} is complete yet; go on with the search")
    line = (
        f"trial {best[0].number} [{best[0].group}]: validation accuracy {100 * (best[0].value or 0.0):.2f} %, "
        f"the best of {len(best)} complete trials"
    )
    path = folder / ("best.toml" if group is None else f"best-{group}.toml")
    text = (
        f'# {line}.\n# It trains on the whole training split; with split = "validation" it repeats the trial.\n'
        + tomli_w.dumps(training_of(client, best[0]))
    )
    with writing(folder):
        write_atomically(path, text)
    return path, line
