"""Rules side by side: one network a rule, trained in lockstep on the same batches.

Every step is taken by every rule before the next one, so the times of a step are measured interleaved, under the
same conditions, and their ratios mean something.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backroads.data import batches, load_digits
from backroads.feedback.conversion import backward_parameters, convert, forward_parameters
from backroads.feedback.rules import FeedbackRule, get_rule
from backroads.metrics import quantities, weight_angles
from backroads.models import MODELS
from backroads.runs import schema
from backroads.runs.folder import RunFolder
from backroads.train.config import CompareConfig

WARM_UP_STEPS = 10  # of each run, not timed


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a comparison is: ``done`` of ``total`` steps of all rules together, and a line when an epoch ends."""

    done: int
    total: int
    line: str | None = None


def compare(config: CompareConfig, folder: RunFolder, report: Callable[[Progress], None]) -> dict[str, Any]:
    """Train every rule with every seed, write events and results into the folder, and return the results.

    Args:
        config: the settings. folder: where to write. report: called after every step.

    Raises:
        RuleError: for an unknown rule or options it does not take; before anything is trained.
    """
    rules = rules_of(config)
    torch.set_num_threads(config.threads)
    train, evaluation = load_digits(config.split).divided(config.split)
    n = len(train.y)
    steps_per_epoch = math.ceil(n / config.batch_size)
    total = len(rules) * len(config.seeds) * config.epochs * steps_per_epoch
    started = time.perf_counter()
    arms = [schema.Arm(name, seed, {"": repr(rule)}) for seed in config.seeds for name, rule in rules.items()]
    steps = config.epochs * steps_per_epoch
    metrics = quantities(["weight_angle"])
    folder.event(schema.Start("compare", tuple(arms), steps, steps_per_epoch=steps_per_epoch, metrics=metrics))
    numbers = {(arm.name, arm.seed): number for number, arm in enumerate(arms)}

    def evaluate(run: Run, epoch: int) -> None:
        fields, number = run.end_epoch(epoch, evaluation.x, evaluation.y), numbers[run.name, run.seed]
        angles = fields.pop("weight_angle")
        if run.diverged:
            if not run.reported:
                folder.event(schema.Diverged(run.steps, "the loss is not finite", number))
            run.reported = True
            return
        folder.event(schema.Readings(run.steps, {"weight_angle": angles}, number, epoch))
        folder.event(schema.Evaluation(run.steps, epoch, number, **fields))

    done = 0
    runs: dict[str, list[Run]] = {name: [] for name in rules}
    for seed in config.seeds:
        present = [Run(name, rule, seed, config, config.epochs * steps_per_epoch) for name, rule in rules.items()]
        for run in present:
            runs[run.name].append(run)
            evaluate(run, 0)
        for epoch in range(1, config.epochs + 1):
            for step, picks in enumerate(batches(n, config.batch_size, seed, epoch)):
                x, y = train.x[picks], train.y[picks]
                first = step % len(present)  # no rule always comes first
                for run in present[first:] + present[:first]:
                    run.step(x, y)
                    done += 1
                    report(Progress(done, total))
            for run in present:
                evaluate(run, epoch)
            shown = "  ".join(f"{run.name} {100 * run.accuracy:.1f}" for run in present)
            report(Progress(done, total, f"seed {seed} epoch {epoch}/{config.epochs}: {shown} %"))

    results: dict[str, Any] = {
        "kind": "compare",
        "split": config.split,
        "n_seeds": len(config.seeds),
        "rows": [_row(name, rule, runs[name], runs["backprop"]) for name, rule in rules.items()],
        "seconds": time.perf_counter() - started,
    }
    ended = tuple(
        _result(run, other) for own in runs.values() for run, other in zip(own, runs["backprop"], strict=True)
    )
    in_order = sorted(ended, key=lambda arm: numbers[arm.name, arm.seed])
    seconds = results["seconds"]
    folder.results(schema.TrainingResults("compare", config.split, tuple(in_order), "backprop", seconds=seconds))
    return results


def _result(run: Run, baseline: Run) -> schema.ArmResult:
    """How one arm ended."""
    ratios = [own / other for own, other in zip(run.seconds, baseline.seconds, strict=False)][WARM_UP_STEPS:]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else None
    seconds = run.seconds[WARM_UP_STEPS:]
    return schema.ArmResult(
        run.name,
        run.seed,
        "diverged" if run.diverged else "finished",
        run.steps,
        accuracy=None if run.diverged else run.accuracy,
        readings={} if run.diverged else {"weight_angle": dict(run.angles)},
        step_ms=1000 * statistics.median(seconds) if seconds else None,
        step_ratio=(quartiles[0], quartiles[1], quartiles[2]) if quartiles else None,
    )


