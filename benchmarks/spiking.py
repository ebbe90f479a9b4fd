"""Weight estimation by spikes: cause against correlation, angle against simulated seconds, and training on MNIST.

    python benchmarks/spiking.py pair
    python benchmarks/spiking.py angle [--seconds 90 --seeds 0 1 2]
    python benchmarks/spiking.py time [--threads 2]
    python benchmarks/spiking.py mnist --root FOLDER [--epochs 4 --seeds 0 1]

Each part is written into benchmarks/results/spiking.json beside the others, with where it came from.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from grid import markdown, spread

import backroads as br
from backroads.contrib.spiking import Circuit, Evidence, Pair, Recording, RegressionDiscontinuity, SpikePhase
from backroads.data import load_dataset
from backroads.models.mlp import mlp
from backroads.runs.environment import environment
from backroads.runs.files import write_json
from backroads.runs.statistics import estimate

OUT = Path(__file__).parent / "results" / "spiking.json"
HEAD = ((384, 192), (192, 10))  # of the reference, (I, O)
WINDOW = 30  # steps


def naive(recording: Recording) -> list[float]:
    """Mean signal in stretches of 30 ms with a spike of neuron j, less that in stretches without."""
    T = len(recording.spikes) // WINDOW * WINDOW
    q = recording.signal[:T].unflatten(0, (-1, WINDOW)).mean(1)[..., 0]
    spiked = recording.spikes[:T].unflatten(0, (-1, WINDOW)).any(1)
    return [float(q[spiked[..., j]].mean() - q[~spiked[..., j]].mean()) for j in range(2)]


def pair(arguments: argparse.Namespace) -> dict[str, Any]:
    """Two neurons with correlated drives, of which only the first has an effect."""
    # Long windows leave a small part of the neighbour's effect; short ones do not.
    rules = {
        f"discontinuity_{round(1000 * window)}_ms": RegressionDiscontinuity(
            window=window, onset=0.5, bandwidth=0.1, shrinkage=0.0
        )
        for window in (0.01, 0.03)
    }
    rows = []
    for correlation in (0.0, 0.25, 0.5, 0.75, 0.9):
        circuit = Pair((1.0, 0.0), correlation, copies=200, generator=torch.Generator().manual_seed(0))
        measured: dict[str, list[list[float]]] = {name: [] for name in (*rules, "naive")}
        for _ in range(20):
            recording = circuit.record(1000)
            for name, rule in rules.items():
                evidence = Evidence.none(1, 2, 1)
                rule.add(evidence, recording, circuit.neuron)
                measured[name].append(rule.jumps(evidence)[0, 0].tolist())
            measured["naive"].append(naive(recording))
        row: dict[str, Any] = {"correlation": correlation, "pair_seconds": 200 * 20, "n": 20}
        for name, found in measured.items():
            columns = list(zip(*found, strict=True))
            row[name] = [statistics.fmean(column) for column in columns]
            row[f"{name}_standard_error"] = [statistics.stdev(column) / len(column) ** 0.5 for column in columns]
        rows.append(row)
        print(row, flush=True)
    return {"weights": [1.0, 0.0], "rules": {name: repr(rule) for name, rule in rules.items()}, "rows": rows}


def angle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Angle and agreement of signs against simulated seconds, for the layers of the head as torch initialises them."""
    rows = []
    for seed in arguments.seeds:
        for inputs, outputs in HEAD:
            torch.manual_seed(seed)
            W = torch.nn.Linear(inputs, outputs).weight.detach()
            circuit, rule = Circuit(W, generator=torch.Generator().manual_seed(seed)), RegressionDiscontinuity()
            evidence, done = None, 0.0
            for seconds in (s for s in (2, 5, 10, 20, 45, 90, 180, 360) if s <= arguments.seconds):
                evidence = rule.watch(circuit, seconds - done, evidence)
                done = seconds
                for shrinkage in (rule.shrinkage, 0.0):
                    beta = RegressionDiscontinuity(shrinkage=shrinkage).jumps(evidence)[0]
                    known = beta != 0
                    rows.append(
                        {
                            "layer": f"{inputs}-{outputs}",
                            "seed": seed,
                            "seconds": seconds,
                            "shrinkage": shrinkage,
                            "angle": br.metrics.angle(beta, W),
                            "sign_agreement": float((beta.sign() == W.sign())[known].double().mean())
                            if known.any()
                            else None,
                            "known": float(known.double().mean()),
                        }
                    )
            print(rows[-2], flush=True)
    return {"rows": rows}


def duration(arguments: argparse.Namespace) -> dict[str, Any]:
    """How long the simulation and estimation of the head take."""
    rows = []
    for inputs, outputs in HEAD:
        circuit = Circuit(torch.randn(outputs, inputs), generator=torch.Generator().manual_seed(0))
        start = time.perf_counter()
        RegressionDiscontinuity().watch(circuit, arguments.seconds)
        rows.append({"layer": f"{inputs}-{outputs}", "seconds": time.perf_counter() - start})
        print(rows[-1], flush=True)
    return {"simulated_seconds": arguments.seconds, "rows": rows, "total": sum(row["seconds"] for row in rows)}


