"""The deep network of SoftHebb, trained without labels, and a linear probe on its features.

    python benchmarks/softhebb.py --data digits --width 0.25 --layer-epochs 10
    python benchmarks/softhebb.py --data folder:FOLDER --width 0.25 --limit 10000 --seeds 0   # CIFAR-10 as images

As published: the three layers learn together for some epochs in batches of 10, at the published rates and temperatures
of each layer, from weights of norm 25. Then they stand still, in evaluation mode, and the read-out alone learns from
the labels, by Adam at 0.001 in batches of 64 with dropout, its rate halved at 20, 35, 50, 60, 70, 80 and 90 % of its
epochs. "hard" is the same with competition for one winner, "random" the same with layers that do not learn, but for the
statistics of their norms. No option is tuned. Each part is written into benchmarks/results/softhebb.json beside the
others.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from grid import markdown, spread
from torch import Tensor

from backroads.data import Dataset, load_dataset
from backroads.methods.softhebb import SoftHebb
from backroads.models import build_model
from backroads.runs.environment import environment
from backroads.runs.files import write_json
from backroads.runs.statistics import estimate

OUT = Path(__file__).parent / "results" / "softhebb.json"
RATES, TEMPERATURES = (0.08, 0.005, 0.01), (1.0, 0.65, 0.25)
HALVED = (20, 35, 50, 60, 70, 80, 90)


def learn(model: Any, method: SoftHebb, data: Dataset, epochs: int, limit: int, seed: int, lr: float) -> None:
    """Teach the layers alone; the labels are not used.

    Args:
        limit: of examples in an epoch. lr: 1.0, or 0.0 to see the examples without learning.
    """
    method.prepare(model, torch.zeros(2, *data.shape), seed)
    layers = [p for name, p in model.named_parameters() if not name.startswith("readout")]
    optimizer = torch.optim.SGD(layers, lr=lr)
    model.train()
    for epoch in range(1, epochs + 1):
        for step, (x, y) in enumerate(data.train.train_batches(10, seed=seed, epoch=epoch)):
            if 10 * step >= limit:
                break
            optimizer.zero_grad()
            method.objective(model, x, torch.zeros_like(y), F.cross_entropy)[0].backward()
            optimizer.step()
    method.revert(model)


@torch.no_grad()
def features(model: Any, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """What the read-out sees of the examples, without dropout, (n, features), and the labels."""
    body = model[: list(dict(model.named_children())).index("dropout")].eval()
    found = [(body(x), y) for x, y in batches]
    return torch.cat([h for h, _ in found]), torch.cat([y for _, y in found])


def probe(model: Any, data: Dataset, epochs: int, limit: int, seed: int) -> float:
    """Accuracy of a read-out that learned from the features, on the evaluation split."""
    size = min(250, len(data.train))
    batches = data.train.train_batches(size, seed=seed, epoch=1, last_batch=True)
    h, y = features(model, itertools.islice(batches, -(-limit // size)))
    head = torch.nn.Sequential(model.dropout, model.readout).train()
    optimizer = torch.optim.Adam(model.readout.parameters(), lr=1e-3)
    milestones = [epochs * percent // 100 for percent in HALVED]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.5)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for chosen in torch.randperm(len(h), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(head(h[chosen]), y[chosen]).backward()
            optimizer.step()
        schedule.step()
    h, y = features(model, data.evaluate.eval_batches(500))
    return float((head.eval()(h).argmax(1) == y).double().mean())


def table(results: dict[str, Any], part: str) -> str:
    """One part as Markdown."""
    rows = []
    for name in dict.fromkeys(row["layers"] for row in results[part]["rows"]):
        found = estimate(row["accuracy"] for row in results[part]["rows"] if row["layers"] == name)
        rows.append([name, spread(found.mean, found.std), str(found.n)])
    return markdown(["layers", "test accuracy, %", "seeds"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--layer-epochs", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=50, help="of the read-out")
    parser.add_argument("--limit", type=int, default=10**9, help="of training images, in batches of 250")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    where = environment()
    name, _, folder = arguments.data.partition(":")
    where["command"] = where["command"].replace(f" --out {arguments.out}", "")
    if folder:
        where["command"] = where["command"].replace(folder, "FOLDER")
    data = load_dataset(arguments.data, augment="none")
    rows = []
    for seed in arguments.seeds:
        for kind in ("anti", "hard", "random"):
            torch.manual_seed(seed)
            options = {"width": arguments.width}
            model = build_model("softhebb", classes=data.classes, shape=data.shape, options=options)
            competition = "hard" if kind == "hard" else "anti"
            method = SoftHebb(competition=competition, rate=RATES, t=TEMPERATURES, radius=25.0)
            learn(model, method, data, arguments.layer_epochs, arguments.limit, seed, float(kind != "random"))
            accuracy = probe(model, data, arguments.epochs, arguments.limit, seed)
            rows.append({"layers": kind, "seed": seed, "accuracy": accuracy})
            print(rows[-1], flush=True)
    everything = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    write_json(arguments.out, everything | {name: {"environment": where, "rows": rows}})


if __name__ == "__main__":
    main()
