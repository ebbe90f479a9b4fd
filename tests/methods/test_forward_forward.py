"""Forward-forward and Mono-Forward against their equations, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import OUTPUTS, batch, plain_network
from torch import Tensor, nn

import backroads as br
from backroads.errors import ConfigError
from backroads.methods.forward_forward import ForwardForward, waves
from backroads.methods.mono_forward import MonoForward


def mlp(inputs: int = 9) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(inputs, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, OUTPUTS)
        ).double()  # fmt: skip


def data(n: int = 5, inputs: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, inputs, dtype=torch.float64, generator=generator)
    return x, torch.randint(OUTPUTS, (n,), generator=generator)


class NextLabel(ForwardForward):
    """The wrong label is the one after the right one."""

    def wrong(self, output: Tensor, y: Tensor) -> Tensor:
        return (y + 1) % output.shape[1]


def forward(net: nn.Sequential, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both hidden layers, and the output, with lengths taken out between them and no gradient from one to another.

    By the definition; the 1e-8 that the library adds to mean squares is a difference of 1e-6 at most.
    """
    h1 = torch.relu(net[0](x))
    h2 = torch.relu(net[2]((h1 / (h1**2).mean(1, keepdim=True).sqrt()).detach()))
    return h1, h2, net[4]((h2 / (h2**2).mean(1, keepdim=True).sqrt()).detach())


def put(x: Tensor, label: list[float]) -> Tensor:
    """The label in the first numbers of the inputs."""
    return torch.cat([torch.tensor(label, dtype=x.dtype).expand(len(x), -1), x[:, len(label) :]], 1)


def test_each_layer_separates_right_from_wrong_labels_by_its_mean_square() -> None:
    net, (x, y) = mlp(), data()
    method = NextLabel(threshold=0.7, steepness=3.0, strength=2.0)
    method.prepare(net, x, 0)
    assert "pixels" in str(method.plan(mlp(), x))
    objective, output = method.objective(net, x, y, F.cross_entropy)
    objective.backward()
    one_hot = 2 * torch.eye(OUTPUTS).double()
    rows = [put(x[i : i + 1], one_hot[y[i]].tolist()) for i in range(len(x))]
    wrong = [put(x[i : i + 1], one_hot[(y[i] + 1) % OUTPUTS].tolist()) for i in range(len(x))]
    right, other = forward(net, torch.cat(rows)), forward(net, torch.cat(wrong))
    neutral = forward(net, put(x, [2 / 3, 2 / 3, 2 / 3]))[2]
    total = F.cross_entropy(neutral, y)
    for layer in range(2):
        good, bad = (h[layer].pow(2).mean(1) for h in (right, other))
        # -log p(right) and -log(1 - p(wrong))
        total = (
            total - 0.5 * (torch.sigmoid(3 * (good - 0.7)).log() + (1 - torch.sigmoid(3 * (bad - 0.7))).log()).mean()
        )
    assert float(objective.detach()) == pytest.approx(float(total.detach()), rel=1e-6)
    torch.testing.assert_close(output, neutral.detach(), rtol=1e-6, atol=1e-9)
    for name, p in net.named_parameters():
        (expected,) = torch.autograd.grad(total, p, retain_graph=True)
        torch.testing.assert_close(p.grad, expected, rtol=1e-6, atol=1e-9, msg=name)


def test_the_score_of_a_class_is_the_goodness_of_all_layers_but_the_first() -> None:
    net, (x, _) = mlp(), data()
    method = ForwardForward(strength=2.0)
    method.prepare(net, x, 0)
    labels = (2 * torch.eye(OUTPUTS)).tolist()
    expected = torch.stack([forward(net, put(x, label))[1].pow(2).mean(1) for label in labels], dim=1)
    torch.testing.assert_close(method.predict(net, x), expected, rtol=1e-6, atol=1e-9)
    single = nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, OUTPUTS)).double()
    method.prepare(single, x, 0)
    expected = torch.stack([torch.relu(single[0](put(x, label))).pow(2).mean(1) for label in labels], dim=1)
    torch.testing.assert_close(method.predict(single, x), expected, rtol=1e-12, atol=1e-12)


