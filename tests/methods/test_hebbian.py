"""Hebbian rules and SoftHebb against their fixed points, closed forms, and recorded numbers, in float64."""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from problems import batch, plain_network
from torch import Tensor, nn

import backroads as br
from backroads.errors import ConfigError, ShapeError
from backroads.methods.hebbian import Hebbian, Unsupervised
from backroads.methods.softhebb import SoftHebb
from backroads.models.softhebb import softhebb

D = torch.float64
REPO = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("BACKROADS_LOCAL_PARITY", REPO.parent / "shared" / "local_parity")) / "softhebb"
CASES = json.loads((FOLDER / "cases.json").read_text())["cases"] if FOLDER.exists() else []


def net(inputs: int, units: int, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, units), nn.Tanh(), nn.Linear(units, 2)).double()


def grown(method: Unsupervised, model: nn.Sequential, x: Tensor, rate: float, steps: int) -> Tensor:
    """W of the first layer after steps on the same batch."""
    method.prepare(model, x[:2], 0)
    optimizer = torch.optim.SGD([model[0].weight], lr=rate)
    y = torch.zeros(len(x), dtype=torch.long)
    for _ in range(steps):
        model.zero_grad()
        method.objective(model, x, y, F.cross_entropy)[0].backward()
        optimizer.step()
    return model[0].weight.detach()


def gaussian() -> tuple[Tensor, Tensor]:
    """Samples whose second moment has exactly the eigenvalues 4, 2, 1, .3, .1; and its eigenvectors as rows."""
    generator = torch.Generator().manual_seed(1)
    q = torch.linalg.qr(torch.randn(5, 5, dtype=D, generator=generator)).Q
    z = torch.linalg.qr(torch.randn(50, 5, dtype=D, generator=generator)).Q * math.sqrt(50)  # z^T z / n = I
    return z @ torch.diag(torch.tensor([4, 2, 1, 0.3, 0.1], dtype=D).sqrt()) @ q, q


def test_oja_finds_the_first_eigenvector_at_norm_1_and_sanger_all_in_order() -> None:
    x, q = gaussian()
    w = grown(Hebbian(rate=1.0, scaled=False), net(5, 1), x, 0.1, 300)
    torch.testing.assert_close((w @ q.T).abs(), torch.eye(5, dtype=D)[:1], rtol=0, atol=1e-8)
    W = grown(Hebbian(rule="sanger", rate=1.0, scaled=False), net(5, 3), x, 0.1, 1500)
    torch.testing.assert_close((W @ q.T).abs(), torch.eye(5, dtype=D)[:3], rtol=0, atol=1e-6)


def test_the_rates_at_which_oja_settles_are_the_differences_of_eigenvalues() -> None:
    """At e_1, a small part along e_j changes at lambda_j - lambda_1, and the norm at -2 lambda_1."""
    x, q = gaussian()
    for j, rate in ((0, -8.0), (1, -2.0), (4, -3.9)):
        model = net(5, 1)
        method = Hebbian(rate=1.0, scaled=False)
        method.prepare(model, x, 0)
        with torch.no_grad():
            model[0].weight.copy_((q[0] + 1e-6 * q[j]).unsqueeze(0))
        method.objective(model, x, torch.zeros(50, dtype=torch.long), F.cross_entropy)[0].backward()
        assert float(-model[0].weight.grad[0] @ q[j]) / 1e-6 == pytest.approx(rate, rel=1e-4)


def test_scaled_changes_do_not_depend_on_the_size_of_inputs() -> None:
    x = gaussian()[0]
    found = []
    for inputs, method in ((x, Hebbian(rate=1.0)), (30 * x, Hebbian(rate=1.0)), (x, Hebbian(rate=1.0, scaled=False))):
        model = net(5, 2)
        method.prepare(model, inputs, 0)
        method.objective(model, inputs, torch.zeros(50, dtype=torch.long), F.cross_entropy)[0].backward()
        found.append(model[0].weight.grad)
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0] * 7.4, found[2])  # the eigenvalues add up to 7.4


