"""Exact probing: impulses, one at a time in each receptive field, read W entry by entry."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import BORDERS, PROBLEMS, agree, batch, small_network
from torch import Tensor

import backroads as br
from backroads.errors import RuleError
from backroads.feedback.drive.base import Activities
from backroads.feedback.drive.impulses import impulses_met
from backroads.feedback.nn import AlignedLayer
from backroads.feedback.rules import exact_probing

ALL = {**PROBLEMS, **BORDERS}


def mean_gradient(layer: AlignedLayer, x: Tensor) -> Tensor:
    layer.zero_grad()
    layer(x).sum().backward()
    return layer.backward_weight.grad


def driven(layer: AlignedLayer, x: Tensor, images: int, seed: int = 0) -> Tensor:
    """Impulses of height 1, (images, ...)."""
    noise = br.Impulses(images=images)
    generator = torch.Generator().manual_seed(seed)
    return noise.sample(layer.operand(x), layer.weight, images, layer.operator, generator)


def met(layer: AlignedLayer, impulses: Tensor) -> Tensor:
    """How many impulses each entry of W meets, (O, I / groups, ...), with torch's own layer."""
    W = torch.zeros_like(layer.weight, requires_grad=True)
    layer.operator.project(impulses, W).sum().backward()
    return W.grad


ON_IMPULSES: dict[str, Any] = {"reduction": "per_tap_mean", "drive": br.Impulses(images=1)}
SINGLE = [name for name in ALL if "empty" not in name]


@pytest.mark.parametrize("problem", SINGLE)
@pytest.mark.parametrize("images", [1, 2, 40])
def test_no_receptive_field_holds_two_impulses(problem: str, images: int) -> None:
    """A neuron whose weights are all 1 answers with the number of impulses in its field."""
    layer, x = ALL[problem].layer(exact_probing()), ALL[problem].input()
    impulses = driven(layer, x, images)
    one = x if layer.operator.unbatched(layer.operand(x)) else x[0]
    assert impulses.shape == (images, *layer.operand(one).shape)
    assert set(impulses.unique().tolist()) <= {0.0, 1.0}
    found = layer.operator.project(impulses, torch.ones_like(layer.weight))
    assert found.max() == 1  # and some field holds one


@pytest.mark.parametrize("problem", SINGLE)
def test_every_weight_that_ever_meets_the_input_has_its_turn(problem: str) -> None:
    layer, x = ALL[problem].layer(exact_probing()), ALL[problem].input()
    counts = sum(met(layer, driven(layer, x, 40, seed)) for seed in range(5))
    ever = met(layer, torch.ones_like(layer.operand(x)))  # not those that only ever meet padding
    assert torch.equal(counts > 0, ever > 0)


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_four_rows_for_each_input_leave_hardly_a_weight_unmet(dilation: int) -> None:
    layer = br.nn.Conv2d(4, 8, 3, padding=dilation, dilation=dilation, rule=exact_probing())
    noise = br.Impulses(rows_per_input=4.0)
    torch.manual_seed(0)
    x = torch.zeros(2, 4, 16, 16)
    met = [noise.draw(x, None, layer.weight, layer.operator, 1.0, 1).met.double().mean() for _ in range(10)]
    assert sum(met) / len(met) > 0.95


def test_inputs_take_turns_evenly() -> None:
    """A linear layer of 6 inputs, 3 tokens an image: 4 images are two turns of each, 2 images one; 1 image is half."""
    layer = br.nn.Linear(6, 2, dtype=torch.float64)
    x = torch.zeros(5, 3, 6, dtype=torch.float64)
    for images, times in ((4, 2), (2, 1)):
        assert driven(layer, x, images).sum((0, 1)).tolist() == [times] * 6
    assert sorted(driven(layer, x, 1).sum((0, 1)).tolist()) == [0, 0, 0, 1, 1, 1]
    # Whose turn it is differs from draw to draw: each input is as likely.
    share = sum(driven(layer, x, 1, seed).sum((0, 1)) for seed in range(400)) / 400
    assert bool(((share - 0.5).abs() < 5 * 0.5 / 400**0.5).all())


