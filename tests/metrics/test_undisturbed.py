"""Taking the readings of a model leaves it, bit for bit, as it was: under every rule, view of W and cadence."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import RULES, batch, small_network

import backroads as br
from backroads.feedback.nn import AlignedLayer
from backroads.metrics import list_metrics, readings

VIEWS = {
    "exact": br.WeightEstimate(),
    "late": br.WeightEstimate(delay_steps=3),
    "noisy": br.WeightEstimate(noise_std=0.1, keep_probability=0.5),
    "quantised": br.WeightEstimate(bits=2),
    "late, noisy, quantised": br.WeightEstimate(delay_steps=2, noise_std=0.1, bits=3, keep_probability=0.5),
}
CADENCES = {
    "every": br.Cadence(),
    "every third": br.Cadence(every=3),
    "a part": br.Cadence(fraction=0.5),
    "both": br.Cadence(every=2, fraction=0.5),
}
CASES = dict(RULES)
for _view in VIEWS:
    for _cadence in CADENCES:
        CASES[f"view {_view}, cadence {_cadence}"] = br.Alignment(
            0.2, 0.3, 0.1, 0.4, 0.5, view=VIEWS[_view], cadence=CADENCES[_cadence]
        )


def everything(net: torch.nn.Module) -> dict[str, Any]:
    """All that can be disturbed: tensors, gradients, torch's random state, and every attribute of every module."""
    found: dict[str, Any] = {"random": torch.get_rng_state(), "state": dict(net.state_dict())}
    found["versions"] = [tensor._version for tensor in (*net.parameters(), *net.buffers())]
    for name, p in net.named_parameters():
        found[f"gradient of {name}"] = p.grad
    for name, module in net.named_modules():
        found[f"attributes of {name}"] = {
            key: value for key, value in vars(module).items() if not key.startswith("_") or "hooks" not in key
        }
        found[f"hooks of {name}"] = {key: len(value) for key, value in vars(module).items() if key.endswith("_hooks")}
        if isinstance(module, AlignedLayer):
            found[f"memory of {name}"] = vars(module.memory)
    return found


def assert_equal(a: Any, b: Any, where: str) -> None:
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    elif isinstance(a, bool | int | float | str | None | br.FeedbackRule):
        assert a == b, where


@pytest.mark.parametrize("name", CASES)
def test_readings_leave_a_model_as_it_was(name: str) -> None:
    net = small_network(CASES[name])
    x, y = batch()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for passes in range(4):  # at every place of a cadence, and of a ring of late copies
        before = copy.deepcopy(everything(net))
        found = readings(net, lambda: F.cross_entropy(net(x), y), list_metrics())
        assert found
        assert_equal(before, everything(net), f"after {passes} steps")
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("name", [n for n in CASES if "late" in n or "every" in n or n == "mirrored_kolen_pollack"])
def test_a_run_that_is_measured_is_the_run_that_is_not(name: str) -> None:
    ends = []
    for measured in (False, True):
        net = small_network(CASES[name])
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        x, y = batch()
        torch.manual_seed(3)
        for _ in range(7):
            if measured:
                readings(net, lambda net=net, x=x, y=y: F.cross_entropy(net(x), y))  # type: ignore[misc]
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
        ends.append(everything(net))
    for end in ends:
        end.pop("random")
        for name in end:
            if name.startswith("memory"):
                end[name] = {**end[name], "backward": None, "passed": None}  # torch's numbers of passes in this process
    assert_equal(ends[0], ends[1], "")
