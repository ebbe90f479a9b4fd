"""What several processes find that talk to each other over gloo."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # once there is a group, its import would keep it, as a default


def results(work: Callable[[int], Any], folder: Path, world: int = 2) -> list[Any]:
    """What ``work`` returns in each process, by rank.

    Args:
        work: a function of a module, called with the rank; what it returns can be saved by torch.
        folder: an empty one; the processes meet there, and leave their results.
        world: how many processes.
    """
    torch.multiprocessing.spawn(_work, (work, world, str(folder)), nprocs=world)
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


def _work(rank: int, work: Callable[[int], Any], world: int, folder: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    try:
        torch.save(work(rank), f"{folder}/{rank}.pt")
    finally:
        # A thread of the group that is left over when Python ends, and lets go of a tensor then, aborts the process.
        gc.collect()
        dist.destroy_process_group()
