"""Local errors against numbers of the reference, anokland/local-loss (7b3b40b), in float64, and the mathematics."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections import OrderedDict
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
from backroads.methods.heads import pooling, similarity
from backroads.methods.local_errors import LocalErrors
from backroads.models import build_model

REPO = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("BACKROADS_LOCAL_PARITY", REPO.parent / "shared" / "local_parity")) / "local_loss"


# --- recorded numbers ---


def recorded(kind: str) -> list[Any]:
    """The recorded cases, as parameters.

    Some are copied to tests/fixtures; all are read from a folder outside the repository (BACKROADS_LOCAL_PARITY), and
    one skipped parameter says so where it is missing.
    """
    copied = json.loads((REPO / "tests" / "fixtures" / "local_errors.json").read_text())
    found = [pytest.param(case, id=f"copied-{case['id']}") for case in copied if case["kind"] == kind]
    index = FOLDER / "cases.json"
    if not index.is_file():
        reason = f"no recorded cases: {index} is missing; set BACKROADS_LOCAL_PARITY to the folder of local_loss"
        return [*found, pytest.param(None, id="missing", marks=pytest.mark.skip(reason=reason))]
    cases = [case for case in json.loads(index.read_text())["cases"] if case["kind"] == kind]
    return [*found, *(pytest.param(case, id=case["id"]) for case in cases)]


def arrays(case: dict[str, Any]) -> dict[str, Tensor]:
    """A case's arrays, from its archive or, in a copied case, in place."""
    named = case["arrays"]
    if "file" not in case:
        return {name: torch.from_numpy(np.asarray(value)) for name, value in named.items()}
    with np.load(FOLDER / case["file"]) as archive:
        return {name: torch.from_numpy(archive[key]) for name, key in named.items()}


def same(name: str, got: Tensor, expected: Tensor) -> None:
    scale = max(float(expected.abs().max()), 1e-6)
    # The gradient of a bias in front of a batch norm is zero but for rounding.
    assert float((got.detach() - expected).abs().max()) <= max(1e-10 * scale, 1e-12), name


def method_of(case: dict[str, Any], **options: Any) -> LocalErrors:
    settings = case["settings"]
    return LocalErrors(
        settings["loss_sup"],
        settings["dim_in_decoder"],
        beta=settings["beta"],
        bio=settings["bio"],
        projection=settings["target_proj_size"],
        unsupervised=settings["loss_unsup"],
        alpha=settings["alpha"],
        deviation=not settings["no_similarity_std"],
        detach=not settings["no_detach"],
        **options,
    )


def nonlinearity(case: dict[str, Any]) -> nn.Module:
    return nn.ReLU() if case["settings"]["nonlin"] == "relu" else nn.LeakyReLU(0.01)


OURS = {
    "decoder_y.weight_fa": "encoder.local_head.B",
    "decoder_y": "encoder.local_head.prediction",
    "decoder_x": "encoder.local_head.reconstruction",
    "proj_y.weight": "encoder.local_head.P",
    "linear_loss": "encoder.local_head.similarity",
    "conv_loss": "encoder.local_head.similarity",
}


def our_name(theirs: str) -> str:
    """The reference's name of a parameter of a block, as ours."""
    for part, ours in OURS.items():
        theirs = theirs.replace(part, ours)
    return theirs


class RecordedBlock(nn.Module):
    """One block of the reference, with a residual branch or without, and a readout."""

    def __init__(self, case: dict[str, Any], given: dict[str, Tensor]) -> None:
        super().__init__()
        weight, bias = given["p.encoder.weight"], "p.encoder.bias" in given
        outputs, inputs = weight.shape[:2]
        self.encoder: nn.Module
        if case["block"] == "linear":
            self.encoder, self.bn = nn.Linear(inputs, outputs, bias), nn.BatchNorm1d(outputs)
        else:
            shape = case["conv"]
            self.encoder = nn.Conv2d(inputs, outputs, shape["kernel"], shape["stride"], shape["padding"], bias=bias)
            self.bn = nn.BatchNorm2d(outputs)
        self.nonlinearity = nonlinearity(case)
        self.readout = nn.Linear(given["out"][0].numel(), case["num_classes"])
        self.residual: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn(self.encoder(x))
        self.out = self.nonlinearity(h if self.residual is None else h + self.residual[: len(h)])
        return self.readout(self.out.flatten(1))


