"""Layers under what torch does to models: function transforms, compilation, mixed precision, checkpoints, copies."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from problems import LAYERWISE, NOISY, OUTPUTS, PROBLEMS, RULES, OperandsOfOneDtype, batch, small_network
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

import backroads as br
from backroads.errors import UsageError
from backroads.feedback.functional import propagate
from backroads.feedback.primitives import PRIMITIVES
from backroads.feedback.primitives.value import per_tap

DIRECT = "direct_feedback_alignment"
every_rule = pytest.mark.parametrize("name", RULES)
Gradients = dict[str, Tensor | None]


def network(rule: br.FeedbackRule, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    """The small network without batch norm, which couples the examples of a batch."""
    net = small_network(rule, dtype)
    net[3] = torch.nn.Identity()
    return net


def tiny(
    rule: br.FeedbackRule, inplace: bool = True, dtype: torch.dtype = torch.float64, layers: int = 2
) -> torch.nn.Module:
    """A convolution, a ReLU and perhaps a linear layer: enough for a compiler."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.ReLU(inplace), torch.nn.Flatten())
        if layers == 2:
            net.append(torch.nn.Linear(48, OUTPUTS))
        else:
            net.insert(2, torch.nn.AvgPool2d(4))
        return br.convert(net.to(dtype), rule)


def gradients(net: torch.nn.Module, call: Callable[[Tensor], Tensor] | None = None, **of_batch: Any) -> Gradients:
    """Gradients of the input and all parameters for cross entropy, from the same seed of torch's generator."""
    x, labels = batch(**of_batch)
    x.requires_grad_()
    net.zero_grad()
    torch.manual_seed(0)
    F.cross_entropy((call or net)(x), labels).backward()
    return {"x": x.grad} | {k: p.grad for k, p in net.named_parameters()}


def closely(actual: Any, expected: Any, rtol: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-13)