def test_the_next_layer_cannot_read_the_goodness_off_its_input() -> None:
    """Scaling a layer changes nothing behind it: lengths are taken out."""
    x = data()[0]
    scores = []
    for scale in (1.0, 10.0):
        net = mlp()
        with torch.no_grad():
            net[0].weight *= scale
            net[0].bias *= scale
        method = ForwardForward()
        scores.append(method.predict(method.prepare(net, x, 0), x))
    torch.testing.assert_close(*scores, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("negatives", ["uniform", "hard"])
def test_wrong_labels_are_wrong_and_drawn_as_said(negatives: str) -> None:
    method, n = ForwardForward(negatives=negatives), 20_000
    p = torch.tensor([0.5, 0.1, 0.3, 0.1])
    torch.manual_seed(0)
    drawn = method.wrong(p.log().expand(n, -1), torch.zeros(n, dtype=torch.long))
    found = torch.bincount(drawn, minlength=4) / n
    expected = torch.tensor([0, 1, 1, 1]) / 3 if negatives == "uniform" else torch.tensor([0, 0.2, 0.6, 0.2])
    assert found[0] == 0
    torch.testing.assert_close(found, expected, rtol=0, atol=4 * math.sqrt(0.25 / n))
    sure = torch.tensor([[1000.0, 0, 0, 0]]).expand(100, -1)  # the others have no probability left
    assert bool((method.wrong(sure, torch.zeros(100, dtype=torch.long)) > 0).all())


def test_convolutions_see_a_wave_over_the_whole_input() -> None:
    net, (x, _) = plain_network(), batch()
    method = ForwardForward(strength=0.5)
    method.prepare(net, x, 0)
    codes = method.labelled(net, x, torch.arange(OUTPUTS).repeat(2)) - x
    assert float(F.max_pool2d(codes.abs(), 3, 1).min()) > 0.1  # a kernel of 3x3 meets it everywhere
    assert float(codes.abs().max()) == pytest.approx(0.5)
    torch.testing.assert_close(codes[:3], codes[3:])
    neutral = method.labelled(net, x, None) - x
    torch.testing.assert_close(neutral[:1], codes[:3].mean(0, keepdim=True))


@pytest.mark.parametrize(("classes", "shape"), [(10, (1, 8, 8)), (100, (3, 32, 32)), (10, (64,)), (4, (5, 12))])
def test_waves_of_different_classes_are_different_everywhere(classes: int, shape: tuple[int, ...]) -> None:
    made = waves(classes, shape)
    assert made.shape == (classes, *shape)
    flat = F.normalize(made.flatten(1), dim=1)
    overlap = (flat @ flat.T - torch.eye(classes)).abs().max()
    assert float(overlap) < 0.95  # no two are the same but for their sign and size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "pixel"}, "expected one of auto, pixels, waves, got 'pixel'. Did you mean 'pixels'"),
        ({"negatives": "soft"}, "negatives: expected one of uniform, hard"),
        ({"threshold": 0}, "threshold: expected a number above 0"),
        ({"steepness": -1}, "steepness: expected a number above 0"),
        ({"strength": math.nan}, "strength: expected a number above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        br.get_method("forward_forward", **options)


def test_a_label_needs_room() -> None:
    with pytest.raises(ConfigError, match="expected 3 inputs or more for 'pixels', one a class, got 2"):
        ForwardForward(label="pixels").prepare(mlp(2), torch.zeros(2, 2).double(), 0)
    assert "waves" in str(ForwardForward().plan(mlp(5), torch.zeros(2, 5).double()))
    with pytest.raises(ConfigError, match="limit: expected a number of inputs"):
        MonoForward(limit=0)


# --- Mono-Forward ---


def test_a_layer_and_its_projection_learn_as_backpropagation_of_those_two() -> None:
    net, (x, y) = mlp(), data()
    method = MonoForward()
    method.prepare(net, x, 0)
    M = net[0].local_head.projection
    assert M.bias is None
    assert M.weight.shape == (OUTPUTS, 7)
    assert not hasattr(net[2], "local_head")  # the output layer is its projection
    objective, output = method.objective(net, x, y, F.cross_entropy)
    objective.backward()
    h1 = torch.relu(net[0](x))
    first = F.cross_entropy(h1 @ M.weight.T, y)
    last = F.cross_entropy(net[4](torch.relu(net[2](h1.detach()))), y)
    assert float(objective.detach()) == pytest.approx(float((first + last).detach()), rel=1e-12)
    torch.testing.assert_close(output, net(x).detach())
    for name, p in net.named_parameters():
        (expected,) = torch.autograd.grad(first + last, p, retain_graph=True)
        torch.testing.assert_close(p.grad, expected, rtol=1e-12, atol=1e-14, msg=name)


def test_the_plan_says_that_the_last_layer_and_the_output_learn_together() -> None:
    assert str(MonoForward().plan(mlp(), data()[0])).splitlines() == [
        "block   ends at  learns  from",
        "1       1        0       7 -> 3",
        "output           2, 4    the task's loss",
    ]