@pytest.mark.parametrize("case", recorded("block"))
def test_a_block_gives_the_recorded_loss_gradients_and_statistics(case: dict[str, Any]) -> None:
    given = arrays(case)
    model = RecordedBlock(case, given).double()
    x, y = given["x"].requires_grad_(), given["y"]
    if "x_shortcut" in given:
        model.residual = given["x_shortcut"].requires_grad_()
    method = method_of(case)
    method.prepare(model, x[:2].detach(), 0)
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for key, value in given.items():
            if key.startswith("p.") and not (case["settings"]["bio"] and key == "p.conv_loss.weight"):  # unused there
                named[our_name(key[2:])].copy_(value)

    local, _ = method.objective(model, x, y, lambda output, _: 0 * output.sum())
    local.backward()
    same("loss", local, given["loss"])
    same("out", model.out, given["out"])
    same("dx", x.grad, given["dx"])
    if model.residual is not None:
        same("dx_shortcut", model.residual.grad, given["dx_shortcut"])
    for key, value in given.items():
        if key.startswith("g."):
            same(key, named[our_name(key[2:])].grad, value)
        if key.startswith("after."):
            same(key, dict(model.named_buffers())[key.removeprefix("after.")], value)
    model.eval()
    same("loss_eval", method.objective(model, x, y, lambda output, _: 0 * output.sum())[0], given["loss_eval"])
    same("out_eval", model.out, given["out_eval"])


@pytest.mark.parametrize("case", recorded("similarity"))
def test_similarities_and_their_gradients_are_the_recorded_ones(case: dict[str, Any]) -> None:
    given = arrays(case)
    x = given["x"].requires_grad_()
    if not case["use_std"]:
        x = x.flatten(1)
    S = similarity(x)
    same("S", S, given["S"])
    same("dx", torch.autograd.grad((S * given["G"]).sum(), x)[0].reshape(given["dx"].shape), given["dx"])


@pytest.mark.parametrize("case", recorded("trajectory"))
def test_one_backward_pass_and_one_optimiser_follow_the_recorded_training(case: dict[str, Any]) -> None:
    """The reference updates block by block, with an optimiser for each; equal, as no gradient passes between blocks."""
    given = arrays(case)
    linear = [int(key.split(".")[2]) for key in given if key.startswith("s.layers.") and key.endswith("encoder.weight")]
    if any(given[f"s.layers.{i}.encoder.weight"].dim() != 3 for i in linear):
        pytest.skip("trajectories of convolutions are not laid out here")
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i in linear:
        outputs, inputs = given[f"s.layers.{i}.encoder.weight"].shape[1:]
        block: OrderedDict[str, nn.Module] = OrderedDict(encoder=nn.Linear(inputs, outputs))
        if f"s.layers.{i}.bn.weight" in given:
            block["bn"] = nn.BatchNorm1d(outputs)
        layers[f"layers_{i}"] = nn.Sequential(OrderedDict(**block, nonlinearity=nonlinearity(case)))
    layers["layer_out"] = nn.Linear(given["s.layer_out.weight"].shape[2], case["num_classes"])
    model = nn.Sequential(layers).double()
    method = method_of(case)
    method.prepare(model, given["x"][0], 0)
    state = {key: value for key, value in given.items() if key.startswith("s.")}
    named = {our_name(key[2:]).replace("layers.", "layers_"): value for key, value in state.items()}
    ours = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, value in named.items():
            ours[name].copy_(value[0])
    optimizer: torch.optim.Optimizer
    if case["optim"] == "sgd":
        rates = {key: case[key] for key in ("lr", "momentum", "weight_decay")}
        optimizer = torch.optim.SGD(method.parameter_groups(model)["forward"], **rates)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=case["lr"], weight_decay=case["weight_decay"])
    for t, (x, y) in enumerate(zip(given["x"], given["y"], strict=True)):
        for name, value in named.items():
            same(f"{name}[{t}]", ours[name], value[t])
        task: list[Tensor] = []

        def loss(output: Tensor, y: Tensor, task: list[Tensor] = task) -> Tensor:
            task.append(F.cross_entropy(output, y))
            return task[0]

        objective, logits = method.objective(model, x, y, loss)
        scale = 1 - method.beta if method.loss == "predsim" else 1
        same(f"logits[{t}]", logits, given["logits"][t])
        same(f"loss_global[{t}]", task[0], given["loss_global"][t])
        same(f"loss_local[{t}]", objective - scale * task[0], given["loss_local"][t])
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
    for name, value in named.items():
        same(name, ours[name], value[-1])


