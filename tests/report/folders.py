"""Seeded, realistic folders of runs, written with the schema's own types and without any training."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backroads.runs.quantity import Quantity
from backroads.runs.results import (
    MetaAnalysis,
    MetaEvaluation,
    PromotedTrial,
    Promotion,
    SearchGroup,
    SearchResults,
    SearchTrial,
    Transfer,
    TransferCell,
    TransferRow,
)
from backroads.runs.schema import (
    VERSION,
    Arm,
    ArmResult,
    Diverged,
    Evaluation,
    Event,
    Lifetimes,
    MetaResults,
    Readings,
    Saved,
    Speed,
    Start,
    Step,
    TrainingResults,
    as_data,
)
from backroads.runs.verdicts import ClaimResult, Decided, Line, Reproduction

FEW = ("conv1", "block1.conv", "readout")
MANY = ("conv1", *(f"stage{s}.{b}.conv{c}" for s in (1, 2, 3) for b in range(18) for c in (1, 2)), "fc")
PER_EPOCH = 40
METRICS = {
    "weight_angle": Quantity("weight angle", "degrees", ideal=0, about="Angle between W and B."),
    "norm_ratio": Quantity("|B| / |W|", ideal=1, log=True, about="Norm of B over that of W."),
    "update_angle": Quantity("update angle", "degrees", ideal=0, about="Angle of the update to backpropagation’s."),
}
# Name: final accuracy, speed of learning, final angle (None: no B in the layout of W), step time, formula.
RULES: dict[str, tuple[float, float, float | None, float, str]] = {
    "backprop": (0.981, 0.9, 0.0, 1.0, "backprop"),
    "symmetric_alignment": (0.979, 0.85, 5.0, 1.34, "R = 0.3 decay + 0.3 self"),
    "kolen_pollack": (0.978, 0.8, 3.0, 1.12, "kolen_pollack(decay=0.001)"),
    "weight_mirror": (0.972, 0.7, 14.0, 1.61, "R = 0.1 amp + 0.1 decay"),
    "feedback_alignment": (0.931, 0.35, 68.0, 1.01, "feedback alignment"),
    "direct_feedback_alignment": (0.912, 0.4, None, 0.83, "direct feedback alignment"),
}
ENVIRONMENT = {
    "backroads": "0.2.0",
    "python": "3.11.7",
    "torch": "2.7.0+cpu",
    "cores": 2,
    "device": "cpu",
    "commit": "0f3c9a1e5b7d2468ace013579bdf02468ace1357",
    "uncommitted_changes": False,
    "command": "backroads train --data cifar10 --model resnet110",
    "started": "2026-03-01T12:00:00+00:00",
}


@dataclass
class Folder:
    """What a run would write, to be changed before it is written; ``results`` None: it has not ended."""

    config: dict[str, Any]
    events: list[Event] = field(default_factory=list)
    system: list[Event] = field(default_factory=list)
    results: Any = None
    beside: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=lambda: dict(ENVIRONMENT))

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of this kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def change(self, kind: type[Any], when: Any = lambda event: True, **fields: Any) -> Folder:
        """Replace fields of the events of this kind for which ``when`` is true."""
        self.events = [
            dataclasses.replace(event, **fields) if isinstance(event, kind) and when(event) else event
            for event in self.events
        ]
        return self

    def until(self, step: int) -> Folder:
        """The folder as it was after this step."""
        events, system = (
            [event for event in log if getattr(event, "step", step) <= step] for log in (self.events, self.system)
        )
        return dataclasses.replace(self, events=events, system=system, results=None)

    def write(self, folder: Path) -> Path:
        """Write the files and return the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.toml").write_text(toml(self.config), encoding="utf-8")
        (folder / "environment.json").write_text(json.dumps(self.environment))
        for name, log in (("events", self.events), ("system", self.system)):
            if log:
                lines = [json.dumps({"event": event.kind, **as_data(event)}) for event in log]
                (folder / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
        for name, value in {"results.json": self.results, **self.beside}.items():
            if value is not None:
                (folder / name).write_text(json.dumps(as_data(value)))
        return folder


def toml(config: dict[str, Any]) -> str:
    """Settings as TOML: plain values first, then tables."""

    def pairs(table: dict[str, Any]) -> list[str]:
        return [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in table.items()]

    flat = {key: value for key, value in config.items() if not isinstance(value, dict)}
    tables = {key: value for key, value in config.items() if isinstance(value, dict)}
    lines = [line for name, table in tables.items() for line in (f"[{json.dumps(name)}]", *pairs(table))]
    return "\n".join([*pairs(flat), *lines]) + "\n"


def training(
    layers: Sequence[str] = FEW,
    *,
    epochs: int = 30,
    log_every: int = 10,
    coefficients: dict[str, float] | None = None,
    classes: int = 10,
) -> Folder:
    """A training that finished."""
    total, noise = epochs * PER_EPOCH, np.random.default_rng(0)
    arm = Arm("symmetric_alignment", 0, dict.fromkeys(layers, "R = 0.3 decay + 0.3 self"))
    start = Start("train", (arm,), total, VERSION, PER_EPOCH, 1_730_714, 45_000, 5_000, 10_000, METRICS)
    events: list[Event] = [start, _readings(0, layers, 5.0, 1.0), _evaluation(0, epochs, 0.93, classes, noise)]
    system: list[Event] = [Saved(0, 0.1)]
    for step in range(1, total + 1):
        epoch, at_end = step / PER_EPOCH, step % PER_EPOCH == 0
        if step % log_every == 0 or at_end:
            rate = 0.5 * (1 + math.cos(math.pi * step / total))
            loss = (0.02 + 2.3 * math.exp(-6 * step / total)) * float(noise.lognormal(0, 0.15))
            scheduled = {name: value * step for name, value in (coefficients or {}).items()}
            events.append(Step(step, 0, epoch, loss, 0.5, 0.1 * rate * min(1, epoch), rate, coefficients=scheduled))
            system.append(Speed(step, 2400 * float(noise.normal(1, 0.03)), 50.0, 1800.0 + step / 10))
        if at_end:
            events.append(_readings(int(epoch), layers, 5.0, 1.0))
            events.append(_evaluation(int(epoch), epochs, 0.93, classes, noise))
            system.append(Saved(step, 0.1))
    config = {
        "data": {"name": "cifar10", "split": "both"},
        "model": {"name": "resnet110"},
        "rule": {"name": "symmetric_alignment"},
        "run": {"epochs": epochs, "seed": 0},
    }
    found = Folder(config, events, system)
    last, readings = found.of(Evaluation)[-1], found.of(Readings)[-1].values
    own = ArmResult(
        "symmetric_alignment", 0, "finished", total, epochs, accuracy=last.test_accuracy, loss=0.3, readings=readings
    )
    found.results = TrainingResults("train", "test", (own,), seconds=5400.0)
    return found


def diverged(folder: Folder, step: int, reason: str, layer: str) -> Folder:
    """The folder if numbers were not finite after this step."""
    found = folder.until(step)
    found.events.append(Diverged(step, reason, layer=layer))
    own = ArmResult("symmetric_alignment", 0, "diverged", step, reason=reason, layer=layer)
    found.results = TrainingResults("train", "test", (own,), seconds=1.0)
    return found


def comparison(
    rules: dict[str, tuple[float, float, float | None, float, str]] | Sequence[str] = RULES,
    *,
    seeds: int = 3,
    epochs: int = 15,
    layers: Sequence[str] = FEW,
    lost: dict[tuple[str, int], int] | None = None,
) -> Folder:
    """A comparison that finished. lost: the first epoch without finite numbers, by rule and seed."""
    rules = rules if isinstance(rules, dict) else {name: RULES[name] for name in rules}
    lost = lost or {}
    arms = [Arm(name, seed, dict.fromkeys(layers, rules[name][4])) for name in rules for seed in range(seeds)]
    total = epochs * PER_EPOCH
    baseline = "backprop" if "backprop" in rules else None
    start = Start("compare", tuple(arms), total, VERSION, PER_EPOCH, 7626, 1149, 288, 360, METRICS, baseline)
    events: list[Event] = [start]
    results = []
    for number, arm in enumerate(arms):
        accuracy, speed, angle, ratio, _ = rules[arm.name]
        noise = np.random.default_rng([arm.seed, *arm.name.encode()])
        end = lost.get((arm.name, arm.seed), epochs + 1)
        for epoch in range(min(end, epochs + 1)):
            reading = _readings(epoch, layers, angle, speed)
            events.append(dataclasses.replace(reading, arm=number))
            found = _evaluation(epoch, epochs, accuracy, 10, noise, 6 * speed)
            events.append(dataclasses.replace(found, arm=number, eval_top5=None, test_top5=None))
        if end <= epochs:
            events.append(Diverged(end * PER_EPOCH, "the loss is not finite", number))
            results.append(ArmResult(arm.name, arm.seed, "diverged", end * PER_EPOCH, reason="the loss is not finite"))
            continue
        results.append(
            ArmResult(
                arm.name,
                arm.seed,
                "finished",
                total,
                epochs,
                accuracy=found.test_accuracy,
                loss=found.test_loss,
                readings=reading.values,
                step_ms=3.2 * ratio,
                step_ratio=(ratio * 0.97, ratio, ratio * 1.03),
            )
        )
    config = {"data": {"name": "digits", "split": "both"}, "model": {"name": "digits_conv"}, "run": {"epochs": epochs}}
    return Folder(config, events, results=TrainingResults("compare", "test", tuple(results), baseline, seconds=65.2))


def _evaluation(
    epoch: int, epochs: int, best: float, classes: int, noise: np.random.Generator, speed: float = 6.0
) -> Evaluation:
    left = math.exp(-speed * epoch / epochs)
    accuracy = min(max(best - (best - 1 / classes) * left + float(noise.normal(0, 0.004)), 0.0), 1.0)
    last = epoch == epochs
    loss = 0.05 + (1 - best) * 3 + 2.05 * left
    return Evaluation(
        epoch * PER_EPOCH,
        epoch,
        train_loss=loss * 0.6 * float(noise.lognormal(0, 0.1)) if epoch else None,
        train_accuracy=min(1.0, accuracy + 0.01) if epoch else None,
        eval_loss=loss * float(noise.lognormal(0, 0.08)),
        eval_accuracy=accuracy,
        eval_top5=1.0 if classes <= 5 else 0.997 - 0.5 * left,
        test_loss=loss if last else None,
        test_accuracy=max(0.0, accuracy - 0.004) if last else None,
        test_top5=(1.0 if classes <= 5 else 0.99) if last else None,
    )


def _readings(epoch: int, layers: Sequence[str], end: float | None, speed: float) -> Readings:
    angles, ratios = {}, {}
    for number, layer in enumerate(layers if end is not None else ()):
        depth = number / len(layers)
        last = (end or 0.0) + (60 * depth**6 if end else 0)
        left = math.exp(-speed * epoch / (1.5 + 9 * depth))
        angles[layer] = last + (90 - last) * left if end else 0.0
        ratios[layer] = 1 + (depth - 0.4) * left
    update = {"": 20 + 60 * math.exp(-speed * epoch / 4)}
    values = {"weight_angle": angles, "norm_ratio": ratios, "update_angle": update}
    return Readings(epoch * PER_EPOCH, values, epoch=float(epoch))


def search(groups: int = 4, trials: int = 48) -> Folder:
    """A search over subsets of the primitives that finished, with fresh trainings of the best and a transfer."""
    noise = np.random.default_rng(0)
    names = [("none", ()), ("decay", ("decay",)), ("amp", ("amp",)), ("decay+amp", ("decay", "amp"))][:groups]
    ended, rows = [], []
    for number in range(trials):
        name, subset = names[number % len(names)]
        rate = float(10 ** noise.uniform(-2, -0.3))
        params: dict[str, Any] = {"learning_rate": rate, "center_input": bool(noise.random() < 0.5)}
        params |= {primitive: float(10 ** noise.uniform(-4, 0)) for primitive in subset}
        value = 0.97 - 0.03 * abs(math.log10(rate) + 1) - 0.01 * float(noise.random())
        end = "pruned" if number % 5 == 4 else "diverged" if number % 11 == 10 else "complete"
        reason = "the loss of step 12 is not finite" if end == "diverged" else ""
        ended.append(SearchTrial(number, name, end, value if end == "complete" else None, 3.0, params, reason))
    for name, subset in names:
        own = [trial for trial in ended if trial.group == name]
        values = sorted(trial.value for trial in own if trial.value is not None)
        best = max((t for t in own if t.value is not None), key=lambda t: t.value or 0.0)
        counts = {end: sum(t.end == end for t in own) for end in ("complete", "pruned", "diverged", "error", "lost")}
        quartiles = tuple(float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
        rows.append(SearchGroup(name, len(own), counts, subset, best.value, quartiles, best.number, best.params))  # type: ignore[arg-type]
    settings = {"data": "digits", "model": "digits_conv", "epochs": 5, "space": "primitives", "trials": trials}
    shares = {name: {"learning_rate": 0.7, "center_input": 0.3} for name, _ in names}
    results = SearchResults("search", settings, trials, trials, 0, tuple(rows), tuple(ended), shares, seconds=391.0)
    promoted = [
        PromotedTrial(row.best_number or 0, row.group, row.best, (0.97, 0.96, None), 0.965, 0.0635) for row in rows
    ]
    cells = {model: TransferCell((0.97,), 0.97, None, 0.0) for model in ("digits_conv", "resnet8")}
    beside = {
        "promote.json": Promotion(tuple(promoted), (10000, 10001, 10002)),
        "transfer.json": Transfer(("digits_conv", "resnet8"), (TransferRow("backprop", cells),)),
    }
    return Folder(settings, results=results, beside=beside)


def meta(steps: int = 100, *, measure: str = "accuracy", tasks: int = 4) -> Folder:
    """A meta-training that finished and was evaluated and analysed."""
    noise = np.random.default_rng(0)

    def lifetimes(step: int, tasks: int = tasks) -> Lifetimes:
        score = 0.9 - 0.6 * math.exp(-step / 30)
        course = [[score - 0.05 * abs(i - j) for j in range(tasks)] for i in range(tasks)]
        return Lifetimes(measure, 50, step, 0, score, 0.02, [score + 0.01 * i for i in range(tasks)], course)

    start = Start("meta", (Arm("flp", 0),), steps)
    events: list[Event] = [start, lifetimes(0)]
    for step in range(1, steps + 1):
        if step % 5 == 0:
            events.append(Step(step, loss=2 * math.exp(-step / 30) * float(noise.lognormal(0, 0.1))))
        if step % 20 == 0:
            events.append(lifetimes(step))
    probes = (0, 5, 10)
    angles = {kind: {"0": [80.0, 60.0, 50.0], "1": [90.0, None, 70.0]} for kind in ("step", "query", "random_feedback")}
    feedback = {when: {"0": 88.0} for when in ("initial", "meta_trained", "end_of_lifetime")}
    kinds = ("own", "others", "cosine", "gradient_own", "gradient_others", "gradient_cosine")
    analysis = MetaAnalysis("test", steps, 10, probes, angles, feedback, dict.fromkeys(kinds, -0.01))
    beside = {
        "evaluation.json": MetaEvaluation("test", steps, {str(n): lifetimes(steps, n) for n in (2, 4, 8)}),
        "analysis.json": analysis,
    }
    config = {"learner": "flp", "run": {"seed": 0}}
    config["task"] = {"task": "omniglot", "order": "continual", "tasks": tasks}
    return Folder(config, events, results=MetaResults("meta", "finished", steps, validation=0.88), beside=beside)


def theory() -> Folder:
    """The recorded results of the theory, with a network."""
    recorded = Path(__file__).parents[2] / "benchmarks" / "results" / "theory" / "results.json"
    return Folder({"decay": 0.5}, results=json.loads(recorded.read_text()))


def reproduction() -> Folder:
    """Three claims: one that holds, one that is undecided over two seeds, and one that was not run."""
    numbers = {"seeds": (0, 1, 2), "differences": (0.004, -0.003, 0.002)}
    yes = Decided(
        "At most a point below", "confirmed", "accuracy", -0.01, mean=0.001, low=-0.008, high=0.0099, **numbers
    )
    wide = Decided("Above", "undecided", "interference", 0.0, (0.4, -0.1), (0, 1), 0.15, -3.0, 3.3)
    blank = Decided("Updates are more than 30 degrees apart", "not run", "gradient_angle", 30.0)
    lines = tuple(
        Line(n, (0.0, 2.0, 3.0), ("0", "0.001", "0.01"), (0.9, 0.85, y), (0.01, 0.02, None)) for n, y in RATES
    )
    claims = (
        ClaimResult("K5", "A paper", "It matches.", "A gap.", "confirmed", (yes,), "backroads reproduce run K5"),
        ClaimResult("K7", "A paper", "It is better.", "A gap.", "undecided", (wide,), "backroads reproduce run K7"),
        ClaimResult("L5", "A paper", "It differs.", "An angle.", "not run", (blank,), "backroads reproduce run L5"),
    )
    shown = {"over": "variance", "value": "accuracy", "lines": lines, "trainings": 6, "done": 6, "diverged": 1}
    claims = (
        dataclasses.replace(claims[0], petaflop=24.2, hours=37.3, **shown),
        dataclasses.replace(claims[1], **{**shown, "over": "network", "ordered": False}),
        claims[2],
    )
    damaged = dataclasses.replace(claims[2], trainings=4, done=1, problems=("L5 flp seed 0: results.json: cut off",))
    settings = {"scale": "desk", "claims": ["K5", "K7", "L5"], "seeds": [], "data": {}}
    return Folder(settings, results=Reproduction("reproduce", "desk", (*claims[:2], damaged), settings))


RATES = (("backprop", 0.7), ("symmetric_alignment", 0.8))
FOLDERS = {
    "reproduce": reproduction,
    "train": lambda: training(epochs=3),
    "compare": lambda: comparison(lost={("feedback_alignment", 2): 6}),
    "search": search,
    "theory": theory,
    "meta": meta,
}
