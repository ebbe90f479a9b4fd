"""Seconds and peak memory of a meta-step at the reference's sizes, beside the reference's way of working.

    python benchmarks/plasticity.py [--cases sinusoid omniglot] [--rounds 3] [--threads 2] [--scale 1.0] [--out FILE]

Contestants: "logging", the reference's way restated: autograd on the formulas as they are written, everything kept,
images one by one, and the query loss with a graph after every inner step; "plain", the same without these losses;
"ours"; "ours, segments", with sqrt(T) segments computed again; and both with 4 episodes in a meta-step, where seconds
are those of one of them, and memory is that of all. Each measurement is a process of its own (peak
memory is the process's), and the contestants take turns, so that what slows the machine slows all of them. Weights,
episodes and losses are the same; the losses are compared. The floor: floating point operations of matrix products and
convolutions, counted while "ours" runs, over the speed of a large matrix product measured in the same process, plus
the bytes of the elementwise work on plastic weights over the bandwidth measured there.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from backroads.plasticity.network import MetaNetwork
from backroads.plasticity.settings import resolve
from backroads.plasticity.tasks.episode import Episodes
from backroads.plasticity.trainer import meta_gradient
from backroads.runs.environment import environment
from backroads.runs.files import write_json

CONTESTANTS = ("logging", "plain", "ours", "ours, segments", "ours, 4 episodes", "ours, 4 episodes, segments")
# Small plasticities: at the start of the reference's settings they are zero, and updates would be the identity.
CASES: dict[str, dict[str, Any]] = {
    "sinusoid": {"task": "sinusoid", "initial_plasticity": 1e-10},
    "omniglot": {"task": "omniglot", "initial_plasticity": 1e-6},
}


def episodes_of(case: str, scale: float) -> Episodes:
    """Random inputs of the sizes of an episode; ``scale`` shortens the lifetime."""
    generator = torch.Generator().manual_seed(0)
    if case == "sinusoid":
        T, m, Q = max(1, round(400 * scale)), 32, 320
        x = torch.randn(T * m + Q, 11, generator=generator)
        y = torch.randn(1, T * m + Q, 1, generator=generator)
        index = torch.arange(len(x))[None]
        seen, asked = index[:, : T * m].view(1, T, m), index[:, T * m :]
        return Episodes(x, seen, y[:, : T * m].view(1, T, m, 1), asked, y[:, T * m :], torch.zeros(1, T), asked)
    T, Q = max(1, round(25 * scale)), 25
    drawings = T + Q - min(T, 6)  # about a quarter of the query was seen: 1.25 of 5 drawings a class
    x = (torch.rand(drawings, 1, 84, 84, generator=generator) > 0.1).float()
    labels = torch.arange(T + Q)[None] % 5
    asked = torch.arange(Q)[None] + drawings - Q
    return Episodes(
        x, torch.arange(T).view(1, T, 1), labels[:, :T, None], asked, labels[:, T:], torch.zeros(1, T), asked
    )


def batch(episodes: Episodes, count: int) -> Episodes:
    """The same episode ``count`` times, with inputs of its own each, as different ones have."""
    K, E = len(episodes.inputs), range(count)

    def repeated(name: str) -> Tensor:
        return torch.cat([getattr(episodes, name)] * count)

    return Episodes(
        torch.cat([episodes.inputs] * count),
        torch.cat([episodes.support + e * K for e in E]),
        repeated("y"),
        torch.cat([episodes.query + e * K for e in E]),
        *map(repeated, ("y_query", "task", "task_query")),
    )


def restated(network: MetaNetwork, episodes: Episodes, logging: bool) -> Tensor:
    """The query loss as the reference computes it, for one episode."""
    meta, rule = network.meta_parameters, network.rule
    L = sum(name.startswith("W") for name in meta)
    W = [meta[f"W{layer}"] for layer in range(L)]
    regression = episodes.y.is_floating_point()

    def forward(W: list[Tensor], x: Tensor) -> list[Tensor]:
        a = [network.features(x)]
        for layer in range(L):
            z = F.linear(a[-1], W[layer], meta[f"b{layer}"])
            a.append(F.relu(z) if layer < L - 1 else z)
        return a

    def query(W: list[Tensor]) -> Tensor:
        yhat = forward(W, episodes.inputs[episodes.query[0]])[-1]
        return F.mse_loss(yhat, episodes.y_query[0]) if regression else F.cross_entropy(yhat, episodes.y_query[0])

    losses = []
    for k in range(episodes.support.shape[1]):
        a = forward(W, episodes.inputs[episodes.support[0, k]])
        y = episodes.y[0, k]
        u = y - a[-1] if regression else F.one_hot(y, len(W[-1])).float()
        after = []
        for layer in range(L):
            if layer == L - 1 and not regression:
                q = u
            else:
                s = meta[f"s{layer}"]
                q = s * F.relu(F.linear(u, meta[f"B{layer}_0"], meta[f"c{layer}_0"])) + (1 - s) * a[layer + 1]
            D = q.t() @ a[layer] - (q * q).sum(0)[:, None] * W[layer]
            mu = rule.hidden_multiplier if layer < L - 1 else 1.0
            after.append(W[layer] + mu * meta[f"p{layer}"] * D)
        W = after
        if logging:
            losses.append(query(W))
    return losses[-1] if logging else query(W)


def measured(case: str, contestant: str, scale: float, threads: int) -> dict[str, Any]:
    """One process: two meta-steps, of which the second counts."""
    torch.set_num_threads(threads)
    episodes = episodes_of(case, scale)
    T = episodes.support.shape[1]
    segments = round(T**0.5) if "segments" in contestant else 1
    count = 4 if "4 episodes" in contestant else 1
    episodes = batch(episodes, count)
    network = MetaNetwork(resolve({**CASES[case], "checkpoint_segments": segments}), tuple(episodes.inputs.shape[1:]))

    def step() -> float:
        if contestant.startswith("ours"):
            return float(meta_gradient(network, episodes, 0))
        network.zero_grad()
        loss = restated(network, episodes, contestant == "logging")
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    for _ in range(2):
        began, cpu = time.perf_counter(), time.process_time()
        loss = step()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row = {"seconds": seconds / count, "cpu_seconds": cpu / count, "peak_gib": peak, "gib_before": before, "loss": loss}
    return {**row, "floor": floor(network, step, T)} if contestant == "ours" else row


def floor(network: MetaNetwork, step: Any, T: int) -> dict[str, float]:
    """Seconds below which a meta-step cannot be, by what it has to multiply and to move."""
    with FlopCounterMode(display=False) as counter:
        step()
    n = 1024
    A = torch.randn(n, n)
    big = torch.randn(2**24)
    speed = max(2 * n**3 / seconds_of(lambda: A @ A) for _ in range(10))
    bandwidth = max(2 * 4 * big.numel() / seconds_of(lambda: big.clone()) for _ in range(5))
    weights = sum(value.numel() for name, value in network.meta_parameters.items() if name[0] == "W")
    moved = 4.0 * weights * T * (4 + 9)  # forward: W, P, D in, W out; backward: W, P, D, G, H in and G, H, dP in, out
    flops = float(counter.get_total_flops())
    return {"gflop": flops / 1e9, "gflop_per_second": speed / 1e9, "elementwise_gb": moved / 1e9,
            "gb_per_second": bandwidth / 1e9, "seconds": flops / speed + moved / bandwidth}  # fmt: skip


def seconds_of(work: Any) -> float:
    """Of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="of the length of lifetimes")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(*given.one, given.scale, given.threads)))
        return
    results: dict[str, Any] = {"environment": environment(), "threads": given.threads, "scale": given.scale}
    for case in given.cases:
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in given.contestants}
        for _ in range(given.rounds):
            for name in given.contestants:
                words = [sys.executable, __file__, "--one", case, name, "--threads", str(given.threads)]
                done = subprocess.run([*words, "--scale", str(given.scale)], check=True, capture_output=True, text=True)
                rows[name].append(json.loads(done.stdout))
        results[case] = rows
        print(f"\n{case}: medians of {given.rounds} rounds, {given.threads} threads, lifetimes x {given.scale:g}")
        for name, found in rows.items():
            medians = {
                key: statistics.median(one[key] for one in found) for key in ("seconds", "cpu_seconds", "peak_gib")
            }
            print(
                f"  {name:26s} {medians['seconds']:7.2f} s  {medians['cpu_seconds']:7.2f} s of CPU  "
                f"{medians['peak_gib']:6.2f} GiB  loss {found[0]['loss']:.6f}"
            )
        if "ours" in rows:
            floors = [one["floor"]["seconds"] for one in rows["ours"]]
            print(f"  {'floor':26s} {statistics.median(floors):7.2f} s")
    if given.out is not None:
        write_json(given.out, results)


if __name__ == "__main__":
    main()
