"""After a search: its best trained again with fresh seeds and tested once, and carried to other architectures.

Trainings that are done are kept in ``promote.json`` and ``transfer.json`` of the study's folder: what was interrupted
goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import statistics
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backroads.errors import BackroadsError, ConfigError, RunError
from backroads.runs.folder import write_json
from backroads.search.ledger import ABOUT
from backroads.search.results import best_of_groups, ranked, training_of
from backroads.search.settings import SearchConfig
from backroads.train.settings import TrainConfig

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

PROMOTED, TRANSFERRED = "promote.json", "transfer.json"
FRESH = 10_000  # added to the search's seed: none that a trial has seen
LEVEL = 0.95  # of confidence intervals
BACKPROP = "backprop"


def promote(
    storage: BaseStorage,
    config: SearchConfig,
    folder: Path,
    *,
    top: int,
    seeds: int,
    each: bool = False,
    workers: int = 1,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Train the best ``top`` trials again on the whole training split, with fresh seeds, and test each training once.

    Args:
        each: the best trial of each of the ``top`` best groups instead. workers: processes. say: told of each training.

    Returns:
        A row a trial, the best test accuracy first; also in ``promote.json``.

    Raises:
        RunError: no trial is complete.
    """
    trials = _trials(storage, config)
    chosen = (list(best_of_groups(trials, config).values()) if each else ranked(trials, config))[:top]
    if not chosen:
        raise RunError("promote: no trial is complete yet; go on with the search")
    jobs = {
        f"{_slot(trial)}/{seed}": training_of(trial, config, seed=seed)
        for trial in chosen
        for seed in fresh_seeds(config, seeds)
    }
    found = _train_all(folder / PROMOTED, jobs, workers, say)
    rows = [
        {
            "slot": _slot(trial),
            "group": _group(trial),
            "validation": trial.value,
            **interval([found[f"{_slot(trial)}/{seed}"]["accuracy"] for seed in fresh_seeds(config, seeds)]),
        }
        for trial in chosen
    ]
    rows.sort(key=lambda row: -(row["mean"] or 0.0))
    _write(folder / PROMOTED, found, {"rows": rows, "seeds": fresh_seeds(config, seeds)})
    return rows


