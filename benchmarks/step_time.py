"""What a training step costs under each rule, beside the same network of plain torch under backpropagation.

    python benchmarks/step_time.py [--networks resnet20 ...] [--steps 20] [--threads 2] [--device cuda ...]

All contestants live in one process and take their steps in turn, a step of torch's network between any two of them
(T A T B T C T ...), so that whatever slows the machine down slows both; a row is the median over rounds of the step's
time over the mean of torch's steps right before and right after it, with its quartiles. Of a rule that acts in every
k-th step, k rounds are averaged first, so that the median does not pass over the step that costs. Beside it:

- floor: what the ratio must be at least: the multiplications of all matrix products and convolutions, counted while a
  step runs, over torch's, plus the bytes of the elementwise work on B at the memory bandwidth measured here;
- overhead: measured / floor;
- memory: peak of live tensors (weights, gradients, optimiser, activities) over torch's, counted on the CPU as tensors
  are made and freed, on a GPU by its allocator.

BioTorch's layers run in the same rounds where ``biotorch`` is installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import backroads as br
from backroads.models import build_model
from backroads.runs.environment import environment

Step = Callable[[], None]

# name: (model, options, shape, batch)
NETWORKS: dict[str, tuple[str, dict[str, Any], tuple[int, ...], int]] = {
    "resnet20": ("resnet20", {}, (3, 32, 32), 128),
    "resnet18": ("resnet18", {}, (3, 224, 224), 16),
    "resnet8": ("resnet8", {}, (3, 32, 32), 128),
    "mlp, batch 128": ("mlp", {"hidden": [1024, 1024, 1024]}, (1, 28, 28), 128),
    "mlp, batch 1024": ("mlp", {"hidden": [1024, 1024, 1024]}, (1, 28, 28), 1024),
    "vit": ("vit", {}, (3, 32, 32), 128),
    "resnet50": ("resnet50", {}, (3, 224, 224), 256),
}
ON_CPU = [name for name in NETWORKS if name not in ("resnet50", "resnet8")]

TORCH = "torch"
RULES: dict[str, br.FeedbackRule] = {
    "backprop": br.rules.backprop(),
    "feedback alignment": br.rules.feedback_alignment(),
    "direct feedback alignment": br.rules.direct_feedback_alignment(),
    "sign symmetry": br.rules.sign_symmetry(),
    "Kolen-Pollack": br.rules.kolen_pollack(),
    "mirrored Kolen-Pollack": br.rules.mirrored_kolen_pollack(),
    "symmetric alignment": br.rules.symmetric_alignment(),
    # The data terms of every activity in every step, as in the papers, and with the reduction "unit_power".
    "weight mirror, all activities": br.Alignment(amp=1e-3, decay=2e-3),
    "information alignment, all activities": br.Alignment(amp=2e-3, null=2e-3, decay=2e-3),
    "activation alignment, all activities": br.Alignment(amp=2e-3, sparse=2e-3),
    "weight mirror, power": br.Alignment(amp=1e-3, decay=2e-3, reduction="unit_power"),
    "information alignment, power": br.Alignment(amp=2e-3, null=2e-3, decay=2e-3, reduction="unit_power"),
    "activation alignment, power": br.Alignment(amp=2e-3, sparse=2e-3, reduction="unit_power"),
    # The defaults.
    "weight mirror": br.rules.weight_mirror(),
    "information alignment": br.rules.information_alignment(),
    "activation alignment": br.rules.activation_alignment(),
}
# Methods with their defaults, by the names of the library.
METHODS = [name for name in br.list_methods() if name != "feedback"]
BIOTORCH = {"BioTorch, feedback alignment": "fa", "BioTorch, uniform sign symmetry": "usf"}


@dataclasses.dataclass
class Contestant:
    """A network, its optimisers and its times."""

    step: Step
    model: torch.nn.Module
    optimizers: list[torch.optim.Optimizer]
    learned: float  # entries of B that are learned in a step, in the mean
    made: int  # entries of B that are made from W in each forward pass
    momentum: bool  # of B
    every: int  # steps from one on which the rule acts to the next
    seconds: list[float] = dataclasses.field(default_factory=list)
    ratios: list[float] = dataclasses.field(default_factory=list)  # to torch's steps beside it


def contestant(
    name: str, network: str, x: torch.Tensor, labels: torch.Tensor, arguments: argparse.Namespace
) -> Contestant:
    """Build the network from one seed, convert it, and say what a step is."""
    model_name, options, shape, _ = NETWORKS[network]
    torch.manual_seed(0)
    classes = 10
    model = build_model(model_name, classes=classes, shape=shape, options=options)
    rule = RULES.get(name) or (br.rules.as_rule(name) if name in br.rules.list_rules() else None)
    method = br.get_method(name) if name in METHODS else None
    if rule is not None:
        br.convert(model, rule, generator=1)
    elif method is not None:
        model = method.prepare(model, x[:2].cpu(), 1)
    elif name in BIOTORCH:
        from biotorch.module.biomodule import BioModule

        model = BioModule(model, mode=BIOTORCH[name])
    model.to(x.device)
    if arguments.channels_last and x.dim() == 4:
        model.to(memory_format=torch.channels_last)
    if method is not None:
        return _of_method(method, model, x, labels, arguments)
    groups = br.param_groups(model, lr=1e-3, momentum=0.9)
    backward = [group for group in groups if group["name"] in ("tied", "taught", "constant")]
    for group in groups:
        group["fused"] = x.device.type == "cpu" or group["name"] in ("taught", "constant")  # as in backroads train
    optimizer = torch.optim.SGD(groups, lr=1e-3)
    call = torch.compile(model) if arguments.compile else model

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=arguments.precision == "bf16"):
            loss = F.cross_entropy(call(x), labels)
        loss.backward()
        optimizer.step()

    # A "constant" tensor gets a gradient in the steps in which the rule acts alone.
    learned = sum(
        p.numel() / (every(rule) if group["name"] == "constant" else 1) for group in backward for p in group["params"]
    )
    made = sum(p.numel() for p in model.parameters() if p.dim() > 1) if name == "sign symmetry" else 0
    momentum = any(group["momentum"] > 0 for group in backward)
    return Contestant(step, model, [optimizer], learned, made, momentum, every(rule))


def _of_method(
    method: Any, model: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor, arguments: argparse.Namespace
) -> Contestant:
    """A method and its one optimiser."""
    parameters = [p for group in method.parameter_groups(model).values() for p in group]
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, fused=x.device.type == "cpu")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=arguments.precision == "bf16"):
            objective, _ = method.objective(model, x, labels, F.cross_entropy)
        objective.backward()
        optimizer.step()

    return Contestant(step, model, [optimizer], 0, 0, False, 1)


def every(rule: br.FeedbackRule | None) -> int:
    """Steps from one on which a rule acts to the next."""
    return int(getattr(getattr(rule, "cadence", rule), "every", 1))


def elementwise_bytes(c: Contestant) -> int:
    """Read W and B and write the gradient, then read both and write B; two more passes with momentum."""
    passes = 6 + 2 * c.momentum
    return round(4 * (c.learned * passes + c.made * 2))


def bandwidth(device: torch.device) -> float:
    """Bytes a second of an elementwise pass over tensors beyond any cache."""
    a = torch.randn(1 << 26, device=device)
    b = torch.empty_like(a)
    times = []
    for _ in range(6):
        start = clock(device)
        torch.add(a, 1.0, out=b)
        times.append(clock(device) - start)
    return 2 * a.nbytes / min(times)


def clock(device: torch.device) -> float:
    """Seconds, after all work given to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory(c: Contestant, x: torch.Tensor, labels: torch.Tensor) -> int | None:
    """Bytes alive at the worst moment of a step, this contestant's alone."""
    if x.device.type == "cuda":
        own = sum(t.nbytes for t in [*c.model.parameters(), *c.model.buffers()])
        own += sum(s.nbytes for o in c.optimizers for p in o.state.values() for s in p.values() if hasattr(s, "nbytes"))
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        c.step()
        return torch.cuda.max_memory_allocated() - before + own
    from torch.distributed._tools.mem_tracker import MemTracker

    fixed = [p for p in c.model.parameters() if not p.requires_grad]
    for p in fixed:  # the tracker hooks every parameter; a B that no graph reaches gets no gradient all the same
        p.requires_grad_(True)
    tracker = MemTracker()
    tracker.track_external(c.model, *c.optimizers, x, labels)
    try:
        with tracker:
            c.step()
        peak = tracker.get_tracker_snapshot("peak")
    except Exception as error:  # private to torch, and refuses some models: a number less, not a run less
        print(f"    memory not counted: {type(error).__name__}: {error}")
        return None
    finally:
        for p in fixed:
            p.requires_grad_(False)
    return max(int(sizes["Total"]) for sizes in peak.values())


