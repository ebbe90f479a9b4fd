"""What part of the speed of a large product a meta-step reaches, and how many images a second its front takes.

    python benchmarks/lifetime_speed.py [--rounds 5] [--cases "32 of 64 units" ...] [--out FILE]

Operations are those of the six products of m x n_in x n_out that a layer takes in a step (an output, a change, and two
gradients of each of the two) and the three of the query; in the same processes a product of 1,024 x 1,024 is measured
before each meta-step. A case is measured in one process of one thread, one of two threads, and, if there are several
lifetimes, in two processes of one thread at a time, each with half of them: the share is then the mean of both.

The front is that of the reference for Omniglot, 84 pixels; beside the images a second of a meta-step are those of a
plain forward and backward pass of the same convolutions, as they are written in torch, on one thread.

A meta-step of OML, 4 lifetimes of 400 steps, is measured with its meta-gradient written out and with that of autograd,
in turns, on one thread.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from grid import RESULTS, markdown
from plasticity import batch, episodes_of, seconds_of

from backroads.plasticity.network import Convolutions, MetaNetwork
from backroads.plasticity.settings import resolve
from backroads.plasticity.trainer import meta_gradient
from backroads.runs.environment import environment
from backroads.runs.files import write_json
from backroads.runs.runtime import keep_freed_memory
from backroads.runs.settings import read_settings


class Case(NamedTuple):
    """A meta-step: lifetimes of so many steps of 32 samples, in eight hidden layers of so many units."""

    lifetimes: int
    hidden: int
    steps: int


CASES = {
    "32 of 64 units": Case(32, 64, 200),
    "1 of 64 units": Case(1, 64, 200),
    "1 of 300 units": Case(1, 300, 100),
}
SAMPLES, INPUTS, QUERY = 32, 11, 320  # of an episode of sinusoids, which has 400 steps
WAYS = {"one thread": (1, 1), "two threads": (1, 2), "two processes": (2, 1)}  # processes, threads of each
CHANNELS, STRIDES = 128, [2, 1, 2, 1, 2, 2]


def operations(case: Case) -> float:
    """Of the products of a meta-step; the first layer needs no error of its inputs."""
    sizes = [INPUTS, *[case.hidden] * 8, 1]
    products = sum(a * b for a, b in itertools.pairwise(sizes))
    first = sizes[0] * sizes[1]
    return 2.0 * case.lifetimes * (case.steps * SAMPLES * (6 * products - first) + QUERY * (3 * products - first))


def share(case: Case, threads: int, rounds: int) -> dict[str, float]:
    """In this process: seconds of a meta-step, and its speed over that of a large product."""
    torch.set_num_threads(threads)
    keep_freed_memory()  # as in a training
    config = resolve({"task": "sinusoid", "initial_plasticity": 1e-6, "hidden": [case.hidden] * 8})
    network = MetaNetwork(config, (INPUTS,))
    episodes = batch(episodes_of("sinusoid", case.steps / 400), case.lifetimes)
    A, found, speeds = torch.randn(1024, 1024), [], []
    meta_gradient(network, episodes, 0)
    for _ in range(rounds):
        product = min(seconds_of(lambda: A @ A) for _ in range(10))
        seconds = seconds_of(lambda: meta_gradient(network, episodes, 0))
        found.append(seconds)
        speeds.append(operations(case) / seconds / (2 * 1024**3 / product))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": statistics.median(found), "share": statistics.median(speeds), "peak_gib": peak}


def descent(rounds: int) -> dict[str, float]:
    """Seconds of a meta-step of OML, written out and by autograd."""
    torch.set_num_threads(1)
    keep_freed_memory()
    config = resolve({**read_settings("sinusoid-small", "meta"), "learner": "oml"})
    episodes = batch(episodes_of("sinusoid", 1.0), config.meta.meta_batch_size)
    written, plain = (MetaNetwork(config, (INPUTS,)) for _ in range(2))
    # Whoever observes gets the steps as they are defined.
    plain.lifetimes = functools.partial(MetaNetwork.lifetimes, plain, observe=lambda k, weights: None)  # type: ignore[method-assign]
    own, autograds = [], []
    for _ in range(rounds + 1):
        own.append(seconds_of(lambda: meta_gradient(written, episodes, 0)))
        autograds.append(seconds_of(lambda: meta_gradient(plain, episodes, 0)))
    own, autograds = own[1:], autograds[1:]
    ratio = statistics.median(a / b for a, b in zip(own, autograds, strict=True))
    return {"written_out": statistics.median(own), "autograd": statistics.median(autograds), "ratio": ratio}


def images(bf16: bool, rounds: int) -> dict[str, float]:
    """Images a second through the front, in a meta-step and in plain torch, in turns."""
    torch.set_num_threads(1)
    config = resolve({"task": "omniglot", "initial_plasticity": 1e-6, "front_precision": "bf16" if bf16 else "fp32"})
    episodes = episodes_of("omniglot", 1.0)
    x = episodes.inputs
    shape = tuple(x.shape[1:])
    network, front = MetaNetwork(config, shape), Convolutions(shape, CHANNELS, STRIDES, torch.Generator())
    plain = [(getattr(front, f"W{k}"), getattr(front, f"b{k}")) for k in range(len(STRIDES))]

    def forward_and_backward() -> None:
        a = x
        for (W, b), stride in zip(plain, STRIDES, strict=True):
            a = F.conv2d(a, W, b, stride=stride).relu()
        a.square().mean().backward()  # type: ignore[no-untyped-call]

    own, torchs = [], []
    for _ in range(rounds + 1):
        own.append(seconds_of(lambda: meta_gradient(network, episodes, 0)))
        torchs.append(seconds_of(forward_and_backward))
    ratio = statistics.median(a / b for a, b in zip(own[1:], torchs[1:], strict=True))
    return {
        "images_per_second": len(x) / statistics.median(own[1:]),
        "plain": len(x) / statistics.median(torchs[1:]),
        "ratio": ratio,
    }


def in_processes(case: str, processes: int, threads: int, rounds: int) -> dict[str, float]:
    """The same measurement in processes at a time: the slowest, the mean share, and the memory of all."""
    words = [sys.executable, __file__, "--one", case, str(processes), str(threads), "--rounds", str(rounds)]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    found = [json.loads(one.communicate()[0]) for one in running]
    return {
        "seconds": max(one["seconds"] for one in found),
        "share": statistics.fmean(one["share"] for one in found),
        "peak_gib": sum(one["peak_gib"] for one in found),
    }


def table(results: dict[str, Any]) -> str:
    """Seconds, share and memory, a row for each case and way."""
    cells = [
        [
            row["case"],
            row["way"],
            f"{row['seconds']:.2f}",
            f"{100 * row['share']:.0f} %",
            f"{row['peak_gib']:.1f}",
        ]
        for row in results["rows"]
    ]
    return markdown(["lifetimes", "cores", "seconds of a meta-step", "of a large product's speed", "peak, GiB"], cells)


def front_table(results: dict[str, Any]) -> str:
    """Images a second, a row for each precision."""
    cells = [
        [row["precision"], *(f"{row[key]:.0f}" for key in ("images_per_second", "plain")), f"{row['ratio']:.2f}"]
        for row in results["front"]
    ]
    head = ["front in", "images a second in a meta-step", "forward and backward in plain torch, fp32", "time, ratio"]
    return markdown(head, cells)


def descent_line(results: dict[str, Any]) -> str:
    """In words."""
    found = results["descent"]
    return (
        f"A meta-step of OML, 4 lifetimes of 400 steps: {found['written_out']:.2f} s, where autograd takes "
        f"{found['autograd']:.2f} s ({found['ratio']:.2f} of its time)."
    )


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parse.add_argument("--rounds", type=int, default=5)
    parse.add_argument("--out", type=Path, default=RESULTS / "lifetime_speed.json")
    parse.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parse.parse_args()
    if given.one:
        name, processes, threads = given.one
        case = CASES[name]._replace(lifetimes=CASES[name].lifetimes // int(processes))
        print(json.dumps(share(case, int(threads), given.rounds)))
        return
    rows = [
        {"case": name, "way": way, **in_processes(name, processes, threads, given.rounds)}
        for name in given.cases
        for way, (processes, threads) in WAYS.items()
        if CASES[name].lifetimes % processes == 0
    ]
    front = [{"precision": "bf16" if bf16 else "fp32", **images(bf16, given.rounds)} for bf16 in (False, True)]
    results = {"environment": environment(), "rows": rows, "front": front, "descent": descent(given.rounds)}
    print(table(results), front_table(results), descent_line(results), sep="\n\n")
    write_json(given.out, results)


if __name__ == "__main__":
    main()
