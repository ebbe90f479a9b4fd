"""Every rule and every method on the same task, budget and seeds: accuracy, cost, memory, and what each one needs.

    python benchmarks/leaderboard.py --task digits --data digits --runs PATH --choose    # the rates, first
    python benchmarks/leaderboard.py --task digits --data digits --runs PATH             # then the accuracies
    python benchmarks/leaderboard.py --task mnist --data mnist --root PATH --runs PATH [--choose]
    python benchmarks/leaderboard.py --task cifar10 --data folder:PATH --runs PATH [--choose]
    python benchmarks/leaderboard.py --task cost                                         # what a step costs

``--choose`` trains each with every rate of W of the same short list, on seed 0, and is judged on a part of the training
split that is not trained on. On CIFAR-10 it takes a fifth of the images, at the rate chosen on digits, whose network is
a convolutional one with batch norm, too, and at the rates beside it; while the best is at an end of those tried, the
next one is tried as well. On MNIST it takes one epoch. What is best in so short a training may explode in a longer one:
so the best rate is then tried there at full length, and the next lower one, until the lower one is worse. Nothing else
is chosen: rules and methods have their defaults. The accuracies are then of the best rate, on the test split, with
fresh seeds. Where a method cannot train the task's network, it has another one.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import step_time
import torch
from grid import RESULTS, Arm, gap_of, markdown, parser, rows_of, run_grid, spread

from backroads.runs.environment import environment
from backroads.runs.files import write_json

RATES = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3]
SHARED: dict[str, Any] = {
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "warmup_epochs": 0.5,
    "keep": 1,
    "checkpoint_every": 200,
}
MLP: dict[str, Any] = {"model": "mlp", "model_options": {"hidden": [512, 512]}}
TASKS: dict[str, dict[str, Any]] = {
    "digits": {"model": "digits_conv", "epochs": 10, "batch_size": 32},
    "mnist": {**MLP, "epochs": 3, "batch_size": 128, "augment": "none"},
    "cifar10": {
        "model": "resnet8",
        "epochs": 2,
        "batch_size": 128,
        "augment": "crop_flip",
        "channels_last": True,
        "precision": "bf16",
    },
}
# How a rate is tried first on the larger tasks.
TRIALS: dict[str, dict[str, Any]] = {"digits": {}, "mnist": {"epochs": 1}, "cifar10": {"limit": 10_000}}
AT_FULL_LENGTH = ("mnist",)  # the tasks on which the best of these rates are tried again


class Card(NamedTuple):
    """What a way to assign credit asks of the tissue or the chip that runs it.

    Attributes:
        family: of the table and the picture.
        reads_W: whether the way back, or what teaches it, reads the forward weights.
        phases: whether it needs phases apart from the forward pass and one backward sweep.
        locking: whether a layer has to wait for all later ones before it learns.
        signed: whether single units get a signed error.
        derivative: whether the derivative of the activation is used.
        extra: weights beside W.
        local: whether all that changes a weight is at hand at its two ends, or broadcast as one number to all.
    """

    family: str
    reads_W: bool
    phases: bool
    locking: bool
    signed: bool
    derivative: bool
    extra: str
    local: bool


_FEEDBACK = Card("learned feedback", False, False, True, True, True, "B", True)
_NON_LOCAL = _FEEDBACK._replace(family="weight estimation", reads_W=True, local=False)
_FIXED = _FEEDBACK._replace(family="fixed feedback", extra="fixed B")
_LOCAL_LOSS = Card("local losses", False, False, False, True, True, "a head a block", True)
_ONE_NUMBER = Card("one number for all", False, True, True, False, False, "none", True)
CARDS: dict[str, Card] = {
    "backprop": Card("backpropagation", True, False, True, True, True, "none", False),
    "symmetric_alignment": _NON_LOCAL,
    "activation_alignment": _NON_LOCAL._replace(reads_W=False),  # y = W x alone
    "sign_symmetry": _NON_LOCAL._replace(extra="signs of W"),
    "exact_probing": _NON_LOCAL,  # impulses read W entry by entry: an upper bound
    "kolen_pollack": _FEEDBACK,
    "mirrored_kolen_pollack": _FEEDBACK._replace(phases=True),
    "white_noise_mirror": _FEEDBACK._replace(phases=True),
    "error_correcting_mirror": _NON_LOCAL._replace(reads_W=False, phases=True),
    "weight_mirror": _FEEDBACK,
    "information_alignment": _FEEDBACK,
    "feedback_alignment": _FIXED,
    "product_feedback_alignment": _FEEDBACK._replace(extra="two chains of B"),
    "direct_feedback_alignment": _FIXED,
    "direct_kolen_pollack": _FEEDBACK,
    "direct_random_target_projection": _FIXED._replace(locking=False, signed=False),
    "error_broadcast": _FEEDBACK._replace(extra="a correlation with the error"),
    "local_errors": _LOCAL_LOSS,
    "layerwise": _LOCAL_LOSS,
    "mono_forward": _LOCAL_LOSS._replace(extra="a projection a block"),
    "forward_forward": _LOCAL_LOSS._replace(phases=True, signed=False, extra="none"),
    "predictive_coding": Card("energies and targets", True, True, True, True, True, "none", True),
    "equilibrium_propagation": Card("energies and targets", True, True, True, False, False, "none", True),
    "dual_propagation": Card("energies and targets", True, True, True, True, False, "none", True),
    "burstprop": _FIXED._replace(family="energies and targets", phases=False, extra="fixed B"),
    "target_propagation": Card("energies and targets", False, True, True, True, True, "an inverse a block", True),
    "node_perturbation": _ONE_NUMBER,
    "weight_perturbation": _ONE_NUMBER,
    "three_factor": _ONE_NUMBER._replace(phases=False),
    "reinforce": _ONE_NUMBER._replace(phases=False),
    "hebbian": Card("no error at all", False, False, False, False, False, "none", True),
    "softhebb": Card("no error at all", False, False, False, False, False, "none", True),
}
RULES = list(CARDS)[: list(CARDS).index("error_broadcast") + 1]
# Where a method cannot train the task's network: without batch norm, with bounded activations.
_TANH: dict[str, dict[str, Any]] = {
    "digits": {"model": "mlp", "model_options": {"hidden": [256, 256], "activation": "tanh"}},
    "mnist": {"model": "mlp", "model_options": {"hidden": [512, 512], "activation": "tanh"}},
    "cifar10": {
        "model": "mlp",
        "model_options": {"hidden": [512, 512, 512], "activation": "tanh"},
        "precision": "fp32",
    },
}
# A perturbation's effect on the loss is too small for eight bits of mantissa.
_EXACT: dict[str, dict[str, Any]] = {"cifar10": {"precision": "fp32"}}
OWN: dict[str, dict[str, dict[str, Any]]] = {
    "equilibrium_propagation": _TANH,
    "burstprop": {
        task: {**own, "model_options": {**own["model_options"], "activation": "sigmoid"}} for task, own in _TANH.items()
    },
    "node_perturbation": _EXACT,
    "weight_perturbation": _EXACT,
}

# Error in percent, as a repository or its logs state it; recipes and networks differ from ours.
PUBLISHED: dict[str, str] = {
    "backprop": "8.6 (ResNet-20, BioTorch); 1.5 on MNIST (Akrout et al., logs)",
    "feedback_alignment": "32.2 (ResNet-20, BioTorch); 2.2 on MNIST (Akrout et al., logs)",
    "direct_feedback_alignment": "45.9 (ResNet-20, BioTorch)",
    "sign_symmetry": "10.1 (ResNet-20, uniform, BioTorch)",
    "kolen_pollack": "1.53 on MNIST (Akrout et al., logs)",
    "weight_mirror": "1.51 on MNIST (Akrout et al., logs)",
    "local_errors": "5.6 (VGG8B, predsim, its README); 0.31 on MNIST (VGG8B)",
    "forward_forward": "1.45 on MNIST (loeweX/Forward-Forward)",
    "softhebb": "19.7, 0.6 on MNIST (their deep networks, README)",
}


def settings_of(task: str, name: str) -> dict[str, Any]:
    """Settings of a training of one rule or method, without its rate."""
    own = {"rule": name} if name in RULES else {"method": name}
    return {**SHARED, **TASKS[task], **OWN.get(name, {}).get(task, {}), **own}


def choices(task: str) -> list[Arm]:
    """Each rule and method at every rate that is tried, on a validation part."""
    tried = dict.fromkeys(CARDS, RATES)
    if task == "cifar10":
        for name, rate in chosen_rates(_read("digits")).items():
            place = min(max(RATES.index(rate), 1), len(RATES) - 2)
            tried[name] = RATES[place - 1 : place + 2]
    return [_trial(task, name, rate) for name in CARDS for rate in tried[name]]


def _trial(task: str, name: str, rate: float) -> Arm:
    """A short training at a rate, on a validation part."""
    settings = {**settings_of(task, name), "learning_rate": rate, "split": "validation", **TRIALS[task]}
    return Arm({"name": name, "rate": rate}, settings)


def beyond(task: str, results: dict[str, Any]) -> list[Arm]:
    """The next rate of each whose best one is at an end of those that were tried, if the list goes on there."""
    tried: dict[str, set[int]] = {}
    for row in rows_of(results):
        tried.setdefault(row["name"], set()).add(RATES.index(row["rate"]))
    arms = []
    for name, rate in chosen_rates(results).items():
        best = RATES.index(rate)
        arms += [
            _trial(task, name, RATES[place])
            for place in (best - 1, best + 1)
            if 0 <= place < len(RATES) and place not in tried[name]
        ]
    return arms


def longer(task: str, short: dict[str, Any], long: dict[str, Any] | None) -> list[Arm]:
    """What is to be tried next at full length: down from the best rate of the short trials, until a lower one is worse.

    Args:
        short, long: results of the short trials, and of those at full length so far; None: of none.
    """
    accuracies: dict[str, dict[float, float]] = {}
    for row in rows_of(long) if long else ():
        accuracies.setdefault(row["name"], {})[row["rate"]] = row["accuracy_mean"] or -1.0
    arms = []
    for name, rate in chosen_rates(short).items():
        tried = accuracies.get(name, {})
        best = -2.0
        while rate in tried and tried[rate] >= best and rate > RATES[0]:
            best, rate = tried[rate], RATES[RATES.index(rate) - 1]
        if rate not in tried:
            settings = {**settings_of(task, name), "learning_rate": rate, "split": "validation"}
            arms.append(Arm({"name": name, "rate": rate}, settings))
    return arms


def choose(task: str, given: argparse.Namespace) -> dict[str, Any]:
    """Try the rates; returns the results that they are chosen by."""
    short = run_grid(choices(task), given, baseline={"name": "backprop"})
    while arms := beyond(task, short):
        short = run_grid(arms, given, baseline={"name": "backprop"})
    if task not in AT_FULL_LENGTH:
        return short
    long: dict[str, Any] | None = None
    given.out = _rates(task)
    if given.out.exists():
        long = json.loads(given.out.read_text(encoding="utf-8"))
    while arms := longer(task, short, long):
        long = run_grid(arms, given, baseline={"name": "backprop"})
    return long or short


def _rates(task: str) -> Path:
    """The file of the trials that a rate is chosen by."""
    return RESULTS / f"leaderboard_{task}_rates.json"


def _read(task: str) -> dict[str, Any]:
    """The results of --choose on a task."""
    if not _rates(task).exists():
        sys.exit(f"expected rates in {_rates(task)}; run with --task {task} --choose first")
    return json.loads(_rates(task).read_text(encoding="utf-8"))


def chosen_rates(results: dict[str, Any]) -> dict[str, float]:
    """The rate of the best accuracy by name, the lower one where two are equal, or all diverged."""
    best: dict[str, tuple[float, float]] = {}
    for row in rows_of(results):
        accuracy = -1.0 if row["accuracy_mean"] is None else row["accuracy_mean"]
        best[row["name"]] = max(best.get(row["name"], (-2.0, 0.0)), (accuracy, -row["rate"]))
    return {name: -rate for name, (_, rate) in best.items()}


def finals(task: str) -> list[Arm]:
    """Each rule and method for which a rate was chosen, at that rate, on the test split."""
    rates = chosen_rates(_read(task))
    return [
        Arm({"name": name}, {**settings_of(task, name), "learning_rate": rates[name], "split": "test"})
        for name in CARDS
        if name in rates
    ]


def table(results: dict[str, Any]) -> str:
    """Accuracy and gap of each rule and method on one task, the best first."""
    rows = sorted(rows_of(results), key=lambda row: -(row["accuracy_mean"] or 0.0))
    head = ["rule or method", "family", "accuracy, %", "gap to backprop, points", "rate of W", "n"]
    cells = [
        [
            f"`{row['name']}`" + _network(row),
            CARDS[row["name"]].family,
            "diverged" if row["accuracy_mean"] is None else spread(row["accuracy_mean"], row["accuracy_std"]),
            "" if row["name"] == "backprop" else gap_of(row),
            f"{row['settings']['learning_rate']:g}",
            str(row["n"]) + (f", {row['diverged']} diverged" if row["diverged"] else ""),
        ]
        for row in rows
    ]
    return markdown(head, cells)


def _network(row: dict[str, Any]) -> str:
    """In brackets, another network than that of most."""
    options = row["settings"].get("model_options", {})
    return f" (MLP, {options['activation']})" if "activation" in options else ""


def cost_table(results: dict[str, Any]) -> str:
    """Step and memory of each over backpropagation's in plain torch, the cheapest first."""
    rows = sorted((row for row in results["rows"] if row["rule"] != step_time.TORCH), key=lambda row: row["ratio"])
    cells = [
        [
            f"`{row['rule']}`",
            f"{row['ratio']:.2f}",
            "{:.2f} to {:.2f}".format(*row["ratio_quartiles"]),
            "-" if row["memory_ratio"] is None else f"{row['memory_ratio']:.2f}",
        ]
        for row in rows
    ]
    return markdown(["rule or method", "step / torch's", "quartiles", "memory / torch's"], cells)


