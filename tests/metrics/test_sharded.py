"""Weights that FSDP has cut into shards: gathered where that can be, else refused with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import results
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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


class Traffic(TorchDispatchMode):
    """Counts the numbers of whole tensors that are gathered from all processes, and scattered to them."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = {"_allgather_base_": 0, "_reduce_scatter_base_": 0}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for name in self.numbers:
            if func.name().endswith(name):
                self.numbers[name] += max(t.numel() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor))
        return func(*args, **(kwargs or {}))


def held_and_sent(net: nn.Module) -> dict[str, Any]:
    """Numbers that one process holds of the parameters, their gradients and their momentum, and moves in a step."""
    with Traffic() as traffic:
        net(X).square().mean().backward()
    optimiser = torch.optim.SGD(br.param_groups(net, 0.1, momentum=0.9))
    optimiser.step()
    optimiser.step()  # the first one of a B that the rule teaches takes no momentum
    momentum = [state["momentum_buffer"] for state in optimiser.state.values()]
    held = {"weights": net.parameters(), "gradients": [p.grad for p in net.parameters()], "momentum": momentum}
    return {**traffic.numbers, **{name: sum(t.to_local().numel() for t in of) for name, of in held.items()}}


def work(rank: int) -> dict[str, Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    second = network()
    mesh = init_device_mesh("cpu", (2,))
    for module in (second[0], second[2], second):
        fully_shard(module, mesh=mesh)
    found: dict[str, Any] = {"angles": br.metrics.weight_angles(second), "ratios": br.metrics.norm_ratios(second)}
    found["sizes"] = held_and_sent(second)
    found["batch"] = said(lambda: br.metrics.readings(second, lambda: second(X).square().mean()))
    first = FullyShardedDataParallel(network(), device_id=torch.device("cpu"), use_orig_params=True)
    found["first"] = said(lambda: br.metrics.weight_angles(first))
    with FullyShardedDataParallel.summon_full_params(first):
        found["whole"] = br.metrics.weight_angles(first)
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_shards_are_gathered_or_refused_in_a_line(tmp_path: Path) -> None:
    whole = network()
    for rank, found in enumerate(results(work, tmp_path)):
        assert found["angles"] == pytest.approx(br.metrics.weight_angles(whole))
        assert found["ratios"] == pytest.approx(br.metrics.norm_ratios(whole))
        # Beside the weights P there is a B for each W of a matrix; both are cut in two by rows, the longer part first.
        rows = [(4, 2), (3, 1)][rank]
        own = sum(n * (inputs + 1 + inputs) for n, inputs in zip(rows, (5, 7), strict=True))
        assert [found["sizes"][name] for name in ("weights", "gradients", "momentum")] == [own] * 3
        # Gathered whole, padded to equal parts, before the forward pass and again before the backward pass.
        padded = sum(2 * n * (inputs + 1 + inputs) for n, inputs in zip((4, 2), (5, 7), strict=True))
        assert found["sizes"]["_allgather_base_"] == 2 * padded
        assert found["sizes"]["_reduce_scatter_base_"] == padded
        assert found["batch"].startswith("refused: metrics of a batch need whole weights")
        assert "summon_full_params" in found["first"]
        assert list(found["whole"].values()) == pytest.approx(list(br.metrics.weight_angles(whole).values()))