def test_a_unit_under_bcm_chooses_one_pattern() -> None:
    """K orthogonal patterns at equal odds: it ends up with u = K = theta for one of them and 0 for the others."""
    patterns = torch.eye(2, dtype=D)
    model = net(2, 1)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.5, 0.4]]))
    method = Hebbian(rule="bcm", rate=1.0, tau=2.0)
    W = grown(method, model, patterns, 0.05, 3000)
    torch.testing.assert_close(W, torch.tensor([[2.0, 0.0]], dtype=D), rtol=0, atol=1e-6)
    assert float(model[0].local_head.theta) == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize(("f", "tails"), [("cube", 0.1), ("negative_tanh", 0.1)])
@pytest.mark.slow
def test_a_nonlinear_rule_unmixes_independent_sources(f: str, tails: float) -> None:
    """Sources of -a, 0, a with P(a) = 0.1: kurtosis 5 > 3, so that both functions make the axes stable."""
    a = 1 / math.sqrt(2 * tails)  # variance 1
    values = torch.tensor(list(itertools.product((-a, *(0.0,) * 8, a), repeat=2)), dtype=D)  # all, by their odds
    mixing = torch.linalg.qr(torch.randn(2, 2, dtype=D, generator=torch.Generator().manual_seed(1))).Q
    W = grown(Hebbian(rule="nonlinear", f=f, rate=1.0), net(2, 2), values @ mixing.T, 0.05, 3000)
    found = (W @ mixing).abs()
    expected = torch.eye(2, dtype=D)
    torch.testing.assert_close(found if found[0, 0] > 0.5 else found.flip(0), expected, rtol=0, atol=1e-6)