def exactly(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


# -- function transforms -----------------------------------------------------------------------------------------------


@every_rule
def test_functional_call_uses_the_parameters_it_is_given(name):
    net, other = network(RULES[name]), network(RULES[name])
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(-1.5).add_(0.1)
    given = {k: p.detach().clone().requires_grad_(p.requires_grad) for k, p in other.named_parameters()}
    x, labels = batch()
    torch.manual_seed(0)
    F.cross_entropy(functional_call(net, given, (x,)), labels).backward()
    expected = gradients(other)
    del expected["x"]
    exactly({k: p.grad for k, p in given.items()}, expected)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("name", {**RULES, **NOISY})
def test_vmap_of_grad_gives_the_gradients_of_single_examples(name):
    net = network({**RULES, **NOISY}[name])
    net.train(name != "mirrored_kolen_pollack")  # whose gain falls with each pass of training
    x, labels = batch()
    learning = {k: p.detach() for k, p in net.named_parameters() if p.requires_grad}

    def loss(parameters: dict[str, Tensor], x: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(net, parameters, (x[None],)), label[None])

    torch.manual_seed(0)
    found = vmap(grad(loss), (None, 0, 0), randomness="same")(learning, x, labels)
    for i in range(len(x)):
        net.zero_grad()
        torch.manual_seed(0)
        F.cross_entropy(net(x[i : i + 1]), labels[i : i + 1]).backward()
        alone = {k: net.get_parameter(k).grad for k in learning}  # None where nothing is taught
        closely({k: g[i] for k, g in found.items()}, {k: 0 * learning[k] if g is None else g for k, g in alone.items()})


class FirstOrder:
    """First-order gradients of one layer as a function of its tensors, the error of its output among them.

    The errors are leaves: how they come to be is the business of the layers above.
    """

    def __init__(self, rule: br.FeedbackRule, problem: str) -> None:
        if isinstance(rule, br.rules.SignSymmetry):
            rule = dataclasses.replace(rule, scale="initial")  # another is a function of W, and a constant here
        self.layer = PROBLEMS[problem].layer(rule)
        x = PROBLEMS[problem].input()
        with torch.no_grad():
            y = self.layer(x)
        generator = torch.Generator().manual_seed(5)
        tensors = {"x": x, **{k: p.detach() for k, p in self.layer.named_parameters()}, "dy": y}
        self.rule = rule
        if rule.broadcasts:
            tensors["e"] = x.new_empty(x.shape[0], OUTPUTS)
        for k in ("dy", "e"):
            if k in tensors:
                tensors[k] = torch.randn(tensors[k].shape, dtype=torch.float64, generator=generator)
        if isinstance(rule, br.Alignment) and not rule.learns:
            del tensors["backward_weight"]  # a constant
        # What "unit_power" and "projected_step" divide by is a constant of R: dR/dB is not differentiated through it.
        constant = isinstance(rule, br.Alignment) and rule.reduction in ("unit_power", "projected_step")
        differentiable = isinstance(rule, br.Alignment) and rule.learns and not constant
        self.names = list(tensors)
        self.values = [t.clone().requires_grad_() for t in tensors.values()]
        self.wanted = ["x", "weight", "backward_weight"] if differentiable else ["x", "weight"]

    def outputs(self, t: dict[str, Tensor]) -> tuple[Any, Any]:
        """(outputs of the layer, their errors)."""
        if "e" in t:
            made = propagate(
                t["x"],
                t["weight"],
                t["bias"],
                self.layer.operator,
                self.rule,
                {"backward_weight": t["backward_weight"]},
            )
            return made, (t["dy"], t["e"])
        return functional_call(self.layer, {k: v for k, v in t.items() if k not in ("x", "dy")}, (t["x"],)), t["dy"]

    def __call__(self, *values: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        t = dict(zip(self.names, values, strict=True))
        outputs, errors = self.outputs(t)
        return torch.autograd.grad(outputs, [t[k] for k in self.wanted], errors, create_graph=True)


@every_rule
@pytest.mark.parametrize("problem", ["linear", "conv2d"])
def test_double_backward_agrees_with_finite_differences(problem, name):
    """The derivatives of dx, dW and dB themselves, in a random direction, by x, W, B, the bias and the error."""
    f = FirstOrder(RULES[name], problem)
    assert torch.autograd.gradcheck(f, f.values, fast_mode=True, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("coefficient", PRIMITIVES)
def test_grad_of_grad_gives_the_second_derivatives_of_the_alignment(coefficient):
    """The same through ``torch.func``, by finite differences of dR/dB."""
    layer, x = PROBLEMS["linear"].layer(br.Alignment(**{coefficient: 1.0})), PROBLEMS["linear"].input()
    at = {"x": x, "weight": layer.weight.detach(), "backward_weight": layer.backward_weight.detach()}
    generator = torch.Generator().manual_seed(0)
    direction = {k: torch.randn(v.shape, dtype=v.dtype, generator=generator) for k, v in at.items()}
    c = torch.randn(layer.weight.shape, dtype=x.dtype, generator=generator)

    def dB(at: dict[str, Tensor]) -> Tensor:
        def output(B: Tensor) -> Tensor:
            parameters = {"weight": at["weight"], "backward_weight": B, "bias": layer.bias.detach()}
            return functional_call(layer, parameters, (at["x"],)).sum()

        return (grad(output)(at["backward_weight"]) * c).sum()

    def ahead(h: float) -> float:
        return float(dB({k: v + h * direction[k] for k, v in at.items()}))

    found = grad(dB)(at)
    expected = (ahead(1e-5) - ahead(-1e-5)) / 2e-5
    assert float(sum((found[k] * direction[k]).sum() for k in at)) == pytest.approx(expected, rel=1e-6)


# -- compilation -------------------------------------------------------------------------------------------------------

compiles = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, from inside its compiler


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@compiles
@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", [name for name in {**RULES, **NOISY} if name != "mirrored_kolen_pollack"])  # counts
def test_a_compiled_network_has_the_gradients_of_an_eager_one(name):
    """In one graph, also behind an in-place activation; the eager one is without."""
    rule = {**RULES, **NOISY}[name]
    net = tiny(rule, layers=1)
    found = gradients(net, torch.compile(net, backend="aot_eager", fullgraph=True))
    expected = gradients(tiny(rule, inplace=False, layers=1))
    assert all(found[k].any() for k in found if found[k] is not None)
    # What is drawn anew need not come from the same place of the generator's stream.
    drawn = "x" if name == "sign_symmetry(batch_random)" else "0.backward_weight" if name in NOISY else None
    for of in (found, expected):
        of.pop(drawn, None)
    closely(found, expected)


@pytest.mark.parametrize("name", RULES)
def test_an_in_place_activation_changes_no_gradient(name):
    closely(gradients(tiny(RULES[name], inplace=True)), gradients(tiny(RULES[name], inplace=False)))


@compiles
@pytest.mark.slow  # the first compilation builds C++ headers
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", ["weight_mirror", "symmetric_alignment"])
def test_inductor_has_the_gradients_of_eager_mode(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    net = tiny(RULES[name], dtype=torch.float32)
    with torch._inductor.config.patch(compile_threads=1):
        found = gradients(net, torch.compile(net, fullgraph=True), dtype=torch.float32)
    expected = gradients(tiny(RULES[name], inplace=False, dtype=torch.float32), dtype=torch.float32)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@compiles
@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", ["white-noise mirror", "an estimate, sparse and noisy", "all five, on a part"])
def test_inductor_draws_from_the_seed_and_like_eager_mode_where_it_is_told_to(name, tmp_path, monkeypatch):
    """By itself it has another generator: the same seed gives it the same draws, other ones than in eager mode."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    layer = PROBLEMS["linear"].layer(NOISY[name], torch.float32)
    x = PROBLEMS["linear"].input(torch.float32)

    def taught(call: Callable[[Tensor], Tensor], seed: int) -> Tensor:
        torch.manual_seed(seed)
        layer.zero_grad()
        call(x).sum().backward()
        return layer.backward_weight.grad.clone()

    with torch._inductor.config.patch(compile_threads=1):
        compiled = torch.compile(layer, fullgraph=True)
        taught(compiled, 0)  # compiles, which may draw by itself
        exactly(taught(compiled, 1), taught(compiled, 1))
        draws = torch.stack([taught(compiled, seed) for seed in range(400)])
        assert bool((draws[0] != draws[1]).any())
        if name == "white-noise mirror":  # E[y xi^T] = W for noise of power 1
            B, W = layer.backward_weight.detach(), layer.weight.detach()
            mean = layer.rule.decay * B - layer.rule.amp * W
            error = draws.std(0) / math.sqrt(len(draws))
            assert bool(((draws.mean(0) - mean).abs() < 5 * error).all())
    torch._dynamo.reset()
    with torch._inductor.config.patch(compile_threads=1, fallback_random=True):
        compiled = torch.compile(layer, fullgraph=True)
        taught(compiled, 0)
        torch.testing.assert_close(taught(compiled, 1), taught(layer, 1), rtol=1e-4, atol=1e-6)


def layer_compiled(rule: br.FeedbackRule) -> tuple[br.nn.Linear, br.nn.Linear, Callable[[Tensor], Tensor], Any]:
    """(eager layer, the same layer, the latter compiled in one graph, what counts its compilations)."""
    layers = [PROBLEMS["linear"].layer(rule) for _ in range(2)]
    counter = CompileCounterWithBackend("aot_eager")
    return *layers, torch.compile(layers[1], backend=counter, fullgraph=True), counter


def both_gradients(eager: Any, other: Any, compiled: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Any, Any]:
    for layer, call in ((eager, eager), (other, compiled)):
        layer.zero_grad()
        call(x).sum().backward()
    return (*({k: p.grad for k, p in layer.named_parameters()} for layer in (other, eager)),)


@compiles
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("every", [2, 5])
def test_data_terms_now_and_then_do_not_recompile_in_every_step(every):
    eager, other, compiled, counter = layer_compiled(br.rules.weight_mirror(cadence=br.Cadence(every, 1.0)))
    for step in range(12):
        closely(*both_gradients(eager, other, compiled, PROBLEMS["linear"].input(seed=step)))
        assert counter.frame_count <= every + 1


@compiles
@pytest.mark.usefixtures("fresh_compiler")
def test_a_late_estimate_compiles_once_for_each_of_its_copies():
    rule = br.rules.symmetric_alignment(view=br.WeightEstimate(delay_steps=2, bits=6))
    eager, other, compiled, counter = layer_compiled(rule)
    for step in range(7):
        with torch.no_grad():
            for layer in (eager, other):
                layer.weight.mul_(1.1)
        closely(*both_gradients(eager, other, compiled, PROBLEMS["linear"].input(seed=step)))
        assert counter.frame_count <= 4


def scaled(layer: br.nn.AlignedLayer, step: int) -> None:
    br.alignment_scale(layer, 1 / (step + 1))


def scheduled(layer: br.nn.AlignedLayer, step: int) -> None:
    layer.rule = br.rules.activation_alignment(amp=0.1 * (step + 1), sparse=0.2 / (step + 1), cadence=br.Cadence())


@compiles
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("change", [scaled, scheduled])
def test_a_factor_that_changes_in_every_step_does_not_recompile_in_every_step(change):
    """Schedules of coefficients and the alignment's scale go on working after the compiler's limit of 8 graphs."""
    eager, other, compiled, counter = layer_compiled(br.rules.activation_alignment(cadence=br.Cadence()))
    for step in range(12):
        for layer in (eager, other):
            change(layer, step)
        closely(*both_gradients(eager, other, compiled, PROBLEMS["linear"].input(seed=step)))
        assert counter.frame_count <= 4


@compiles
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", ["information_alignment", DIRECT])
def test_a_compiled_network_takes_batches_of_any_size(name):
    net, eager = tiny(RULES[name]), tiny(RULES[name])
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(net, backend=counter, fullgraph=True)
    for n in (6, 4, 5):
        closely(gradients(net, compiled, n=n), gradients(eager, n=n))
    assert counter.frame_count <= 2  # one of the first size, one of any


# -- mixed precision ---------------------------------------------------------------------------------------------------


def plain(net: torch.nn.Module) -> torch.nn.Module:
    return br.revert(copy.deepcopy(net))


def low_precision(dtype: torch.dtype) -> contextlib.AbstractContextManager[None]:
    return torch.autocast("cpu", dtype)


@every_rule
def test_autocast_computes_forward_as_torch_and_gradients_in_float32(name):
    """The backward pass runs outside the context, as torch advises."""
    net = network(RULES[name], torch.float32)
    x = batch(64, torch.float32)[0]
    outputs = []
    for model in (net, plain(net)):
        with low_precision(torch.bfloat16):
            outputs.append(model(x))
    assert outputs[0].dtype == torch.bfloat16
    exactly(*outputs)

    def call(x: Tensor) -> Tensor:
        with low_precision(torch.bfloat16):
            out = net(x)
        return out.float()

    expected = {k: g if g is None else g.clone() for k, g in gradients(net, n=64, dtype=torch.float32).items()}
    found = gradients(net, call, n=64, dtype=torch.float32)
    # bfloat16 rounds to 0.4 %, in each of some ten products; normalising amplifies that for small outputs.
    bound = 0.2 if name == "activation_alignment, centered" else 0.06
    for k, g in found.items():
        assert (g is None) == (expected[k] is None)
        if g is not None:
            assert g.dtype == torch.float32
            if k.endswith("correction"):  # of noise drawn in bfloat16, which is another
                continue
            assert float((g - expected[k]).norm() / expected[k].norm()) < bound, k


@pytest.mark.parametrize("name", {**LAYERWISE, **NOISY})
@pytest.mark.parametrize("problem", [name for name in PROBLEMS if name.startswith("conv")])
def test_under_autocast_all_operands_of_a_convolution_have_one_dtype(name, problem):
    layer, x = (
        PROBLEMS[problem].layer({**LAYERWISE, **NOISY}[name], torch.float32),
        PROBLEMS[problem].input(torch.float32),
    )
    with OperandsOfOneDtype():
        with low_precision(torch.bfloat16):
            y = layer(x.requires_grad_())
        y.float().sum().backward()


@pytest.mark.parametrize("name", {**RULES, **NOISY})
def test_a_step_asks_for_no_number_and_keeps_to_one_device(name):
    """On the meta device, whose tensors have no numbers: a GPU would be waited for where one is asked for."""
    net = network({**RULES, **NOISY}[name], torch.float32).to("meta")
    x, y = (t.to("meta") for t in batch(dtype=torch.float32))
    for _ in range(2):
        F.cross_entropy(net(x), y).backward()


def test_factors_that_a_transform_made_are_not_kept_for_later_steps():
    taps, x = [[7, 11, 7], [7, 13, 7]], torch.ones(2, 3)
    grad(lambda x: (per_tap(taps, x) * x.sum()).sum())(x)
    later = per_tap(taps, x)
    assert not torch._C._functorch.is_functorch_wrapped_tensor(later)
    torch.testing.assert_close(later, 1 / torch.outer(torch.tensor(taps[0]), torch.tensor(taps[1])))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_symmetric_alignment_is_computed_in_full_precision_under_autocast(dtype):
    net = network(br.rules.symmetric_alignment(0.25, 0.25), torch.float32)
    with low_precision(dtype):
        out = net(batch(dtype=torch.float32)[0])
    out.float().sum().backward()
    for _, layer in br.aligned_layers(net):
        exactly(layer.backward_weight.grad, (layer.backward_weight - layer.weight).detach() * 0.25)


@pytest.mark.parametrize("rule", ["weight_mirror", "information_alignment", "activation_alignment"])
@pytest.mark.parametrize("reduction", ["mean", "unit_power"])
def test_the_mean_over_many_rows_does_not_overflow_in_float16(rule, reduction):
    """Sums over 2^17 rows do not fit into float16; their mean does."""
    layer = br.nn.Linear(8, 6, rule=br.get_rule(rule, reduction=reduction, operations=br.Operations()))
    x = torch.randn(64, 2048, 8, generator=torch.Generator().manual_seed(1)) + 2
    layer(x).sum().backward()
    expected = layer.backward_weight.grad.clone()
    layer.zero_grad()
    with low_precision(torch.float16):
        y = layer(x)
    y.float().sum().backward()
    assert float((layer.backward_weight.grad - expected).norm() / expected.norm()) < 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_normalising_a_silent_example_in_low_precision_stays_finite(dtype):
    rule = br.Alignment(amp=1, operations=br.Operations(normalize_input=True, normalize_backward_output=True))
    layer, x = br.nn.Linear(5, 3, rule=rule), torch.randn(4, 5)
    x[1] = 0  # all units silent, as behind a ReLU
    with low_precision(dtype):
        y = layer(x)
    y.float().sum().backward()
    assert layer.backward_weight.grad.isfinite().all()


# -- the backward pass in parts, again, and over recomputed activities ------------------------------------------------


def mean_over_batch(rule: br.FeedbackRule) -> br.FeedbackRule:
    """The rule, or where it looks at the batch as a whole, the same as a mean over it."""
    of_the_batch = ("unit_power", "projected_step")
    if isinstance(rule, br.Alignment) and (
        rule.reduction in of_the_batch or rule.operations.batch_center_backward_input
    ):
        return dataclasses.replace(rule, reduction="mean", operations=br.Operations())
    if isinstance(rule, br.rules.MirroredKolenPollack):
        return dataclasses.replace(rule, rows=1e-9)  # one example of noise, the same for a part as for the whole
    return rule


@every_rule
def test_accumulated_gradients_of_micro_batches_are_those_of_the_joined_batch(name):
    net, parts = network(mean_over_batch(RULES[name])), 3
    expected = {k: g if g is None else g.clone() for k, g in gradients(net).items()}
    x, labels = batch()
    x.requires_grad_()
    net.zero_grad()
    before = [layer.alignment_scale for _, layer in br.aligned_layers(net)]
    with br.alignment_scale(net, 1 / parts):
        for part, its_labels in zip(x.chunk(parts), labels.chunk(parts), strict=True):
            torch.manual_seed(0)
            (F.cross_entropy(net(part), its_labels) / parts).backward()
    closely({"x": x.grad} | {k: p.grad for k, p in net.named_parameters()}, expected)
    assert [layer.alignment_scale for _, layer in br.aligned_layers(net)] == before


def test_scales_within_one_another_end_one_by_one():
    """The inner one counts, and at its end, also by an error, the outer one again: dB = scale (B - W), B = W + 1."""
    layer = br.nn.Linear(3, 2, rule=br.rules.symmetric_alignment(), dtype=torch.float64)
    with torch.no_grad():
        layer.backward_weight.copy_(layer.weight + 1)

    def scale_in_effect():
        layer.zero_grad()
        layer(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
        (found,) = {round(value, 12) for value in layer.backward_weight.grad.flatten().tolist()}
        return found

    with br.alignment_scale(layer, 0.5):
        assert scale_in_effect() == 0.5
        with br.alignment_scale(layer, 0.25):
            assert scale_in_effect() == 0.25
        assert scale_in_effect() == 0.5
        with pytest.raises(KeyError), br.alignment_scale(layer, 0.125):
            raise KeyError
        assert scale_in_effect() == 0.5
    assert scale_in_effect() == 1.0
    br.alignment_scale(layer, 0.75)  # for good
    with br.alignment_scale(layer, 0.5):
        pass
    assert scale_in_effect() == 0.75


@pytest.mark.parametrize("name", [name for name in RULES if name != "mirrored_kolen_pollack"])  # draws noise
def test_a_retained_graph_gives_the_same_gradients_again(name):
    net = network(RULES[name])
    x, labels = batch()
    loss = F.cross_entropy(net(x), labels)
    learning = {k: p for k, p in net.named_parameters() if p.requires_grad}
    first = torch.autograd.grad(loss, learning.values(), retain_graph=True)
    exactly(torch.autograd.grad(loss, learning.values()), first)


CHECKPOINTED = {
    **RULES,
    "every 2": br.Alignment(decay=1, amp=1, cadence=br.Cadence(2)),
    "late": br.rules.symmetric_alignment(view=br.WeightEstimate(delay_steps=2, bits=6)),
    "with Kolen-Pollack's decay": br.rules.kolen_pollack(decay=0.1),
}


class Segmented(torch.nn.Module):
    """A network that may recompute its middle in the backward pass. (N, 2, 6, 6) -> (N, OUTPUTS).

    Args:
        reentrant: in which of torch's two ways; None: it does not.
    """

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.first, self.conv = torch.nn.Conv2d(2, 4, 3), torch.nn.Conv2d(4, 3, 3)
        self.last = torch.nn.Linear(12, OUTPUTS)
        self.reentrant = reentrant

    def middle(self, h: Tensor) -> Tensor:
        return torch.relu_(self.conv(h)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        h = self.middle(h) if self.reentrant is None else checkpoint(self.middle, h, use_reentrant=self.reentrant)
        return self.last(h)


@pytest.mark.parametrize("whole", [True, False], ids=["whole network", "a segment"])
@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
@pytest.mark.parametrize("name", CHECKPOINTED)
def test_activation_checkpointing_changes_no_gradient(name, reentrant, whole):
    def made(how: bool | None) -> torch.nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return br.convert(Segmented(how).double(), CHECKPOINTED[name])

    net, recomputing = made(None), made(None if whole else reentrant)
    again = (lambda x: checkpoint(recomputing, x, use_reentrant=reentrant)) if whole else recomputing
    if CHECKPOINTED[name].broadcasts and reentrant and not whole:  # the error of the output cannot get in
        with pytest.raises(UsageError, match=r"call checkpoint\(\.\.\., use_reentrant=False\)"):
            gradients(recomputing)
        return
    optimisers = [torch.optim.SGD(br.param_groups(model, 0.05, momentum=0.0)) for model in (net, recomputing)]
    for _ in range(4):
        exactly(gradients(recomputing, again), gradients(net))
        for optimiser in optimisers:
            optimiser.step()


# -- copies ------------------------------------------------------------------------------------------------------------


def saved_and_loaded(net: torch.nn.Module) -> torch.nn.Module:
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda net: pickle.loads(pickle.dumps(net)), "save": saved_and_loaded}


@pytest.mark.parametrize("how", COPIES)
@every_rule
def test_copies_of_a_converted_model_work_by_themselves(name, how):
    net = small_network(RULES[name])
    made = COPIES[how](net)
    exactly(gradients(made), gradients(net))
    assert not {id(p) for p in made.parameters()} & {id(p) for p in net.parameters()}
    assert [layer.rule for _, layer in br.aligned_layers(made)] == [RULES[name]] * 4
    reverted = br.revert(made)  # takes the copy's hooks with it, and not the original's
    assert not any(isinstance(m, br.nn.AlignedLayer) for m in reverted.modules())
    assert not reverted._forward_hooks
    exactly(gradients(net), gradients(small_network(RULES[name])))


def test_a_copy_counts_its_own_steps():
    net = network(br.rules.weight_mirror(cadence=br.Cadence(2)))
    active = gradients(net)
    made = copy.deepcopy(net)
    idle = gradients(made)
    assert not torch.equal(active["0.backward_weight"], idle["0.backward_weight"])
    exactly(gradients(net), idle)