@pytest.mark.parametrize("problem", SINGLE)
@pytest.mark.parametrize("height", [1.0, 3.0])
def test_on_impulses_a_weight_that_meets_one_goes_its_rate_of_the_way_exactly(
    problem: str, height: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = exact_probing(0.25, height=height, images=2)
    layer, x = ALL[problem].layer(rule), ALL[problem].input()
    hit = met(layer, driven(layer, x, 2)) > 0
    monkeypatch.setattr(br.Impulses, "weights_met", lambda *_: hit)
    W, B = layer.weight.detach(), layer.backward_weight.detach()
    gradient = mean_gradient(layer, 100 * x)
    agree(gradient, 0.25 * (B - W) * hit)
    assert bool(gradient.any())


@pytest.mark.parametrize("problem", SINGLE)
def test_impulses_come_before_the_error_which_returns_through_what_they_told(
    problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the rate: entries that met an impulse are W's, all others B's. Without sparse nothing is told."""
    for rule, told in ((exact_probing(0.25, images=1), 1.0), (br.Alignment(amp=1.0, **ON_IMPULSES), 0.0)):
        layer = ALL[problem].layer(rule)
        x = ALL[problem].input().requires_grad_()
        hit = met(layer, driven(layer, x, 1)) > 0
        monkeypatch.setattr(br.Impulses, "weights_met", lambda *_, hit=hit: hit)
        W, B = layer.weight.detach(), layer.backward_weight.detach()
        y = layer(x)
        dy = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))
        (dx,) = torch.autograd.grad(y, x, dy)
        way_back = B + told * (W - B) * hit
        (expected,) = torch.autograd.grad(layer.operator.project(layer.operand(x), way_back), x, dy)
        agree(dx, expected)


def test_on_impulses_b_is_w_after_the_first_steps_and_the_scale_of_images_makes_no_difference() -> None:
    for scale in (0.0, 1000.0):
        torch.manual_seed(0)
        net = small_network(exact_probing())
        assert max(br.metrics.weight_angles(net).values()) > 30
        optimizer = torch.optim.SGD(br.backward_parameters(net), lr=1.0)
        for _ in range(10):
            optimizer.zero_grad()
            net(scale * torch.ones(6, 2, 6, 6, dtype=torch.float64)).sum().backward()
            optimizer.step()
        for _, layer in br.aligned_layers(net):
            agree(layer.backward_weight, layer.weight)


@pytest.mark.parametrize("problem", SINGLE)
def test_what_a_weight_meets_is_what_impulses_of_the_same_draw_reach(problem: str) -> None:
    """In a convolution, of the very impulses; in a linear layer, where rows are turns, of as many."""
    layer, x = ALL[problem].layer(exact_probing()), ALL[problem].input()
    op, W = layer.operator, layer.weight.detach()
    for images in (1, 2, 40):
        noise, generator = br.Impulses(3.0, images=images), torch.Generator().manual_seed(0)
        found = noise.weights_met(layer.operand(x), W, images, op, generator)
        expected = met(layer, driven(layer, x, images)) > 0
        if op.reach(W):
            assert torch.equal(found.expand_as(W), expected)
        else:
            assert int(found.sum()) == int(expected[0].sum())
            assert found.shape == (1, W.shape[1])


def test_fewer_impulses_than_inputs_teach_some_in_full_and_the_others_later() -> None:
    """50 inputs, 20 rows: each input has its turn in 2 steps of 5."""
    torch.manual_seed(0)
    layer = br.nn.Linear(50, 7, rule=exact_probing(rows_per_input=0.4), dtype=torch.float64)
    x = torch.randn(4, 50, dtype=torch.float64)
    turns = torch.zeros(50)
    for _ in range(400):
        taught = mean_gradient(layer, x)
        columns = (taught != 0).any(0)
        assert int(columns.sum()) == 20
        agree(taught, (layer.backward_weight - layer.weight).detach() * columns)
        turns += columns / 400
    assert bool(((turns - 0.4).abs() < 5 * (0.24 / 400) ** 0.5).all())


@pytest.mark.parametrize(("stride", "size"), [(1, 32), (1, 8), (1, 4), (2, 32), (2, 8)])
def test_with_the_defaults_hardly_a_weight_is_missed_at_borders_and_between_strides(stride: int, size: int) -> None:
    torch.manual_seed(0)
    conv = br.nn.Conv2d(32, 4, 3, stride=stride, padding=1, rule=exact_probing())
    share = []
    for _ in range(20):
        conv.zero_grad()
        conv(torch.ones(2, 32, size, size)).sum().backward()
        share.append(float((conv.backward_weight.grad != 0).float().mean()))
    assert sum(share) / len(share) > 0.95


@pytest.mark.parametrize("batch", [1, 4])
def test_every_input_of_a_wide_layer_has_its_turn_however_small_the_batch(batch: int) -> None:
    layer = br.nn.Linear(3000, 3, rule=exact_probing())
    layer(torch.ones(batch, 3000)).sum().backward()
    agree(layer.backward_weight.grad, (layer.backward_weight - layer.weight).detach())


def test_a_mirror_phase_on_impulses_is_exact_in_one_step() -> None:
    net = small_network(br.rules.feedback_alignment())
    br.mirror(net, rule=exact_probing(), seed=0)
    for _, layer in br.aligned_layers(net):
        agree(layer.backward_weight, layer.weight)


@pytest.mark.parametrize("problem", SINGLE)
@pytest.mark.parametrize(("amp", "sparse", "decay"), [(0.3, 0.2, 0.0), (0.3, 0.0, 0.1), (0.0, 0.2, 0.0)])
def test_on_impulses_each_answer_counts_by_itself_divided_by_how_many_there_are(
    problem: str, amp: float, sparse: float, decay: float
) -> None:
    noise = br.Impulses(1.5, images=3)
    rule = br.Alignment(amp=amp, sparse=sparse, decay=decay, reduction="per_tap_mean", drive=noise)
    layer, x = ALL[problem].layer(rule), ALL[problem].input()
    xi, W = 1.5 * driven(layer, x, 3), layer.weight.detach()
    B, op = layer.backward_weight.detach(), layer.operator
    count = met(layer, xi / 1.5).clamp_min(1)
    drawn = Activities(x, met=impulses_met(xi, W, op) > 0)
    summed = op.weight_gradient(xi, op.project(xi, sparse * B - amp * W), W)
    agree(noise.gradient(drawn, W, B, rule, op, None), summed / count + decay * B)


# --- what it is: reading W, and nothing of B ---


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(("images", "height"), [(1, 1.0), (2, 3.0), (60, 0.5)])
def test_all_of_it_follows_from_activities(
    problem: str, images: int, height: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The read-out, step by step: impulses xi go through the layer's map, y = W xi, and a synapse has y xi^T, summed
    over the impulses it met and divided by their power. W is not read otherwise. That carries the error back, and
    teaches B.
    """
    layer, x = PROBLEMS[problem].layer(exact_probing(0.25, images=images, height=height)), PROBLEMS[problem].input()
    op, W, B = layer.operator, layer.weight.detach(), layer.backward_weight.detach().clone()
    x = x.requires_grad_()
    operand = layer.operand(x)
    xi = layer.rule.drive.sample(operand.detach(), W, images, op, torch.Generator().manual_seed(3))
    y = op.project(xi, W)
    power = op.weight_gradient(xi.square(), torch.ones_like(y), W)  # that a weight met: height^2 times their number
    hit = power > 0
    read = torch.where(hit, op.weight_gradient(xi, y, W) / power.clamp_min(height**2), B)
    monkeypatch.setattr(br.Impulses, "weights_met", lambda *_: hit)  # of these impulses
    out = layer(x)
    dy = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(2))
    dx, dB = torch.autograd.grad(out, (x, layer.backward_weight), dy)
    (back,) = torch.autograd.grad(operand, x, op.pullback(dy, read, operand.detach()))
    assert bool(hit.any())
    agree(dx, back, 1e-12)
    agree(dB, 0.25 * (B - read), 1e-12)


def trained(rule: br.FeedbackRule | str, rate: float | None = None, momentum: float = 0.9) -> dict[str, Tensor]:
    """All of a small network after ten steps, with B at a rate of its own."""
    net = small_network(rule)
    groups = br.param_groups(net, lr=0.05, momentum=momentum)
    for group in groups:
        if group["name"] == "taught" and rate is not None:
            group.update(lr=rate, momentum=0.0, nesterov=False)
    optimizer = torch.optim.SGD(groups)
    for step in range(10):
        torch.manual_seed(step)
        x, y = batch(seed=step)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.state_dict()


def test_where_every_weight_meets_an_impulse_b_has_no_effect_and_it_is_backpropagation() -> None:
    """To the last bit at any rate of B, and but for the order of sums the training of torch's own layers."""
    rule = exact_probing(rows_per_input=40.0)
    whole, still, true = trained(rule), trained(rule, rate=1e-30), trained("backprop")
    assert {key for key in whole if not torch.equal(whole[key], still[key])} == {
        key for key in whole if key.endswith("backward_weight")
    }
    for key, value in true.items():
        agree(whole[key], value, 1e-9)
    few = exact_probing(rows_per_input=0.5)  # and where they are not all met it does
    assert not torch.equal(trained(few)["0.weight"], trained(few, rate=1e-30)["0.weight"])


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0}, "rate must be > 0 and <= 1, got 0"),
        ({"rate": 1.5}, "rate must be > 0 and <= 1"),
        ({"height": 0}, "height must be > 0"),
        ({"images": 0}, "images must be a whole number >= 1"),
        ({"rows_per_input": 0}, "rows_per_input must be > 0"),
        ({"rows_per_input": None}, "rows_per_input must be a finite number"),
        ({"every": 2}, "B explodes"),
        ({"noise": "normal"}, "takes no option 'noise'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RuleError, match=message):
        br.get_rule("exact_probing", **options)


def test_impulses_are_counted_and_the_mean_is_over_those_that_are_met() -> None:
    with pytest.raises(RuleError, match="give rows_per_input, such as 1, or images"):
        br.Impulses()
    with pytest.raises(RuleError, match='give reduction="per_tap_mean"'):
        br.rules.weight_mirror(drive=br.Impulses(images=2), cadence=br.Cadence(fraction=1))
    with pytest.raises(RuleError, match=r"no operations; got .*normalize_input=True"):
        br.Alignment(amp=1.0, operations=br.Operations(normalize_input=True), **ON_IMPULSES)