def mnist(arguments: argparse.Namespace) -> dict[str, Any]:
    """An MLP 784-384-192-10 under backprop, SA and FA, and with B set by a phase of spiking before each epoch."""
    data = load_dataset("mnist", root=arguments.root)
    contestants = {
        "backprop": "backprop",
        "symmetric_alignment": "symmetric_alignment",
        "feedback_alignment": "feedback_alignment",
        "regression_discontinuity": "feedback_alignment",
    }
    rows = []
    for seed in arguments.seeds:
        for name, rule in contestants.items():
            torch.manual_seed(seed)
            model = br.convert(mlp(10, data.shape, (384, 192)), rule, generator=seed + 1)
            groups: list[dict[str, Any]] = [{"params": br.forward_parameters(model), "lr": 0.05, "momentum": 0.9}]
            if br.backward_parameters(model):
                groups.append({"params": br.backward_parameters(model), "lr": 1.0})
            optimizer = torch.optim.SGD(groups)
            phase, state = SpikePhase(seconds=arguments.seconds), None
            for epoch in range(1, arguments.epochs + 1):
                told: dict[str, list[float]] = {}
                if name == "regression_discontinuity":
                    taught = phase.run(model, seed * 1_000_003 + epoch - 1, state)
                    state, read = taught.state, taught.readings
                    told = {layer: [read["angle"][layer], read["sign_agreement"][layer]] for layer in taught.layers}
                for x, y in data.train.train_batches(128, seed=seed, epoch=epoch):
                    optimizer.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()
                with torch.no_grad():
                    hits = [(model(x).argmax(1) == y).double() for x, y in data.evaluate.eval_batches(1000)]
                accuracy = float(torch.cat(hits).mean())
                angles = br.metrics.weight_angles(model)
                rows.append(
                    {"rule": name, "seed": seed, "epoch": epoch, "test_accuracy": accuracy, "weight_angles": angles}
                    | ({"phase": told} if told else {})
                )
                print(rows[-1], flush=True)
    summary = {}
    for name in contestants:
        of = estimate(r["test_accuracy"] for r in rows if r["rule"] == name and r["epoch"] == arguments.epochs)
        summary[name] = {"n": of.n, "test_accuracy_mean": of.mean, "test_accuracy_std": of.std}
    network = "784-384-192-10, ReLU; SGD 0.05, momentum 0.9, batch 128"
    return {"network": network, "seconds_a_phase": arguments.seconds, "summary": summary, "rows": rows}


def table(results: dict[str, Any], part: str) -> str:
    """One part as Markdown."""
    found = results[part]
    if part == "pair":
        names = ["naive", "discontinuity_30_ms", "discontinuity_10_ms"]
        cells = [
            [f"{row['correlation']:g}"]
            + [
                " / ".join(
                    spread(value, error, 1000, 1)
                    for value, error in zip(row[name], row[f"{name}_standard_error"], strict=True)
                )
                for name in names
            ]
            for row in found["rows"]
        ]
        return markdown(["correlation", "naive", *(f"discontinuity, {ms} ms" for ms in (30, 10))], cells)
    if part == "time":
        rows = [*found["rows"], {"layer": "both", "seconds": found["total"]}]
        cells = [[row["layer"], f"{found['simulated_seconds']:g}", f"{row['seconds']:.1f}"] for row in rows]
        return markdown(["layer", "simulated, s", "taken, s"], cells)
    if part == "angle":
        groups: dict[tuple[str, float], dict[float, list[dict[str, Any]]]] = {}
        for row in found["rows"]:
            groups.setdefault((row["layer"], row["seconds"]), {}).setdefault(row["shrinkage"], []).append(row)
        cells = []
        for (layer, seconds), by_shrinkage in groups.items():
            drawn, plain = (by_shrinkage[key] for key in sorted(by_shrinkage, reverse=True))
            agree = [100 * row["sign_agreement"] for row in drawn if row["sign_agreement"] is not None]
            angles = [_spread([row["angle"] for row in rows], "°") for rows in (drawn, plain)]
            signs = _spread(agree, " %") if agree else "none known"
            cells.append([layer, f"{seconds:g}", *angles, signs, str(len(drawn))])
        head = ["layer", "simulated, s", "angle", "least squares alone", "signs that agree", "seeds"]
        return markdown(head, cells)
    last = max(row["epoch"] for row in found["rows"])
    cells = []
    for name in found["summary"]:
        own = [row for row in found["rows"] if row["rule"] == name and row["epoch"] == last]
        by_seed = [100 * row["test_accuracy"] for row in own]
        shown = ", ".join(f"{value:.2f}" for value in by_seed)
        cells.append([name.replace("_", " "), _spread(by_seed, " %"), shown])
    return markdown(["rule", "test accuracy", "by seed"], cells)


def _spread(values: list[float], unit: str) -> str:
    found = estimate(values)
    return "-" if found.n < len(values) else spread(found.mean, found.std, 1, 1) + unit


def main() -> None:
    parts = {"pair": pair, "angle": angle, "time": duration, "mnist": mnist}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(parts))
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--root", type=Path, help="folder of MNIST, as torchvision reads it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    where = environment()
    # Where the data and results lie on one machine says nothing to another.
    where["command"] = where["command"].replace(f" --out {arguments.out}", "").replace(str(arguments.root), "FOLDER")
    found = parts[arguments.part](arguments)
    everything = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    everything[arguments.part] = {"environment": where, **found}
    write_json(arguments.out, dict(sorted(everything.items())))


if __name__ == "__main__":
    main()
