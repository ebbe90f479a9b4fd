"""Weights that FSDP has cut into shards: gathered where that can be, else refused with what to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import backroads as br

X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return br.convert(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)), "symmetric_alignment", generator=1)


def said(ask: Any) -> str:
    try:
        return str(ask())
    except br.errors.UsageError as error:
        return f"refused: {error}"


def work(rank: int, folder: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        second = network()
        mesh = init_device_mesh("cpu", (2,))
        for module in (second[0], second[2], second):
            fully_shard(module, mesh=mesh)
        found: dict[str, Any] = {"angles": br.metrics.weight_angles(second), "ratios": br.metrics.norm_ratios(second)}
        found["batch"] = said(lambda: br.metrics.readings(second, lambda: second(X).square().mean()))
        first = FullyShardedDataParallel(network(), device_id=torch.device("cpu"), use_orig_params=True)
        found["first"] = said(lambda: br.metrics.weight_angles(first))
        with FullyShardedDataParallel.summon_full_params(first):
            found["whole"] = br.metrics.weight_angles(first)
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_shards_are_gathered_or_refused_in_a_line(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    whole = network()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found["angles"] == pytest.approx(br.metrics.weight_angles(whole))
        assert found["ratios"] == pytest.approx(br.metrics.norm_ratios(whole))
        assert found["batch"].startswith("refused: metrics of a batch need whole weights")
        assert "summon_full_params" in found["first"]
        assert list(found["whole"].values()) == pytest.approx(list(br.metrics.weight_angles(whole).values()))
