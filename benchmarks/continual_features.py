"""Learning new classes one after another on features of CIFAR-10: FLP as a start, beside OML and gradient descent.

    python benchmarks/continual_features.py --data folder:PATH --runs PATH [--jobs 2]

By seed, five of the ten classes are the known ones. ResNet-8 learns them with backpropagation from one half of their
training images; its features of the other half are what is meta-trained on: lifetimes of all five classes, one after
another, with outputs permuted. The five new classes are met in the test alone: 20 images of each, one at a time, class
after class; then 200 test images of each are to be told apart. The course of a lifetime follows from the order of the
classes, and 40 orders are measured. The inner rate of gradient descent is chosen on known classes; OML is meta-trained
with four.

Beside the learners: the nearest mean of the 20 features of each class, which forgets nothing.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from grid import Arm, Data, gap_of, markdown, parser, rows_of, run_grid, show, spread
from torch import Tensor

from backroads.data import load_dataset
from backroads.models import build_model
from backroads.plasticity.evaluate import choose_rate, measure
from backroads.plasticity.settings import resolve
from backroads.plasticity.trainer import load_run, meta_train
from backroads.runs.schema import Stopped
from backroads.runs.statistics import estimate

SHOTS, TESTED, LIFETIMES = 20, 200, 40
EPOCHS, BATCH, RATE = 10, 128, 0.1  # of ResNet-8 on known classes
INNER_RATES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]  # of gradient descent; the best on known classes is taken
OML_RATES = [0.001, 0.003, 0.01, 0.03]  # each is meta-trained
SETTINGS: Data = {
    "order": "continual",
    "tasks": 5,
    "steps_per_task": SHOTS,
    "batch_size": 1,
    "image_size": 8,  # 64 features
    "eval_learn": SHOTS,
    "eval_test": TESTED,
    "front": "none",
    "hidden": [128],
    "head": 5,
    "initial_plasticity": 0.01,
    "hidden_multiplier": 1.0,
    "if_not_finite": "shrink",
    "meta_steps": 1500,
    "meta_batch_size": 8,
    "lr_forward": 1e-3,
    "lr_feedback": 1e-3,
    "lr_plasticity": 1e-3,
    "eval_every": 100,
    "eval_lifetimes": 40,
}
LEARNERS: dict[str, Data] = {
    "nearest mean": {},
    "FLP": {"learner": "flp"},
    **{f"OML, inner rate {rate}": {"learner": "oml", "inner_lr": rate} for rate in OML_RATES},
    "gradient descent, pretrained": {"learner": "sgd_pretrained"},
    "gradient descent": {"learner": "sgd_scratch", "meta_steps": 0},
}


def features(seed: int, folder: Path, machine: Data) -> Path:
    """Features of known and new classes as the tasks read them, made once for a seed."""
    path = folder / f"features-{seed}.npz"
    if path.exists():
        return path
    data = load_dataset(machine["data"], root=machine.get("root"))
    order = np.random.default_rng(seed).permutation(data.classes)
    place = torch.empty(data.classes, dtype=torch.long)
    place[torch.from_numpy(order)] = torch.arange(data.classes)  # known classes are 0 to 4
    (x, y), (x_test, y_test) = (everything(source, place) for source in (data.train, data.evaluate))
    known, half = y < 5, torch.rand(len(y), generator=torch.Generator().manual_seed(seed)) < 0.5
    torch.manual_seed(seed)
    model = build_model("resnet8", classes=5, shape=data.shape).to(memory_format=torch.channels_last)
    fit(model, x[known & half], y[known & half], seed)
    model.eval().fc = torch.nn.Identity()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        seen = {"train": (x[known & ~half], y[known & ~half]), "val": (x_test[y_test < 5], y_test[y_test < 5])}
        # Of the new classes, some training images are learned from, and test images are tested on.
        few = [(y == c).nonzero().flatten()[:SHOTS] for c in range(5, 10)]
        many = [(y_test == c).nonzero().flatten()[:TESTED] for c in range(5, 10)]
        new = torch.cat([torch.cat([x[a], x_test[b]]) for a, b in zip(few, many, strict=True)])
        seen["test"] = (new, torch.arange(5).repeat_interleave(SHOTS + TESTED))
        made = {name: (torch.cat([model(part) for part in x.split(500)]).float(), y) for name, (x, y) in seen.items()}
    mean, std = made["train"][0].mean(0), made["train"][0].std(0).clamp(min=1e-6)
    arrays = {}
    for name, (z, labels) in made.items():
        arrays |= {f"{name}_x": ((z - mean) / std).view(-1, 8, 8).numpy(), f"{name}_y": labels.numpy()}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(path.with_suffix(".part.npz"), **arrays)
    path.with_suffix(".part.npz").rename(path)
    return path


def everything(source: Any, place: Tensor) -> tuple[Tensor, Tensor]:
    """All images of a split, normalised, with renumbered labels."""
    batches = list(source.eval_batches(1000))
    x = torch.cat([x for x, _ in batches]).contiguous(memory_format=torch.channels_last)
    return x, place[torch.cat([y for _, y in batches])]


def fit(model: torch.nn.Module, x: Tensor, y: Tensor, seed: int) -> None:
    """Train with backpropagation, mirrored and rolled images, SGD with a falling rate."""
    optimiser = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = EPOCHS * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(x), generator=generator).split(BATCH)[: steps // EPOCHS]:
            part = x[chosen]
            if torch.rand((), generator=generator) < 0.5:
                part = part.flip(3)
            shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
            part = torch.roll(part, shift, (2, 3))
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(part), y[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


def one(arm: Arm, seed: int, folder: Path, machine: Data, *, runs: Path) -> Data:
    """Meta-train on known classes, learn the new ones one after another; accuracy at the end and on the way."""
    path = features(seed, runs, machine)
    if arm.labels["learner"] == "nearest mean":
        with np.load(path) as arrays:
            z = torch.from_numpy(arrays["test_x"]).flatten(1).view(5, SHOTS + TESTED, -1)
        means, tested = z[:, :SHOTS].mean(1), z[:, SHOTS:].flatten(0, 1)
        hits = torch.cdist(tested, means).argmin(1) == torch.arange(5).repeat_interleave(TESTED)
        return {"status": "finished", "accuracy": float(hits.double().mean()), "angles": {}, "course": []}
    config = resolve({**arm.settings, "task": f"npz:{path}", "seed": seed, "threads": 1})
    results = meta_train(config, folder, show, resume=True)
    if isinstance(results, Stopped):
        raise SystemExit(128 + results.signal)
    network, tasks, _ = load_run(folder, "best")
    rate = choose_rate(network, tasks, INNER_RATES, LIFETIMES) if "gradient" in arm.labels["learner"] else None
    found = measure(network, tasks, "test", LIFETIMES, batch=8)
    return {
        "status": results.status,
        "accuracy": found.summary(0).mean,
        "angles": {},
        "course": [list(row) for row in found.course],
        "inner_rate": rate,
    }


def table(results: Data) -> str:
    """A row for each learner: accuracy on new classes, the gap to FLP, and what is left of a class."""
    cells = [
        [
            row["learner"],
            spread(row["accuracy_mean"], row["accuracy_std"], digits=1),
            "" if row["learner"] == "FLP" else gap_of(row),
            *(left_of(row, place) for place in (0, -1)),
            str(row["n"]),
        ]
        for row in rows_of(results)
    ]
    head = ["learner", "accuracy on new classes, %", "gap to FLP, points", "class learned first, %"]
    return markdown([*head, "class learned last, %", "n"], cells)


def left_of(row: Data, place: int) -> str:
    """The accuracy at the end on the class that was learned at a place in the order."""
    found = estimate(run["course"][-1][place] for run in row["seeds"].values() if run["course"])
    return spread(found.mean, found.std, digits=1)


def main() -> None:
    given = parser(__doc__, "continual_features").parse_args()
    arms = [Arm({"learner": name}, {**SETTINGS, **own} if own else {}) for name, own in LEARNERS.items()]
    for seed in given.seeds:  # before several processes ask for them
        features(seed, given.runs, {"data": given.data, "root": given.root})
    one_of = functools.partial(one, runs=given.runs)
    print(table(run_grid(arms, given, one_of, baseline={"learner": "FLP"})))


if __name__ == "__main__":
    main()
