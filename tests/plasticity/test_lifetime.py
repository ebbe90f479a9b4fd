"""What a lifetime is: its formulas, its meta-gradient under every option, and that it is local."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from plasticity.networks import SIZES, network, stream
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from backroads.errors import ShapeError, UsageError
from backroads.plasticity import compiled
from backroads.plasticity.lifetime import Stream, lifetime, loss_of, predict
from backroads.plasticity.polynomial import hebb, oja, polynomial_update
from backroads.plasticity.rule import LocalRule
from backroads.plasticity.update import plastic_update

# name: (fields of the rule, of the network, of the stream)
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "oja": ({}, {}, {}),
    "hebb": ({"rule": "hebb"}, {}, {}),
    "target": ({"signal": "target"}, {}, {}),
    "labels, target": ({"signal": "target", "output_shift": "signal"}, {}, {"labels": True}),
    "labels, error": ({"output_shift": "signal"}, {}, {"labels": True}),
    "labels, feedback to the output": ({"signal": "target"}, {}, {"labels": True}),
    "two feedback layers": ({}, {"feedback_layers": 2}, {}),
    "three feedback layers, target": ({"signal": "target"}, {"feedback_layers": 3}, {}),
    "linear feedback": ({"linear_feedback": True}, {}, {}),
    "by neuron": ({}, {"plasticity": "neuron"}, {}),
    "by layer": ({}, {"plasticity": "layer"}, {}),
    "one for the network": ({}, {"plasticity": "network"}, {}),
    "by neuron, hebb": ({"rule": "hebb"}, {"plasticity": "neuron"}, {}),
    "by layer, hebb": ({"rule": "hebb"}, {"plasticity": "layer"}, {}),
    "one for the network, hebb": ({"rule": "hebb"}, {"plasticity": "network"}, {}),
    "one frozen": ({"frozen_layers": 1}, {}, {}),
    "output only": ({"plastic_layers": "output"}, {}, {}),
    "nowhere": ({"plastic_layers": "none"}, {}, {}),
    "no feedback": ({"hidden_shift": "none", "output_shift": "none"}, {}, {}),
    "feedback to the output only": ({"hidden_shift": "none"}, {}, {}),
    "absolute_signal": ({"absolute_signal": True}, {}, {}),
    "relu gate": ({"gate": "relu"}, {}, {}),
    "sign gate": ({"gate": "sign"}, {}, {}),
    "hidden_multiplier": ({"hidden_multiplier": 3.0}, {}, {}),
    "mean over samples": ({"reduction": "mean"}, {}, {}),
    "over the power": ({"reduction": "power"}, {}, {}),
    "over the power, hebb": ({"reduction": "power", "rule": "hebb"}, {"plasticity": "layer"}, {}),
    "polynomial": ({"rule": "polynomial"}, {"coefficients": True}, {}),
    "polynomial, no feedback": (
        {"rule": "polynomial", "hidden_shift": "none", "output_shift": "signal", "reduction": "mean"},
        {"coefficients": True, "plasticity": "layer"},
        {"labels": True},
    ),
    "gradient": ({"rule": "gradient", "inner_lr": 0.1}, {"plasticity": "none"}, {}),
    "gradient, labels": ({"rule": "gradient", "frozen_layers": 1}, {"plasticity": "none"}, {"labels": True}),
    "gradient, rates": ({"rule": "gradient"}, {"rates_of_biases": True}, {}),
    "gradient, rates by layer": ({"rule": "gradient"}, {"plasticity": "layer", "rates_of_biases": True}, {}),
    "gradient, one rate": ({"rule": "gradient"}, {"plasticity": "network", "rates_of_biases": True}, {}),
    "gradient, clipped": ({"rule": "gradient", "inner_lr": 0.1, "inner_clip": 0.3}, {"plasticity": "none"}, {}),
    "gradient, clipped, rates": ({"rule": "gradient", "inner_clip": 0.3}, {"rates_of_biases": True}, {}),
    "gradient, output only": ({"rule": "gradient", "plastic_layers": "output"}, {"plasticity": "none"}, {}),
}


@pytest.fixture
def compiler() -> None:
    if compiled.library() is None:
        pytest.skip("no C++ compiler")


def meta_loss(meta: dict[str, Tensor], rule: LocalRule, seen: Stream, query: Stream, segments: int = 1) -> Tensor:
    weights, _ = lifetime(meta, seen, rule, checkpoint_segments=segments)
    return loss_of(predict(meta, weights, query.x[:, 0]), query.y[:, 0]).sum()


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("name", OPTIONS)
def test_meta_gradients_are_central_differences(name: str, segments: int) -> None:
    fields, of_network, of_stream = OPTIONS[name]
    rule, meta = LocalRule(**fields), network(**of_network)
    seen, query = stream(**of_stream), stream(steps=1, samples=5, seed=2, **of_stream)
    names = list(meta)
    found = torch.autograd.grad(
        meta_loss(meta, rule, seen, query, segments), list(meta.values()), allow_unused=True, materialize_grads=True
    )
    generator, step = torch.Generator().manual_seed(3), 1e-6
    with torch.no_grad():
        for parameter, gradient in zip(names, found, strict=True):
            direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
            direction /= direction.norm()
            ends = [
                meta_loss({**meta, parameter: meta[parameter] + sign * step * direction}, rule, seen, query)
                for sign in (1, -1)
            ]
            difference = (ends[0] - ends[1]) / (2 * step)
            torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-5, atol=1e-7, msg=parameter)


COMPILED = [
    name
    for name, (rule, of_network, of_stream) in OPTIONS.items()
    if not {"signal", "gate"} & {*rule}
    and rule.get("rule", "hebb") == "hebb"
    and rule.get("plastic_layers") != "none"
    and "feedback_layers" not in of_network
    and not of_stream
]


@pytest.mark.parametrize("name", [name for name, (rule, _, _) in OPTIONS.items() if rule.get("rule") == "gradient"])
def test_the_meta_gradient_of_descent_written_out_is_autograds(name: str) -> None:
    """Of weights that each lifetime has of its own, of inputs and targets too. Whoever observes gets it by autograd."""
    fields, of_network, of_stream = OPTIONS[name]
    found = []
    for observe in (None, lambda k, weights: None):
        meta, (x, y) = network(**of_network), stream(2, 6, **of_stream)
        start = {**meta, "W1": torch.stack([meta["W1"], 1.5 * meta["W1"]])}
        given = {**meta, "x": x.requires_grad_()} | ({"y": y.requires_grad_()} if y.is_floating_point() else {})
        weights, outputs = lifetime(start, Stream(x, y), LocalRule(**fields), observe=observe)
        assert all(("_Live" in W.grad_fn.name()) == (observe is None) for W in weights.values())
        query = stream(seed=5, **of_stream)
        loss_of(predict(start, weights, query.x[:, 0]), query.y[:, 0]).sum().backward()
        found.append((weights, outputs, {key: tensor.grad for key, tensor in given.items()}))
    torch.testing.assert_close(found[0], found[1], rtol=1e-11, atol=1e-14)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(("sizes", "samples"), [(SIZES, 8), ((17, 40, 24, 8, 3), 24)])
@pytest.mark.parametrize("own_start", [False, True])
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_steps_are_those_that_are_defined(
    name: str, own_start: bool, sizes: tuple[int, ...], samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, outputs and meta-gradients, of the inputs too, of six steps. Whoever observes gets them as defined."""
    monkeypatch.setattr(compiled, "CACHE", 1)  # segments of four steps
    fields, of_network, of_stream = OPTIONS[name]
    rule, found, steps = LocalRule(**fields), [], 6
    for observe in (None, lambda k, weights: None):
        meta, (x, y) = (
            network(sizes, scale=0.15 / samples**2, **of_network),
            stream(2, steps, samples, sizes=sizes, **of_stream),
        )
        start = dict(meta)
        if own_start:
            start["W1"] = torch.stack([meta["W1"], 1.5 * meta["W1"]])
        x.requires_grad_()
        weights, outputs = lifetime(start, Stream(x, y), rule, observe=observe)
        assert all(hasattr(W.grad_fn, "arrays") == (observe is None) for W in weights.values())
        query = stream(sizes=sizes, seed=5, **of_stream)
        loss_of(predict(start, weights, query.x[:, 0]), query.y[:, 0]).sum().backward()
        gradients = {name: tensor.grad for name, tensor in {**meta, "x": x}.items()}
        found.append((dict(weights), outputs, gradients))
    torch.testing.assert_close(found[0], found[1], rtol=1e-11, atol=1e-13)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("lifetimes", "rtol"), [(1, 1e-11), (5, 0.0)]
)  # only a lifetime on several threads sums otherwise
@pytest.mark.parametrize("name", ["oja", "over the power", "absolute_signal", "no feedback"])
def test_on_any_number_of_threads_compiled_steps_are_the_same(name: str, lifetimes: int, rtol: float) -> None:
    found, before, sizes = [], torch.get_num_threads(), (17, 70, 24, 3)
    fields, of_network, _ = OPTIONS[name]
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            meta = network(sizes, scale=1e-4, **of_network)
            weights, outputs = lifetime(meta, stream(lifetimes, 40, 8, sizes=sizes), LocalRule(**fields))
            assert all(hasattr(W.grad_fn, "arrays") for W in weights.values())
            sum(W.square().sum() for W in weights.values()).backward()
            found.append((weights, outputs, {name: value.grad for name, value in meta.items()}))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[0], found[1], rtol=rtol, atol=rtol)


