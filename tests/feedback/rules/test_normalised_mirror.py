"""The normalised mirror: on white noise its fixed point is W itself, in every layer, border and all.

The mean over white noise is taken exactly: unit vectors times the root of their number have the second moment 1.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import PROBLEMS, Problem, _conv, small_network
from torch import Tensor

import backroads as br
from backroads.errors import RuleError
from backroads.feedback.drive.base import Activities, images_needed
from backroads.feedback.drive.impulses import impulses_met
from backroads.feedback.functional import ConvolutionMap, LinearMap, alignment_value
from backroads.feedback.nn import AlignedLayer
from backroads.feedback.rules import normalised_mirror

LOCAL, CORRECTING = (normalised_mirror(0.25, noise="normal", error_correcting=form, most=1e9) for form in (False, True))
each_form = pytest.mark.parametrize("rule", [LOCAL, CORRECTING], ids=["local", "error-correcting"])
# Every option of a convolution's border, beside those of the table.
BORDERS = {
    "stride 2, border 2": Problem(_conv(2, 2, 3, 5, stride=2, padding=2), (2, 2, 7, 6)),
    "stride 3, dilation 2": Problem(_conv(2, 2, 3, 3, stride=3, dilation=2, padding=1), (2, 2, 9, 8)),
    "wide border": Problem(_conv(2, 2, 3, 3, padding=(2, 3)), (2, 2, 4, 3)),
    "map smaller than the kernel": Problem(_conv(2, 2, 3, 3, padding=1), (2, 2, 1, 2)),
    "same, dilated": Problem(_conv(2, 2, 3, (4, 3), padding="same", dilation=(1, 2)), (2, 2, 5, 6)),
    "reflect": Problem(_conv(2, 2, 3, 3, padding=1, padding_mode="reflect"), (2, 2, 4, 5)),
    "replicate, strided": Problem(_conv(2, 2, 3, 3, padding=1, stride=2, padding_mode="replicate"), (2, 2, 5, 5)),
    "circular 1d in groups": Problem(_conv(1, 4, 4, 3, padding=1, groups=2, padding_mode="circular"), (2, 4, 5)),
    "zeros 3d": Problem(_conv(3, 1, 2, 3, padding=1), (1, 1, 2, 3, 3)),
}
ALL = {**PROBLEMS, **BORDERS}


def agree(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def unit_vectors(noise: br.WhiteNoise, x: Tensor, images: int | None = None, generator: Any = None) -> Tensor:
    """In place of noise: examples (n, ...), n the entries of one, whose second moment is exactly std^2 times 1."""
    n = x[0].numel()
    return noise.std * n**0.5 * torch.eye(n, dtype=x.dtype).view(n, *x.shape[1:])


@pytest.fixture
def white(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(br.WhiteNoise, "sample", unit_vectors)


def mean_gradient(layer: AlignedLayer, x: Tensor) -> Tensor:
    layer.zero_grad()
    layer(x).sum().backward()
    return layer.backward_weight.grad


def meets_input(layer: AlignedLayer, x: Tensor) -> Tensor:
    """Which entries of W ever meet the input and not its padding: ones where they do. Found with torch's own layer."""
    op, operand = layer.operator, layer.operand(x[:1])
    W = torch.zeros_like(layer.weight, requires_grad=True)
    op.project(torch.ones_like(operand), W).sum().backward()
    return (W.grad > 0).to(x.dtype)


# --- the mean over the noise ---


@each_form
@pytest.mark.parametrize("problem", [name for name in ALL if "one example" not in name and "empty" not in name])
@pytest.mark.usefixtures("white")
def test_the_mean_step_goes_its_rate_of_the_way_to_w_in_every_entry(problem: str, rule: br.Alignment) -> None:
    layer, x = ALL[problem].layer(rule), ALL[problem].input()
    W, B, met = layer.weight.detach(), layer.backward_weight.detach(), meets_input(layer, x)
    # Where a weight only ever meets padding it is never seen: the local form forgets, the other leaves it.
    expected = 0.25 * (B - W * met) if rule == LOCAL else 0.25 * (B - W) * met
    agree(mean_gradient(layer, 100 * x), expected)
    if problem != "map smaller than the kernel":
        assert bool(met.all())


