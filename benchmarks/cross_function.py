"""RFWR and LWPR on the cross function: error against the number of receptive fields, and beside the reference code.

    python benchmarks/cross_function.py --runs PATH

``y = max(exp(-10 x1^2), exp(-50 x2^2), 1.25 exp(-5 (x1^2 + x2^2)))`` for x in [-1, 1]^2: two ridges and a bump. A
learner sees noisy samples; its error is the mean squared error on a grid of 41 x 41 points without noise, divided by
the variance of y there (nMSE).

- stream: 20,000 fresh samples, each seen once, noise uniform from -0.05 to 0.05, as in ``cross.c`` of the LWPR library.
- few: 500 samples, normal noise 0.1, seen 20 times (RFWR: 10) in a new order, as in ``test_lwpr_2D`` there.
- sizes: 5,000 fresh samples as in the stream, for fields that begin with different sizes, with a metric that is learned
  and one that is fixed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from grid import Arm, Data, markdown, parser, rows_of, run_grid, shown, spread

from backroads.contrib.streams import LWPRRegressor, RFWRRegressor
from backroads.contrib.streams.fields import Array
from backroads.runs.statistics import estimate

LEARNERS = {"RFWR": RFWRRegressor, "LWPR": LWPRRegressor}
# nMSE and fields of the reference code on data drawn in the same way, one number a seed.
REFERENCE: dict[tuple[str, str, str], tuple[list[float], list[int]]] = {
    ("stream", "LWPR", "learned"): ([0.020, 0.023, 0.021], [58, 56, 54]),
    ("few", "LWPR", "learned, with meta-learning"): ([0.047, 0.040, 0.043], [41, 41, 34]),
    ("few", "LWPR", "fixed"): ([0.148, 0.148, 0.161], [22, 25]),  # of the fields, lowest and highest
    ("few", "RFWR", "learned"): ([0.083], [31]),
}
SIZES = (6.25, 12.5, 25.0, 50.0, 100.0)


def cross(X: Array) -> Array:
    """The target at inputs (N, 2)."""
    one, other = X.T
    ridges = np.maximum(np.exp(-10 * one**2), np.exp(-50 * other**2))
    return np.maximum(ridges, 1.25 * np.exp(-5 * (one**2 + other**2)))


def samples(data: str, number: int, seed: int) -> tuple[Array, Array]:
    """Inputs (N, 2) and noisy targets (N,)."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (number, 2))
    noise = rng.normal(0, 0.1, number) if data == "few" else rng.uniform(-0.05, 0.05, number)
    return X, cross(X) + noise


def grid() -> Array:
    """The points at which errors are measured, (1681, 2)."""
    side = np.linspace(-1, 1, 41)
    return np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)


def learn(arm: Arm, seed: int, folder: Path, machine: Data) -> Data:
    """One learner on the data of one seed: its error, its fields, and where they lie for one picture."""
    settings = dict(arm.settings)
    X, y = samples(arm.labels["data"], settings.pop("samples"), seed)
    learner = LEARNERS[arm.labels["learner"]](**settings, random_state=seed).fit(X, y)
    points = grid()
    error = float(((learner.predict(points) - cross(points)) ** 2).mean() / cross(points).var())
    fields = learner.fields_[0]
    found = {"nmse": error, "fields": len(fields), "removed": learner.n_pruned_[0]}
    if seed == 0 and arm.labels["data"] == "stream" and arm.labels["learner"] == "RFWR":
        corners = [fields.c[:, 0], fields.c[:, 1], fields.D[:, 0, 0], fields.D[:, 0, 1], fields.D[:, 1, 1]]
        found["centres_and_metrics"] = np.stack(corners, axis=1).round(3).tolist()
    return found | {"numpy": np.__version__, "scikit-learn": sklearn.__version__}


def summary(seeds: dict[str, Data], _: dict[str, Data]) -> Data:
    """Means and deviations over seeds."""
    numbers: Data = {}
    for name in ("nmse", "fields"):
        found = estimate(run[name] for run in seeds.values())
        numbers |= {f"{name}_mean": found.mean, f"{name}_std": found.std}
    return numbers


def arms() -> list[Arm]:
    """What is trained with every seed."""
    common: Data = {"init_alpha": 250.0, "w_gen": 0.2}
    many: Data = {**common, "penalty": 1e-6}
    few: Data = {**common, "samples": 500, "init_D": 25.0, "shuffle": True, "penalty": 1e-7, "diag_only": False}
    metrics: dict[str, Data] = {
        "learned": {},
        "learned, with meta-learning": {"meta": True},
        "fixed": {"update_D": False},
    }
    made = []

    def add(data: str, name: str, metric: str, settings: Data) -> None:
        labels = {"data": data, "learner": name, "metric": metric, "init_D": settings["init_D"]}
        made.append(Arm(labels, {**settings, **metrics[metric]}))

    for name in LEARNERS:
        shape: Data = {"diag_only": name == "LWPR"}
        add("stream", name, "learned", {**many, **shape, "samples": 20_000, "init_D": 50.0})
        for metric in metrics:
            add("few", name, metric, {**few, "passes": 20 if name == "LWPR" else 10})
        for D in SIZES:
            for metric in ("learned", "fixed"):
                add("sizes", name, metric, {**many, **shape, "samples": 5_000, "init_D": D})
    return made


def table(results: Data, part: str = "reference") -> str:
    """Part "reference": beside the reference code; "sizes": error by size, in Markdown."""
    rows = rows_of(results)
    if part == "sizes":
        cells = [
            [row["learner"], row["metric"], shown(row["init_D"]), *_numbers(row)]
            for row in rows
            if row["data"] == "sizes"
        ]
        return markdown(["learner", "metric", "D at the start", "nMSE", "fields"], cells)
    cells = []
    for row in rows:
        if row["data"] != "sizes":
            key = (row["data"], row["learner"], row["metric"])
            errors, fields = REFERENCE.get(key, ([], []))
            told = " ".join(f"{error:.3f}" for error in errors) or "-", " ".join(map(str, fields)) or "-"
            cells.append([*key, *_numbers(row), *told])
    return markdown(["data", "learner", "metric", "nMSE", "fields", "reference: nMSE", "reference: fields"], cells)


def _numbers(row: Any) -> list[str]:
    return [spread(row["nmse_mean"], row["nmse_std"], 1, 3), spread(row["fields_mean"], row["fields_std"], 1, 1)]


def main() -> None:
    results = run_grid(arms(), parser(__doc__, "cross_function", data=False).parse_args(), learn, summary)
    print(table(results), table(results, "sizes"), sep="\n\n")


if __name__ == "__main__":
    main()
