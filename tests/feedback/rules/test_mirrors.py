"""The mirrors on white noise: their fixed point is W itself, in every layer, border and all.

The mean over white noise is taken exactly: unit vectors times the root of their number have the second moment 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import BORDERS, PROBLEMS, agree, small_network, unit_vectors
from torch import Tensor

import backroads as br
from backroads.errors import RuleError
from backroads.feedback.drive.base import images_needed
from backroads.feedback.functional import ConvolutionMap, LinearMap
from backroads.feedback.nn import AlignedLayer
from backroads.feedback.rules import error_correcting_mirror, white_noise_mirror

MIRRORS = [white_noise_mirror, error_correcting_mirror]
LOCAL, CORRECTING = (make(0.25, rows_per_input=8.0, most=1e9) for make in MIRRORS)
each_form = pytest.mark.parametrize("rule", [LOCAL, CORRECTING], ids=["local", "error-correcting"])
each_mirror = pytest.mark.parametrize("make", MIRRORS)
ALL = {**PROBLEMS, **BORDERS}


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
    make = error_correcting_mirror if rule == CORRECTING else white_noise_mirror
    scaled = make(0.25, std=std, most=1e9)
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


@each_mirror
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.usefixtures("white")
def test_a_wide_layer_of_a_small_batch_gets_less_noise_and_goes_as_much_slower(
    make: Callable[..., br.Alignment], every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """50 inputs at 8 rows want 400 rows; 5 for each of 4 examples are 20: a twentieth of the noise and of the rate."""
    drawn = []

    def draw(noise: br.WhiteNoise, x: Tensor, images: int | None = None, generator: Any = None) -> Tensor:
        drawn.append(images)
        return unit_vectors(noise, x)

    monkeypatch.setattr(br.WhiteNoise, "sample", draw)
    rule = make(0.25, rows_per_input=8, most=5, every=every)
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
    rule = white_noise_mirror(1.0, rows_per_input=4.0, std=2.0, most=1e9)
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
    exact = learn(small_network(error_correcting_mirror()), 150, x)
    assert max(exact.values()) < 1e-3
    noisy = learn(small_network(white_noise_mirror()), 150, x)
    assert 0.5 < max(noisy.values()) < 10
    assert br.metrics.weight_angles(small_network(white_noise_mirror()))["0"] > 30  # where both began


@pytest.mark.parametrize("every", [1, 2, 3])
def test_every_other_step_takes_the_same_way_on_average(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(br.WhiteNoise, "sample", unit_vectors)
    p = ALL["conv2d"]
    layer = p.layer(error_correcting_mirror(0.1, every=every))
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


# --- what is refused ---


@each_mirror
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0}, "rate must be > 0 and <= 1, got 0"),
        ({"rate": 1.5}, "rate must be > 0 and <= 1"),
        ({"rate": "fast"}, "rate must be a finite number"),
        ({"noise": "pink"}, "unknown distribution 'pink'"),
        ({"noise": "impulses"}, "unknown distribution 'impulses'"),
        ({"std": 0}, "std must be > 0"),
        ({"images": 0}, "images must be a whole number >= 1"),
        ({"images": 2.0}, "images must be a whole number"),
        ({"rows_per_input": 0}, "rows_per_input must be > 0"),
        ({"rows_per_input": None}, "rows_per_input must be a finite number"),
        ({"rows_per_input": float("nan")}, "rows_per_input must be a finite number"),
        ({"most": 0}, "most must be > 0"),
        ({"every": 0}, "every must be a whole number"),
        ({"amp": 1.0}, "takes no option 'amp'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    options: dict[str, Any], message: str, make: Callable[..., br.Alignment]
) -> None:
    with pytest.raises(RuleError, match=message):
        br.get_rule(make.__name__, **options)


@pytest.mark.parametrize("options", [{"rate": 0.5, "rows_per_input": 0.25}, {"every": 4}])
def test_an_error_corrected_rate_that_so_little_noise_does_not_stand_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RuleError, match="B explodes"):
        error_correcting_mirror(**options)


@pytest.mark.parametrize(
    "more",
    [{"null": 1.0}, {"update_forward": True}, {"operations": br.Operations(center_forward_output=True)}],
    ids=str,
)
def test_taps_is_for_amp_and_sparse(more: dict[str, Any]) -> None:
    with pytest.raises(RuleError, match='"per_tap_mean" is for sparse and amp'):
        br.Alignment(amp=1.0, reduction="per_tap_mean", **more)


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