def measure(out: Path) -> dict[str, Any]:
    """What a step of each costs on one network that all can train but for the activation, taken in turns."""
    given = argparse.Namespace(
        device="cpu", channels_last=False, precision="fp32", compile=False, steps=16, warmup=2, threads=2
    )
    torch.set_num_threads(given.threads)
    speed = step_time.bandwidth(torch.device("cpu"))
    rows = step_time.compare("mlp, batch 128", [step_time.TORCH, *(n for n in CARDS if n != "burstprop")], given, speed)
    results = {"command": "python benchmarks/leaderboard.py --task cost", "environment": environment(), "rows": rows}
    write_json(out, results)
    return results


def cards() -> str:
    """The plausibility card: what each way to assign credit needs."""

    def sign(value: bool) -> str:
        return "yes" if value else "-"

    head = ["rule or method", "reads W", "phases", "locking", "signed errors", "f′", "weights beside W", "local"]
    cells = [
        [
            f"`{name}`",
            *(sign(c) for c in (card.reads_W, card.phases, card.locking, card.signed, card.derivative)),
            card.extra,
            sign(card.local),
        ]
        for name, card in CARDS.items()
    ]
    return markdown(head, cells)


def published() -> str:
    """What repositories state, beside which ours can be read."""
    return markdown(
        ["rule or method", "published error, %, on CIFAR-10 unless said"], [[f"`{k}`", v] for k, v in PUBLISHED.items()]
    )


def main() -> None:
    if sys.argv[1:3] == ["--task", "cost"]:
        print(cost_table(measure(RESULTS / "leaderboard_cost.json")))
        return
    parse = parser(__doc__, "leaderboard")
    parse.add_argument("--task", required=True, choices=[*TASKS, "cost"])
    parse.add_argument("--choose", action="store_true", help="try the rates, on a validation part")
    parse.set_defaults(seeds=None, out=None)
    given = parse.parse_args()
    given.seeds = given.seeds or ([0] if given.choose else [1, 2, 3])  # seed 0 chose the rates
    if given.choose:
        given.out = (
            RESULTS / f"leaderboard_{given.task}_short.json" if given.task in AT_FULL_LENGTH else _rates(given.task)
        )
        head = ["name", "rate", "accuracy, %"]
        rows = rows_of(choose(given.task, given))
        print(markdown(head, [[r["name"], f"{r['rate']:g}", spread(r["accuracy_mean"], None)] for r in rows]))
        return
    given.out = given.out or RESULTS / f"leaderboard_{given.task}.json"
    print(table(run_grid(finals(given.task), given, baseline={"name": "backprop"})))


if __name__ == "__main__":
    main()
