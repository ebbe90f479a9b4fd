"""Angles against numpy, and the measurement of a batch against gradients computed by hand and by torch itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from problems import LAYERWISE, OUTPUTS, RULES, batch, small_network
from torch import Tensor, nn

import backroads as br
from backroads.errors import ConfigError, UsageError
from backroads.metrics import (
    Probe,
    angle,
    backprop_mode,
    list_metrics,
    norm_ratio,
    norm_ratios,
    quantities,
    readings,
    register_metric,
    weight_angles,
)
from backroads.metrics.base import _METRICS
from backroads.runs.quantity import Quantity

COMPARABLE = list(LAYERWISE)


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def numpy_angle(a: Any, b: Any) -> float:
    """Degrees, from the definition; good to about 1e-7 degrees away from 0 and 180."""
    u, v = (np.asarray(t, dtype=np.float64).ravel() for t in (a, b))
    return math.degrees(math.acos(u @ v / (np.linalg.norm(u) * np.linalg.norm(v))))


def joined(tensors: Sequence[Tensor]) -> np.ndarray:
    return np.concatenate([t.detach().double().numpy().ravel() for t in tensors])


# --- angle and norm_ratio ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (4, 2, 3, 3)])
def test_identical_tensors_are_at_exactly_0_and_opposite_ones_at_180(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    a = rand(*shape, dtype=dtype)
    assert angle(a, a.clone()) == 0.0
    assert angle(a, -a) == 180.0
    assert norm_ratio(a, a.clone()) == 1.0


def test_orthogonal_tensors_are_at_90() -> None:
    a, b = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.0, 5.0], [6.0, 0.0]])
    assert angle(a, b) == pytest.approx(90, abs=1e-12)


@pytest.mark.parametrize("degrees", [1e-9, 1e-4, 0.5, 30, 45, 89.9, 135, 179.99])
def test_a_known_angle_is_found_whatever_the_lengths(degrees: float) -> None:
    t = math.radians(degrees)
    a, b = torch.tensor([2.0, 0.0]).double(), torch.tensor([math.cos(t), math.sin(t)], dtype=torch.float64) * 1e3
    assert angle(a, b) == pytest.approx(degrees, rel=1e-6, abs=1e-13)
    assert angle(b, a) == angle(a, b)
    assert norm_ratio(a, b) == pytest.approx(2e-3, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_any_dtype_is_computed_in_float64(dtype: torch.dtype) -> None:
    for seed in range(5):
        a, b = rand(6, 50, seed=seed, dtype=dtype), rand(6, 50, seed=seed + 100, dtype=dtype)
        u, v = a.double().numpy(), b.double().numpy()
        assert angle(a, b) == pytest.approx(numpy_angle(u, v), abs=1e-6)
        assert norm_ratio(a, b) == pytest.approx(np.linalg.norm(u) / np.linalg.norm(v), rel=1e-12)


def test_two_dtypes_and_two_memory_layouts_are_read_as_the_same_vector() -> None:
    a = rand(2, 3, 4, 5, dtype=torch.float32)
    assert angle(a, a.double()) == 0.0
    assert angle(a, a.contiguous(memory_format=torch.channels_last)) == 0.0
    assert angle(a.transpose(0, 1), a.transpose(0, 1).contiguous()) == 0.0


@pytest.mark.parametrize("scale", [1e-30, 1e-160, 1e160], ids=str)
def test_tiny_and_huge_tensors_have_directions_too(scale: float) -> None:
    a, b = rand(40), rand(40, seed=1)
    assert angle(a * scale, b) == pytest.approx(numpy_angle(a, b), abs=1e-6)
    assert angle(a * scale, b * scale) == pytest.approx(numpy_angle(a, b), abs=1e-6)
    assert angle(a * scale, a * scale) == 0.0


def test_tiny_float32_tensors_have_directions_and_ratios_too() -> None:
    a, b = rand(40, dtype=torch.float32), rand(40, seed=1, dtype=torch.float32)
    assert angle(a * 1e-30, b * 1e-30) == pytest.approx(numpy_angle(a.double(), b.double()), abs=1e-4)
    assert norm_ratio(a * 1e-30, b) == pytest.approx(1e-30 * norm_ratio(a, b), rel=1e-5)


def test_zero_is_at_90_to_anything_and_at_0_to_zero() -> None:
    zero, a = torch.zeros(5), rand(5)
    assert (angle(zero, a), angle(a, zero), angle(zero, zero)) == (90.0, 90.0, 0.0)
    assert (norm_ratio(zero, a), norm_ratio(a, zero), norm_ratio(zero, zero)) == (0.0, math.inf, 1.0)
    assert (angle([], []), norm_ratio([], [])) == (0.0, 1.0)


def test_lists_are_read_as_one_long_vector() -> None:
    a, b = [rand(3, 4), rand(5, seed=1)], [rand(3, 4, seed=2), rand(5, seed=3)]
    assert angle(a, b) == pytest.approx(numpy_angle(joined(a), joined(b)), abs=1e-6)
    assert norm_ratio(a, b) == pytest.approx(np.linalg.norm(joined(a)) / np.linalg.norm(joined(b)), rel=1e-12)


def test_tensors_of_two_sizes_have_no_angle() -> None:
    with pytest.raises(ValueError, match="5 and 6 elements"):
        angle(torch.ones(5), torch.ones(6))


# --- weight_angles and norm_ratios ---


def feedback(layer: br.nn.AlignedLayer) -> Tensor:
    """B of the rules whose B is fixed by what the layer keeps, from their definition."""
    W = layer.weight.detach()
    if isinstance(layer.rule, br.Alignment):
        return layer.backward_weight.detach()
    if layer.rule == RULES["mirrored_kolen_pollack"]:
        return (layer.backward_weight + layer.correction).detach()
    if layer.rule == RULES["backprop"]:
        return W
    if layer.rule == RULES["product_feedback_alignment"]:  # no groups here
        return (layer.fixed_weight[0] @ layer.learned_weight.flatten(1)).detach().view_as(W)
    if layer.rule == RULES["sign_symmetry(initial)"]:
        return layer.sign_scale * W.sign()
    B = W.sign() * (layer.sign_magnitude if layer.rule == RULES["sign_symmetry(fixed_random)"] else 1)
    gains = [float((w @ w) / (w @ b)) for w, b in zip(W.flatten(1), B.flatten(1), strict=True)]
    return B * torch.tensor(gains, dtype=W.dtype).view(-1, *[1] * (W.dim() - 1))


@pytest.mark.parametrize("name", [name for name in COMPARABLE if name != "sign_symmetry(batch_random)"])
def test_weight_angles_and_ratios_are_those_of_each_layers_two_weights(name: str) -> None:
    model = small_network(RULES[name])
    angles, ratios = weight_angles(model), norm_ratios(model)
    layers = dict(br.aligned_layers(model))
    assert list(angles) == list(ratios) == list(layers) == ["0", "2", "6", "8"]
    for key, layer in layers.items():
        W, B = layer.weight.detach(), feedback(layer)
        expected = 0.0 if name == "backprop" else numpy_angle(B, W)
        assert angles[key] == pytest.approx(expected, abs=1e-6)
        assert ratios[key] == pytest.approx(np.linalg.norm(B) / np.linalg.norm(W), rel=1e-12)


def test_magnitudes_drawn_anew_still_share_the_signs_and_leave_the_random_state() -> None:
    model, state = small_network("backprop"), torch.get_rng_state()
    br.convert(br.revert(model), RULES["sign_symmetry(batch_random)"])
    assert all(0 < a < 90 for a in weight_angles(model).values())
    assert all(r > 0 for r in norm_ratios(model).values())
    assert torch.equal(torch.get_rng_state(), state)


def test_direct_feedback_has_no_backward_weight_to_compare_and_other_layers_still_do() -> None:
    assert weight_angles(small_network(RULES["direct_feedback_alignment"])) == {}
    mixed = small_network({"0": RULES["direct_feedback_alignment"], "*": "symmetric_alignment"})
    assert list(weight_angles(mixed)) == list(norm_ratios(mixed)) == ["2", "6", "8"]


# --- readings ---

OF_B = ("weight_angle", "norm_ratio", "projection_angle", "gradient_angle", "gradient_norm_ratio")


def measure(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, dict[str, float]]:
    return readings(model, loss, list_metrics())


def task(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    return lambda: F.cross_entropy(model(x), y)


def align(model: nn.Module) -> nn.Module:
    """B = W by hand."""
    with torch.no_grad():
        for _, layer in br.aligned_layers(model):
            layer.backward_weight.copy_(layer.weight)
    return model


def with_dropout(rule: Any, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """small_network with dropout between its layers, channelwise and elementwise."""
    net = br.revert(small_network("backprop", dtype, seed))
    net[4] = nn.Sequential(net[4], nn.Dropout2d(0.3))
    net[7] = nn.Sequential(net[7], nn.Dropout(0.5))
    return br.convert(net, rule, generator=seed)


@pytest.mark.parametrize("make", [small_network, with_dropout])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rule", ["feedback_alignment", "symmetric_alignment", "all five primitives"])
def test_an_aligned_network_is_at_0_degrees_and_ratio_1_everywhere(rule: str, dtype: torch.dtype, make: Any) -> None:
    model = align(make(RULES[rule], dtype)).train()
    result = measure(model, task(model, *batch(dtype=dtype)))
    rounding = math.degrees(1e4 * torch.finfo(dtype).eps)  # the updates may be summed in another order
    assert list(result["update_angle"]) == ["0", "2", "6", "8", ""]
    assert all(degrees < rounding for degrees in result["update_angle"].values())
    for name in OF_B:
        assert result[name] == dict.fromkeys(("0", "2", "6", "8"), 1.0 if name.endswith("ratio") else 0.0)


def test_backprop_is_at_0_degrees_by_definition() -> None:
    model = small_network("backprop")
    result = measure(model, task(model, *batch()))
    layers = ("0", "2", "6", "8")
    assert result == {
        **{name: dict.fromkeys(layers, 1.0 if name.endswith("ratio") else 0.0) for name in OF_B},
        "update_angle": dict.fromkeys((*layers, ""), 0.0),
    }


def test_a_network_of_two_layers_is_measured_as_computed_by_hand() -> None:
    """Every number from numpy: y1 = W1 x + b1, a = tanh y1, y2 = W2 a + b2, mean square error."""
    model = br.convert(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double(), "feedback_alignment")
    x, t = rand(7, 5), rand(7, 3, seed=1)
    result = measure(model, lambda: 0.5 * (model(x) - t).square().sum() / 7)

    W1, B1, b1, W2, B2, b2 = (
        p.detach().numpy() for layer in (model[0], model[2]) for p in (layer.weight, layer.backward_weight, layer.bias)
    )
    x, t = x.numpy(), t.numpy()
    a = np.tanh(x @ W1.T + b1)
    dy2 = (a @ W2.T + b2 - t) / 7
    dy1, true_dy1 = (dy2 @ B2) * (1 - a**2), (dy2 @ W2) * (1 - a**2)
    dW1, true_dW1 = dy1.T @ x, true_dy1.T @ x
    unchanged = [dy2.T @ a, dy2.sum(0)]  # of the last layer, whose error has not come through any B

    expected = {
        "weight_angle": (numpy_angle(B1, W1), numpy_angle(B2, W2)),
        "projection_angle": (numpy_angle(x @ B1.T, x @ W1.T), numpy_angle(a @ B2.T, a @ W2.T)),
        "gradient_angle": (numpy_angle(dy1 @ B1, dy1 @ W1), numpy_angle(dy2 @ B2, dy2 @ W2)),
        "norm_ratio": tuple(np.linalg.norm(B) / np.linalg.norm(W) for B, W in ((B1, W1), (B2, W2))),
        "gradient_norm_ratio": tuple(
            np.linalg.norm(dy @ B) / np.linalg.norm(dy @ W) for dy, B, W in ((dy1, B1, W1), (dy2, B2, W2))
        ),
    }
    for name, pair in expected.items():
        assert result[name] == pytest.approx(dict(zip(("0", "2"), pair, strict=True)), rel=1e-9), name
    assert result["update_angle"]["0"] == pytest.approx(numpy_angle(dW1, true_dW1), abs=1e-6)
    assert result["update_angle"]["2"] == pytest.approx(0, abs=1e-9)
    update, true_update = (
        np.concatenate([g.ravel() for g in (dW, dy.sum(0), *unchanged)])
        for dW, dy in ((dW1, dy1), (true_dW1, true_dy1))
    )
    assert result["update_angle"][""] == pytest.approx(numpy_angle(update, true_update), abs=1e-6)


@pytest.mark.parametrize(
    "bare",
    [
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, 3, groups=2, dilation=2),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
    ],
    ids=["strided", "in groups", "circular"],
)
def test_a_convolution_is_measured_as_torchs_own_with_each_of_the_two_weights(bare: nn.Conv2d) -> None:
    layer = br.convert(copy.deepcopy(bare).double(), "feedback_alignment", generator=0)
    x = rand(3, bare.in_channels, 7, 6)
    probe = rand(*layer(x).shape, seed=1)
    measured = {name: by_layer[""] for name, by_layer in measure(layer, lambda: (layer(x) * probe).sum()).items()}

    # The layer's activity is what its kernel sees: with circular padding, the padded input.
    circular = bare.padding_mode == "circular"
    seen = F.pad(x, (1, 1, 1, 1), mode="circular") if circular else x
    seen = seen.clone().requires_grad_()
    outputs, errors = [], []
    for weight in (layer.backward_weight, layer.weight):
        y = F.conv2d(seen, weight, None, bare.stride, 0 if circular else bare.padding, bare.dilation, bare.groups)
        outputs.append(y.detach())
        errors += torch.autograd.grad(y, seen, probe)
    assert measured["projection_angle"] == pytest.approx(numpy_angle(*outputs), abs=1e-6)
    assert measured["gradient_angle"] == pytest.approx(numpy_angle(*errors), abs=1e-6)
    assert measured["gradient_norm_ratio"] == pytest.approx(float(errors[0].norm() / errors[1].norm()), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *((name, small_network) for name in RULES if name != "backprop"),
        # Ordinary passes whose rule draws in the forward pass have other masks, so there is nothing to compare with.
        *((name, with_dropout) for name in RULES if name not in ("backprop", "sign_symmetry(batch_random)")),
    ],
)
def test_update_angles_are_those_between_ordinary_backward_passes_of_this_and_of_the_plain_network(
    name: str, make: Any
) -> None:
    model = make(RULES[name])
    x, y = batch()
    weights = dict(br.revert(make(RULES[name])).named_parameters())

    def gradients(net: nn.Module) -> dict[str, Tensor]:
        torch.manual_seed(11)
        F.cross_entropy(net(x), y).backward()
        return {n: p.grad for n, p in net.named_parameters() if n in weights}

    own, true = gradients(copy.deepcopy(model)), gradients(br.revert(copy.deepcopy(model)))
    torch.manual_seed(11)
    result = measure(model, task(model, x, y))
    assert result["update_angle"][""] > 1
    whole = numpy_angle(joined(list(own.values())), joined(list(true.values())))
    assert result["update_angle"][""] == pytest.approx(whole, abs=1e-6)
    for key, _ in br.aligned_layers(model):
        expected = angle(own[f"{key}.weight"], true[f"{key}.weight"])
        assert result["update_angle"][key] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("make", [small_network, with_dropout])
@pytest.mark.parametrize("name", [name for name in RULES if name != "all five, update_forward"])
def test_the_last_layer_gets_the_update_of_backprop_because_its_error_came_through_no_backward_weight(
    name: str, make: Any
) -> None:
    model = make(RULES[name])
    result = measure(model, task(model, *batch()))
    assert result["update_angle"]["8"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("stacked", [True, False])
def test_each_projection_of_attention_has_the_angle_of_its_own_update(stacked: bool) -> None:
    """Where torch stacks the weights of query, key and value, each is compared by its own rows."""
    kdim, vdim = (4, 4) if stacked else (3, 5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = nn.MultiheadAttention(4, 2, batch_first=True, kdim=kdim, vdim=vdim, dtype=torch.float64)
    seen, goal = [rand(3, 5, n, seed=n) for n in (4, kdim, vdim)], rand(3, 5, 4)
    model = br.convert(copy.deepcopy(plain), "feedback_alignment", generator=0)

    def loss(net: nn.Module) -> Tensor:
        return ((net(*seen)[0] - goal) ** 2).mean()

    def gradients(net: nn.Module) -> dict[str, Tensor]:
        loss(net).backward()
        return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}

    own, true = gradients(copy.deepcopy(model)), gradients(plain)
    found = readings(model, lambda: loss(model))["update_angle"]
    for place, name in enumerate("qkv"):
        key, rows = (
            ("in_proj_weight", slice(4 * place, 4 * place + 4)) if stacked else (f"{name}_proj_weight", slice(4))
        )
        assert found[name] == pytest.approx(numpy_angle(own[key][rows], true[key][rows]), abs=1e-6)
    assert len({round(found[name], 6) for name in "qkv"}) == 3
    assert found["out_proj"] == pytest.approx(0, abs=1e-6)


def test_what_training_does_not_reach_is_at_a_right_angle_to_backpropagation() -> None:
    """An update of zeros has no direction: it counts as 90 degrees, and as nothing in the whole network's."""
    model = small_network("backprop")
    x, y = batch()

    def head_only() -> Tensor:
        return F.cross_entropy(model[8](model[:8](x).detach()), y)

    found = readings(model, lambda: F.cross_entropy(model(x), y), objective=head_only)["update_angle"]
    assert {name: found[name] for name in ("0", "2", "6")} == dict.fromkeys(("0", "2", "6"), pytest.approx(90))
    assert found["8"] == pytest.approx(0, abs=1e-6)
    F.cross_entropy(model(x), y).backward()
    whole = {name: p.grad for name, p in model.named_parameters()}
    head = sum(float(grad.square().sum()) for name, grad in whole.items() if name.startswith("8."))
    everything = sum(float(grad.square().sum()) for grad in whole.values())
    assert found[""] == pytest.approx(math.degrees(math.acos(math.sqrt(head / everything))), abs=1e-6)


