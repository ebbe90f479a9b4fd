"""What needs a GPU: ``pytest -m gpu``. Without one, all of it is skipped."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from problems import LAYERWISE, NOISY, batch, small_network

import backroads as br
from backroads.train.settings import resolve
from backroads.train.trainer import train

TABLE = {**LAYERWISE, **NOISY}
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.mark.parametrize("name", [name for name in TABLE if "batch_random" not in name])  # whose B is drawn anew
def test_gradients_of_W_are_those_of_the_cpu(name: str) -> None:
    """In float64; the noise that a rule draws teaches B, and is not in the gradient of W in the first step."""
    model = small_network(TABLE[name])
    there = copy.deepcopy(model).cuda()
    x, y = batch()
    F.cross_entropy(model(x), y).backward()
    F.cross_entropy(there(x.cuda()), y.cuda()).backward()
    backward = {id(p) for p in br.backward_parameters(model)}
    for (parameter, own), other in zip(model.named_parameters(), there.parameters(), strict=True):
        if id(own) not in backward and own.grad is not None:
            torch.testing.assert_close(other.grad.cpu(), own.grad, rtol=1e-9, atol=1e-11, msg=parameter)


@pytest.mark.parametrize("name", [name for name in TABLE if "batch_random" not in name])
def test_gradients_under_bfloat16_are_finite_and_those_of_W_near_float32(name: str) -> None:
    """Under autocast a GPU refuses operands of different dtypes which a CPU takes.

    On so small a batch torch's own gradients are up to a fifth off in bfloat16.
    """
    model = small_network(TABLE[name]).float().cuda()
    there = copy.deepcopy(model)
    x, y = (t.cuda() for t in batch())
    F.cross_entropy(model(x.float()), y).backward()
    with torch.autocast("cuda", torch.bfloat16):
        loss = F.cross_entropy(there(x.float()).float(), y)
    loss.backward()
    backward = {id(p) for p in br.backward_parameters(model)}
    for (parameter, own), other in zip(model.named_parameters(), there.parameters(), strict=True):
        if own.grad is not None and other.grad is not None:
            assert bool(other.grad.isfinite().all()), parameter
            if id(own) not in backward:
                assert float((other.grad - own.grad).norm()) < 0.35 * float(own.grad.norm()) + 0.01, parameter


def test_a_training_learns(tmp_path: Path) -> None:
    config = resolve({"rule": "mirrored_kolen_pollack", "device": "cuda", "epochs": 5})
    train(config, tmp_path / "run", lambda _: None)
    (arm,) = json.loads((tmp_path / "run" / "results.json").read_text())["arms"]
    assert arm["accuracy"] > 0.9
