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

import optuna
import torch
from optuna.samplers import RandomSampler
from optuna.trial import create_trial

from backroads.runs.environment import environment
from backroads.runs.runtime import Runtime
from backroads.search.record import Record, settled
from backroads.search.run import client_at, prepare, search, study_in
from backroads.search.settings import resolve
from backroads.search.trial import load_once, run_trial

# 22 steps an epoch on the training part of digits: 110 steps a trial.
SETTINGS: dict[str, Any] = {"epochs": 5, "batch_size": 52, "pruner": "median"}


def overhead(trials: int, storage: str | None) -> dict[str, Any]:
    """Machinery a trial, in ms: what is done around and within a trial, and its training by itself.

    Of the clock, and of this process's CPU: on a machine that others use, the clock counts their turns as well.
    """
    torch.set_num_threads(1)
    process, datasets = Runtime(torch.device("cpu")), {}
    machinery, whole = Watch(), Watch()
    with tempfile.TemporaryDirectory() as folder:
        config, url = prepare(resolve({**SETTINGS, "trials": trials, "storage": storage}), Path(folder) / "study")
        with client_at(url, config) as client:
            dataset = load_once(config.training(), datasets, process.device)
            run_trial(config.training(), dataset, process)  # warm

            def train(trial: optuna.Trial, record: Record, params: dict[str, Any]) -> float:
                def report(epoch: int, value: float) -> bool:
                    with machinery:
                        client.report(trial, epoch, value)
                    return False  # its answer is not taken: all trials have 110 steps

                training = config.training(**client.groups[record.group].settings(params))
                machinery.stop()
                value = run_trial(training, dataset, process, report=report)
                machinery.start()
                return value

            for _ in range(trials):
                with whole, machinery:
                    client.run_trial(client.next_group() or "", train)
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
        self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
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
    # Workers that are still importing train nothing: count from when the last one had its first trial.
    by_worker: dict[str, list[float]] = {}
    with study_in(folder) as client:
        for record in settled(client.all_records()):
            if record.trial.datetime_complete is not None:
                by_worker.setdefault(record.process or "", []).append(record.trial.datetime_complete.timestamp())
    start = max(min(ends) for ends in by_worker.values())
    end = min(max(ends) for ends in by_worker.values())
    inside = [at for ends in by_worker.values() for at in ends if start < at <= end]
    return len(inside) / (end - start)


def tpe(trials: int, storage: str | None) -> dict[str, Any]:
    """Cost of taking a trial (looking, proposing, writing) as the study grows, in ms of the clock and of the CPU.

    Between the marks the one group of the study is filled with finished trials.
    """
    draw = random.Random(0)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        given = {**SETTINGS, "trials": trials + 1000, "storage": storage}
        config, url = prepare(resolve(given), Path(folder) / "study")
        with client_at(url, config) as client:
            (group,) = client.groups
            fill = optuna.create_study(sampler=RandomSampler(seed=0))
            for mark in (n for n in (100, 500, 1000, 2000, 3000, 4000, 5000) if n <= trials):
                for _ in range(len(client.records(group)), mark):
                    params = client.groups[group].suggest(drawn := fill.ask())
                    done = create_trial(value=_value(params, draw), params=params, distributions=drawn.distributions)
                    client.studies[group].add_trial(done)
                take = Watch()

                def train(trial: optuna.Trial, record: Record, params: dict[str, Any], take: Watch = take) -> float:
                    take.stop()
                    return _value(params, draw)

                for _ in range(20):
                    take.start()
                    client.run_trial(client.next_group() or "", train)
                    take.next()
                found[str(mark)] = {"take_ms": quartiles(take.wall), "take_cpu_ms": quartiles(take.cpu)}
    return {"by_trials": found}


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