def transfer(
    storage: BaseStorage,
    config: SearchConfig,
    folder: Path,
    *,
    models: list[str],
    top: int,
    seeds: int,
    workers: int = 1,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train the best of each group, unchanged, on other networks, beside backprop; test each training once.

    What is lost in transfer: (backprop - rule) on the other network less (backprop - rule) on the searched one, in
    accuracy. Backprop has the settings of the search, with its own best rates if it was searched too.

    Returns:
        ``models`` (the searched one first) and ``rows``; also in ``transfer.json``.

    Raises:
        ConfigError: an unknown model; before anything is trained. RunError: no trial is complete.
    """
    best = dict(list(best_of_groups(_trials(storage, config), config).items())[:top])
    if not best:
        raise RunError("transfer: no trial is complete yet; go on with the search")
    models = list(dict.fromkeys((config.model, *models)))
    settings: dict[str, dict[str, Any]] = {group: training_of(trial, config) for group, trial in best.items()}
    if BACKPROP not in settings:
        plain = config.training(split="test", rule=BACKPROP, rule_options={}).model_dump(exclude_none=True)
        settings = {BACKPROP: plain, **settings}
    _check_models(models, config)
    jobs = {
        f"{group}/{model}/{seed}": _on(chosen, model, config, seed)
        for group, chosen in settings.items()
        for model in models
        for seed in fresh_seeds(config, seeds)
    }
    found = _train_all(folder / TRANSFERRED, jobs, workers, say)
    cells = {
        (group, model): interval([found[f"{group}/{model}/{seed}"]["accuracy"] for seed in fresh_seeds(config, seeds)])
        for group in settings
        for model in models
    }
    rows = [
        {
            "group": group,
            "models": {
                model: {**cells[group, model], "lost": _lost(cells, group, model, models[0])} for model in models
            },
        }
        for group in settings
    ]
    table = {"models": models, "rows": rows, "seeds": fresh_seeds(config, seeds)}
    _write(folder / TRANSFERRED, found, table)
    return table


def fresh_seeds(config: SearchConfig, count: int) -> list[int]:
    """Seeds that no trial of the search had."""
    return [config.seed + FRESH + n for n in range(count)]


def interval(accuracies: list[float | None]) -> dict[str, Any]:
    """Mean, and half the width of its 95 % confidence interval (Student's t); over the trainings that did not diverge.

    The mean is None if none is left, the interval if one is.
    """
    from scipy.stats import t

    finite = [a for a in accuracies if a is not None]
    half = None
    if len(finite) > 1:
        quantile = float(t.ppf(0.5 + LEVEL / 2, len(finite) - 1))
        half = quantile * statistics.stdev(finite) / math.sqrt(len(finite))
    return {"accuracies": accuracies, "mean": statistics.fmean(finite) if finite else None, "interval": half}


def final_accuracy(settings: dict[str, Any]) -> dict[str, Any]:
    """Train once and evaluate once, at the end: ``accuracy``, None for a training that diverged, and ``reason``."""
    import torch

    from backroads.search.trial import DivergedError, Hooks, load_once, run_trial
    from backroads.train.runtime import runtime

    config = TrainConfig(**settings)
    torch.set_num_threads(config.threads or 1)
    with runtime(config) as here:
        try:
            dataset = load_once(config, _DATA, here.device)
            accuracy = run_trial(config, dataset, here, Hooks(), report_every=config.epochs)
        except DivergedError as error:
            return {"accuracy": None, "reason": str(error)}
    return {"accuracy": accuracy, "reason": None}


_DATA: dict[str, Any] = {}  # one copy a process


def _train_all(
    path: Path, jobs: dict[str, dict[str, Any]], workers: int, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """The results of ``jobs`` by name: those in ``path`` that had the same settings, and the others now trained."""
    known = json.loads(path.read_text(encoding="utf-8"))["trainings"] if path.is_file() else {}
    done = {name: known[name] for name, job in jobs.items() if name in known and known[name]["settings"] == job}
    left = {name: job for name, job in jobs.items() if name not in done}

    def note(name: str, result: dict[str, Any]) -> None:
        done[name] = {"settings": jobs[name], **result}
        _write(path, {**known, **done}, {})
        told = "diverged" if result["accuracy"] is None else f"test accuracy {100 * result['accuracy']:.2f} %"
        say(f"[{len(done)}/{len(jobs)}] {name}: {told}")

    if workers == 1:
        for name, job in left.items():
            note(name, final_accuracy(job))
        return done
    # A fresh interpreter each: forked ones share the threads of torch, and hang.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(final_accuracy, job): name for name, job in left.items()}
        for future in as_completed(futures):
            note(futures[future], future.result())
    return done


def _write(path: Path, trainings: dict[str, Any], table: dict[str, Any]) -> None:
    write_json(path, {**table, "trainings": trainings}, indent=None)


def _on(settings: dict[str, Any], model: str, config: SearchConfig, seed: int) -> dict[str, Any]:
    """The settings on another model, whose options are its own."""
    changed = {**settings, "model": model, "seed": seed}
    return changed if model == config.model else {**changed, "model_options": {}}


def _lost(cells: dict[tuple[str, str], dict[str, Any]], group: str, model: str, home: str) -> float | None:
    gaps = []
    for place in (model, home):
        here, other = cells[BACKPROP, place]["mean"], cells[group, place]["mean"]
        if here is None or other is None:
            return None
        gaps.append(here - other)
    return float(gaps[0] - gaps[1])


def _check_models(models: Iterable[str], config: SearchConfig) -> None:
    import torch

    from backroads.models import build_model
    from backroads.search.trial import load_once

    dataset = load_once(config.training(), _DATA, torch.device("cpu"))
    for model in models:
        options = config.train.get("model_options", {}) if model == config.model else {}
        try:
            build_model(model, classes=dataset.classes, shape=dataset.shape, options=options)
        except BackroadsError as error:
            raise ConfigError(f"models: {error}") from None


def _trials(storage: BaseStorage, config: SearchConfig) -> list[FrozenTrial]:
    return storage.get_all_trials(storage.get_study_id_from_name(config.name), deepcopy=False)


def _slot(trial: FrozenTrial) -> int:
    return int(trial.user_attrs[ABOUT]["slot"])


def _group(trial: FrozenTrial) -> str:
    return str(trial.user_attrs[ABOUT]["group"])