@each_form
@pytest.mark.parametrize("problem", ["linear of one example", "conv2d of one example", "linear of an empty batch"])
@pytest.mark.usefixtures("white")
def test_noise_of_its_own_size_needs_no_batch(
    problem: str, rule: br.Alignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = ALL[problem]
    shape = p.shape if "one" in problem else p.shape[1:]
    like = torch.zeros(1, *shape, dtype=torch.float64)
    monkeypatch.setattr(br.WhiteNoise, "sample", lambda noise, x, *_: unit_vectors(noise, like))
    layer = p.layer(rule)
    agree(mean_gradient(layer, p.input()), 0.25 * (layer.backward_weight - layer.weight).detach())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.usefixtures("white")
def test_the_means_of_other_reductions_depend_on_the_border(reduction: str) -> None:
    """What "per_tap_mean" is for: a corner tap of a 3x3 kernel on a 5x5 map with border 1 sees 16 of 25 positions."""
    layer = br.nn.Conv2d(2, 3, 3, padding=1, rule=dataclasses.replace(LOCAL, reduction=reduction), dtype=torch.float64)
    x = torch.zeros(1, 2, 5, 5, dtype=torch.float64)
    seen = torch.tensor([[16, 20, 16], [20, 25, 20], [16, 20, 16]], dtype=torch.float64)
    if reduction == "mean":
        seen = seen / 25
    agree(mean_gradient(layer, x), 0.25 * (layer.backward_weight - layer.weight * seen).detach())


@each_form
@pytest.mark.parametrize("std", [0.5, 3.0])
@pytest.mark.usefixtures("white")
def test_the_scale_of_the_noise_makes_no_difference(rule: br.Alignment, std: float) -> None:
    scaled = normalised_mirror(0.25, noise="normal", std=std, error_correcting=rule == CORRECTING, most=1e9)
    p = ALL["conv2d"]
    agree(mean_gradient(p.layer(scaled), p.input()), mean_gradient(p.layer(rule), p.input()))


@each_form
@pytest.mark.usefixtures("white")
def test_in_a_network_every_b_goes_to_its_w_whatever_the_images_are(rule: br.Alignment) -> None:
    net = small_network(rule)
    images = torch.randn(4, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = {n: (layer.backward_weight - layer.weight).detach() for n, layer in br.aligned_layers(net)}
    for scale in (0.0, 1.0, 1000.0):
        net.zero_grad()
        (scale * net(scale * images).sum()).backward()
        for name, layer in br.aligned_layers(net):
            agree(layer.backward_weight.grad, 0.25 * expected[name])


# --- how much noise ---


@pytest.mark.parametrize("problem", [name for name in ALL if "empty" not in name])
def test_taps_counts_the_places_at_which_each_tap_meets_the_input(problem: str) -> None:
    """Against torch: how often each entry of a kernel meets a one in an image of ones with its padding of zeros."""
    layer, x = ALL[problem].layer(LOCAL), ALL[problem].input()
    one = x if layer.operator.unbatched(layer.operand(x)) else x[:1]
    operand = layer.operand(one)
    W = torch.zeros_like(layer.weight, requires_grad=True)
    layer.operator.project(torch.ones_like(operand), W).sum().backward()
    counted = torch.ones((), dtype=torch.float64)
    for axis in layer.operator.taps(operand, layer.weight):
        counted = counted.unsqueeze(-1) * torch.tensor(axis, dtype=torch.float64)
    agree(counted.expand_as(W), W.grad)


@pytest.mark.parametrize(
    ("op", "x", "W", "images"),
    [
        (LinearMap(), (3, 50), (7, 50), 50),  # a row for each of 50 inputs
        (LinearMap(), (3, 8, 50), (7, 50), 7),  # 8 tokens an image: 56 rows
        (ConvolutionMap((1, 1), (0, 0), (1, 1), 1), (3, 4, 8, 8), (7, 4, 3, 3), 1),  # 36 places for 36 inputs
        (ConvolutionMap((1, 1), (0, 0), (1, 1), 1), (3, 5, 8, 8), (7, 5, 3, 3), 2),  # and for 45
        (ConvolutionMap((2, 2), (0, 0), (1, 1), 1), (3, 4, 7, 7), (7, 4, 3, 3), 4),  # 9 places
        (ConvolutionMap((1, 1), (0, 0), (1, 1), 4), (3, 4, 8, 8), (8, 1, 3, 3), 1),  # depthwise: 9 inputs
        # Border 1 on a 2x2 map: along an axis taps are seen 1, 2 and 1 times: 4 channels (1 + 1/2 + 1)^2 = 25 images.
        (ConvolutionMap((1, 1), (1, 1), (1, 1), 1), (3, 4, 2, 2), (7, 4, 3, 3), 25),
        # On a 1x1 map only the middle is ever seen: 4 inputs.
        (ConvolutionMap((1, 1), (1, 1), (1, 1), 1), (3, 4, 1, 1), (7, 4, 3, 3), 4),
    ],
    ids=str,
)
def test_a_layer_gets_so_many_rows_for_each_input_of_a_neuron(op: Any, x: Any, W: Any, images: int) -> None:
    taps = op.taps(torch.zeros(x), torch.zeros(W))
    assert images_needed(1.0, W[1], taps) == images


@pytest.mark.parametrize("error_correcting", [False, True])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.usefixtures("white")
def test_a_wide_layer_of_a_small_batch_gets_less_noise_and_goes_as_much_slower(
    error_correcting: bool, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 inputs at 8 rows want 400 rows; 5 for each of 4 examples are 20: a twentieth of the noise and of the rate."""
    drawn = []

    def draw(noise: br.WhiteNoise, x: Tensor, images: int | None = None, generator: Any = None) -> Tensor:
        drawn.append(images)
        return unit_vectors(noise, x)

    monkeypatch.setattr(br.WhiteNoise, "sample", draw)
    form: dict[str, Any] = {"noise": "normal", "error_correcting": error_correcting}
    rule = normalised_mirror(0.25, rows_per_input=8, most=5, every=every, **form)
    tied = dataclasses.replace(rule, tie_grad=True)
    torch.manual_seed(0)
    x, dy = torch.randn(4, 50, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)
    for chosen in (rule, tied):
        layer = br.nn.Linear(50, 7, rule=chosen, dtype=torch.float64)
        total = torch.zeros_like(layer.weight)
        for _ in range(every):
            layer.zero_grad()
            layer(x).backward(dy)
            total += layer.backward_weight.grad
        task = every * dy.T @ x if chosen == tied else 0  # which is not the alignment's, and not slowed
        agree(total, every * 0.25 / 20 * (layer.backward_weight - layer.weight).detach() + task)
    assert drawn == [20, 20]  # on the active pass only


def estimates(conv: br.nn.Conv2d, n: int) -> Tensor:
    """M[y xi^T] / std^2 of n independent draws, (n, O, I, k, k)."""
    x = torch.zeros(1, 2, 3, 4, dtype=torch.float64)
    with torch.no_grad():
        conv.backward_weight.zero_()
    return torch.stack([-mean_gradient(conv, x) / conv.rule.decay for _ in range(n)])


def test_the_noise_of_an_estimate_is_that_of_w_over_rows_per_input() -> None:
    """Its variance is |row|^2 sum_j 1 / seen_j and as much as w^2 / seen more: 400 draws, within 5 standard errors."""
    torch.manual_seed(0)
    rule = normalised_mirror(1.0, noise="normal", rows_per_input=4.0, std=2.0, most=1e9)
    conv = br.nn.Conv2d(2, 3, 3, padding=1, bias=False, rule=rule, dtype=torch.float64)
    W = conv.weight.detach()
    found = estimates(conv, 400)
    error = found.mean(0) - W
    assert bool((error.abs() < 5 * found.std(0) / 400**0.5).all())
    # An estimate is a mean over rows in which a weight's neighbours at a border may be missing: at most |row|^2.
    relative = (found - W).square().flatten(2).sum(2).mean(0) / W.square().flatten(1).sum(1)
    assert bool((relative < 1.25 / 4).all())
    assert bool((relative > 0.5 / 4).all())


@pytest.mark.parametrize(("noise", "kurtosis"), [("normal", 3.0), ("uniform", 1.8)])
def test_noise_of_its_own_size_has_shape_dtype_and_distribution(noise: str, kurtosis: float) -> None:
    torch.manual_seed(0)
    xi = br.WhiteNoise(noise, 0.5, images=300).sample(torch.empty(7, 30, 40, dtype=torch.float64), 300)
    assert xi.shape == (300, 30, 40)
    assert xi.dtype == torch.float64
    assert abs(xi.mean()) < 0.005
    assert xi.std().item() == pytest.approx(0.5, rel=0.01)
    assert (xi**4).mean().item() / 0.5**4 == pytest.approx(kurtosis, rel=0.03)


# --- with noise drawn ---


def learn(net: torch.nn.Module, steps: int, x: Tensor) -> dict[str, float]:
    optimizer = torch.optim.SGD(br.backward_parameters(net), lr=1.0)
    for _ in range(steps):
        optimizer.zero_grad()
        net(x).sum().backward()
        optimizer.step()
    return br.metrics.weight_angles(net)


def test_the_error_correcting_form_ends_at_w_and_the_local_one_in_its_noise() -> None:
    """Angles of b to w: 0, and about sqrt(rate / (2 rows_per_input)) = 4.5 degrees."""
    x = torch.randn(6, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    exact = learn(small_network(normalised_mirror(error_correcting=True)), 150, x)
    assert max(exact.values()) < 1e-3
    noisy = learn(small_network(normalised_mirror(noise="normal")), 150, x)
    assert 0.5 < max(noisy.values()) < 10
    assert br.metrics.weight_angles(small_network(normalised_mirror()))["0"] > 30  # where both began


@pytest.mark.parametrize("every", [1, 2, 3])
def test_every_other_step_takes_the_same_way_on_average(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(br.WhiteNoise, "sample", unit_vectors)
    p = ALL["conv2d"]
    layer = p.layer(normalised_mirror(0.1, error_correcting=True, every=every))
    gradients = [mean_gradient(layer, p.input()).clone() for _ in range(every)]
    agree(sum(gradients), every * 0.1 * (layer.backward_weight - layer.weight).detach())
    assert [bool(g.any()) for g in gradients] == [True] + [False] * (every - 1)


@each_form
def test_checkpointing_repeats_no_draw(rule: br.Alignment) -> None:
    from torch.utils.checkpoint import checkpoint

    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    found = []
    for repeats in (False, True):
        net = small_network(rule)
        net.insert(1, torch.nn.Dropout(0.5))
        torch.manual_seed(3)
        y = checkpoint(net, x, use_reentrant=False) if repeats else net(x)
        y.sum().backward()
        found.append(({n: p.grad for n, p in net.named_parameters()}, torch.get_rng_state()))
    agree(found[0][0], found[1][0], 1e-12)
    assert torch.equal(found[0][1], found[1][1])


@each_form
@pytest.mark.usefixtures("white")
def test_under_autocast_the_mean_step_is_that_of_float32_but_for_rounding(rule: br.Alignment) -> None:
    net = small_network(rule, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        net(torch.ones(3, 2, 6, 6)).sum().backward()
    for _, layer in br.aligned_layers(net):
        grad, expected = layer.backward_weight.grad, 0.25 * (layer.backward_weight - layer.weight).detach()
        assert grad.dtype == torch.float32
        assert float((grad - expected).norm() / expected.norm()) < 0.02  # bfloat16 has 8 bits


# --- impulses: one input at a time ---


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
    layer, x = ALL[problem].layer(LOCAL), ALL[problem].input()
    impulses = driven(layer, x, images)
    one = x if layer.operator.unbatched(layer.operand(x)) else x[0]
    assert impulses.shape == (images, *layer.operand(one).shape)
    assert set(impulses.unique().tolist()) <= {0.0, 1.0}
    found = layer.operator.project(impulses, torch.ones_like(layer.weight))
    assert found.max() == 1  # and some field holds one


@pytest.mark.parametrize("problem", SINGLE)
def test_every_weight_that_ever_meets_the_input_has_its_turn(problem: str) -> None:
    layer, x = ALL[problem].layer(LOCAL), ALL[problem].input()
    counts = sum(met(layer, driven(layer, x, 40, seed)) for seed in range(5))
    assert torch.equal(counts > 0, meets_input(layer, x.unsqueeze(0) if "one example" in problem else x) > 0)


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
@pytest.mark.parametrize("std", [1.0, 3.0])
@pytest.mark.parametrize("error_correcting", [False, True])
def test_on_impulses_a_weight_that_meets_one_goes_its_rate_of_the_way_exactly(
    problem: str, std: float, error_correcting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = normalised_mirror(0.25, noise="impulses", std=std, images=2, error_correcting=error_correcting)
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
    for rule, told in ((normalised_mirror(0.25, images=1), 1.0), (br.Alignment(amp=1.0, **ON_IMPULSES), 0.0)):
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
        net = small_network(normalised_mirror())
        assert max(br.metrics.weight_angles(net).values()) > 30
        learn(net, 10, scale * torch.ones(6, 2, 6, 6, dtype=torch.float64))
        for _, layer in br.aligned_layers(net):
            agree(layer.backward_weight, layer.weight)


@pytest.mark.parametrize("problem", SINGLE)
def test_what_a_weight_meets_is_what_impulses_of_the_same_draw_reach(problem: str) -> None:
    """In a convolution, of the very impulses; in a linear layer, where rows are turns, of as many."""
    layer, x = ALL[problem].layer(LOCAL), ALL[problem].input()
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
    layer = br.nn.Linear(50, 7, rule=normalised_mirror(rows_per_input=0.4), dtype=torch.float64)
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
    conv = br.nn.Conv2d(32, 4, 3, stride=stride, padding=1, rule=normalised_mirror())
    share = []
    for _ in range(20):
        conv.zero_grad()
        conv(torch.ones(2, 32, size, size)).sum().backward()
        share.append(float((conv.backward_weight.grad != 0).float().mean()))
    assert sum(share) / len(share) > 0.95


@pytest.mark.parametrize("batch", [1, 4])
def test_every_input_of_a_wide_layer_has_its_turn_however_small_the_batch(batch: int) -> None:
    layer = br.nn.Linear(3000, 3, rule=normalised_mirror())
    layer(torch.ones(batch, 3000)).sum().backward()
    agree(layer.backward_weight.grad, (layer.backward_weight - layer.weight).detach())


def test_a_mirror_phase_on_impulses_is_exact_in_one_step() -> None:
    net = small_network(br.rules.feedback_alignment())
    br.mirror(net, 1, seed=0)
    for _, layer in br.aligned_layers(net):
        agree(layer.backward_weight, layer.weight)


@pytest.mark.parametrize("problem", SINGLE)
@pytest.mark.parametrize(("amp", "sparse", "decay"), [(0.3, 0.2, 0.0), (0.3, 0.0, 0.1), (0.0, 0.2, 0.0)])
def test_on_impulses_the_closed_form_is_the_gradient_of_the_value(
    problem: str, amp: float, sparse: float, decay: float
) -> None:
    noise = br.Impulses(1.5, images=3)
    rule = br.Alignment(amp=amp, sparse=sparse, decay=decay, reduction="per_tap_mean", drive=noise)
    layer, x = ALL[problem].layer(rule), ALL[problem].input()
    xi, W = 1.5 * driven(layer, x, 3), layer.weight.detach()
    B = layer.backward_weight.detach().requires_grad_()
    op = layer.operator
    count = met(layer, xi / 1.5).clamp_min(1)
    R = alignment_value(xi, W, B, None, rule, op, 1 / count)
    (expected,) = torch.autograd.grad(R, B)
    drawn = Activities(x, met=impulses_met(xi, W, op) > 0)
    agree(noise.gradient(drawn, W, B.detach(), rule, op, None), expected)
    # And what it means: each answer on its own, divided by how many there are.
    v = layer.operator.project(xi, sparse * B.detach() - amp * W)
    summed = layer.operator.weight_gradient(xi, v, W)
    agree(expected, summed / count + decay * B.detach())


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0}, "rate must be > 0 and <= 1, got 0"),
        ({"rate": 1.5}, "rate must be > 0 and <= 1"),
        ({"rate": "fast"}, "rate must be a finite number"),
        ({"error_correcting": 1}, "error_correcting must be True or False"),
        ({"noise": "pink"}, "unknown distribution 'pink'"),
        ({"std": 0}, "std must be > 0"),
        ({"images": 0}, "images must be a whole number >= 1"),
        ({"images": 2.0}, "images must be a whole number"),
        ({"rows_per_input": 0}, "rows_per_input must be > 0"),
        ({"rows_per_input": float("nan")}, "rows_per_input must be a finite number"),
        ({"most": 0}, "most must be > 0"),
        ({"images": 2, "rows_per_input": 1.0}, "expected images or rows_per_input, got both"),
        ({"every": 0}, "every must be a whole number"),
        ({"error_correcting": True, "rate": 0.5, "rows_per_input": 0.25}, "B explodes"),
        ({"error_correcting": True, "every": 4}, "B explodes"),
        ({"noise": "impulses", "every": 2}, "B explodes"),
        ({"amp": 1.0}, "does not take these options"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RuleError, match=message):
        br.get_rule("normalised_mirror", **options)


@pytest.mark.parametrize(
    "more",
    [{"null": 1.0}, {"update_forward": True}, {"operations": br.Operations(center_forward_output=True)}],
    ids=str,
)
def test_taps_is_for_amp_and_sparse(more: dict[str, Any]) -> None:
    with pytest.raises(RuleError, match='"per_tap_mean" is for sparse and amp'):
        br.Alignment(amp=1.0, reduction="per_tap_mean", **more)


def test_impulses_are_counted_and_the_mean_is_over_those_that_are_met() -> None:
    with pytest.raises(RuleError, match="give rows_per_input, such as 1, or images"):
        br.Impulses()
    with pytest.raises(RuleError, match='give reduction="per_tap_mean"'):
        br.rules.weight_mirror(drive=br.Impulses(images=2), cadence=br.Cadence(fraction=1))
    with pytest.raises(RuleError, match=r"no operations; got .*normalize_input=True"):
        br.Alignment(amp=1.0, operations=br.Operations(normalize_input=True), **ON_IMPULSES)


def test_a_part_of_the_batch_and_noise_of_its_own_size_exclude_each_other() -> None:
    with pytest.raises(RuleError, match="fraction is a part of the batch"):
        br.Alignment(amp=1.0, drive=br.WhiteNoise(images=2), cadence=br.Cadence(fraction=0.5))


def test_the_bound_on_the_rate_is_where_the_mean_square_error_stops_shrinking() -> None:
    """One neuron, white normal noise: E|e'|^2 = ((1 - r)^2 + r^2 (I + 1) / T) |e|^2; the simulation agrees."""
    torch.manual_seed(0)
    I, draws, r = 20, 4000, 0.8  # noqa: E741
    for T in (20, 40):
        e = F.normalize(torch.randn(draws, I, 1, dtype=torch.float64), dim=1)
        xi = torch.randn(draws, T, I, dtype=torch.float64)
        after = e - r * xi.mT @ (xi @ e) / T
        expected = (1 - r) ** 2 + r**2 * (I + 1) / T
        assert after.square().sum((1, 2)).mean().item() == pytest.approx(expected, rel=0.05)