# --- derived from the equations ---


def prepared(model: nn.Module, x: Tensor, **options: Any) -> tuple[LocalErrors, nn.Module]:
    method = LocalErrors(**options)
    return method, method.prepare(model, x[:2], 0)


def local_loss(method: LocalErrors, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return method.objective(model, x, y, lambda output, _: 0 * output.sum())[0]


def mlp(*widths: int, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.Tanh()]
        return nn.Sequential(*layers[:-1]).double()


def labelled(n: int, features: int, classes: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, dtype=torch.float64, generator=generator)
    return x, torch.randint(classes, (n,), generator=generator)


def test_at_the_start_pred_is_that_of_its_bias_and_teaches_the_head_alone() -> None:
    """V = 0: the loss is the cross-entropy of softmax(c), ln C for c = 0, and its gradient to the layer is 0."""
    x, y = labelled(8, 5, 3)
    method, model = prepared(mlp(5, 4, 3), x)
    head = model[0].local_head
    assert not head.prediction.weight.any()
    assert 0 < float(head.prediction.bias.detach().abs().max()) <= 1 / math.sqrt(4)
    c = head.prediction.bias.detach()
    assert float(local_loss(method, model, x, y).detach()) == pytest.approx(float(-(c.log_softmax(0)[y]).mean()))
    with torch.no_grad():
        head.prediction.bias.zero_()
    loss = local_loss(method, model, x, y)
    assert float(loss.detach()) == pytest.approx(math.log(3), rel=1e-12)
    loss.backward()
    assert not model[0].weight.grad.any()
    assert head.prediction.weight.grad.any()


def test_one_block_with_its_head_learns_as_backpropagation_of_that_two_layer_network() -> None:
    x, y = labelled(8, 5, 3)
    method, model = prepared(mlp(5, 4, 3), x)
    head = model[0].local_head.prediction
    nn.init.normal_(head.weight)
    local_loss(method, model, x, y).backward()
    two_layers = nn.Sequential(mlp(5, 4, 3)[0], nn.Tanh(), nn.Linear(4, 3).double())
    two_layers[2].load_state_dict(head.state_dict())
    F.cross_entropy(two_layers(x), y).backward()
    for p, q in ((model[0].weight, two_layers[0].weight), (head.weight, two_layers[2].weight)):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-14)


def test_the_similarity_does_not_see_scales_and_offsets_of_examples() -> None:
    x = labelled(6, 9, 2)[0]
    scale, offset = torch.rand(6, 1, dtype=torch.float64) + 0.5, torch.randn(6, 1, dtype=torch.float64)
    torch.testing.assert_close(similarity(scale * x + offset), similarity(x), rtol=0, atol=1e-7)
    S = similarity(F.one_hot(torch.tensor([0, 2, 0, 1]), 3).double())
    expected = torch.tensor([[1, -0.5, 1, -0.5], [-0.5, 1, -0.5, -0.5], [1, -0.5, 1, -0.5], [-0.5, -0.5, -0.5, 1]])
    torch.testing.assert_close(S, expected.double(), rtol=0, atol=1e-7)