def test_gaussian_inputs_have_no_preferred_direction() -> None:
    """Stein: E[f(u) x] = w E f', so that a unit of norm 1 stands still in every direction."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)  # exact for polynomials up to degree 23
    grid = torch.tensor(list(itertools.product(nodes, repeat=2)), dtype=D)
    odds = torch.tensor([p * q for p, q in itertools.product(weights, repeat=2)], dtype=D)
    counts = (odds / odds.sum()).sqrt()  # x scaled so that plain means of u^3 x are weighed: (c x) (c x)^3 = c^4
    model, method = net(2, 1), Hebbian(rule="nonlinear", rate=1.0, decorrelate=False)
    x = grid * counts.sqrt().unsqueeze(1) * len(grid) ** 0.25
    method.prepare(model, x, 0)
    for angle in (0.3, 1.1, 2.0):
        with torch.no_grad():
            model[0].weight.copy_(torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=D))
        model.zero_grad()
        method.objective(model, x, torch.zeros(len(x), dtype=torch.long), F.cross_entropy)[0].backward()
        torch.testing.assert_close(model[0].weight.grad, torch.zeros(1, 2, dtype=D), rtol=0, atol=1e-10)


def test_positions_of_a_map_are_samples_and_padding_is_the_layers_own() -> None:
    """A convolution learns as a linear layer would from its patches."""
    conv = nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect", stride=2).double()
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)).double()
    x = batch(4)[0]
    patches = F.unfold(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, stride=2).transpose(1, 2).reshape(-1, 18)
    for method in (Hebbian(rule="sanger", rate=1.0), SoftHebb(rate=1.0)):
        dense = nn.Sequential(nn.Linear(18, 3), nn.ReLU(), nn.Linear(3, 2)).double()
        with torch.no_grad():
            dense[0].weight.copy_(conv.weight.flatten(1))
            dense[0].bias.copy_(conv.bias)
        for network, inputs in ((model, x), (dense, patches)):
            network.zero_grad()
            method.prepare(network, inputs, 0)
            labels = torch.zeros(len(inputs), dtype=torch.long)
            method.objective(network, inputs, labels, F.cross_entropy)[0].backward()
            method.revert(network)
        torch.testing.assert_close(conv.weight.grad.flatten(1), dense[0].weight.grad, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(conv.bias.grad, dense[0].bias.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.skipif(not CASES, reason="recorded cases are not there")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_softhebb_meets_what_was_recorded_of_its_public_code(case: dict[str, Any]) -> None:
    stored = np.load(FOLDER / case["file"])
    arrays = {name: torch.as_tensor(stored[key]).to(D) for name, key in case["arrays"].items()}
    settings, x = case["settings"], arrays["x"]
    units, lr = len(arrays["W0"]), settings["lr"]
    layer: Any
    if settings["layer"] == "linear":
        layer, last = nn.Linear(x.shape[-1], units, bias=settings["bias"]), nn.Linear(units, 2)
    else:
        keys = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode", "bias")
        layer = nn.Conv2d(x.shape[2], units, **{key: settings[key] for key in keys})
        last = nn.Linear(math.prod(layer(x[0].float()).shape[1:]), 2)
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), last).double()
    with torch.no_grad():
        layer.weight.copy_(arrays["W0"])
        if settings["bias"]:
            layer.bias.copy_(arrays["b0"])
    competition = "anti" if "Krotov" in settings["rule"] else "hard" if "Hard" in settings["rule"] else "soft"
    power = lr["power_lr"] if lr["adaptive"] else 0.0
    method = SoftHebb(competition=competition, t=settings["t_invert"], power=power, rate=1.0)
    method.prepare(model, x[0], 0)
    optimizer = torch.optim.SGD(model[0].parameters(), lr=lr["lr"])
    for step, inputs in enumerate(x):
        model.zero_grad()
        labels = torch.zeros(len(inputs), dtype=torch.long)
        method.objective(model, inputs, labels, F.cross_entropy)[0].backward()
        optimizer.step()
        torch.testing.assert_close(layer.weight.detach(), arrays["W"][step], rtol=1e-10, atol=1e-10)
        if settings["bias"]:
            torch.testing.assert_close(layer.bias.detach(), arrays["b"][step], rtol=1e-10, atol=1e-10)


def test_softhebb_draws_norms_to_1_and_its_largest_change_is_the_rate() -> None:
    """w . dW = (sum y u)(1 - |w|^2), so that a unit of norm 1 keeps it; and batch size cancels."""
    x = batch(40)[0].flatten(1)[:, :6]
    model, method = net(6, 4), SoftHebb(competition="soft", rate=0.3, power=0.0, radius=1.0)
    method.prepare(model, x, 0)
    torch.testing.assert_close(model[0].weight.detach().norm(dim=1), torch.ones(4, dtype=D))
    found = []
    for inputs in (x, x.repeat(2, 1)):
        model.zero_grad()
        with torch.no_grad():
            model[0].bias.zero_()
        method.objective(model, inputs, torch.zeros(len(inputs), dtype=torch.long), F.cross_entropy)[0].backward()
        found.append(model[0].weight.grad.clone())
    W = model[0].weight.detach()
    torch.testing.assert_close((W * found[0]).sum(1), torch.zeros(4, dtype=D), rtol=0, atol=1e-12)
    assert float(found[0].abs().max()) == pytest.approx(0.3)
    torch.testing.assert_close(*found)


def test_the_deep_network_learns_as_written_down_layer_by_layer() -> None:
    """Two steps against the equations, with the published rates of each layer; the read-out learns by the task's loss.

    Norm, patches, u, y, dW and pooling are computed from patches by matrices, not by convolutions.
    """
    t, rate, powers = (1.0, 0.65, 0.25), (0.08, 0.005, 0.01), (0.7, 1.4, 1.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = softhebb(classes=3, shape=(2, 8, 8), width=0.05, dropout=0.0).double()
    x, y = torch.randn(4, 2, 8, 8, dtype=D, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 1])
    method = SoftHebb(t=t, rate=rate, radius=3.0)
    method.prepare(model, x, 0)
    weights = [model.get_submodule(f"conv{n}").weight.detach().clone() for n in (1, 2, 3)]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        method.objective(model, x, y, F.cross_entropy)[0].backward()
        h = x
        for layer, W in enumerate(weights):
            h = (h - h.mean((0, 2, 3), keepdim=True)) / (h.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
            (kernel, border), size = ((5, 2), (3, 1))[layer > 0], h.shape[-1]
            patches = F.unfold(F.pad(h, (border,) * 4, mode="reflect"), kernel).transpose(1, 2).flatten(0, 1)
            flat = W.flatten(1)
            u = patches @ flat.T
            odds = (t[layer] * u).softmax(1)
            signs = torch.where(u == u.max(1, keepdim=True).values, 1.0, -1.0)
            answers = signs * odds
            dW = answers.T @ patches - (answers * u).sum(0)[:, None] * flat
            r = rate[layer] * ((flat.norm(dim=1) - 1).abs() + 1e-10).sqrt()
            weights[layer] = (flat + r[:, None] * dW / dW.abs().max()).reshape(W.shape)
            h = (u - u.mean(1, keepdim=True)).relu() ** powers[layer]
            h = h.reshape(len(x), size, size, -1).permute(0, 3, 1, 2)
            h = F.max_pool2d(h, 4, 2, 1) if layer < 2 else h.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).mean((3, 5))
        loss = F.cross_entropy(h.flatten(1) @ model.readout.weight.detach().T + model.readout.bias.detach(), y)
        assert float(F.cross_entropy(model(x).detach(), y)) == pytest.approx(float(loss), abs=1e-12)
        optimizer.step()
        for n, W in enumerate(weights, 1):
            torch.testing.assert_close(model.get_submodule(f"conv{n}").weight.detach(), W, rtol=1e-10, atol=1e-12)


def test_rates_by_block_need_one_for_each() -> None:
    with pytest.raises(
        ConfigError, match=r"softhebb: t: expected a number, or 3, one for each block, got \(1.0, 2.0\)"
    ):
        SoftHebb(t=(1.0, 2.0)).plan(plain_network(), batch(2)[0])
    assert SoftHebb(rate=[0.1, 0.2]) == SoftHebb(rate=(0.1, 0.2))  # type: ignore[arg-type]


def test_labels_teach_the_read_out_alone() -> None:
    model, (x, y) = plain_network(), batch()
    for method in (Hebbian(rule="oja"), SoftHebb()):
        method.prepare(model, x, 0)
        found = []
        for labels in (y, (y + 1) % 3):
            model.zero_grad()
            method.objective(model, x, labels, F.cross_entropy)[0].backward()
            found.append({name: p.grad.clone() for name, p in model.named_parameters()})
        same = {name for name in found[0] if torch.equal(found[0][name], found[1][name])}
        assert same == set(found[0]) - {"8.weight", "8.bias"}
        method.revert(model)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hebbian", {"rule": "oya"}, "expected one of oja, sanger, bcm, nonlinear, got 'oya'. Did you mean 'oja'"),
        ("hebbian", {"f": "cubes"}, "unknown function f 'cubes'. Did you mean 'cube'"),
        ("hebbian", {"tau": 0.5}, "tau: expected a number of steps, 1 or more"),
        ("hebbian", {"rate": -1}, "rate: expected a number above 0"),
        ("softhebb", {"t": 0}, "t: expected a number above 0"),
        ("softhebb", {"t": [1.0, 0.0]}, "t: expected a number above 0, or one for each block"),
        ("softhebb", {"rate": []}, "rate: expected a number above 0, or one for each block"),
        ("hebbian", {"rate": (1.0, "fast")}, "rate: expected a number above 0, or one for each block"),
        ("softhebb", {"competition": "soft_anti"}, "competition: expected one of anti, soft, hard"),
        ("softhebb", {"radius": -1.0}, "radius: expected a number above 0, or none"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        br.get_method(name, **options)


def test_blocks_that_have_no_rule_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="expected a block of one linear layer or convolution without groups, got 0, 2"
    ):
        Hebbian(blocks=("4",)).prepare(plain_network(), batch(2)[0], 0)
    with pytest.raises(ShapeError, match="expected 2 units or more in 0, got 1"):
        SoftHebb().prepare(net(5, 1), torch.zeros(2, 5, dtype=D), 0)
