"""Means of the weights over steps, held to the written iteration."""

from __future__ import annotations

import torch

from backroads.train.averages import Lookahead

DECAY, AFTER = 0.95, 3  # of arXiv 2404.00498: a step, and epochs without


def test_lookahead_is_the_written_iteration_on_every_tensor_alike() -> None:
    every, per_epoch, steps = 2, 3, 18
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    net.double()
    slow: dict[str, torch.Tensor] | None = None
    lookahead = Lookahead(net, every, per_epoch, steps)
    generator = torch.Generator().manual_seed(0)
    expected = {name: value.clone() for name, value in net.state_dict().items()}
    for step in range(steps):
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                move = torch.randn(value.shape, dtype=value.dtype, generator=generator)
                value.add_(move)
                expected[name] = expected[name] + move
        net[1].num_batches_tracked += 1
        lookahead.update(step)

        floats = [name for name in expected if name != "1.num_batches_tracked"]
        if step // per_epoch >= AFTER and (step + 1) % every == 0:
            slow = slow or {name: expected[name] for name in floats}
            rho = DECAY**every * ((step + 1) / steps) ** 3
            slow = {name: rho * slow[name] + (1 - rho) * expected[name] for name in floats}
            expected |= slow
        if (step + 1) % per_epoch == 0 and slow is not None:
            expected |= slow
        for name in floats:
            torch.testing.assert_close(net.state_dict()[name], expected[name], msg=f"{name} after step {step}")
    assert net[1].num_batches_tracked == steps
    assert slow is not None