def test_without_a_compiler_steps_are_taken_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    meta, seen, found = network(scale=1e-3), stream(2, 6, 8), []
    for library in (compiled.library, lambda: None):
        monkeypatch.setattr(compiled, "library", library)
        found.append(lifetime(meta, seen, LocalRule()))
    assert not any(hasattr(W.grad_fn, "arrays") for W in found[1][0].values())
    torch.testing.assert_close(found[0], found[1], rtol=1e-11, atol=1e-13)


def test_who_counts_operations_sees_all_of_them() -> None:
    """Of a step of m samples, two products of m x n_in x n_out in each layer."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        lifetime(network(), stream(1, 6, 8), LocalRule(hidden_shift="none", output_shift="none"))
    products = sum(a * b for a, b in itertools.pairwise(SIZES))
    assert counter.get_total_flops() == 6 * 2 * 2 * 8 * products


@pytest.mark.parametrize("body", ["exit 1", "echo no library > $(echo $* | sed 's/.* -o //')"])
def test_a_compiler_that_fails_is_none(body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with an error, or makes a file that cannot be loaded."""
    for name in ("c++", "g++", "clang++"):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("CXX", raising=False)
    assert compiled.library.__wrapped__() is None


def test_nothing_is_compiled_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert compiled.library.__wrapped__() is None