def test_direct_feedback_is_measured_by_its_updates_alone() -> None:
    model = small_network(RULES["direct_feedback_alignment"])
    result = measure(model, task(model, *batch()))
    assert list(result) == ["update_angle"]
    assert list(result["update_angle"]) == ["0", "2", "6", "8", ""]
    assert result["update_angle"]["0"] > 1


def test_a_mixed_network_has_numbers_where_weights_compare() -> None:
    model = small_network({"0": RULES["direct_feedback_alignment"], "*": "feedback_alignment"})
    result = measure(model, task(model, *batch()))
    assert all(list(result[name]) == ["2", "6", "8"] for name in OF_B)
    assert result["weight_angle"]["2"] == weight_angles(model)["2"]


# --- and leaves everything as it was ---


def everything(model: nn.Module) -> dict[str, Any]:
    """All that training could change."""
    return {
        "tensors": {n: t.detach().clone() for n, t in (*model.named_parameters(), *model.named_buffers())},
        "grads": {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "training": {n: m.training for n, m in model.named_modules()},
        "hooks": {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in model.named_modules()},
        "counters": {n: t for n, t in model.state_dict().items() if n.endswith("rule_memory")},
        "random": torch.get_rng_state(),
    }


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


MEASURED = {
    **RULES,
    "every third step": br.Alignment(0.1, 0.2, cadence=br.Cadence(3)),
    "noise": br.Alignment(0.1, 0.2, drive=br.WhiteNoise(std=1.0)),
    "a late W": br.Alignment(decay=0.1, self_=0.1, view=br.WeightEstimate(delay_steps=3)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MEASURED)
def test_measuring_leaves_everything_as_it_was(name: str, training: bool) -> None:
    model = with_dropout(MEASURED[name]).train(training)
    x, y = batch()
    F.cross_entropy(model(x), y).backward()  # there are gradients, statistics and counts to lose
    before, identities = everything(model), [id(t) for t in (*model.parameters(), *model.buffers())]
    measure(model, task(model, x, y))
    assert_same(everything(model), before)
    assert [id(t) for t in (*model.parameters(), *model.buffers())] == identities
    assert before["tensors"]["3.num_batches_tracked"] == (1 if training else 0)
    counted = name in ("every third step", "a late W", "mirrored_kolen_pollack")
    assert len(before["counters"]) == (4 if counted else 0)


@pytest.mark.parametrize(
    "rule",
    [br.Alignment(0.1, 0.2, cadence=br.Cadence(2), drive=br.WhiteNoise()), MEASURED["a late W"]],
    ids=repr,
)
def test_training_goes_on_after_measuring_as_if_it_had_not_been(rule: br.FeedbackRule) -> None:
    def train(measuring: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = with_dropout(rule)
        x, y = batch()
        for _ in range(3):
            if measuring:
                measure(model, task(model, x, y))
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.1 * p.grad
        return [*model.parameters(), *model.buffers()]

    assert all(torch.equal(a, b) for a, b in zip(train(True), train(False), strict=True))


@pytest.mark.parametrize("fails_in", [1, 2], ids=["first pass", "second pass"])
def test_a_loss_that_raises_leaves_everything_as_it_was(fails_in: int) -> None:
    model, (x, y) = with_dropout(MEASURED["every third step"]), batch()
    before, calls = everything(model), iter((1, 2))

    def loss() -> Tensor:
        out = model(x)
        if next(calls) == fails_in:
            raise ZeroDivisionError
        return F.cross_entropy(out, y)

    with pytest.raises(ZeroDivisionError):
        measure(model, loss)
    assert_same(everything(model), before)
    assert weight_angles(model)["8"] > 1, "backprop mode is over"
    F.cross_entropy(model(x), y).backward()
    assert model[8].backward_weight.grad is not None


def test_in_backprop_mode_every_layer_is_torchs_own_and_nothing_is_taught() -> None:
    model, (x, y) = small_network(RULES["all five primitives"]), batch()
    plain = br.revert(copy.deepcopy(model))
    F.cross_entropy(plain(x), y).backward()
    with backprop_mode(model):
        F.cross_entropy(model(x), y).backward()
    forward = br.forward_parameters(model)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(forward, plain.parameters(), strict=True))
    assert all(B.grad is None for B in br.backward_parameters(model))


# --- the table of metrics, and what a reading needs ---


def test_a_metric_of_ones_own_is_registered_once_and_read_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backroads.metrics.base._METRICS._entries", dict(_METRICS._entries))
    about = Quantity("zeros in W", about="Fraction of the entries of W that are 0.")

    @br.register_metric("zeros", about, needs_batch=False, logged=True)
    def zeros(probe: Probe) -> dict[str, float]:
        return {name: float((layer.weight == 0).double().mean()) for name, layer in probe.layers.items()}

    model = small_network("feedback_alignment")
    with torch.no_grad():
        model[8].weight[0] = 0
    assert readings(model, metrics=["zeros"]) == {"zeros": {"0": 0, "2": 0, "6": 0, "8": pytest.approx(1 / OUTPUTS)}}
    assert quantities(["zeros"]) == {"zeros": about}
    assert list(readings(model)) == ["weight_angle", "norm_ratio", "zeros"]
    assert list(quantities()) == [
        "weight_angle",
        "norm_ratio",
        "gradient_angle",
        "predicted_angle",
        "update_angle",
        "zeros",
    ]
    with pytest.raises(ConfigError, match="'zeros' is already taken"):
        register_metric("zeros", about)(zeros.compute)


def test_an_unknown_metric_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown metric 'weight_angel'. Did you mean 'weight_angle'"):
        readings(small_network("backprop"), metrics=["weight_angel"])


def test_without_a_batch_only_the_weights_are_read() -> None:
    model = small_network("feedback_alignment")
    assert readings(model) == {"weight_angle": weight_angles(model), "norm_ratio": norm_ratios(model)}
    with pytest.raises(UsageError, match="expected a loss"):
        readings(model, objective=lambda: torch.zeros(()))


def test_by_default_a_reading_is_two_passes_and_every_number_is_defined() -> None:
    model, (x, y), passes = small_network("feedback_alignment"), batch(), []

    def loss() -> Tensor:
        passes.append(None)
        return F.cross_entropy(model(x), y)

    assert list(readings(model, loss)) == ["weight_angle", "norm_ratio", "gradient_angle", "update_angle"]
    assert len(passes) == 2
    passes.clear()
    measure(model, loss)
    assert len(passes) == 2
    assert all(q.title and q.about for q in quantities(list_metrics()).values())


def test_an_objective_of_a_methods_own_is_compared_with_backpropagation_of_the_loss() -> None:
    """Training on twice one loss plus a penalty of W, on a plain network, against the gradients of the loss alone."""
    model, (x, y) = br.revert(small_network("backprop")), batch()

    def loss() -> Tensor:
        return F.cross_entropy(model(x), y)

    def objective() -> Tensor:
        return 2 * loss() + model[6].weight.square().sum()

    found = readings(model, loss, objective=objective)
    own, true = (
        dict(zip(dict(model.named_parameters()), torch.autograd.grad(f(), [*model.parameters()]), strict=True))
        for f in (objective, loss)
    )
    expected = dict.fromkeys(("0", "2", "8"), 0.0) | {"6": numpy_angle(own["6.weight"], true["6.weight"])}
    expected[""] = numpy_angle(joined([*own.values()]), joined([*true.values()]))
    assert found["update_angle"] == pytest.approx(expected, abs=1e-5)
    assert expected["6"] > 1
    assert list(found) == ["update_angle"]  # there is no B


def test_two_backward_passes_through_one_use_of_a_layer_are_two_errors() -> None:
    torch.manual_seed(0)
    layer = br.convert(nn.Sequential(nn.Linear(4, 3)), "feedback_alignment")[0].double()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    first, second = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)

    def objective() -> Tensor:
        y = layer(x)
        torch.autograd.grad(y, x, first, retain_graph=True)
        return (y * second).sum()

    found = br.metrics.readings(layer, objective, ["gradient_angle"])["gradient_angle"]
    W, B = layer.weight.detach(), layer.backward_weight.detach()
    both = torch.cat([first, second])
    expected = torch.rad2deg(F.cosine_similarity((both @ W).flatten(), (both @ B).flatten(), dim=0).acos())
    assert list(found.values()) == [pytest.approx(float(expected))]


def test_a_loss_that_reaches_no_parameter_has_no_angles() -> None:
    model, (x, y) = small_network("feedback_alignment").requires_grad_(False), batch()
    assert readings(model, task(model, x, y), ["update_angle", "gradient_angle"]) == {}


# --- corners ---


def test_a_dead_layer_is_measured_without_nan() -> None:
    model = small_network("feedback_alignment")
    with torch.no_grad():
        model[6].bias.fill_(-1e3)  # nothing passes its ReLU, forward or back
    result = measure(model, task(model, *batch()))
    dead = [result[name]["6"] for name in ("gradient_angle", "gradient_norm_ratio", "update_angle")]
    assert dead == [0.0, 1.0, 0.0]
    assert (result["projection_angle"]["8"], result["update_angle"]["0"]) == (0.0, 0.0)
    assert all(math.isfinite(v) for by_layer in result.values() for v in by_layer.values())
    assert result["update_angle"][""] == pytest.approx(0, abs=1e-6)  # only the last bias has a gradient, and the same


def test_a_backward_weight_of_zero_is_measured_without_nan() -> None:
    model = small_network("feedback_alignment")
    with torch.no_grad():
        model[8].backward_weight.zero_()
    result = measure(model, task(model, *batch()))
    assert [result[name]["8"] for name in OF_B] == [90.0, 0.0, 90.0, 90.0, 0.0]
    assert result["update_angle"]["0"] == 90.0  # nothing arrives, where backprop brings something


def test_a_layer_that_is_not_used_is_measured_by_its_weights_alone() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 3), "idle": nn.Linear(3, 3)})
    br.convert(model, "feedback_alignment")
    x = rand(4, 3, dtype=torch.float32)
    result = measure(model, lambda: model["used"](x).square().sum())
    assert result["weight_angle"]["idle"] == weight_angles(model)["idle"]
    assert all(list(result[name]) == ["used"] for name in ("projection_angle", "gradient_angle"))
    assert list(result["update_angle"]) == ["used", ""]
    assert result["projection_angle"]["used"] > 1


