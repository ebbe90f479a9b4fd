"""Many trainings in a grid, arms times seeds, recorded in one results file that a later call goes on with.

A script lists its arms: what they are called and the settings that they are trained with. This module trains every arm
with every seed and records, for each, its settings, the outcome of every seed, n, means and standard deviations, beside
command, commit, versions and hardware. What is recorded is not trained again; a training that was interrupted goes on
from its last checkpoint, in its folder under ``--runs``. With ``--jobs`` several are trained at a time.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import hashlib
import json
import multiprocessing
import re
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import torch

from backroads.runs.environment import environment
from backroads.runs.files import write_json
from backroads.runs.progress import Progress
from backroads.runs.schema import Stopped
from backroads.runs.settings import read_settings
from backroads.runs.statistics import estimate, paired
from backroads.train.settings import resolve
from backroads.train.trainer import train

RESULTS = Path(__file__).parent / "results"
Data = dict[str, Any]
# The settings of W that the grids have in common, for all rules.
RECIPE: Data = {
    "augment": "crop_flip",
    "batch_size": 128,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "channels_last": True,
    "keep": 1,
    "checkpoint_every": 100,
}


@dataclasses.dataclass(frozen=True)
class Arm:
    """What is trained with every seed.

    Attributes:
        labels: what tells it from the other arms, as in {"network": "vgg", "rule": "backprop"}.
        settings: of the training, without the seed and without what belongs to a machine; "recipe" among them is the
            name of a recipe, over which the others go.
    """

    labels: Data
    settings: Data

    @property
    def name(self) -> str:
        """The labels as one text."""
        return ", ".join(filter(None, map(shown, self.labels.values())))


# What is done for an arm and a seed: arm, seed, folder, settings of the machine -> outcome, as plain data.
One = Callable[[Arm, int, Path, Data], Data]


def shown(label: Any) -> str:
    """A label as a text."""
    return f"{label:g}" if isinstance(label, float) else str(label)


def parser(text: str | None, out: str, *, data: bool = True) -> argparse.ArgumentParser:
    """A parser with the arguments that all grids share; ``out``: name of the results file."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data:
        made.add_argument("--data", required=True, help="as of backroads train, such as cifar10 or folder:PATH")
        made.add_argument("--root", help="folder of the data set, for those that torchvision knows")
        made.add_argument("--device", default="auto")
        made.add_argument("--precision", help="in place of that of the arms, which is fp32 unless they say another")
        made.add_argument("--compile", action="store_true")
    made.add_argument("--runs", type=Path, required=True, help="folder of the run folders, kept between calls")
    made.add_argument("--only", nargs="*", default=[], help="arms by label, as in network=vgg rule='normalised*'")
    made.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    made.add_argument("--threads", type=int, default=1, help="CPU threads of each training")
    made.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    made.add_argument("--out", type=Path, default=RESULTS / f"{out}.json", help="results file")
    return made


def chosen(arms: list[Arm], only: list[str]) -> list[Arm]:
    """The arms that fit all labels asked for; several patterns of one label are alternatives."""
    patterns: dict[str, list[str]] = {}
    for text in only:
        label, _, pattern = text.partition("=")
        if label not in arms[0].labels:
            sys.exit(f"--only: expected LABEL=PATTERN with a label of {', '.join(arms[0].labels)}, got {text!r}")
        patterns.setdefault(label, []).append(pattern)
    found = [
        arm
        for arm in arms
        if all(any(fnmatch.fnmatchcase(shown(arm.labels[key]), p) for p in of) for key, of in patterns.items())
    ]
    return found or sys.exit(f"--only: no arm fits; there are: {'; '.join(arm.name for arm in arms)}")