@pytest.mark.parametrize("shift", ["feedback", "signal", "none"])
@pytest.mark.parametrize(("name", "point"), [("hebb", hebb), ("oja", oja)])
def test_hebb_and_oja_are_points_of_the_polynomial(name: str, point: Callable[[float], Tensor], shift: str) -> None:
    meta, seen, n = {name: value.detach() for name, value in network().items()}, stream(), len(SIZES) - 1
    fields: dict[str, Any] = {"output_shift": shift, "hidden_shift": "none" if shift == "none" else "feedback"}
    plain, _ = lifetime(meta, seen, LocalRule(rule=name, **fields))
    s = {"feedback": float(meta[f"s{n - 1}"]), "signal": 1.0, "none": 0.0}[shift]
    theta = {f"t{layer}": point(0.0 if shift == "none" else float(meta[f"s{layer}"])) for layer in range(n)}
    theta[f"t{n - 1}"] = point(s)
    with_theta = meta | {key: value.double() for key, value in theta.items()}
    found, _ = lifetime(with_theta, seen, LocalRule(rule="polynomial", **fields))
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=1e-8)  # s is rounded to float32 in theta


def test_a_polynomial_is_the_sum_of_its_products() -> None:
    """Synapse by synapse, sample by sample."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    W, P, x, z, f, theta = draw(1, 2, 3), draw(2, 3), draw(1, 4, 3), draw(1, 4, 2), draw(1, 4, 2), draw(6, 2, 2)
    found = polynomial_update(W, P, x, z, f, theta, mu=0.5)
    for i, j in itertools.product(range(2), range(3)):
        change = 0.0
        for m in range(4):
            a, b, c, w = (float(v) for v in (z[0, m, i], f[0, m, i], x[0, m, j], W[0, i, j]))
            for k, phi in enumerate((1.0, a, b, a * a, a * b, b * b)):
                change += sum(float(theta[k, n, p]) * phi * c**n * w**p for n in (0, 1) for p in (0, 1))
        assert float(found[0, i, j]) == pytest.approx(float(W[0, i, j] + 0.5 * P[i, j] * change), rel=1e-12)


def test_the_meta_gradient_of_a_detached_error_is_that_of_a_constant() -> None:
    meta, seen, query = network(), stream(steps=1), stream(steps=1, seed=2)
    with torch.no_grad():
        error = seen.y - predict(meta, {}, seen.x[:, 0])[:, None]
    # A target of the same value is the same signal, without a graph.
    constant = Stream(seen.x, error)
    names = [name for name in meta if not name.startswith("b")]
    for first, second in zip(
        torch.autograd.grad(meta_loss(meta, LocalRule(signal="error_detached"), seen, query), [meta[n] for n in names]),
        torch.autograd.grad(meta_loss(meta, LocalRule(signal="target"), constant, query), [meta[n] for n in names]),
        strict=True,
    ):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=0)


def test_first_order_differs_from_second_only_in_the_gradient() -> None:
    meta, seen, query = network(plasticity="none"), stream(), stream(steps=1, seed=2)
    exact, first = (LocalRule(rule="gradient", inner_lr=0.1, second_order=second) for second in (True, False))
    assert torch.equal(meta_loss(meta, exact, seen, query), meta_loss(meta, first, seen, query))
    gradients = [torch.autograd.grad(meta_loss(meta, rule, seen, query), meta["W0"])[0] for rule in (exact, first)]
    assert (gradients[0] - gradients[1]).norm() > 1e-3 * gradients[0].norm()
    # With the inner gradient a constant, W(T) = W(0) - constant: the meta-gradient is that of the loss at W(T).
    with torch.no_grad():
        weights, _ = lifetime(meta, seen, first)
    ends = {name: value.requires_grad_() for name, value in weights.items()}
    loss = loss_of(predict(meta, ends, query.x[:, 0]), query.y[:, 0]).sum()
    torch.testing.assert_close(gradients[1], torch.autograd.grad(loss, ends["W0"])[0].sum(0), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("labels", [False, True])
def test_the_written_out_gradient_is_autograds(labels: bool) -> None:
    meta, seen = network(plasticity="none"), stream(lifetimes=1, steps=1, labels=labels)
    weights, _ = lifetime(meta, seen, LocalRule(rule="gradient", inner_lr=1.0))
    loss = loss_of(predict(meta, {}, seen.x[:, 0]), seen.y[:, 0]).sum()
    for name in weights:
        expected = meta[name] - torch.autograd.grad(loss, meta[name], retain_graph=True)[0]
        torch.testing.assert_close(weights[name][0], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("reduction", ["sum", "mean", "power"])
@pytest.mark.parametrize("rule", ["oja", "hebb"])
def test_a_step_is_the_rule_written_for_one_synapse(rule: Any, reduction: Any) -> None:
    meta, (x, y) = network(), stream(lifetimes=1, steps=1)
    weights, outputs = lifetime(meta, Stream(x, y), LocalRule(rule=rule, signal="error", reduction=reduction))
    with torch.no_grad():
        a = [x[0, 0]]
        for layer in range(3):
            z = a[-1] @ meta[f"W{layer}"].T + meta[f"b{layer}"]
            a.append(z.relu() if layer < 2 else z)
        u = y[0, 0] - a[-1]
        torch.testing.assert_close(outputs[0, 0], a[-1], rtol=1e-12, atol=1e-14)
        for layer in range(3):
            f = (u @ meta[f"B{layer}_0"].T + meta[f"c{layer}_0"]).relu()
            q = meta[f"s{layer}"] * f + (1 - meta[f"s{layer}"]) * a[layer + 1]
            expected = meta[f"W{layer}"].clone()
            for i in range(expected.shape[0]):
                for j in range(expected.shape[1]):
                    D = sum(
                        q[m, i] * (a[layer][m, j] - (q[m, i] * meta[f"W{layer}"][i, j] if rule == "oja" else 0))
                        for m in range(3)
                    )
                    over = {"sum": 1, "mean": 3, "power": (a[layer] ** 2).sum() + (q**2).sum()}[reduction]
                    expected[i, j] += meta[f"p{layer}"][i, j] * D / over
            torch.testing.assert_close(weights[f"W{layer}"][0], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("oja", [False, True])
@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (1,)])
def test_the_gradient_of_an_update_is_its_numerical_one(oja: bool, shape: tuple[int, ...], power: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    W, P, a, q = (
        torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()
        for size in ((2, 4, 3), shape, (2, 5, 3), (2, 5, 4))
    )
    assert torch.autograd.gradcheck(lambda *args: plastic_update(*args, oja=oja, mu=0.7, power=power), (W, P, a, q))


@pytest.mark.parametrize("rule", ["oja", "hebb"])
def test_over_the_power_a_wide_deep_network_keeps_within_bounds_where_sums_and_means_explode(rule: Any) -> None:
    """Half of the shifted activity is the unit's own: a Hebbian step multiplies the answer by 1 + P |a|^2 / 2."""
    meta = {name: value.detach() for name, value in network((11, *[64] * 8, 1), plasticity="layer").items()}
    plastic = {name: torch.full_like(value, 1e-2) for name, value in meta.items() if name.startswith("p")}
    even = {name: torch.full_like(value, 0.5) for name, value in meta.items() if name.startswith("s")}
    seen = stream(lifetimes=1, steps=40, samples=32, sizes=(11, 1))
    largest = {}
    for reduction in ("sum", "mean", "power"):
        weights, _ = lifetime(meta | plastic | even, seen, LocalRule(rule=rule, signal="error", reduction=reduction))
        largest[reduction] = max(float(W.abs().max()) for W in weights.values())
    assert not largest["sum"] < 1e6
    assert not largest["mean"] < 1e6
    start = max(float(meta[f"W{layer}"].abs().max()) for layer in range(9))
    assert largest["power"] < (start + 0.5) * (1 + 1e-2) ** 40  # a step adds at most P (1/2 + |W|)


