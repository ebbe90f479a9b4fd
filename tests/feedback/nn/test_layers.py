"""What every layer holds under every rule: forward pass, the error it sends back, and its backward weights."""

from __future__ import annotations

import collections
import copy
import dataclasses
import math
from typing import Any

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import ALIGNMENTS, LAYERWISE, OUTPUTS, PROBLEMS, RULES, batch, plain_network, small_network
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import backroads as br
from backroads.feedback.nn import AlignedLayer

DIRECT = "direct_feedback_alignment"
every_rule = pytest.mark.parametrize("name", RULES)
every_problem = pytest.mark.parametrize("problem", PROBLEMS)
with_own_B = pytest.mark.parametrize("name", [n for n in LAYERWISE if n != "backprop"])
learning = pytest.mark.parametrize("name", [n for n, rule in ALIGNMENTS.items() if rule.learns])


def exactly(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def closely(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def plain_twin(layer: AlignedLayer, weight: Tensor | None = None) -> torch.nn.Module:
    """Torch's own layer with the same weight (or another one) and bias."""
    twin = br.revert(copy.deepcopy(layer))
    assert type(twin) in (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    if weight is not None:
        twin.weight.data = weight.detach().clone()
    return twin


def noise_like(t: Tensor, seed: int = 5) -> Tensor:
    return torch.randn(t.shape, dtype=t.dtype, generator=torch.Generator().manual_seed(seed))


def vjp(layer: torch.nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    """Output and gradients of x, weight and bias for a fixed error of the output."""
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(noise_like(y))
    found = {"y": y.detach(), "x": x.grad, "weight": layer.weight.grad}
    return found | ({} if layer.bias is None else {"bias": layer.bias.grad})


def train_step(net: torch.nn.Module, factor: float = 1.0) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Gradients of the input and of all parameters of a small network."""
    x, labels = batch()
    x.requires_grad_()
    net.zero_grad()
    (factor * F.cross_entropy(net(x), labels)).backward()
    return x.grad, {k: p.grad for k, p in net.named_parameters()}


# -- forward pass ------------------------------------------------------------------------------------------------------


@every_rule
@every_problem
def test_the_output_is_bit_identical_to_torch(problem, name):
    p = PROBLEMS[problem]
    for dtype in (torch.float32, torch.float64):
        layer, x = p.layer(RULES[name], dtype), p.input(dtype)
        expected = plain_twin(layer)(x)
        with torch.set_grad_enabled(name in LAYERWISE):  # a single layer has no root to take the carrier
            y = layer(x)
        exactly(y, expected)
        assert y.is_contiguous() == expected.is_contiguous()


@every_problem
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_backprop_is_torch_to_the_last_bit(problem, dtype):
    p = PROBLEMS[problem]
    layer = p.layer(br.rules.backprop(), dtype)
    twin = plain_twin(layer)
    exactly(vjp(layer, p.input(dtype)), vjp(twin, p.input(dtype)))


# -- the way back ------------------------------------------------------------------------------------------------------


@every_rule
def test_hidden_gradients_are_not_zero(name):
    net = small_network(RULES[name])
    dx, gradients = train_step(net)
    assert dx.any()
    learns = {k for k, p in net.named_parameters() if p.requires_grad}
    assert {k for k, g in gradients.items() if g is not None} == learns
    assert [k for k in learns if not gradients[k].any()] == []


@with_own_B
@every_problem
def test_the_error_goes_back_through_B_alone(problem, name):
    """dx = B^T dy to the last bit, whatever becomes of W after the forward pass."""
    p = PROBLEMS[problem]
    layer, x = p.layer(RULES[name]), p.input().requires_grad_()
    torch.manual_seed(0)
    B = layer.feedback_weight()
    assert B.shape == layer.weight.shape
    assert not torch.equal(B, layer.weight)
    twin = plain_twin(layer, B)
    torch.manual_seed(0)  # "batch_random" draws in the forward pass
    y = layer(x)
    layer.weight.data.mul_(-3).add_(1)
    y.backward(noise_like(y))
    exactly(x.grad, vjp(twin, x.detach())["x"])


@with_own_B
@every_problem
def test_W_and_the_bias_get_their_exact_task_gradients(problem, name):
    """dW = dy x^T does not depend on B, and the alignment adds nothing to it (but with update_forward)."""
    p = PROBLEMS[problem]
    layer = p.layer(RULES[name])
    expected, found = vjp(plain_twin(layer), p.input()), vjp(layer, p.input())
    for d in (expected, found):
        del d["x"]
        if getattr(RULES[name], "update_forward", False):
            del d["weight"]
    exactly(found, expected)


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_the_alignment_sends_no_gradient_elsewhere(name):
    """Beside feedback alignment with the same B: the same dx, dbias, batch norm and (but with update_forward) dW."""
    rule = ALIGNMENTS[name]
    net, fixed = small_network(rule), small_network(br.rules.feedback_alignment())
    fixed.load_state_dict(net.state_dict())
    (dx, found), (expected_dx, expected) = train_step(net), train_step(fixed)
    exactly(dx, expected_dx)
    for k, g in expected.items():
        if k.endswith("backward_weight"):
            continue
        if (
            rule.update_forward
            and isinstance(net.get_submodule(k.rpartition(".")[0]), AlignedLayer)
            and "bias" not in k
        ):
            assert not torch.equal(found[k], g)
        else:
            exactly(found[k], g)


@learning
def test_the_alignment_gradient_does_not_depend_on_the_scale_of_the_loss(name):
    net = small_network(RULES[name])
    alignment = []
    for factor in (1.0, 1000.0, 0.0):
        g = train_step(net, factor)[1]
        tied = RULES[name].tie_grad  # then B gets the task gradient of W on top
        alignment.append(
            {k: g[k] - g[k.replace("backward_", "")] if tied else g[k].clone() for k in g if "backward_weight" in k}
        )
    for other in alignment[1:]:
        torch.testing.assert_close(other, alignment[0], rtol=1e-9, atol=1e-9 if RULES[name].tie_grad else 0)


def test_feedback_alignment_never_moves_B():
    net = small_network(br.rules.feedback_alignment())
    before = copy.deepcopy(net.state_dict())
    params = list(dict.fromkeys([*net.parameters(), *br.backward_parameters(net)]))
    opt = torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        train_step(net)
        opt.step()
    for k, v in net.state_dict().items():
        if "backward_weight" in k:
            exactly(v, before[k])
        elif k.endswith("weight"):
            assert not torch.equal(v, before[k])


@pytest.mark.parametrize("name", ["kolen_pollack", "mirrored_kolen_pollack", "product_feedback_alignment"])
def test_a_W_that_stands_still_has_no_increments_to_share(name):
    """No gradient at all reaches the B of a frozen W, so that no decay of an optimiser moves it either."""
    net = small_network(name)
    layers = [layer for _, layer in br.aligned_layers(net)]
    layers[-1].weight.requires_grad_(False)
    x, y = batch()
    F.cross_entropy(net(x), y).backward()
    shared = "learned_weight" if name == "product_feedback_alignment" else "backward_weight"
    assert layers[-1].state[shared].grad is None
    for layer in layers[:-1]:
        assert bool(layer.state[shared].grad.any())
    if name == "mirrored_kolen_pollack":  # what noise shows of W goes on
        assert bool(layers[-1].correction.grad.any())


def test_a_B_that_was_frozen_stays_frozen_when_coefficients_change():
    net = small_network("symmetric_alignment")
    (_, first), *_ = br.aligned_layers(net)
    first.backward_weight.requires_grad_(False)
    br.set_coefficients(net, decay=0.5)
    assert [layer.backward_weight.requires_grad for _, layer in br.aligned_layers(net)].count(False) == 1
    first.rule = br.rules.feedback_alignment()
    first.rule = br.rules.symmetric_alignment()  # one that learns, after one that does not
    assert first.backward_weight.requires_grad


@every_rule
def test_an_evaluation_draws_nothing_and_makes_no_way_back(name):
    net = br.convert(plain_network(), RULES[name]).eval()
    twin = br.revert(copy.deepcopy(net)).eval()
    x, _ = batch()
    state = torch.get_rng_state()
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        y = net(x)
    with torch.no_grad(), FlopCounterMode(display=False) as plain:
        exactly(y, twin(x))
    assert counted.get_total_flops() == plain.get_total_flops()
    assert torch.equal(torch.get_rng_state(), state)


def test_one_step_of_symmetric_alignment_at_rate_one_makes_B_equal_to_W():
    net = small_network(br.rules.symmetric_alignment(decay=1, self_=1))
    opt = torch.optim.SGD(br.backward_parameters(net), lr=1)
    train_step(net)
    opt.step()
    assert len(br.backward_parameters(net)) == 4
    for _, layer in br.aligned_layers(net):
        closely(layer.backward_weight, layer.weight)


@learning
def test_positions_of_a_linear_layer_are_those_of_a_convolution_of_size_one(name):
    """(N, T, I) through Linear is (N, I, T) through Conv1d: also for B, under every reduction and operation."""
    linear = PROBLEMS["linear over tokens"].layer(RULES[name])
    conv = br.nn.Conv1d(5, 3, 1, rule=RULES[name], dtype=torch.float64)
    conv.load_state_dict({k: v.unsqueeze(-1) if v.dim() == 2 else v for k, v in linear.state_dict().items()})
    x = PROBLEMS["linear over tokens"].input()
    dy = noise_like(linear(x))
    linear(x).backward(dy)
    conv(x.transpose(1, 2)).backward(dy.transpose(1, 2))
    closely(conv.backward_weight.grad.squeeze(-1), linear.backward_weight.grad)
    closely(conv.weight.grad.squeeze(-1), linear.weight.grad)


# -- geometry ----------------------------------------------------------------------------------------------------------


@st.composite
def convolutions(draw):
    """(arguments of a convolution in d dimensions, shape of an input it accepts)."""
    d = draw(st.sampled_from((1, 1, 2, 2, 2, 3)))
    each = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(d))  # noqa: E731
    groups, kernel, dilation = draw(st.integers(1, 3)), each(1, 3), each(1, 2)
    padding = draw(st.sampled_from(("same", "valid", "numbers")))
    padding = each(0, 2) if padding == "numbers" else padding
    stride = (1,) * d if padding == "same" else each(1, 3)
    mode = draw(st.sampled_from(("zeros", "zeros", "zeros", "circular", "reflect", "replicate")))
    size = tuple(dil * (k - 1) + 1 + more for dil, k, more in zip(dilation, kernel, each(0, 3), strict=True))
    size = size if mode == "zeros" else tuple(s + 2 for s in size)  # reflection needs more than it pads
    channels = groups * draw(st.integers(1, 2))
    arguments = {
        "in_channels": channels, "out_channels": groups * draw(st.integers(1, 2)), "kernel_size": kernel,
        "stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "padding_mode": mode,
        "bias": draw(st.booleans()), "dtype": torch.float64,
    }  # fmt: skip
    lead = draw(st.sampled_from(((), (1,), (3,))))
    return d, arguments, (*lead, channels, *size)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(convolutions())
def test_every_geometry_of_a_convolution_has_the_shapes_and_gradients_of_torch(case):
    d, arguments, shape = case
    torch.manual_seed(0)
    layer = getattr(br.nn, f"Conv{d}d")(**arguments, rule=br.Alignment(decay=1, amp=1, reduction="mean"))
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    layer.backward_weight.data.copy_(layer.weight)  # with B = W every gradient must be backprop's
    closely(vjp(layer, x), vjp(plain_twin(layer), x))
    # ... and dR/dB is W - M[y x^T], the last being the gradient of 1/2 |y|^2 over batch and positions.
    twin = plain_twin(layer)
    twin.zero_grad()
    twin.register_parameter("bias", None)
    y = twin(x)
    (y.square().sum() / (2 * y.numel() / layer.out_channels)).backward()
    closely(layer.backward_weight.grad, layer.weight.detach() - twin.weight.grad)


# -- what B starts from ------------------------------------------------------------------------------------------------

INITIALISERS = {
    "torch's default": lambda W: None,
    "orthogonal": torch.nn.init.orthogonal_,
    "normal": lambda W: torch.nn.init.normal_(W, std=0.02),
    "heavy tails": lambda W: W.copy_(torch.distributions.Laplace(0.0, 0.1).sample(W.shape)),
    "positive": lambda W: torch.nn.init.uniform_(W, 0.0, 1.0),
}


@pytest.mark.parametrize("initialiser", INITIALISERS)
def test_B_is_an_independent_draw_from_the_distribution_of_W(initialiser):
    torch.manual_seed(0)
    plain = torch.nn.Linear(300, 300)
    with torch.no_grad():
        INITIALISERS[initialiser](plain.weight)
    layer = br.convert(plain, br.rules.feedback_alignment())
    W, B = layer.weight.detach().flatten(), layer.backward_weight.detach().flatten()
    bound = 4 / math.sqrt(W.numel())  # four standard errors
    assert float(B.norm() / W.norm()) == pytest.approx(1, abs=2 * bound)
    assert scipy.stats.ks_2samp(B.abs(), W.abs()).statistic < 0.01  # 0.0081 is its 0.1 % point at this size
    assert abs(float(F.cosine_similarity(W, B, dim=0))) < bound
    assert abs(float(B.mean())) < bound * float(B.std())
    if initialiser != "positive":
        assert scipy.stats.ks_2samp(B, W).statistic < 0.01
        assert float(B.std() / W.std()) == pytest.approx(1, abs=2 * bound)


def test_beside_a_W_of_zeros_B_is_uniform_by_fan_in():
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(64, 128, 3, groups=2)  # fan in 32 * 9
    torch.nn.init.zeros_(plain.weight)
    B = br.convert(plain, br.rules.symmetric_alignment()).backward_weight.detach().flatten().double()
    bound = 1 / math.sqrt(32 * 9)
    assert float(B.abs().max()) <= bound
    assert scipy.stats.kstest(B, "uniform", (-bound, 2 * bound)).statistic < 1.95 / math.sqrt(B.numel())  # 0.1 %


@pytest.mark.parametrize("name", [n for n in RULES if n not in ("backprop", "sign_symmetry", "sign_symmetry(initial)")])
def test_seeds_and_generators_reproduce_the_feedback(name):
    def feedback(seed: int | torch.Generator | None, of_torch: int) -> list[Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, OUTPUTS))
            torch.manual_seed(of_torch)
            br.convert(net, RULES[name], generator=seed)
            torch.manual_seed(of_torch)  # "batch_random" draws later, always from torch's generator
            layers = [layer for _, layer in br.aligned_layers(net)]
            return [x.feedback_weight() if x.backward_weight is None else x.backward_weight for x in layers]

    first = feedback(7, of_torch=1)
    draws_late = name == "sign_symmetry(batch_random)"
    exactly(feedback(7, of_torch=1 if draws_late else 2), first)
    exactly(feedback(torch.Generator().manual_seed(7), of_torch=1), first)
    exactly(feedback(None, of_torch=3), feedback(None, of_torch=3))
    other = feedback(None, of_torch=4) if draws_late else feedback(8, of_torch=1)
    assert not any(torch.equal(a, b) for a, b in zip(other, first, strict=True))
    assert not torch.equal(first[0][:3, :5], first[1][:3, :5])  # one stream, not the same draw for every layer


@pytest.mark.parametrize("kind", ["Linear", "Conv1d", "Conv2d", "Conv3d"])
def test_a_layers_own_generator_reproduces_B(kind):
    arguments = (4, 3) if kind == "Linear" else (4, 3, 2)

    def B(seed):
        return getattr(br.nn, kind)(*arguments, generator=torch.Generator().manual_seed(seed)).backward_weight

    torch.manual_seed(0)
    W = getattr(torch.nn, kind)(*arguments).weight
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)  # the same W: B is drawn from its distribution
        made.append(B(seed))
    exactly(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    torch.manual_seed(0)
    exactly(getattr(br.nn, kind)(*arguments, generator=torch.Generator()).weight, W)  # W from torch's generator


# -- sign symmetry -----------------------------------------------------------------------------------------------------


def sign_layer(variant: str, scale: str) -> AlignedLayer:
    torch.manual_seed(0)
    return br.nn.Linear(120, 100, rule=br.rules.sign_symmetry(variant, scale), dtype=torch.float64)


@pytest.mark.parametrize("variant", ["uniform", "batch_random", "fixed_random"])
@pytest.mark.parametrize("problem", ["linear", "conv2d dilated in groups"])
def test_sign_symmetry_has_the_gain_of_each_filter_whatever_becomes_of_it(problem, variant):
    layer = PROBLEMS[problem].layer(br.rules.sign_symmetry(variant))
    for _ in range(2):
        B, W = layer.feedback_weight(), layer.weight.detach()
        assert not B.requires_grad
        exactly(B.sign(), W.sign())
        closely((B * W).flatten(1).sum(1), W.square().flatten(1).sum(1))
        if variant == "uniform":
            closely(B.abs(), B.abs().flatten(1)[:, 0].view(-1, *(1,) * (W.dim() - 1)).expand_as(B))
        with torch.no_grad():
            layer.weight.mul_(5 * noise_like(layer.weight))
            layer.weight[1] = 0  # a filter of zeros says nothing, and sends nothing


@pytest.mark.parametrize("variant", ["uniform", "batch_random", "fixed_random"])
def test_sign_symmetry_follows_the_signs_of_W(variant):
    layer = sign_layer(variant, "initial")
    s = layer.weight.detach().square().mean().sqrt()
    for _ in range(2):
        B = layer.feedback_weight()
        assert not B.requires_grad
        exactly(B.sign(), layer.weight.detach().sign())
        if variant == "uniform":
            closely(B.abs(), s.expand_as(B))
        with torch.no_grad():
            layer.weight.mul_(5 * noise_like(layer.weight))  # other signs, and other magnitudes, which do not count


def test_batch_random_sign_symmetry_draws_half_normal_magnitudes_in_each_forward_pass():
    layer = sign_layer("batch_random", "initial")
    s = float(layer.weight.detach().square().mean().sqrt())
    first, second = layer.feedback_weight(), layer.feedback_weight()
    assert not torch.equal(first, second)
    for B in (first, second):
        assert scipy.stats.kstest(B.abs().flatten(), "halfnorm", (0, s)).statistic < 1.95 / math.sqrt(B.numel())
    x = torch.randn(4, 120, dtype=torch.float64)
    dx = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        dx.append(vjp(layer, x)["x"])
    exactly(dx[2], dx[0])
    assert not torch.equal(dx[1], dx[0])


def test_fixed_random_sign_symmetry_keeps_its_magnitudes():
    layer = sign_layer("fixed_random", "initial")
    before = layer.feedback_weight().abs()
    assert before.unique().numel() > 1000
    with torch.no_grad():
        layer.weight.copy_(noise_like(layer.weight))
    exactly(layer.feedback_weight().abs(), before)
    copied = sign_layer("fixed_random", "initial")
    copied.sign_magnitude.zero_()
    copied.load_state_dict(layer.state_dict())
    exactly(copied.feedback_weight(), layer.feedback_weight())


# -- direct feedback ---------------------------------------------------------------------------------------------------


class Tapped(torch.nn.Module):
    """Records the inputs of its two inner layers, a convolution and a linear layer over tokens; may change its output.

    Images (N, 2, 6, 6) -> (N, OUTPUTS).
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = torch.nn.Conv2d(2, 4, 3), torch.nn.Conv2d(4, 6, (3, 2))
        self.tokens, self.last = torch.nn.Linear(6, 5), torch.nn.Linear(30, OUTPUTS)
        self.wrap = lambda y: y
        self.fails = False

    def forward(self, x: Tensor) -> Any:
        self.to_conv = torch.tanh(self.first(x))  # (N, 4, 4, 4)
        self.to_tokens = torch.tanh(self.conv(self.to_conv)).flatten(2).transpose(1, 2)  # (N, 6 places, 6)
        if self.fails:
            raise RuntimeError("stop here")
        h = torch.tanh(self.tokens(self.to_tokens))
        for t in (self.to_conv, self.to_tokens):
            if t.requires_grad:
                t.retain_grad()
        return self.wrap(self.last(h.flatten(1)))


def direct_network() -> Tapped:
    torch.manual_seed(0)
    return br.convert(Tapped().double(), DIRECT)


def test_direct_feedback_spreads_the_error_of_the_output_over_positions():
    net = direct_network()
    x, labels = batch()
    out = net(x)
    out.retain_grad()
    F.cross_entropy(out, labels).backward()
    e = torch.softmax(out.detach(), 1) - F.one_hot(labels, OUTPUTS)
    closely(out.grad, e / len(x))
    D = net.conv.backward_weight.detach()
    assert D.shape == (OUTPUTS, 4)
    closely(net.to_conv.grad, (out.grad @ D / 16)[:, :, None, None].expand(-1, -1, 4, 4))
    D = net.tokens.backward_weight.detach()
    assert D.shape == (OUTPUTS, 6)
    closely(net.to_tokens.grad, (out.grad @ D / 6)[:, None].expand(-1, 6, -1))
    # What the layer does with an error is ordinary: the convolution's error is that of its output.
    dy = net.to_tokens.grad.transpose(1, 2).unflatten(2, (2, 3)) * (
        1 - net.to_tokens.detach().transpose(1, 2).unflatten(2, (2, 3)) ** 2
    )
    expected = torch.nn.grad.conv2d_weight(net.to_conv.detach(), net.conv.weight.shape, dy)
    closely(net.conv.weight.grad, expected)
    closely(net.conv.bias.grad, dy.sum((0, 2, 3)))


def test_direct_feedback_changes_neither_the_output_nor_the_last_layers_gradient():
    net, x = direct_network(), batch()[0]
    twin = br.revert(copy.deepcopy(net))
    exactly(net(x), twin(x))
    for n in (net, twin):
        n(x).square().sum().backward()
    exactly(net.last.weight.grad, twin.last.weight.grad)
    assert not torch.equal(net.conv.weight.grad, twin.conv.weight.grad)


Pair = collections.namedtuple("Pair", "logits more")
WRAPPERS = {
    "tuple": (lambda y: (None, y, "text"), lambda out: out[1]),
    "list": (lambda y: [y], lambda out: out[0]),
    "namedtuple": (lambda y: Pair(y, 3), lambda out: out.logits),
    "dict": (lambda y: {"loss": y.sum(), "logits": y}, lambda out: out["logits"]),
    "tuple in a tuple": (lambda y: (0, (y, 1)), lambda out: out[1][0]),
    "dict in a tuple in a dict": (lambda y: {"a": ({"b": y}, 1)}, lambda out: out["a"][0]["b"]),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_direct_feedback_finds_the_output_inside_what_the_network_returns(wrapper):
    wrap, unwrap = WRAPPERS[wrapper]
    net, wrapped, x = direct_network(), direct_network(), batch()[0]
    wrapped.wrap = wrap
    net(x).square().sum().backward()
    out = wrapped(x)
    assert type(out) is type(wrap(torch.zeros(())))
    unwrap(out).square().sum().backward()
    exactly({k: p.grad for k, p in wrapped.named_parameters()}, {k: p.grad for k, p in net.named_parameters()})


def test_a_forward_pass_that_fails_leaves_no_error_paths_to_the_next():
    net, fresh, x = direct_network(), direct_network(), batch()[0]
    net.fails = True
    for _ in range(2):
        with pytest.raises(RuntimeError, match="stop here"):
            net(x[:4])  # another batch size: what it left behind would not even fit
    net.fails = False
    for n in (net, fresh):
        n(x).square().sum().backward()
    exactly({k: p.grad for k, p in net.named_parameters()}, {k: p.grad for k, p in fresh.named_parameters()})
    with pytest.raises(br.errors.UsageError):
        net.conv(torch.zeros(1, 4, 4, 4, dtype=torch.float64))


def test_direct_feedback_outside_a_network_says_what_to_do():
    layer = br.nn.Linear(5, 3, rule=br.rules.direct_feedback_alignment(outputs=3))
    with pytest.raises(br.errors.UsageError, match=r"br\.convert.*broadcast_error"):
        layer(torch.zeros(2, 5))
    with torch.no_grad():
        assert layer(torch.zeros(2, 5)).shape == (2, 3)
    br.nn.broadcast_error(layer)
    assert layer(torch.zeros(2, 5)).requires_grad


@pytest.mark.parametrize(
    "wrap", [lambda y: y[:, :2], lambda y: (y[0], 1), lambda y: {"y": 0}], ids=["K", "tuple", "dict"]
)
def test_direct_feedback_to_an_output_of_another_shape_says_what_it_expected(wrap):
    net = direct_network()
    net.wrap = wrap
    with pytest.raises(br.errors.UsageError, match=r"\(6, 3\).*outputs=K"):
        net(batch()[0])


# -- the terms that need activities, only now and then -----------------------------------------------------------------


def elementwise(rule: br.Alignment, layer: AlignedLayer) -> Tensor:
    return (rule.decay * layer.backward_weight - rule.self_ * layer.weight).detach()


def alignment_gradient(layer: AlignedLayer, x: Tensor) -> Tensor:
    layer.zero_grad()
    layer(x).sum().backward()
    return layer.backward_weight.grad.clone()


@pytest.mark.parametrize(
    "rule",
    [
        br.rules.weight_mirror(cadence=br.Cadence(3, 1.0)),
        br.rules.activation_alignment(cadence=br.Cadence(3, 1.0)),
        br.rules.information_alignment(cadence=br.Cadence(3, 1.0)),
        br.Alignment(0.2, 0.3, 0.1, 0.4, 0.5, cadence=br.Cadence(3)),
    ],
    ids=["WM", "AA", "IA", "all"],
)
def test_every_k_computes_the_data_terms_on_each_kth_training_step_times_k(rule):
    p = PROBLEMS["conv2d"]
    layer, reference = p.layer(rule), p.layer(dataclasses.replace(rule, cadence=br.Cadence()))
    full = alignment_gradient(reference, p.input())
    idle = elementwise(rule, layer)
    active = idle + 3 * (full - idle)
    assert not torch.allclose(active, idle)
    for step in range(7):
        if step == 4:  # resumed from a checkpoint, in the middle of a cycle
            state, layer = layer.state_dict(), p.layer(rule, seed=9)
            layer.load_state_dict(state)
        closely(alignment_gradient(layer, p.input()), active if step % 3 == 0 else idle)
        for _ in range(step % 2):  # passes that are no training steps do not count
            layer.eval()
            layer(p.input())
            layer.train()
            with torch.no_grad():
                layer(p.input())


# -- bad input ---------------------------------------------------------------------------------------------------------


@every_rule
@pytest.mark.parametrize(
    ("problem", "shape", "says"),
    [
        ("linear", (7, 4), r"Linear: expected input of shape \(\.\.\., 5\), got \(7, 4\)"),
        ("linear", (), r"Linear: .*got \(\)"),
        ("conv1d", (4, 3, 10), r"Conv1d: expected input of shape \(N, 2, L\) or \(2, L\), got \(4, 3, 10\)"),
        ("conv2d", (4, 3, 6, 5), r"Conv2d: expected input of shape \(N, 2, H, W\).*got \(4, 3, 6, 5\)"),
        ("conv2d", (2, 5), r"Conv2d: .*got \(2, 5\)"),
        ("conv3d", (1, 1, 2, 3, 4, 3), r"Conv3d: expected input of shape \(N, 2, D, H, W\)"),
    ],
)
def test_an_input_of_the_wrong_shape_is_refused_in_words(name, problem, shape, says):
    with pytest.raises(br.errors.ShapeError, match=says):
        PROBLEMS[problem].layer(RULES[name])(torch.zeros(shape, dtype=torch.float64))


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.complex64], ids=str)
def test_an_input_of_the_wrong_dtype_is_refused_in_words(name, dtype):
    p = PROBLEMS["linear"]
    with pytest.raises(br.errors.ShapeError, match=f"expected input of dtype torch.float64.*got {dtype}"):
        p.layer(RULES[name])(torch.zeros(p.shape, dtype=dtype))


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("symetric_alignment", "Did you mean 'symmetric_alignment'"),
        (3, "expected a rule"),
        (br.rules.weight_mirror, r"call it: br\.rules\.weight_mirror\(\)"),
        (DIRECT, "outputs=K"),
    ],
)
@pytest.mark.parametrize("kind", ["Linear", "Conv1d", "Conv2d", "Conv3d"])
def test_a_wrong_rule_is_refused_in_words(kind, rule, says):
    with pytest.raises(br.errors.RuleError, match=says):
        getattr(br.nn, kind)(*((4, 3) if kind == "Linear" else (4, 3, 2)), rule=rule)


@pytest.mark.parametrize("name", ["backprop", "symmetric_alignment", "sign_symmetry", DIRECT])
@pytest.mark.parametrize("other", ["backprop", "symmetric_alignment", "sign_symmetry(fixed_random)", DIRECT])
def test_a_layer_takes_another_rule_only_of_its_kind(name, other):
    layer = PROBLEMS["linear"].layer(RULES[name])
    if name == other:
        layer.rule = RULES[other]
        return
    with pytest.raises(br.errors.RuleError, match="revert"):
        layer.rule = RULES[other]
    assert layer.rule == RULES[name]
    with pytest.raises(br.errors.RuleError):
        layer.rule = "symmetric_alignment, please"


@every_rule
def test_the_layout_in_memory_changes_no_gradient(name: str) -> None:
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        net = small_network(RULES[name]).to(memory_format=layout)
        x, y = batch()
        torch.manual_seed(3)  # of the noise
        F.cross_entropy(net(x.contiguous(memory_format=layout)), y).backward()
        found.append({k: p.grad for k, p in net.named_parameters() if p.grad is not None})
    closely(found[1], found[0])
