"""The mirrored Kolen-Pollack rule: shared increments, the gain of the filter, and what both come to."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import PROBLEMS, batch, plain_network, small_network
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import backroads as br
from backroads.errors import RuleError
from backroads.feedback.conversion.groups import clip_gradients

RULE = br.rules.mirrored_kolen_pollack


def error(layer: br.nn.AlignedLayer) -> Tensor:
    """D = (what carries the error back) - W."""
    return (layer.feedback_weight() - layer.weight).detach()


def relative(layer: br.nn.AlignedLayer) -> float:
    """|D|^2 / |W|^2."""
    return float(error(layer).square().sum() / layer.weight.detach().square().sum())


def silence(layer: br.nn.AlignedLayer) -> None:
    """A layer so sure of its B that its gain is the floor: nothing but shared increments is left."""
    layer.variance.zero_()


OPTIMISERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"momentum": 0.0}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "nesterov": False}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9}),
    "adam": (torch.optim.Adam, {"optimiser": "adamw"}),
    "adamw": (torch.optim.AdamW, {"optimiser": "adamw"}),
}
FUSED = pytest.mark.parametrize("fused", [False, True])


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_increments_of_W_leave_the_difference_as_it_is(name: str, clip: float | None, accumulate: int) -> None:
    """Without decay, and with next to no gain, D stays the first draw's to the last digits while W moves far."""
    net = small_network(RULE(floor=1e-12, every=1000))
    for _, layer in br.aligned_layers(net):
        silence(layer)
    cls, options = OPTIMISERS[name]
    opt = cls(br.param_groups(net, 0.02, **options))
    schedule = torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)
    before = {key: (error(layer), layer.weight.detach().clone()) for key, layer in br.aligned_layers(net)}
    for step in range(6):
        opt.zero_grad()
        for part in range(accumulate):
            x, y = batch(seed=10 * step + part)
            (F.cross_entropy(net(x), y) / accumulate).backward()
        if clip is not None:
            clip_gradients(net, clip)
        opt.step()
        schedule.step()
    for key, layer in br.aligned_layers(net):
        D, W = before[key]
        assert float((layer.weight.detach() - W).norm() / W.norm()) > 1e-4
        torch.testing.assert_close(error(layer), D, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adamw"])
def test_weight_decay_shrinks_the_difference_as_it_shrinks_W_and_never_brings_it_back(name: str) -> None:
    """D obeys the optimiser's decay alone: that of a parameter equal to D which gets no gradient.

    Also of a D that noise has taken away: were C left out of the decay, (1 - decay)^t of it would come back.
    """
    net = small_network(RULE(floor=1e-12, every=1000))
    cls, options = OPTIMISERS[name]
    for _, layer in br.aligned_layers(net):  # noise has found W in one step
        silence(layer)
        with torch.no_grad():
            layer.correction.copy_(layer.weight - layer.backward_weight + 0.01 * torch.randn_like(layer.weight))
    lone = [torch.nn.Parameter(error(layer).clone()) for _, layer in br.aligned_layers(net)]
    opt = cls(br.param_groups(net, 0.02, weight_decay=0.5, **options))
    kind = {key: value for key, value in options.items() if key != "optimiser"}
    kind |= {"nesterov": True} if name == "nesterov" else {}
    alone = cls(lone, lr=0.02, weight_decay=0.5, **kind)
    for step in range(20):
        x, y = batch(seed=step)
        opt.zero_grad()
        F.cross_entropy(net(x), y).backward()
        opt.step()
        for p in lone:
            p.grad = torch.zeros_like(p)
        alone.step()
    for (_, layer), D in zip(br.aligned_layers(net), lone, strict=True):
        torch.testing.assert_close(error(layer), D.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("q", [0.04, 0.24, 4.0])
def test_the_gain_is_that_of_the_kalman_filter(q: float) -> None:
    """g = P / (P + |W|^2 / q), P <- (1 - g) P, with Q added to P before each step.

    Without a Q it is 1 / (t + 1 + 1 / (2 q)), for B drawn like W. Q learns from the covariance of V - B with the last.
    """
    torch.manual_seed(0)
    inputs = 50
    layer = br.nn.Linear(inputs, 7, rule=RULE(rows=q, every=1, floor=1e-9), dtype=torch.float64)
    x = torch.randn(256, inputs, dtype=torch.float64)
    opt = torch.optim.SGD(br.param_groups(layer, lr=1e-12, momentum=0.0))
    assert layer.rule.rows_per_input(x, layer.weight, layer.operator) == pytest.approx(q)
    with torch.no_grad():
        layer.weight.mul_(layer.backward_weight.norm() / layer.weight.norm())
    W2 = float(layer.weight.detach().square().sum())
    P, Q, R = 2 * W2, 0.0, W2 / q
    last = torch.zeros(7, inputs, dtype=torch.float64)
    for t in range(20):
        opt.zero_grad()
        D = error(layer)
        torch.manual_seed(t)
        layer(x).sum().backward()
        rows = layer.rule.images(x, layer.weight, layer.operator)
        torch.manual_seed(t)
        xi = torch.randn(rows, inputs, dtype=torch.float64)
        V = (xi @ layer.weight.detach().T).T @ xi / rows
        P += Q
        g = P / (P + R)
        if t == 0:
            assert g == pytest.approx(1 / (1 + 1 / (2 * q)))
        innovation = D + layer.weight.detach() - V
        torch.testing.assert_close(layer.correction.grad, g * innovation, rtol=1e-7, atol=1e-10)
        Q = max(0.0, Q + 0.1 * g * (float((innovation * last).sum()) - 0.05 * R))
        P, last = (1 - g) * P, innovation
        opt.step()
        assert float(layer.variance) == pytest.approx(P, rel=1e-6)


@pytest.mark.parametrize(
    "problem", ["linear over tokens", "conv2d", "conv2d strided with a rest", "conv2d dilated in groups"]
)
def test_the_predicted_difference_is_the_measured_one(problem: str) -> None:
    """The mean of |D|^2 over draws is P, within five standard errors, in every kind of layer.

    Where padding is wide, noise that falls on it adds nothing, and |D|^2 is smaller than predicted.
    """
    made, x = PROBLEMS[problem], PROBLEMS[problem].input()
    found, predicted = [], []
    for seed in range(60):
        torch.manual_seed(seed)
        layer = made.make(rule=RULE(rows=2.0, every=1, floor=1e-9), dtype=torch.float64)
        with torch.no_grad():  # B drawn like W, of as much power: what the filter starts from
            B = torch.randn_like(layer.weight)
            layer.backward_weight.copy_(B * layer.weight.norm() / B.norm())
        opt = torch.optim.SGD(br.param_groups(layer, lr=1e-12, momentum=0.0))
        for _ in range(10):
            opt.zero_grad()
            layer(x).sum().backward()
            opt.step()
        found.append(float(error(layer).square().sum()))
        predicted.append(float(layer.variance))
    ratios = torch.tensor(found) / torch.tensor(predicted)
    scatter = 5 * float(ratios.std()) / math.sqrt(len(found))
    padded = 0.3 if problem.startswith("conv2d") and "rest" not in problem else 0.0
    assert 1 - padded - scatter < float(ratios.mean()) < 1 + scatter + 0.05


def test_the_angle_is_the_predicted_one_while_W_learns() -> None:
    """131 rows per input: 5 degrees, whatever W did meanwhile."""
    torch.manual_seed(0)
    net = br.convert(
        torch.nn.Sequential(torch.nn.Linear(40, 200), torch.nn.ReLU(), torch.nn.Linear(200, 10)), RULE(1.0, every=1)
    )
    opt = torch.optim.SGD(br.param_groups(net, lr=0.01, momentum=0.9))
    for step in range(131):
        x = torch.randn(256, 40, generator=torch.Generator().manual_seed(step))
        opt.zero_grad()
        F.cross_entropy(net(x), x[:, :10].argmax(1)).backward()
        opt.step()
    for name, layer in br.aligned_layers(net):
        measured = br.metrics.weight_angles(net)[name]
        predicted = layer.rule.predicted_angle(layer.state)
        assert predicted < 5.2  # less where W grew meanwhile
        assert measured == pytest.approx(predicted, rel=0.15)


def walked(v: float, read_noise: float, inputs: int, q: float) -> float:
    """|D|^2 / |W|^2 in the second half of 200 noises, with a walk of B of v |W|^2 a step and noisy reads of B."""
    torch.manual_seed(0)
    layer = br.nn.Linear(inputs, 100, rule=RULE(rows=q, every=1), dtype=torch.float64)
    cells = br.device_model(layer, backward=br.Device(read_noise=read_noise), seed=1)
    x = torch.randn(1024, inputs, dtype=torch.float64)
    opt = torch.optim.SGD(br.param_groups(layer, lr=1e-12, momentum=0.0))
    W2, found = float(layer.weight.detach().square().sum()), []
    for step in range(200):
        opt.zero_grad()
        with cells.read(step):
            layer(x).sum().backward()
        with cells.write(step):
            opt.step()
        if step >= 100:
            found.append(relative(layer))
        with torch.no_grad():
            layer.backward_weight.add_(torch.randn_like(layer.weight) * math.sqrt(v * W2 / layer.weight.numel()))
    return sum(found) / len(found)


@pytest.mark.parametrize("v", [1e-3, 1e-2, 1e-1, 1.0])
def test_noise_in_the_increments_of_B_is_noticed(v: float) -> None:
    """A random walk of B, of v |W|^2 a step: |D|^2 is at most half as large again as the filter that knows v leaves it.

    That filter's P before a step solves P = P R / (P + R) + v. With the floor alone it would be v / (2 floor).
    """
    q = 4.0
    before = (v + math.sqrt(v * v + 4 * v / q)) / 2
    best = before / (1 + q * before)
    # Devices move C into B as soon as it is there, so that the filter is asked twice.
    assert 0.9 * best < walked(v, 1e-9, 200, q) < 1.5 * best < 0.1 * v / (2 * 1e-3)


def test_noisy_reads_of_B_are_not_taken_for_a_walk() -> None:
    """They are noise of V - B, as large as B itself: the gain goes on falling, and |D|^2 with it.

    A gain of 1 would write that noise into B, again and again: |D|^2 = 1 + R, and B would grow by as much each time.
    """
    assert walked(0.0, 1.0, 200, 4.0) < 0.1


def test_the_floor_keeps_B_with_W_where_increments_are_not_shared() -> None:
    """A random walk of B, of v |W|^2 a step: P settles where the gain is the floor, g R / (2 - g) + v / (g (2 - g))."""
    torch.manual_seed(0)
    inputs, q, g, v = 100, 1.0, 0.1, 1e-3
    layer = br.nn.Linear(inputs, 50, rule=RULE(rows=q, every=1, floor=g), dtype=torch.float64)
    silence(layer)
    x, opt = (
        torch.randn(256, inputs, dtype=torch.float64),
        torch.optim.SGD(br.param_groups(layer, lr=1e-12, momentum=0.0)),
    )
    W2, found = float(layer.weight.detach().square().sum()), []
    for step in range(400):
        opt.zero_grad()
        layer(x).sum().backward()
        opt.step()
        with torch.no_grad():
            layer.backward_weight.add_(torch.randn_like(layer.weight) * math.sqrt(v * W2 / layer.weight.numel()))
        if step >= 100:
            found.append(relative(layer))
    expected = g / q / (2 - g) + v / (g * (2 - g))
    assert sum(found) / len(found) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("uses", [2, 5])
def test_uses_and_accumulated_parts_count_as_rows(uses: int) -> None:
    """k uses of a layer in a step, or k accumulated parts of a batch, are k times the rows from the second step on."""
    x = torch.randn(300, 6, dtype=torch.float64)

    def variance(accumulated: bool) -> float:
        torch.manual_seed(0)
        layer = br.nn.Linear(6, 6, rule=RULE(rows=50.0, every=1, floor=1e-9), dtype=torch.float64)
        with torch.no_grad():  # |B| is |W| from the start on
            layer.backward_weight.copy_(layer.weight)
            layer.variance.copy_(2 * layer.weight.square().sum())
        opt = torch.optim.SGD(br.param_groups(layer, lr=1e-12, momentum=0.0))
        for _ in range(3):
            opt.zero_grad()
            if accumulated:
                for _ in range(uses):
                    layer(x).sum().backward()
            else:
                h = x
                for _ in range(uses):
                    h = torch.tanh(layer(h))
                h.sum().backward()
            opt.step()
        return float(layer.variance / layer.backward_weight.detach().square().sum())

    q = 50.0
    for accumulated in (False, True):
        assert variance(accumulated) == pytest.approx(1 / (0.5 + q * (1 + 2 * uses)), rel=0.2)


def still(steps: int, *, together: bool, rest: bool = False) -> br.nn.AlignedLayer:
    """A layer after some steps in which W stands still, in noise that follows from the step alone.

    ``together``: whether W and B have a step of their optimiser, at rate 0, or C alone has one. ``rest``: whether a
    step in which C rests comes after each.
    """
    torch.manual_seed(0)
    layer = br.nn.Linear(6, 5, rule=RULE(every=3, first=30.0), dtype=torch.float64)
    groups = br.param_groups(layer, lr=0.0, momentum=0.0, weight_decay=0.0)
    of_C = [group for group in groups if any(p is layer.correction for p in group["params"])]
    opt = torch.optim.SGD(groups if together else of_C)
    for step in range(steps):
        torch.manual_seed(step)
        layer.zero_grad()
        layer(torch.randn(70, 6, dtype=torch.float64).requires_grad_()).sum().backward()
        opt.step()
        if rest:
            layer.zero_grad()
            with br.alignment_scale(layer, 0.0):
                layer(torch.randn(70, 6, dtype=torch.float64).requires_grad_()).sum().backward()
    return layer


@pytest.mark.parametrize("steps", [1, 7, 20])
def test_a_step_in_which_C_alone_moves_is_a_step(steps: int) -> None:
    """As when a schedule lets W wait: the filter and B are those of a W that stands still at rate 0."""
    one, other = still(steps, together=True), still(steps, together=False)
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")
    rows = 70 / 6 * sum(t % 3 == 0 or t < 3 for t in range(steps))  # for each input; 30 come in the first three steps
    assert relative(other) < 10 / (0.5 + rows)  # the mean is 1 / (0.5 + rows)


@pytest.mark.parametrize("steps", [1, 7, 20])
def test_noise_waits_while_C_rests(steps: int) -> None:
    """A step with the scale 0 moves neither the filter nor its count of steps; what C has learned till then counts."""
    one, other = still(steps, together=True), still(steps, together=True, rest=True)
    torch.testing.assert_close(other.feedback_weight(), one.feedback_weight(), rtol=1e-14, atol=1e-14)
    assert torch.equal(other.variance, one.variance)
    assert (other.memory.step, other.memory.noisy) == (one.memory.step, one.memory.noisy)


@pytest.mark.parametrize("uses", [1, 3, 20])
def test_the_first_steps_do_not_overshoot_however_often_a_layer_is_used(uses: int) -> None:
    x = torch.randn(64, 6, dtype=torch.float64)
    layer = br.nn.Linear(6, 6, rule=RULE(rows=4.0, every=1), dtype=torch.float64)
    opt = torch.optim.SGD(br.param_groups(layer, lr=1e-12, momentum=0.0))
    for _ in range(5):
        opt.zero_grad()
        h = x
        for _ in range(uses):
            h = torch.tanh(layer(h) + x)
        h.sum().backward()
        opt.step()
        assert relative(layer) < 3.0


def steps(net: torch.nn.Module, opt: torch.optim.Optimizer, numbers: range, call: Any = None) -> None:
    for step in numbers:
        torch.manual_seed(step)
        x, y = batch(seed=step)
        opt.zero_grad()
        F.cross_entropy((call or net)(x), y).backward()
        opt.step()


@pytest.mark.parametrize("every", [1, 2, 4])
@pytest.mark.parametrize("used", [False, True])
def test_a_run_taken_up_again_repeats_the_run_bit_for_bit(every: int, used: bool) -> None:
    """The state dict holds B, C, the variance, the place in the cadence, and the rows of the last step.

    Also where the network that takes it up was in use before, at another place of the cadence.
    """

    def made() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        net = small_network(RULE(every=every))
        return net, torch.optim.SGD(br.param_groups(net, 0.05, weight_decay=0.01))

    whole, opt = made()
    steps(whole, opt, range(6))
    first, opt = made()
    steps(first, opt, range(3))
    saved = copy.deepcopy((first.state_dict(), opt.state_dict()))
    second, opt = made()
    if used:
        steps(second, opt, range(10, 12))
    second.load_state_dict(saved[0])
    opt.load_state_dict(saved[1])
    steps(second, opt, range(3, 6))
    for key, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[key], value), key


def test_recomputed_activities_change_nothing() -> None:
    def run(recompute: bool) -> dict[str, Tensor]:
        net = small_network(RULE())
        net[3] = torch.nn.Identity()  # batch norm counts a repeated pass twice
        opt = torch.optim.SGD(br.param_groups(net, 0.05))
        call = (lambda x: checkpoint(net, x, use_reentrant=False)) if recompute else net
        steps(net, opt, range(3), call)
        return net.state_dict()

    plain, again = run(False), run(True)
    for key, value in plain.items():
        torch.testing.assert_close(again[key], value, rtol=1e-12, atol=1e-14)


def test_two_graphs_before_one_step() -> None:
    """Emptying C before a forward pass disturbs no graph that is still to be differentiated."""
    net = small_network(RULE())
    opt = torch.optim.SGD(br.param_groups(net, 0.05))
    for step in range(3):
        opt.zero_grad()
        losses = [F.cross_entropy(net(x), y) for x, y in (batch(seed=2 * step), batch(seed=2 * step + 1))]
        for loss in losses:
            loss.backward()
        opt.step()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compilation_keeps_it_exact() -> None:
    """Compiled, C moves into B and each step counts once: the mean forecast is eager mode's, but for scatter of Q.

    Without the first rows of every step, which compilation does not have.
    """
    forecasts = {}
    for compiled in (False, True):
        torch.manual_seed(0)  # the noise
        net = small_network(RULE(rows=2.0, every=2, first=0), torch.float32)
        opt = torch.optim.SGD(br.param_groups(net, 0.05, weight_decay=0.01))
        steps32(net, opt, torch.compile(net, backend="aot_eager") if compiled else net)
        degrees = [layer.rule.predicted_angle(layer.state) or 0.0 for _, layer in br.aligned_layers(net)]
        forecasts[compiled] = sum(degrees) / len(degrees)  # of a single layer Q scatters by a third
        assert max(br.metrics.weight_angles(net).values()) < 45
    assert forecasts[True] == pytest.approx(forecasts[False], rel=0.2)


def steps32(net: torch.nn.Module, opt: torch.optim.Optimizer, call: Any) -> None:
    for step in range(30):
        x, y = batch(seed=step, dtype=torch.float32)
        opt.zero_grad()
        F.cross_entropy(call(x), y).backward()
        opt.step()


def test_bfloat16_activities_teach_B_as_well() -> None:
    net = small_network(RULE(rows=4.0, every=2), torch.float32)
    opt = torch.optim.SGD(br.param_groups(net, 0.05))
    for step in range(60):
        x, y = batch(seed=step, dtype=torch.float32)
        opt.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(net(x).float(), y)
        loss.backward()
        opt.step()
    for name, layer in br.aligned_layers(net):
        assert br.metrics.weight_angles(net)[name] < 1.5 * layer.rule.predicted_angle(layer.state) + 1


def test_attention_learns_its_way_back() -> None:
    torch.manual_seed(0)
    attention = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    net = br.convert(attention, RULE(rows=4.0, every=2))
    opt = torch.optim.AdamW(br.param_groups(net, 1e-3, optimiser="adamw"))
    for _ in range(30):
        opt.zero_grad()
        net(torch.randn(8, 5, 16)).square().mean().backward()
        opt.step()
    assert len(list(br.aligned_layers(net))) == 6
    assert all(degrees < 20 for degrees in br.metrics.weight_angles(net).values())


def test_rows_are_bounded_by_the_batch() -> None:
    rule, linear = RULE(rows=0.5), br.functional.LinearMap()
    W = torch.empty(10, 500)
    assert rule.images(torch.empty(1024, 500), W, linear) == 250
    assert rule.images(torch.empty(128, 500), W, linear) == 128  # no more than there are
    assert rule.images(torch.empty(500), W, linear) == 1
    kernel = torch.empty(16, 16, 3, 3)
    conv = br.nn.Conv2d(16, 16, 3, padding=1, rule=RULE())
    x = torch.empty(128, 16, 32, 32)
    assert RULE().images(x, kernel, conv.operator) < 16  # in a convolution every position is a row
    assert 64 <= RULE().rows_per_input(x, kernel, conv.operator) < 72


@FUSED
@pytest.mark.parametrize("to_none", [False, True])
@pytest.mark.parametrize("every", [1, 3])
def test_noise_comes_in_the_first_step_and_in_every_so_manyth(every: int, to_none: bool, fused: bool) -> None:
    """In the others neither C nor P moves, and nothing but the increments of W moves B.

    Also with fused optimisers, which torch does not count as changes, and with gradients that are set to 0.
    """
    net = small_network(RULE(every=every, first=0, floor=1e-9))
    opt = torch.optim.SGD(br.param_groups(net, 0.05), fused=fused)
    opt.zero_grad = lambda zero=opt.zero_grad: zero(set_to_none=to_none)  # type: ignore[method-assign]
    for step in range(7):
        before = [(error(layer), layer.variance.clone()) for _, layer in br.aligned_layers(net)]
        steps(net, opt, range(step, step + 1))
        for (_, layer), (D, P) in zip(br.aligned_layers(net), before, strict=True):
            if step % every == 0:
                assert float(layer.variance) < float(P)
                assert float((error(layer) - D).norm()) > 1e-3 * float(D.norm())
            else:
                assert torch.equal(layer.variance, P)
                torch.testing.assert_close(error(layer), D, rtol=0, atol=1e-12)


def test_the_first_131_rows_come_in_every_step_where_an_error_passes() -> None:
    """16 rows a step in the second layer: in 9 steps, then in every fourth. The first layer sends no error on."""
    net = br.convert(torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)), RULE(every=4))
    opt = torch.optim.SGD(br.param_groups(net, 0.01))
    seen: list[list[bool]] = [[], []]
    for step in range(20):
        x = torch.randn(64, 8, generator=torch.Generator().manual_seed(step))
        opt.zero_grad()
        net(x).square().mean().backward()
        for found, (_, layer) in zip(seen, br.aligned_layers(net), strict=True):
            found.append(layer.correction.grad is not None)
        opt.step()
    assert seen[0] == [step % 4 == 0 for step in range(20)]
    assert seen[1] == [step < 9 or step % 4 == 0 for step in range(20)]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rows": 0}, "rows must be > 0"),
        ({"every": 0}, "every must be"),
        ({"first": -1}, "first must be"),
        ({"floor": 2}, "floor must be > 0 and <= 1"),
        ({"floor": -1}, "floor must be a finite number >= 0"),
        ({"noise": "impulses"}, "unknown noise 'impulses'"),
    ],
)
def test_wrong_values_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RuleError, match=says):
        RULE(**options)


def test_a_plain_state_dict_starts_the_filter_anew() -> None:
    net = small_network(RULE())
    opt = torch.optim.SGD(br.param_groups(net, 0.05))
    steps(net, opt, range(3))
    with pytest.warns(UserWarning, match="drawn anew"):
        net.load_state_dict(plain_network().state_dict())
    for _, layer in br.aligned_layers(net):
        torch.testing.assert_close(layer.variance, 2 * layer.backward_weight.detach().square().sum())
        assert not layer.correction.any()


def test_the_predicted_angle_is_a_metric_beside_the_measured_one() -> None:
    net = br.convert(plain_network(), {"0": RULE(rows=4.0), "*": "kolen_pollack"})
    found = br.metrics.readings(net, metrics=["weight_angle", "predicted_angle"])
    assert list(found["predicted_angle"]) == ["0"]
    B = net[0].backward_weight.detach()
    P = float(net[0].variance)
    assert found["predicted_angle"]["0"] == pytest.approx(math.degrees(math.acos(1 - P / float(B.square().sum()) / 2)))