def test_the_gradient_of_sim_has_zero_row_sums_and_is_orthogonal_to_each_centred_row() -> None:
    x, y = labelled(6, 9, 3)
    x.requires_grad_()
    target = similarity(F.one_hot(y, 3).double())
    g = torch.autograd.grad(F.mse_loss(similarity(x), target), x)[0]
    centred = x.detach() - x.detach().mean(1, keepdim=True)
    assert float(g.abs().max()) > 1e-3
    torch.testing.assert_close(g.sum(1), torch.zeros(6).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close((g * centred).sum(1), torch.zeros(6).double(), rtol=0, atol=1e-7)


def test_a_constant_row_has_no_similarity_and_gradient_zero() -> None:
    for x in (torch.ones(3, 4), torch.ones(3, 5, 2, 2)):
        x = x.double().requires_grad_()
        S = similarity(x)
        assert not S.detach().any()
        assert not torch.autograd.grad(S.sum(), x)[0].any()


def test_predsim_weighs_its_parts_and_the_tasks_loss() -> None:
    x, y = labelled(8, 5, 3)
    parts = {}
    for loss in ("pred", "sim", "predsim"):
        method, model = prepared(mlp(5, 4, 3), x, loss=loss, beta=0.8)
        head = model[0].local_head
        if head.prediction is not None:
            nn.init.constant_(head.prediction.weight, 0.3)
            nn.init.constant_(head.prediction.bias, 0.1)
        if head.similarity is not None:
            nn.init.eye_(head.similarity.weight)
        parts[loss] = float(local_loss(method, model, x, y).detach())
    assert parts["predsim"] == pytest.approx(0.8 * parts["sim"] + 0.2 * parts["pred"], rel=1e-12)
    total = method.objective(model, x, y, F.cross_entropy)[0].detach()
    task = F.cross_entropy(model(x), y).detach()
    assert float(total) == pytest.approx(parts["predsim"] + 0.2 * float(task), rel=1e-12)


@pytest.mark.parametrize("side", range(1, 40))
@pytest.mark.parametrize("limit", [1, 40, 160, 700])
def test_pooling_is_the_reference_s_loop_and_gives_maps_of_that_size(side: int, limit: int) -> None:
    kh = kw = 1
    oh = ow = side
    while 4 * oh * ow > limit and kh < side:
        kh *= 2
        oh = math.ceil(side / kh)
        if 4 * oh * ow > limit:
            kw *= 2
            ow = math.ceil(side / kw)
    found = pooling((4, side, side), limit)
    assert (found.kernel, found.inputs) == ((kh, kw), 4 * oh * ow)
    assert found(torch.zeros(1, 4, side, side)).shape == (1, found.inputs)
    assert found.inputs <= max(limit, 4)
    assert pooling((side, 4), limit).inputs <= max(limit, 4)


def compared(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of the correlations of all pairs of rows, of two matrices."""
    return ((torch.corrcoef(a) - torch.corrcoef(b)) ** 2).mean()


def test_unsupervised_losses_compare_a_block_with_its_input() -> None:
    x, y = labelled(6, 5, 3)
    for unsupervised in ("sim", "recon"):
        method, model = prepared(mlp(5, 4, 6, 3), x, unsupervised=unsupervised, alpha=0.3)
        first, second = model[0].local_head, model[2].local_head
        h1 = model[1](model[0](x)).detach()
        h2 = model[3](model[2](h1)).detach()
        pred = sum(F.cross_entropy(head.prediction(h), y) for head, h in ((first, h1), (second, h2)))
        if unsupervised == "sim":
            extra = compared(h1 @ first.similarity.weight.T, x) + compared(h2 @ second.similarity.weight.T, h1)
        else:
            assert first.reconstruction is None  # nothing to reconstruct but the data
            D = second.reconstruction
            extra = ((torch.tanh(h2 @ D.weight.T + D.bias) - h1) ** 2).mean()
        expected = 0.7 * pred + 0.3 * extra
        assert float(local_loss(method, model, x, y).detach()) == pytest.approx(float(expected.detach()), rel=1e-7)


def test_convolutions_are_reconstructed_to_the_size_of_their_inputs_whatever_the_stride() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.LeakyReLU(0.01),
        nn.Flatten(), nn.Linear(4 * 4 * 4, 3),
    ).double()  # fmt: skip
    x, y = torch.randn(5, 2, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    method, model = prepared(net, x, unsupervised="recon", alpha=0.5)
    D = model[2].local_head.reconstruction
    h1 = model[1](model[0](x)).detach()
    h2 = model[3](model[2](h1)).detach()
    again = F.leaky_relu(F.conv_transpose2d(h2, D.weight, D.bias, stride=2, padding=1, output_padding=1), 0.01)
    pred = [F.cross_entropy(model[i].local_head.prediction(h.flatten(1)), y) for i, h in ((0, h1), (2, h2))]
    expected = 0.5 * (pred[0] + pred[1]) + 0.5 * F.mse_loss(again, h1)
    assert float(local_loss(method, model, x, y).detach()) == pytest.approx(float(expected.detach()), rel=1e-12)


def test_bio_starts_at_ln_2_and_sends_errors_through_a_fixed_matrix() -> None:
    x, y = labelled(8, 5, 3)
    method, model = prepared(mlp(5, 4, 3), x, bio=True, projection=7)
    head = model[0].local_head
    fixed = {name: value.clone() for name, value in head.named_buffers()}
    assert {name: tuple(value.shape) for name, value in fixed.items()} == {"P": (7, 3), "B": (7, 4)}
    assert float(fixed["P"].abs().max()) <= 1 / math.sqrt(3)
    loss = local_loss(method, model, x, y)
    assert float(loss.detach()) == pytest.approx(math.log(2), rel=1e-12)
    loss.backward()
    # dL/dz = (sigmoid(z) - t) / (n rows), sent to h by B^T: dW = (dz B * tanh'(u))^T x
    t = (F.one_hot(y, 3).double() @ fixed["P"].T > 0).double()
    h = torch.tanh(model[0](x)).detach()
    du = (0.5 - t) / t.numel() @ fixed["B"] * (1 - h**2)
    torch.testing.assert_close(model[0].weight.grad, du.T @ x, rtol=1e-12, atol=1e-14)
    assert model[0].weight.grad.any()
    torch.testing.assert_close(head.prediction.weight.grad, ((0.5 - t) / t.numel()).T @ h, rtol=1e-12, atol=1e-14)
    assert all(not value.requires_grad for value in fixed.values())


def test_without_detaching_the_losses_of_later_blocks_reach_earlier_ones() -> None:
    """The control experiment: plain automatic differentiation of the sum of all losses."""
    x, y = labelled(8, 5, 3)
    method, model = prepared(mlp(5, 4, 6, 3), x, detach=False)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)
    method.objective(model, x, y, F.cross_entropy)[0].backward()
    h1 = torch.tanh(F.linear(x, model[0].weight, model[0].bias))
    h2 = torch.tanh(F.linear(h1, model[2].weight, model[2].bias))
    heads = [model[i].local_head.prediction for i in (0, 2)]
    total = sum(F.cross_entropy(m(h), y) for m, h in zip((*heads, model[4]), (h1, h2, h2), strict=True))
    for name, p in model.named_parameters():
        (expected,) = torch.autograd.grad(total, p, retain_graph=True)
        torch.testing.assert_close(p.grad, expected, rtol=1e-12, atol=1e-14, msg=name)


# --- where blocks end ---


@pytest.mark.parametrize(
    ("name", "options", "blocks", "last"),
    [
        ("mlp", {}, 3, "7"),
        ("lenet", {}, 4, "fc3"),
        ("digits_conv", {}, 2, "readout"),
        ("vgg8b", {}, 7, "33"),
        ("resnet8", {}, 7, "fc"),  # the stem, and each convolution of three blocks
        ("resnet18", {}, 17, "fc"),
        ("resnet18_v2", {"blocks": ("layer*.*",)}, 8, "fc, last.0"),
        ("vit", {"blocks": ("layers.layers.*",)}, 6, "readout, norm"),
    ],
)
def test_blocks_are_found_in_every_kind_of_network_and_all_of_it_learns(
    name: str, options: dict[str, Any], blocks: int, last: str
) -> None:
    shape = {"mlp": (1, 28, 28), "lenet": (1, 28, 28), "digits_conv": (1, 8, 8), "vgg8b": (1, 28, 28)}.get(
        name, (3, 32, 32)
    )
    torch.manual_seed(0)
    model = build_model(name, classes=10, shape=shape)
    method, x = LocalErrors(**options), torch.randn(2, *shape)
    plan = method.plan(model, x)
    assert len(plan.found.blocks) == blocks
    assert str(plan).splitlines()[-1].split() == ["output", *last.split(), "the", "task's", "loss"]
    method.prepare(model, x, 0)
    method.objective(model, x, torch.tensor([1, 2]), F.cross_entropy)[0].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_projection_of_a_residual_block_learns_with_the_convolution_that_it_is_added_to() -> None:
    plan = LocalErrors().plan(build_model("resnet18", classes=10, shape=(3, 32, 32)), torch.randn(2, 3, 32, 32))
    block = next(block for block in plan.found.blocks if (block.end, block.call) == ("layer2.0.relu", 1))
    layers = {name.rpartition(".")[0] for name in block.parameters}
    assert layers == {f"layer2.0.{part}" for part in ("conv2", "bn2", "downsample.0", "downsample.1")}


def test_the_loss_does_not_see_dropout_after_the_activation() -> None:
    x, y = labelled(8, 5, 3)
    plain = mlp(5, 4, 3)
    method, model = prepared(nn.Sequential(plain[0], plain[1], nn.Dropout(0.5), plain[2]), x)
    nn.init.normal_(model[0].local_head.prediction.weight)
    first, second = (float(local_loss(method, model, x, y).detach()) for _ in range(2))
    assert first == second


# --- bad input ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "perd"}, "expected one of pred, sim, predsim, got 'perd'. Did you mean 'pred'"),
        ({"beta": 1.5}, "beta: expected a number from 0 to 1"),
        ({"beta": math.nan}, "beta: expected a number from 0 to 1"),
        ({"limit": 0}, "limit: expected a number of inputs"),
        ({"alpha": -0.1, "unsupervised": "sim"}, "alpha: expected a number from 0 to 1"),
        ({"alpha": 0.1}, "alpha: expected 0 without an unsupervised loss"),
        ({"unsupervised": "sim"}, "alpha: expected above 0 with 'sim', got 0"),
        ({"alpha": 1, "unsupervised": "recon"}, "expected less than 1 with recon"),
        ({"unsupervised": "recno"}, "expected one of none, sim, recon, got 'recno'. Did you mean 'recon'"),
        ({"projection": 0}, "projection: expected a number of rows"),
        ({"decoupled": True, "detach": False}, "expected detach=True where decoupled=True"),
        ({"decoupled": "yes"}, "decoupled: expected true or false, got 'yes'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        br.get_method("local_errors", **options)


class Skips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu = nn.Linear(5, 5), nn.Linear(5, 5), nn.ReLU()
        self.third, self.last = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(self.relu(self.third(self.relu(self.second(self.relu(h)))) + h))


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (nn.Sequential(nn.Linear(5, 3)), {}, ConfigError, "found none in Sequential"),
        (nn.Sequential(nn.Linear(5, 4), nn.ReLU()), {}, ConfigError, "found none in Sequential"),
        (nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1)), {}, ConfigError, "two outputs or more"),
        (nn.Sequential(nn.Linear(5, 1), nn.ReLU(), nn.Linear(1, 3)), {"loss": "sim"}, ConfigError, "two features"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)), {}, ShapeError, r"does not take a sample"),
        (nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), {"blocks": ("relu",)}, ConfigError, "matches no"),
        (nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), {"blocks": "2"}, ConfigError, "the output has no"),
        (
            nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3)),
            {"unsupervised": "recon", "alpha": 0.1},
            ConfigError,
            "recon needs blocks of one linear layer",
        ),
        (Skips(), {}, ConfigError, "reaches first.weight, which belongs to the block that ends at relu"),
    ],
    ids=[
        "one layer",
        "no output",
        "one class",
        "one feature",
        "input",
        "pattern",
        "nothing after",
        "two layers",
        "passes by",
    ],
)
def test_models_without_blocks_are_refused_untouched(
    model: nn.Module, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    before = list(model.state_dict())
    with pytest.raises(error, match=message):
        LocalErrors(**options).prepare(model, torch.randn(2, 5), 0)
    assert list(model.state_dict()) == before
    assert not any(module._forward_hooks for module in model.modules())


def test_a_limit_below_the_channels_and_a_batch_of_one_under_sim_are_warned_of() -> None:
    x, y = batch()
    with pytest.warns(UserWarning, match="limit 3 is below the channels") as warned:
        prepared(plain_network(), x, limit=3)
    said = [str(w.message) for w in warned]
    assert [text.partition(";")[0].removeprefix("local_errors: ") for text in said] == [
        "limit 3 is below the channels of 1 (4)",
        "limit 3 is below the channels of 4 (6)",
    ]
    method, model = prepared(plain_network().eval(), x, loss="sim")
    with pytest.warns(UserWarning, match="one example teaches nothing"):
        loss = local_loss(method, model, x[:1], y[:1])
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