def compare(network: str, names: list[str], arguments: argparse.Namespace, speed: float) -> list[dict[str, Any]]:
    """The rows of one network."""
    device = torch.device(arguments.device)
    _, _, shape, batch = NETWORKS[network]
    torch.manual_seed(0)
    x, labels = torch.randn(batch, *shape, device=device), torch.randint(10, (batch,), device=device)
    if arguments.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    present = {name: contestant(name, network, x, labels, arguments) for name in names}
    flops = {}
    for name, c in present.items():
        if arguments.compile:  # a compiled graph is counted as the eager one
            flops[name] = 0
        else:
            with FlopCounterMode(display=False) as counter:
                for _ in range(c.every):
                    c.step()
            flops[name] = counter.get_total_flops() / c.every
        for _ in range(arguments.warmup):
            c.step()

    def timed(c: Contestant) -> float:
        start = clock(device)
        c.step()
        c.seconds.append(clock(device) - start)
        return c.seconds[-1]

    base, others = present[TORCH], [c for name, c in present.items() if name != TORCH]
    for round_ in range(arguments.steps):
        # Another order in each round, so that nobody always has the same place in it.
        order = torch.randperm(len(others), generator=torch.Generator().manual_seed(round_)).tolist()
        before = timed(base)
        for c in [others[i] for i in order]:
            own, after = timed(c), timed(base)
            c.ratios.append(2 * own / (before + after))
            before = after
        if round_ == 0 or (round_ + 1) % 10 == 0:
            print(f"  {network}: round {round_ + 1}/{arguments.steps}", flush=True)
    memory = {name: None if arguments.compile else peak_memory(c, x, labels) for name, c in present.items()}
    seconds = statistics.median(base.seconds)
    rows = []
    for name, c in present.items():
        whole = range(0, len(c.ratios) // c.every * c.every, c.every)
        ratios = [statistics.fmean(c.ratios[i : i + c.every]) for i in whole]
        low, middle, high = statistics.quantiles(ratios if len(ratios) > 1 else [*ratios, *ratios] or [1.0, 1.0], n=4)
        floor = None
        if flops[name] and name not in BIOTORCH:
            floor = flops[name] / flops[TORCH] + elementwise_bytes(c) / speed / seconds
        ratio_of_memory = memory[name] / memory[TORCH] if memory[name] and memory[TORCH] else None
        rows.append(
            {
                "network": network,
                "batch": batch,
                "rule": name,
                "options": repr(RULES[name]) if name in RULES else "",
                "rounds": arguments.steps,
                "median_seconds": statistics.median(c.seconds),
                "steps_averaged": c.every,
                "ratio": middle,
                "ratio_quartiles": [low, high],
                "floor": floor,
                "overhead": None if floor is None else middle / floor,
                "memory_ratio": ratio_of_memory,
                "memory_bytes": memory[name],
                "flops": flops[name] or None,
            }
        )
    del present
    gc.collect()
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """One network's rows as the docs show them."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    torch_ms = 1000 * next(row for row in rows if row["rule"] == TORCH)["median_seconds"]
    title = rows[0]["network"].partition(",")[0]
    lines = [
        f"\n**{title}, batch {rows[0]['batch']}** (torch's step: {torch_ms:.0f} ms; {rows[0]['rounds']} rounds)\n",
        "| rule | step / torch's | quartiles | floor | overhead | memory / torch's |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["ratio_quartiles"]
        lines.append(
            f"| {row['rule']} | {row['ratio']:.2f} | {low:.2f} to {high:.2f} | {number(row['floor'])} "
            f"| {number(row['overhead'])} | {number(row['memory_ratio'])} |"
        )
    return "\n".join(lines)


def has_biotorch() -> bool:
    """Whether BioTorch is installed and can be imported."""
    try:
        import biotorch.module.biomodule  # noqa: F401
    except Exception as error:
        print(f"without BioTorch ({type(error).__name__}: {error}); pip install --no-deps biotorch")
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=None)
    parser.add_argument("--rules", nargs="*", choices=list(RULES), default=list(RULES))
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=None, help="methods as well; alone: all")
    parser.add_argument("--steps", type=int, default=20, help="rounds that are timed")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "step_time.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    networks = arguments.networks or (ON_CPU if arguments.device == "cpu" else list(NETWORKS))
    methods = METHODS if arguments.methods == [] else arguments.methods or []
    names = [TORCH, *arguments.rules, *methods, *(BIOTORCH if has_biotorch() else ())]
    speed = bandwidth(torch.device(arguments.device))
    result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for network in networks:
        of = [n for n in names if n not in BIOTORCH or network.startswith("resnet")]  # it converts no attention
        rows = compare(network, of, arguments, speed)
        result[network] = {"environment": environment(), "bandwidth_bytes_per_second": speed, "rows": rows}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
        print(table(rows))


if __name__ == "__main__":
    main()
