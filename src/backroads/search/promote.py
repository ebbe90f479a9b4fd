"""After a search: its best trials trained again with fresh seeds and tested once, and carried to other architectures.

Trainings that are done are kept in ``promote.json`` and ``transfer.json`` of the search's folder: what was interrupted
goes on where it stopped.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from backroads.errors import BackroadsError, ConfigError, RunError
from backroads.models import build_model
from backroads.runs.files import write_json
from backroads.runs.groups import merged
from backroads.runs.pool import in_processes
from backroads.runs.results import PromotedTrial, Promotion, Transfer, TransferCell, TransferRow
from backroads.runs.runtime import joined
from backroads.runs.statistics import estimate
from backroads.search.faults import intact, writing
from backroads.search.record import Accuracy, TrialFailed
from backroads.search.results import best_of_groups, ranked, training_of
from backroads.search.settings import SearchSettings
from backroads.search.study import StudyClient
from backroads.search.trial import load_once, run_trial
from backroads.train.settings import TrainSettings, resolve

PROMOTED, TRANSFERRED = "promote.json", "transfer.json"
FRESH = 10_000  # added to the search's seed: no trial has seen these
BACKPROP = "backprop"


def promote(
    client: StudyClient,
    folder: Path,
    *,
    top: int,
    seeds: int,
    each: bool = False,
    workers: int = 1,
    log: Callable[[str], None],
) -> Promotion:
    """Train the best trials again on the whole training split, with fresh seeds, and test each training once.

    Args:
        client: of the search. folder: of the search; ``promote.json`` is written there. top: how many trials.
        seeds: trainings of each. each: take the best trial of each of the ``top`` best groups instead.
        workers: processes. log: called with a line when a training ends.

    Returns:
        A row for each trial: those without a seed that diverged first, and of them the best mean test accuracy.

    Raises:
        RunError: no trial is complete.
    """
    records = client.all_records()
    chosen = (list(best_of_groups(records).values()) if each else ranked(records))[:top]
    if not chosen:
        raise RunError("promote: no trial is complete yet; go on with the search")
    fresh = fresh_seeds(client.config, seeds)
    jobs = {f"{record.group}/{record.number}": training_of(client, record) for record in chosen}
    accuracies, found = _train_all(folder / PROMOTED, jobs, fresh, workers, log)
    rows = []
    for record in chosen:
        own = accuracies[f"{record.group}/{record.number}"]
        mean = estimate(own)
        rows.append(PromotedTrial(record.number, record.group, record.value, own, mean.mean, mean.half))
    # The mean is over seeds that did not diverge: what diverges comes after all that does not.
    rows.sort(key=lambda row: (row.accuracies.count(None), -(row.mean or 0.0)))
    promotion = Promotion(tuple(rows), tuple(fresh), found)
    with writing(folder):
        write_json(folder / PROMOTED, promotion, indent=None)
    return promotion


def transfer(
    client: StudyClient,
    folder: Path,
    *,
    models: list[str],
    top: int,
    seeds: int,
    workers: int = 1,
    log: Callable[[str], None],
) -> Transfer:
    """Train the best of each group, unchanged, on other networks, beside backprop; test each training once.

    What is lost in transfer is (backprop - rule) on the other network less (backprop - rule) on the searched one, in
    accuracy, as a mean over the seeds with which none of the four diverged. Backprop has the settings of the search,
    with its own best rates if it was searched too.

    Args:
        client, folder, workers, log: as for :func:`promote`; ``transfer.json`` is written. models: names of networks;
            the searched one is added. top: how many groups. seeds: trainings of each on each network.

    Raises:
        ConfigError: an unknown model; before anything is trained. RunError: no trial is complete.
    """
    config = client.config
    every = best_of_groups(client.all_records())
    best = dict(list(every.items())[:top])
    if not best:
        raise RunError("transfer: no trial is complete yet; go on with the search")
    models = list(dict.fromkeys((config.model.name, *models)))
    settings: dict[str, dict[str, Any]] = {group: training_of(client, record) for group, record in best.items()}
    if BACKPROP not in settings:
        searched = every.get(BACKPROP)
        plain = config.training(split="test", rule=BACKPROP, rule_options={}).as_toml()
        settings = {BACKPROP: training_of(client, searched) if searched else plain, **settings}
    _check_models(models, config)
    fresh = fresh_seeds(config, seeds)
    jobs = {
        f"{group}/{model}": chosen if model == config.model.name else {**chosen, "model": {"name": model}}
        for group, chosen in settings.items()
        for model in models
    }
    accuracies, found = _train_all(folder / TRANSFERRED, jobs, fresh, workers, log)

    def gaps(group: str, model: str) -> list[float | None]:
        pairs = zip(accuracies[f"{BACKPROP}/{model}"], accuracies[f"{group}/{model}"], strict=True)
        return [None if plain is None or own is None else plain - own for plain, own in pairs]

    def cell(group: str, model: str) -> TransferCell:
        pairs = zip(gaps(group, model), gaps(group, models[0]), strict=True)
        lost = [there - here for there, here in pairs if there is not None and here is not None]
        mean = estimate(accuracies[f"{group}/{model}"])
        return TransferCell(
            accuracies[f"{group}/{model}"], mean.mean, mean.half, statistics.fmean(lost) if lost else None
        )

    rows = tuple(TransferRow(group, {model: cell(group, model) for model in models}) for group in settings)
    table = Transfer(tuple(models), rows, tuple(fresh), found)
    with writing(folder):
        write_json(folder / TRANSFERRED, table, indent=None)
    return table


def fresh_seeds(config: SearchSettings, count: int) -> list[int]:
    """Seeds that no trial of the search had."""
    return [config.run.seed + FRESH + n for n in range(count)]


def final_accuracy(settings: dict[str, Any]) -> dict[str, Any]:
    """Train once and evaluate once, at the end: ``accuracy``, None for a training that diverged, and ``reason``."""
    config = resolve(settings)
    run = config.run
    with joined(run.device, threads=run.threads or 1, deterministic=run.deterministic) as process:
        try:
            dataset = load_once(config, _DATA, process.device)
            accuracy = run_trial(config, dataset, process, report_every=run.epochs)
        except TrialFailed as failed:
            return {"accuracy": None, "reason": failed.reason}
    return {"accuracy": accuracy, "reason": None}


_DATA: dict[str, Any] = {}  # one copy a process


def _train_all(
    path: Path, settings: dict[str, dict[str, Any]], seeds: list[int], workers: int, log: Callable[[str], None]
) -> tuple[dict[str, tuple[float | None, ...]], dict[str, Any]]:
    """Train with each of some settings and each seed; what is in ``path`` with the same settings is not trained again.

    Returns:
        Accuracies of the seeds by name of the settings, None for one that diverged; and what is to be kept of each
        training, by NAME/SEED.
    """
    jobs = {
        f"{name}/{seed}": merged(TrainSettings, own, {"seed": seed}) for name, own in settings.items() for seed in seeds
    }
    known = _trainings(path) if path.is_file() else {}
    done = {name: known[name] for name, job in jobs.items() if name in known and known[name]["settings"] == job}
    left = {name: job for name, job in jobs.items() if name not in done}

    def note(name: str, result: dict[str, Any]) -> None:
        done[name] = {"settings": jobs[name], **result}
        with writing(path.parent):
            write_json(path, {"trainings": {**known, **done}}, indent=None)
        outcome = "diverged" if result["accuracy"] is None else f"test accuracy {100 * result['accuracy']:.2f} %"
        log(f"[{len(done)}/{len(jobs)}] {name}: {outcome}")

    if workers == 1:
        for name, job in left.items():
            note(name, final_accuracy(job))
    else:
        for name, result in in_processes(workers, final_accuracy, [(name, (job,)) for name, job in left.items()]):
            note(name, result)
    accuracies = {name: tuple(done[f"{name}/{seed}"]["accuracy"] for seed in seeds) for name in settings}
    return accuracies, {**known, **done}


class _Training(BaseModel):
    """What is kept of a training; a folder may come from elsewhere, and is checked."""

    model_config = ConfigDict(strict=True, extra="forbid")
    settings: dict[str, Any]
    accuracy: Accuracy | None
    reason: str | None


def _trainings(path: Path) -> dict[str, dict[str, Any]]:
    """The trainings in a file of :func:`_train_all`, by NAME/SEED; raises RunError if it is damaged."""
    with intact(str(path)):
        found = json.loads(path.read_text(encoding="utf-8"))["trainings"]
        return {name: _Training(**one).model_dump() for name, one in found.items()}


def _check_models(models: Iterable[str], config: SearchSettings) -> None:
    dataset = load_once(config.training(), _DATA, torch.device("cpu"))
    for model in models:
        options = config.model.options if model == config.model.name else {}
        try:
            build_model(model, classes=dataset.classes, shape=dataset.shape, options=options)
        except BackroadsError as error:
            raise ConfigError(f"models: {error}") from None
