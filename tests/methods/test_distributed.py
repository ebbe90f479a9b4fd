"""Methods under data parallelism and gradient accumulation, as modules whose forward pass is the objective."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from problems import METHODS, batch, plain_network
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from backroads.methods.base import Method

WORLD, ROWS = 2, 8
# Those whose objective is a mean over examples; similarities are of pairs within each process's part.
MEANS = ["feedback", "local_errors", "local_errors, pooled", "local_errors, two blocks"]


class Objective(nn.Module):
    def __init__(self, method: Method) -> None:
        super().__init__()
        net = plain_network()
        net[3] = nn.Identity()  # batch norm couples the examples of a batch
        self.method, self.model = method, method.prepare(net, batch(2)[0], 0)
        with torch.no_grad():  # heads that have left zero
            for seed, p in enumerate(self.model.parameters()):
                p += 0.1 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(seed))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.method.objective(self.model, x, y, F.cross_entropy)[0]


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def work(rank: int, folder: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    try:
        x, y = (t.chunk(WORLD)[rank] for t in batch(ROWS))
        found = {}
        for name in MEANS:
            module = Objective(METHODS[name])
            parallel = DistributedDataParallel(module)
            parallel(x, y).backward()
            found[name] = gradients(module)
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("distributed")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("name", MEANS)
def test_two_processes_have_the_gradients_of_one_on_the_joined_batch(
    ranks: list[dict[str, dict[str, Tensor]]], name: str
) -> None:
    whole = Objective(METHODS[name])
    whole(*batch(ROWS)).backward()
    for of_rank in ranks:
        torch.testing.assert_close(of_rank[name], gradients(whole), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in MEANS if name.startswith("local")])
def test_gradients_accumulated_over_parts_are_those_of_the_whole_batch(name: str) -> None:
    whole, parts = Objective(METHODS[name]), Objective(METHODS[name])
    x, y = batch(ROWS)
    whole(x, y).backward()
    for part in range(2):
        (parts(x.chunk(2)[part], y.chunk(2)[part]) / 2).backward()
    torch.testing.assert_close(gradients(parts), gradients(whole), rtol=1e-10, atol=1e-13)