def run_grid(
    arms: list[Arm],
    given: argparse.Namespace,
    one: One | None = None,
    summary: Callable[[dict[str, Data], dict[str, Data]], Data] | None = None,
    baseline: Data | None = None,
) -> Data:
    """Complete the results file and return its content.

    Args:
        arms: all arms of the grid, in the order of the results.
        given: the arguments of :func:`parser`.
        one: what is done for an arm and a seed; None: a training.
        summary: from outcomes by seed, and those of the baseline, to numbers that are recorded beside them; None:
            :func:`accuracies`.
        baseline: the labels in which an arm's baseline differs from it; None: rule "backprop".
    """
    torch.set_num_threads(given.threads)
    given.runs.mkdir(parents=True, exist_ok=True)
    names = ("data", "root", "device", "threads", "precision", "compile")
    machine = {name: value for name in names if (value := getattr(given, name, None)) is not None}
    record = _read(given.out, arms, machine)
    todo = [
        (arm, seed)
        for seed in given.seeds
        for arm in chosen(arms, given.only)
        if str(seed) not in record.get(arm.name, {}).get("seeds", {})
    ]
    recorded = partial(_results, arms, record, machine, summary or accuracies, baseline or {"rule": "backprop"})
    for arm, seed, outcome in _outcomes(todo, one or training, given.runs, machine, given.jobs):
        found = record.setdefault(arm.name, {"labels": arm.labels, "settings": arm.settings, "seeds": {}})
        found["seeds"][str(seed)] = {"commit": environment()["commit"], **outcome}
        found["seeds"] = dict(sorted(found["seeds"].items(), key=lambda item: int(item[0])))
        write_json(given.out, recorded())
        print(f"{arm.name}, seed {seed}: {outcome.get('status', 'done')}", flush=True)
    if record and not todo:  # what is worked out from the outcomes may have changed
        write_json(given.out, recorded())
    return recorded()


def _recorded(machine: Data) -> Data:
    """Of the machine's settings, those that belong into the results; of a path of data, only its kind."""
    kept = {key: value for key, value in machine.items() if key != "root"}
    return {**kept, "data": kept["data"].partition(":")[0]} if "data" in kept else kept


def _read(path: Path, arms: list[Arm], machine: Data) -> dict[str, Data]:
    """The recorded arms by name; leaves with a message if the file is not of this grid."""
    if not path.exists():
        return {}
    old = json.loads(path.read_text(encoding="utf-8"))
    if "arms" not in old:
        sys.exit(f"{path} was not written by this grid and cannot be gone on with; give another --out")
    for key in ("data", "precision"):
        if (old["settings"].get(key) or "fp32") != (_recorded(machine).get(key) or "fp32"):
            sys.exit(f"{path} is of {key} {old['settings'].get(key)!r}; give another --out")
    record = {Arm(found["labels"], {}).name: found for found in old["arms"]}
    for arm in arms:
        if arm.name in record and record[arm.name]["settings"] != json.loads(json.dumps(arm.settings)):
            sys.exit(f"{path} has {arm.name!r} with other settings; give another --out")
    return record


def _results(
    arms: list[Arm], record: dict[str, Data], machine: Data, summary: Callable[..., Data], baseline: Data
) -> Data:
    rows = []
    order = {arm.name: place for place, arm in enumerate(arms)}
    for name in sorted(record, key=lambda name: order.get(name, len(order))):
        found = record[name]
        reference = record.get(Arm({**found["labels"], **baseline}, {}).name, {}).get("seeds", {})
        head = {key: found[key] for key in ("labels", "settings")}
        rows.append({**head, "n": len(found["seeds"]), **summary(found["seeds"], reference), "seeds": found["seeds"]})
    where = {key: value for key, value in environment().items() if key not in ("command", "started")}
    # Where data and folders lie on this machine says nothing to another.
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    command = re.sub(r"(--(?:runs|root|out)[ =]|(?:folder|npz):)\S+", r"\1PATH", command)
    return {"command": command, "environment": where, "settings": _recorded(machine), "arms": rows}