# --- local means local ---


LOCAL = [name for name, (fields, _, _) in OPTIONS.items() if fields.get("rule") != "gradient"]


@pytest.mark.parametrize("name", OPTIONS)
def test_a_lifetime_never_calls_autograd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields, of_network, of_stream = OPTIONS[name]
    meta, seen, rule = network(**of_network), stream(**of_stream), LocalRule(**fields)
    expected, _ = lifetime(meta, seen, rule)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("autograd was called within a lifetime")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    monkeypatch.setattr(torch.autograd, "backward", refuse)
    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    lifetime(meta, seen, rule)
    with torch.inference_mode():  # in which no graph is made, and nothing could be differentiated
        found, _ = lifetime({name: value.detach().clone() for name, value in meta.items()}, seen, rule)
    for key, value in found.items():
        assert torch.equal(value, expected[key])


@pytest.mark.parametrize("oja", [False, True])
def test_a_synapse_reads_no_weight_but_its_own(oja: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    W, P, a, q = (
        torch.randn(size, generator=generator, dtype=torch.float64)
        for size in ((1, 4, 3), (4, 3), (1, 5, 3), (1, 5, 4))
    )
    before = plastic_update(W, P, a, q, oja=oja)
    for i in range(4):
        for j in range(3):
            other = W.clone()
            other[0, i, j] += 1.0
            changed = (plastic_update(other, P, a, q, oja=oja) != before)[0]
            assert changed.nonzero().tolist() == [[i, j]]


@pytest.mark.parametrize("name", LOCAL)
def test_nothing_of_later_weights_reaches_a_synapse_but_through_the_signal(name: str) -> None:
    """Other weights W_1, W_2 in front of the same signal: W_0 changes the same in the first step, bit for bit."""
    fields, of_network, of_stream = OPTIONS[name]
    meta, seen, rule = network(**of_network), stream(steps=1, **of_stream), LocalRule(**fields | {"signal": "target"})
    weights, _ = lifetime(meta, seen, rule)
    other = {**meta, **{n: meta[n] + 1.0 for n in ("W1", "b1", "W2", "b2")}}
    found, _ = lifetime(other, seen, rule)
    if "W0" in weights:
        assert torch.equal(found["W0"], weights["W0"])
    # The comparator transports weights: there they do reach it.
    gradient = LocalRule(rule="gradient", inner_lr=0.1)
    plain = network(plasticity="none")
    moved = {**plain, "W2": -plain["W2"]}
    regression = stream(steps=1)
    ends = [lifetime(meta, regression, gradient)[0]["W0"] for meta in (plain, moved)]
    assert not torch.equal(ends[0], ends[1])


@pytest.mark.parametrize("name", LOCAL)
def test_biases_and_frozen_layers_stay(name: str) -> None:
    fields, of_network, of_stream = OPTIONS[name]
    weights, _ = lifetime(network(**of_network), stream(**of_stream), LocalRule(**fields))
    layers = {"none": [], "output": [2], "all": [0, 1, 2]}[fields.get("plastic_layers", "all")]
    assert list(weights) == [f"W{layer}" for layer in layers if layer >= fields.get("frozen_layers", 0)]


# --- batches of lifetimes, fronts, and the parts of a lifetime ---


@pytest.mark.parametrize("name", OPTIONS)
def test_lifetimes_in_a_batch_are_those_one_by_one(name: str) -> None:
    fields, of_network, of_stream = OPTIONS[name]
    meta, (x, y), rule = network(**of_network), stream(lifetimes=3, **of_stream), LocalRule(**fields)
    together, outputs = lifetime(meta, Stream(x, y), rule)
    for e in range(3):
        alone, own = lifetime(meta, Stream(x[e : e + 1], y[e : e + 1]), rule)
        torch.testing.assert_close(outputs[e : e + 1], own, rtol=1e-12, atol=1e-13)
        for key, value in alone.items():
            torch.testing.assert_close(together[key][e : e + 1], value, rtol=1e-12, atol=1e-13)


def test_each_lifetime_may_start_from_weights_of_its_own() -> None:
    meta, (x, y) = network(), stream(lifetimes=2)
    drawn = torch.randn(2, *meta["W1"].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    together, _ = lifetime({**meta, "W1": drawn}, Stream(x, y), LocalRule())
    for e in range(2):
        alone, _ = lifetime({**meta, "W1": drawn[e]}, Stream(x[e : e + 1], y[e : e + 1]), LocalRule())
        torch.testing.assert_close(together["W1"][e], alone["W1"][0], rtol=1e-12, atol=1e-13)


def test_a_lifetime_is_the_two_halves_one_after_the_other() -> None:
    meta, (x, y) = network(), stream(steps=6)
    whole, _ = lifetime(meta, Stream(x, y), LocalRule())
    half, _ = lifetime(meta, Stream(x[:, :2], y[:, :2]), LocalRule())
    rest, _ = lifetime({**meta, **half}, Stream(x[:, 2:], y[:, 2:]), LocalRule())
    for name in whole:
        assert torch.equal(whole[name], rest[name])


def test_a_front_is_called_once_and_gets_its_meta_gradient() -> None:
    meta, (x, y) = network(), stream()
    module, calls = torch.nn.Linear(3, 3, dtype=torch.float64), []

    def front(inputs: Tensor) -> Tensor:
        calls.append(inputs.shape)
        return module(inputs).tanh()

    weights, _ = lifetime(meta, Stream(x, y), LocalRule(), front=front)
    assert calls == [(2 * 4 * 3, 3)]
    loss_of(predict(meta, weights, x[:, 0]), y[:, 0]).sum().backward()
    assert module.weight.grad is not None
    assert module.weight.grad.abs().sum() > 0


def test_what_precedes_the_first_plastic_layer_is_computed_once() -> None:
    meta, seen = network(), stream()
    as_front = {f"{n[0]}{int(n[1]) - 1}{n[2:]}": value for n, value in meta.items() if int(n[1]) > 0}
    front = lambda x: (x @ meta["W0"].T + meta["b0"]).relu()  # noqa: E731
    frozen, _ = lifetime(meta, seen, LocalRule(frozen_layers=1))
    outside, _ = lifetime(as_front, seen, LocalRule(), front=front)
    for layer in (1, 2):
        torch.testing.assert_close(frozen[f"W{layer}"], outside[f"W{layer - 1}"], rtol=1e-12, atol=1e-13)


# --- mistakes ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W1": torch.zeros(4, 6, dtype=torch.float64)}, r"W1: expected shape \(4, 5\), got \(4, 6\)"),
        ({"b0": torch.zeros(4, dtype=torch.float64)}, r"b0: expected shape \(5,\), got \(4,\)"),
        ({"B0_0": torch.zeros(4, 2, dtype=torch.float64)}, r"c0_0: expected shape \(4,\)"),
        ({"B1_0": torch.zeros(4, 3, dtype=torch.float64)}, r"B1_0: expected \(n, 2\), got \(4, 3\)"),
        ({"p2": torch.zeros(3, dtype=torch.float64)}, r"p2: expected shape"),
        ({"s0": torch.zeros(2, dtype=torch.float64)}, r"s0: expected shape \(1,\)"),
    ],
)
def test_meta_parameters_of_wrong_shapes_are_refused(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        lifetime({**network(), **change}, stream(), LocalRule())


def test_streams_that_do_not_fit_are_refused() -> None:
    meta, (x, y) = network(), stream()
    for wrong, message in [
        (Stream(x[..., :2], y), "stream.x: expected"),
        (Stream(x[0], y[0]), "stream.x: expected"),
        (Stream(x, y[..., :1]), "stream.y: expected targets of shape"),
        (Stream(x.float(), y), "expected torch.float64 like the weights"),
        (Stream(x[:, :0], y[:, :0]), "at least one step"),
        (Stream(x, torch.full(x.shape[:3], 2)), "labels: expected 0 to 1, the outputs of the head, got 2"),
        (Stream(x, torch.full(x.shape[:3], -1)), "got -1"),
        (Stream(x, torch.zeros(x.shape[:3], dtype=torch.int32)), "expected int64 labels"),
    ]:
        with pytest.raises(ShapeError, match=message):
            lifetime(meta, wrong, LocalRule())


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="should be 'oja', 'hebb', 'polynomial' or 'gradient'"):
        LocalRule(rule="heb")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="should be a finite number"):
        LocalRule(inner_lr=float("nan"))
    with pytest.raises(ShapeError, match="frozen_layers: expected at most the 3 linear layers"):
        lifetime(network(), stream(), LocalRule(frozen_layers=len(SIZES)))
    with pytest.raises(UsageError, match="observe"):
        lifetime(network(), stream(), LocalRule(), checkpoint_segments=2, observe=lambda k, weights: None)
