"""Weights that tensor parallelism has cut up are refused in a line; those of FSDP2 are whole when a layer runs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import backroads as br
from backroads.errors import ConversionError, UsageError

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of its own parts


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dist.device_mesh.DeviceMesh]:
    """Of one process."""
    folder: Path = tmp_path_factory.mktemp("mesh")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        yield dist.device_mesh.init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


def network(rule: str | None) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    return net if rule is None else br.convert(net, rule, generator=0)


def parallel(net: nn.Module, mesh: dist.device_mesh.DeviceMesh) -> nn.Module:
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    return parallelize_module(net, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


@pytest.mark.parametrize("rule", [rule for rule in br.list_rules() if rule != "backprop"])
def test_a_converted_layer_under_tensor_parallelism_is_refused(rule: str, mesh: dist.device_mesh.DeviceMesh) -> None:
    net = parallel(network(rule), mesh)
    with pytest.raises(UsageError, match=r"Linear: expected a whole weight, got a DTensor.*fully_shard"):
        net(X)


def test_layers_on_backpropagation_may_be_parallel(mesh: dist.device_mesh.DeviceMesh) -> None:
    net = parallel(network("backprop"), mesh)
    torch.testing.assert_close(net(X), network(None)(X))


@pytest.mark.parametrize("sharded", [False, True], ids=["tensor parallel", "FSDP2"])
def test_weights_that_are_cut_up_do_not_convert(sharded: bool, mesh: dist.device_mesh.DeviceMesh) -> None:
    from torch.distributed.fsdp import fully_shard

    net = network(None)
    net = fully_shard(net, mesh=mesh) if sharded else parallel(net, mesh)
    before = [type(module) for module in net.modules()]
    with pytest.raises(ConversionError, match=r"those of 0, 2 are cut up \(DTensor\); convert before fully_shard"):
        br.convert(net, "symmetric_alignment")
    assert [type(module) for module in net.modules()] == before


def test_fsdp2_on_a_mesh_gives_the_gradients_of_the_model_itself(mesh: dist.device_mesh.DeviceMesh) -> None:
    from torch.distributed.fsdp import fully_shard

    plain = network("symmetric_alignment")
    net = copy.deepcopy(plain)
    for module in (net[0], net[2], net):
        fully_shard(module, mesh=mesh)
    for model in (plain, net):
        model(X).square().mean().backward()
    for p, q in zip(plain.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(q.grad.full_tensor(), p.grad)
