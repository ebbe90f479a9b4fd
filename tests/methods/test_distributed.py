"""Methods under data parallelism and gradient accumulation, as modules whose forward pass is the objective."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from gloo import results
from problems import METHODS, MethodCase, batch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from backroads.methods.feedback import Feedback

WORLD, ROWS = 2, 8
MEANS = [name for name, case in METHODS.items() if case.mean]


class Objective(nn.Module):
    def __init__(self, case: MethodCase) -> None:
        super().__init__()
        method, net = case.method, case.network()
        net[3] = nn.Identity()  # batch norm couples the examples of a batch
        self.method, self.model = method, method.prepare(net, batch(2)[0], 0)
        with torch.no_grad():  # heads that have left zero
            for seed, p in enumerate(self.model.parameters()):
                p += 0.1 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(seed))

    def forward(self, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
        torch.manual_seed(seed)  # of whatever the method draws
        return self.method.objective(self.model, x, y, F.cross_entropy)[0]


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def work(rank: int) -> dict[str, dict[str, dict[str, Tensor]]]:
    x, y = (t.chunk(WORLD)[rank] for t in batch(ROWS))
    found = {}
    for name, case in METHODS.items():
        module = Objective(case)
        parallel = DistributedDataParallel(module)
        parallel(x, y, rank).backward()
        found[name] = {"gradients": gradients(module), "remembered": dict(module.named_buffers())}
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, dict[str, Tensor]]]]:
    return results(work, tmp_path_factory.mktemp("distributed"), WORLD)


def of_parts(case: MethodCase, seeds: tuple[int, int]) -> dict[str, Tensor]:
    """The mean of the gradients of the parts of the batch, each by itself."""
    found = []
    for x, y, seed in zip(*(t.chunk(WORLD) for t in batch(ROWS)), seeds, strict=True):
        module = Objective(case)
        module(x, y, seed).backward()
        found.append(gradients(module))
    return {name: sum(of_part[name] for of_part in found) / WORLD for name in found[0]}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.slow
def test_two_processes_have_the_mean_of_the_gradients_of_their_parts(
    ranks: list[dict[str, dict[str, dict[str, Tensor]]]], name: str
) -> None:
    expected = of_parts(METHODS[name], (0, 1))
    for of_rank in ranks:
        torch.testing.assert_close(of_rank[name]["gradients"], expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", MEANS)
def test_two_processes_have_the_gradients_of_one_on_the_joined_batch(
    ranks: list[dict[str, dict[str, dict[str, Tensor]]]], name: str
) -> None:
    whole = Objective(METHODS[name])
    whole(*batch(ROWS)).backward()
    for of_rank in ranks:
        torch.testing.assert_close(of_rank[name]["gradients"], gradients(whole), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", [name for name, case in METHODS.items() if case.remembers])
def test_what_a_method_remembers_is_the_same_in_all_processes(
    ranks: list[dict[str, dict[str, dict[str, Tensor]]]], name: str
) -> None:
    """Checkpoints hold what the first process remembers; where nothing is drawn, it is that of the joined batch."""
    first, *others = (of_rank[name]["remembered"] for of_rank in ranks)
    assert first
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)
    if name in MEANS:
        whole = Objective(METHODS[name])
        whole(*batch(ROWS)).backward()
        torch.testing.assert_close(first, dict(whole.named_buffers()), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    "name", [n for n, case in METHODS.items() if not isinstance(case.method, Feedback) and not case.remembers]
)
def test_accumulated_gradients_of_parts_are_their_mean(name: str) -> None:
    """A loss that is scaled has scaled gradients, so that parts of a batch can be weighed."""
    module = Objective(METHODS[name])
    for seed, (x, y) in enumerate(zip(*(t.chunk(WORLD) for t in batch(ROWS)), strict=True)):
        (module(x, y, seed) / WORLD).backward()
    torch.testing.assert_close(gradients(module), of_parts(METHODS[name], (0, 1)), rtol=1e-10, atol=1e-13)