def _outcomes(
    todo: list[tuple[Arm, int]], one: One, runs: Path, machine: Data, jobs: int
) -> Iterator[tuple[Arm, int, Data]]:
    def arguments(arm: Arm, seed: int) -> tuple[Arm, int, Path, Data]:
        # Trainings with other settings, or on other data, have other folders.
        known = json.dumps([arm.settings, _recorded(machine).get("data")], sort_keys=True)
        name = f"{arm.name}-{hashlib.sha256(known.encode()).hexdigest()[:8]}-{seed}"
        return arm, seed, runs / re.sub(r"[^\w.=-]+", "_", name), machine

    if jobs == 1:
        for arm, seed in todo:
            yield arm, seed, one(*arguments(arm, seed))
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(one, *arguments(*item)): item for item in todo}
        try:
            for future in as_completed(futures):
                yield *futures[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def show(progress: Progress) -> None:
    """Print what is said of an epoch."""
    if progress.line:
        print(f"  {progress.line}", flush=True)


def training(arm: Arm, seed: int, folder: Path, machine: Data) -> Data:
    """Train an arm with a seed; leaves with status 128 + signal if it is stopped."""
    # Unless the arm says otherwise: on the whole training split, with the test split read once, at the end.
    settings = {"split": "test", **arm.settings, **machine, "seed": seed}
    recipe = settings.pop("recipe", None)
    config = resolve(read_settings(recipe) if recipe else {}, settings)
    results = train(config, folder, show, resume=True)
    if isinstance(results, Stopped):
        sys.exit(128 + results.signal)
    (end,) = results.arms
    angles = end.readings.get("weight_angle", {})
    # Of the code that trained it, which for a folder found finished is not the present one.
    commit = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["commit"]
    return {
        "status": end.status,
        "accuracy": end.accuracy,
        "angles": angles,
        "seconds": results.seconds,
        "commit": commit,
    }


def accuracies(seeds: dict[str, Data], baseline: dict[str, Data]) -> Data:
    """Means and deviations of trainings: accuracy, gap to backpropagation with the same seeds, weight angle."""
    own = estimate(run["accuracy"] for run in seeds.values())
    gap = paired(
        [run["accuracy"] for run in seeds.values()], [baseline.get(seed, {}).get("accuracy") for seed in seeds]
    )
    angles = [angle for run in seeds.values() for angle in run["angles"].values() if angle is not None]
    return {
        "accuracy_mean": own.mean,
        "accuracy_std": own.std,
        "gap_points": None if gap.mean is None else 100 * gap.mean,
        "gap_std": None if gap.std is None else 100 * gap.std,
        "gap_half": None if gap.half is None else 100 * gap.half,  # of the paired 95 % interval of its mean
        "angle_mean": statistics.fmean(angles) if angles else None,
        "angle_max": max(angles) if angles else None,
        "diverged": sum(run["status"] == "diverged" for run in seeds.values()),
    }


# -- tables --


def rows_of(results: Data) -> list[Data]:
    """One row for each arm, labels and numbers."""
    return [{**arm["labels"], **{k: v for k, v in arm.items() if k != "labels"}} for arm in results["arms"]]


def commits_of(results: Data) -> list[str]:
    """The commits that the outcomes come from."""
    found = {run["commit"] for row in rows_of(results) for run in row.get("seeds", {}).values()}
    return sorted(found) if "commits" not in results else results["commits"]


def spread(mean: float | None, std: float | None, factor: float = 100, digits: int = 2, sign: str = "") -> str:
    """``factor`` times a mean, with its standard deviation where there is one."""
    if mean is None:
        return "-"
    return f"{factor * mean:{sign}.{digits}f}" + ("" if std is None else f" ± {factor * std:.{digits}f}")


def gap_of(row: Data) -> str:
    """A row's gap in points; of several seeds with the 95 % interval of its mean, paired by seed."""
    gap, half = row["gap_points"], row.get("gap_half")
    return spread(gap, None, 1, sign="+") + ("" if half is None else f" [{gap - half:+.2f}, {gap + half:+.2f}]")


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