def test_a_shared_layer_is_measured_over_all_its_uses() -> None:
    shared = nn.Linear(4, 4).double()
    model = br.convert(nn.Sequential(shared, nn.Tanh(), shared), "feedback_alignment", generator=0)
    x, probe = rand(5, 4), rand(5, 4, seed=1)
    result = measure(model, lambda: (model(x) * probe).sum())
    measured = {name: by_layer["0"] for name, by_layer in result.items()}
    assert list(result["weight_angle"]) == ["0"]

    W, B, b = (p.detach().numpy() for p in (shared.weight, shared.backward_weight, shared.bias))
    x, dy2 = x.numpy(), probe.numpy()
    a = np.tanh(x @ W.T + b)
    dy1, true_dy1 = (dy2 @ B) * (1 - a**2), (dy2 @ W) * (1 - a**2)
    inputs, errors = np.stack([x, a]), np.stack([dy1, dy2])
    assert measured["projection_angle"] == pytest.approx(numpy_angle(inputs @ B.T, inputs @ W.T), abs=1e-6)
    assert measured["gradient_angle"] == pytest.approx(numpy_angle(errors @ B, errors @ W), abs=1e-6)
    update, true_update = dy1.T @ x + dy2.T @ a, true_dy1.T @ x + dy2.T @ a
    assert measured["update_angle"] == pytest.approx(numpy_angle(update, true_update), abs=1e-6)


def test_frozen_parameters_are_no_part_of_the_update() -> None:
    model = small_network("feedback_alignment")
    for name in ("0", "2", "6"):
        model.get_submodule(name).requires_grad_(False)
    model[3].requires_grad_(False)
    result = measure(model, task(model, *batch()))
    assert result["update_angle"][""] == pytest.approx(0, abs=1e-6)  # of the last layer alone
    assert list(result["update_angle"]) == ["8", ""]
    assert result["weight_angle"]["0"] > 1


def test_inputs_that_need_gradients_and_unbatched_ones_are_measured() -> None:
    layer = br.convert(nn.Linear(4, OUTPUTS).double(), "feedback_alignment")
    x = rand(4).requires_grad_()
    measured = {name: by_layer[""] for name, by_layer in measure(layer, lambda: layer(x).square().sum()).items()}
    W, B = layer.weight.detach(), layer.backward_weight.detach()
    assert measured["projection_angle"] == pytest.approx(numpy_angle(B @ x.detach(), W @ x.detach()), abs=1e-6)
    assert x.grad is None
