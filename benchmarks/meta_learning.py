"""What came of the long meta-trainings of the claims L1 to L5, beside their verdicts.

    backroads reproduce run L1 L2 L3 L4 L5 --scale desk --data omniglot=PATH --out FOLDER
    python benchmarks/meta_learning.py FOLDER

Trainings that are not in the folder stay as they were in the results of before.

For each learner on each task: the score at the end of a lifetime, what it retains, how far its updates are from the
gradient and by how much they interfere, the score on validation tasks in the course of meta-training, and the score on
each task after each task of a lifetime. Networks that were meta-trained on 20 classes one after another are also tested
on fewer and more of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from claims import joined, machines_of
from grid import RESULTS, Data, markdown

from backroads.plasticity.evaluate import measure
from backroads.plasticity.settings import MetaConfig
from backroads.plasticity.trainer import load_run
from backroads.report.read import read_record
from backroads.reproduce.arms import Arm, arms_of, unique
from backroads.reproduce.run import campaign_in
from backroads.runs.files import write_json

WAYS = (5, 10, 20, 50, 100, 200)  # classes of a lifetime


def collected(folder: Path, old: Data, lifetimes: int) -> Data:
    """Rows by experiment and learner, with what is known of each seed.

    Args:
        folder: of the campaign. old: the results of before, which are added to. lifetimes: on which networks are tested
            with other numbers of classes.
    """
    known = {run["run"]: run for row in old.get("rows", ()) for run in row["seeds"].values()}
    found = {(row["experiment"], row["learner"]): {**row, "seeds": {**row["seeds"]}} for row in old.get("rows", ())}
    campaign = campaign_in(folder)
    for arm in unique([arm for claim in campaign.claims for arm in arms_of(claim, campaign, folder)]):
        if not isinstance(arm.config, MetaConfig) or not (end := arm.outcome(folder)).done or end.known:
            continue
        run = folder / arm.folder
        (evaluation,) = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["ways"].values()
        own = {
            "run": arm.folder.name,
            "status": end.status,
            "mean": evaluation["mean"],
            **{name: end.values.get(name) for name in ("retention", "gradient_angle", "interference")},
            "course": evaluation["course"],
            "curve": [[line.step, line.mean] for line in read_record(run).lifetimes],
            "ways": known.get(arm.folder.name, {}).get("ways", {}),
        }
        if arm.config.task.tasks == 20 and arm.config.task.order == "continual" and not own["ways"]:
            own["ways"] = of_ways(run, lifetimes)
        row = {"experiment": f"{arm.labels['task']} {arm.config.task.order}", "learner": arm.labels["learner"]}
        row |= {"measure": evaluation["measure"], "episodes": episodes_of(arm), "seeds": {}}
        seeds = found.setdefault((row["experiment"], row["learner"]), row)["seeds"]
        # Of trainings of two claims that differ in what is measured after them, the one of which more is known.
        if own["gradient_angle"] is not None or seeds.get(str(arm.seed), own)["gradient_angle"] is None:
            seeds[str(arm.seed)] = own
    machines = joined([*old.get("machines", ()), *machines_of(folder, ["meta"])])
    return {"scale": campaign.scale, "machines": machines, "rows": list(found.values())}


def of_ways(run: Path, lifetimes: int) -> Data:
    """The mean score by number of classes of a lifetime, on unseen classes."""
    network, tasks, _ = load_run(run, "best")
    # Long lifetimes of many classes one at a time: their weights at many moments are kept for the course.
    return {
        str(n): measure(network, tasks, "test", lifetimes, ways=n, batch=8 if n <= 20 else 1).summary(0).mean
        for n in WAYS
    }


def episodes_of(arm: Arm) -> int:
    """Lifetimes of a meta-training."""
    assert isinstance(arm.config, MetaConfig)
    return arm.config.meta.meta_steps * arm.config.meta.meta_batch_size


def by_experiment(results: Data) -> list[Data]:
    """The rows, those of one experiment together."""
    order = list(dict.fromkeys(row["experiment"] for row in results["rows"]))
    return sorted(results["rows"], key=lambda row: order.index(row["experiment"]))


def table(results: Data, kind: str = "") -> str:
    """A row for each learner on the tasks whose name begins with ``kind``, with standard deviations over seeds."""
    cells = []
    for row in by_experiment(results):
        if row["experiment"].startswith(kind):
            percent = row["measure"] == "accuracy"
            own = [over(row, "mean", percent), over(row, "gradient_angle"), over(row, "interference")]
            seeds = ", ".join(shown(run["mean"], percent) for run in row["seeds"].values())
            cells.append([row["experiment"], row["learner"], own[0], seeds, *own[1:], f"{row['episodes']:,}"])
    head = ["task", "learner", "at the end of a lifetime", "by seed", "degrees from the gradient", "interference"]
    return markdown([*head, "episodes"], cells)


def over(row: Data, name: str, percent: bool = False) -> str:
    """The mean of a number over seeds, with its standard deviation."""
    numbers = [run[name] for run in row["seeds"].values() if run[name] is not None]
    if not numbers:
        return "-"
    deviation = "" if len(numbers) < 2 else f" ± {shown(statistics.stdev(numbers), percent)}"
    return shown(statistics.fmean(numbers), percent) + deviation


def shown(value: float | None, percent: bool) -> str:
    """An accuracy in percent, or a number with three digits."""
    if value is None:
        return "not finite"
    return f"{100 * value:.1f}" if percent else f"{value:.3g}"


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("folder", type=Path, help="of --out of backroads reproduce run")
    parse.add_argument("--lifetimes", type=int, default=50, help="to test other numbers of classes on")
    parse.add_argument("--out", type=Path, default=RESULTS / "meta_learning.json")
    given = parse.parse_args()
    old = json.loads(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    results = collected(given.folder, old, given.lifetimes)
    print(table(results))
    before = {run["run"] for row in old.get("rows", ()) for run in row["seeds"].values()}
    now = {run["run"] for row in results["rows"] for run in row["seeds"].values()}
    print(f"{len(now - before)} trainings have come to {given.out}")
    write_json(given.out, results)


if __name__ == "__main__":
    main()
