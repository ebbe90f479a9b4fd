"""What a search costs beside the trainings in it, and what a second worker brings.

    python benchmarks/search.py                  # all parts, about ten minutes on two cores
    python benchmarks/search.py --parts tpe      # one of them

- overhead: what a trial costs beside its training and evaluations (sampling, storage, reports, pruning);
- workers: trials a second of two workers over those of one;
- tpe: seconds to propose and to write a trial, in a study that grows to 5,000 trials.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial

from backroads.runs.environment import environment
from backroads.search.desk import Desk
from backroads.search.ledger import ABOUT
from backroads.search.run import prepare, search, study_in
from backroads.search.settings import resolve
from backroads.search.storage import storage_at
from backroads.search.trial import Hooks, load_once, run_trial
from backroads.train.runtime import Runtime

# 22 steps an epoch on the training part of digits: 110 steps a trial.
SETTINGS: dict[str, Any] = {"epochs": 5, "batch_size": 52, "pruner": "median"}


def overhead(trials: int, storage: str | None) -> dict[str, Any]:
    """Machinery a trial, in ms: what is done around and within a trial, and its training by itself.

    Of the clock, and of this process's CPU: on a machine that others use, the clock counts their turns as well.
    """
    torch.set_num_threads(1)
    here, cache = Runtime(torch.device("cpu")), {}
    with tempfile.TemporaryDirectory() as folder:
        config, url = prepare(resolve({**SETTINGS, "trials": trials, "storage": storage}), Path(folder) / "study")
        with storage_at(url) as opened:
            desk = Desk(opened, config.name, config, 0)
            dataset = load_once(config.training(), cache, here.device)
            run_trial(config.training(), dataset, here, Hooks())  # warm
            machinery, whole = Watch(), Watch()
            for _ in range(trials):
                with whole:
                    with machinery:
                        claim = desk.take()
                        assert claim is not None

                    def report(epoch: int, value: float, claim: Any = claim) -> bool:
                        with machinery:
                            desk.report(claim, epoch, value)
                        return False  # its answer is not taken: all trials have 110 steps

                    training = config.training(**desk.group(claim.slot).settings(claim.params))
                    value = run_trial(training, dataset, here, Hooks(report))
                    with machinery:
                        desk.ledger.finish(claim, value)
                machinery.next()
                whole.next()
    return {
        "trials": trials,
        "machinery_ms": quartiles(machinery.wall),
        "machinery_cpu_ms": quartiles(machinery.cpu),
        "whole_trial_ms": quartiles(whole.wall),
        "whole_trial_cpu_ms": quartiles(whole.cpu),
    }


class Watch:
    """Adds up the time spent within it, by the clock and of the CPU, trial by trial."""

    def __init__(self) -> None:
        self.wall: list[float] = [0.0]
        self.cpu: list[float] = [0.0]

    def __enter__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall[-1] += time.perf_counter() - self._began[0]
        self.cpu[-1] += time.process_time() - self._began[1]

    def next(self) -> None:
        """Begin the next trial."""
        self.wall.append(0.0)
        self.cpu.append(0.0)


def workers(trials: int) -> dict[str, Any]:
    """Trials a second of one and of two workers, from the first trial's end to the last's."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(2):
        for count in (1, 2) if turn % 2 == 0 else (2, 1):
            with tempfile.TemporaryDirectory() as folder:
                rates[count].append(_rate(count, trials * count, Path(folder) / "study"))
    return {
        "trials_a_second": {str(count): found for count, found in rates.items()},
        "two_over_one": statistics.fmean(rates[2]) / statistics.fmean(rates[1]),
    }


def _rate(count: int, trials: int, folder: Path) -> float:
    given = {**SETTINGS, "pruner": "none", "trials": trials, "workers": count}
    search(resolve(given), folder, lambda _: None)
    with study_in(folder) as (storage, config):
        done = storage.get_all_trials(storage.get_study_id_from_name(config.name), deepcopy=False)
    # Workers that are still importing train nothing: count from when the last one had its first trial.
    by_worker: dict[str, list[float]] = {}
    for trial in done:
        if trial.datetime_complete is not None:
            by_worker.setdefault(trial.user_attrs["about"]["worker"], []).append(trial.datetime_complete.timestamp())
    start = max(min(ends) for ends in by_worker.values())
    end = min(max(ends) for ends in by_worker.values())
    inside = [at for ends in by_worker.values() for at in ends if start < at <= end]
    return len(inside) / (end - start)


def tpe(trials: int, storage: str | None) -> dict[str, Any]:
    """Cost of taking a trial (looking, proposing, writing) as the study grows, in ms of the clock and of the CPU.

    One group, so that the window is what bounds TPE. Between the marks the study is filled with finished trials.
    """
    draw = random.Random(0)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        given = {**SETTINGS, "trials": trials + 1000, "storage": storage}
        config, url = prepare(resolve(given), Path(folder) / "study")
        with storage_at(url) as opened:
            desk = Desk(opened, config.name, config, 0)
            (group,) = desk.groups
            space = group.distributions()
            for mark in (n for n in (100, 500, 1000, 2000, 3000, 4000, 5000) if n <= trials):
                for slot in range(len(desk.ledger.trials()), mark):
                    nobody = create_trial(state=TrialState.RUNNING)
                    params = {
                        name: RandomSampler(seed=slot).sample_independent(None, nobody, name, one)  # type: ignore[arg-type]
                        for name, one in space.items()
                    }
                    about = {"slot": slot, "group": group.name, "worker": "", "token": ""}
                    value = _value(params, draw)
                    done = create_trial(value=value, params=params, distributions=space, user_attrs={ABOUT: about})
                    opened.create_new_trial(desk.ledger.id, done)
                take = Watch()
                for _ in range(20):
                    with take:
                        claim = desk.take()
                    assert claim is not None
                    desk.ledger.finish(claim, _value(claim.params, draw))
                    take.next()
                found[str(mark)] = {"take_ms": quartiles(take.wall), "take_cpu_ms": quartiles(take.cpu)}
    return {"window": config.window, "by_trials": found}


def _value(params: dict[str, Any], draw: random.Random) -> float:
    """A made-up accuracy, best at a rate of 0.1."""
    return 1 - abs(math.log10(params["learning_rate"]) + 1) / 3 + 0.01 * draw.random()


def quartiles(seconds: list[float]) -> list[float]:
    """In ms: lower quartile, median, upper quartile; without the last, which is yet to come."""
    return [round(1000 * q, 2) for q in statistics.quantiles(seconds[:-1], n=4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["overhead", "workers", "tpe"])
    parser.add_argument("--trials", type=int, default=60, help="trials of the parts that train")
    parser.add_argument("--grown", type=int, default=5000, help="trials of the part that does not")
    parser.add_argument("--storage", help="a PostgreSQL to use in place of SQLite")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    given = parser.parse_args()
    results: dict[str, Any] = {
        "environment": environment(),
        "load": os.getloadavg(),
        "threads": threading.active_count(),
    }
    for part in given.parts:
        results[part] = {
            "overhead": lambda: overhead(given.trials, given.storage),
            "workers": lambda: workers(given.trials),
            "tpe": lambda: tpe(given.grown, given.storage),
        }[part]()
        print(part, json.dumps(results[part], indent=2), flush=True)
    results["load_after"] = os.getloadavg()
    if given.out is not None:
        given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