def rules_of(config: CompareConfig) -> dict[str, FeedbackRule]:
    """The rules by name, with their options; raises RuleError.

    Kolen-Pollack takes W's weight decay unless told otherwise: B must decay as W does.
    """
    settings: dict[str, dict[str, Any]] = {"kolen_pollack": {"decay": config.weight_decay}}
    for name, options in config.rule_settings.items():
        get_rule(name)
        settings[name] = {**settings.get(name, {}), **options}
    return {name: get_rule(name, **settings.get(name, {})) for name in config.rules}


class Run:
    """One rule's network with its optimiser, and what is measured of it."""

    def __init__(self, name: str, rule: FeedbackRule, seed: int, config: CompareConfig, total_steps: int) -> None:
        self.name, self.seed = name, seed
        torch.manual_seed(seed)  # the same W for every rule
        self.model = convert(MODELS.get(config.model)(width=config.width), rule, generator=seed + 1)
        self.optimizer = torch.optim.SGD(
            [
                {
                    "params": forward_parameters(self.model),
                    "lr": config.learning_rate,
                    "momentum": config.momentum,
                    "nesterov": config.momentum > 0,
                    "weight_decay": config.weight_decay,
                },
                {"params": backward_parameters(self.model), "lr": config.backward_rate},
            ]
        )
        # One linear decay to 0 for both rates, so that B keeps its pace relative to W.
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 - step / total_steps)
        self.steps = 0
        self.seconds: list[float] = []
        self.diverged = self.reported = False
        self.accuracy = math.nan
        self.angles: dict[str, float] = {}
        self._losses: list[Tensor] = []
        self._hits: list[Tensor] = []

    def step(self, x: Tensor, y: Tensor) -> None:
        """One step of training, timed. A run whose loss is not finite has diverged and stops."""
        if self.diverged:
            return
        torch.manual_seed(self.seed * 1_000_003 + self.steps)  # draws do not depend on who else is compared
        start = time.perf_counter()
        self.optimizer.zero_grad()
        logits = self.model(x)
        loss = F.cross_entropy(logits, y)
        loss.backward()
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - start)
        self.schedule.step()
        self.steps += 1
        self.diverged = not math.isfinite(loss.item())
        self._losses.append(loss.detach() * len(y))
        self._hits.append((logits.detach().argmax(1) == y).double())

    def end_epoch(self, epoch: int, x: Tensor, y: Tensor) -> dict[str, Any]:
        """Evaluate; the fields of the epoch's event."""
        hits = torch.cat(self._hits) if self._hits else None
        train_loss = None if hits is None else float(torch.stack(self._losses).sum()) / len(hits)
        self._losses, self._hits = [], []
        self.model.eval()
        with torch.no_grad():
            logits = self.model(x)
        self.model.train()
        loss = float(F.cross_entropy(logits, y))
        self.accuracy = float((logits.argmax(1) == y).double().mean())
        self.diverged = self.diverged or not math.isfinite(loss)
        self.angles = weight_angles(self.model)
        return {
            "train_loss": train_loss,
            "train_accuracy": None if hits is None else float(hits.mean()),
            "eval_loss": None if self.diverged else loss,
            "eval_accuracy": None if self.diverged else self.accuracy,
            "weight_angle": {} if self.diverged else self.angles,
        }


def _row(name: str, rule: FeedbackRule, runs: list[Run], baseline: list[Run]) -> dict[str, Any]:
    """One line of the results; runs that diverged have no accuracy and are left out of the means."""
    pairs = [(run, other) for run, other in zip(runs, baseline, strict=True) if not run.diverged]
    accuracies = [run.accuracy for run, _ in pairs]
    gaps = [run.accuracy - other.accuracy for run, other in pairs if not other.diverged]
    angles = {layer: statistics.fmean(run.angles[layer] for run, _ in pairs) for layer in runs[0].angles if pairs}
    ratios = [
        own / other
        for run, reference in zip(runs, baseline, strict=True)
        for own, other in list(zip(run.seconds, reference.seconds, strict=False))[WARM_UP_STEPS:]
    ]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else None
    seconds = [s for run in runs for s in run.seconds[WARM_UP_STEPS:]]
    return {
        "rule": name,
        "label": name.replace("_", " "),
        "repr": repr(rule),
        "accuracy_mean": _mean(accuracies),
        "accuracy_std": _spread(accuracies),
        "accuracies": [None if run.diverged else run.accuracy for run in runs],
        "gap_mean": _mean(gaps),
        "gap_std": _spread(gaps),
        "weight_angle_mean": _mean(list(angles.values())),
        "weight_angles": angles,
        "step_ms": 1000 * statistics.median(seconds) if seconds else None,
        "step_ratio": quartiles[1] if quartiles else None,
        "step_ratio_spread": [quartiles[0], quartiles[2]] if quartiles else None,
        "diverged": sum(run.diverged for run in runs),
    }


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _spread(values: list[float]) -> float | None:
    """Sample standard deviation; None for less than two values."""
    return statistics.stdev(values) if len(values) > 1 else None
