"""What every method must do, over the one table of methods; and how methods are found by name."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import METHODS, OUTPUTS, MethodCase, OperandsOfOneDtype, batch, plain_network
from torch import Tensor, nn

import backroads as br
from backroads.errors import ConfigError, ShapeError, UsageError
from backroads.methods.base import Method
from backroads.methods.blockwise import Blockwise
from backroads.methods.feedback import Feedback
from backroads.methods.hebbian import Unsupervised
from backroads.methods.three_factor import ThreeFactor

TABLE = pytest.mark.parametrize("method", [case.method for case in METHODS.values()], ids=METHODS)
OTHERS = {name: case.method for name, case in METHODS.items() if not isinstance(case.method, Feedback)}
# Feedback rules train as plain torch does, and leave what torch leaves unchecked.
CHECKED = pytest.mark.parametrize("method", OTHERS.values(), ids=OTHERS)


def predicts_by_its_forward_pass(method: Method) -> bool:
    return type(method).predict is Method.predict


def case_of(method: Method) -> MethodCase:
    (case,) = (case for case in METHODS.values() if case.method is method)
    return case


def network(method: Method, dtype: torch.dtype = torch.float64) -> nn.Module:
    return case_of(method).network(dtype)


def prepared(method: Method, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    return method.prepare(network(method, dtype), batch(2, dtype)[0], seed)


def gradients(method: Method, model: nn.Module, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(0)  # some rules and methods draw
    method.objective(model, *batch(dtype=dtype), F.cross_entropy)[0].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@TABLE
def test_one_backward_pass_leaves_a_gradient_in_every_parameter_of_the_groups(method: Method) -> None:
    model = prepared(method)
    groups = method.parameter_groups(model)
    found = gradients(method, model)
    grouped = [id(p) for group in groups.values() for p in group]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}


@TABLE
def test_what_teaches_a_layer_is_said_under_the_name_of_a_layer(method: Method) -> None:
    model = prepared(method)
    said = method.formulas(model)
    assert "0" in said
    assert said.keys() <= {"0", "2", "6", "8"}
    assert all(said.values())


@TABLE
@pytest.mark.slow
def test_it_learns(method: Method) -> None:
    model, (x, y) = prepared(method), batch(32)
    optimizer = torch.optim.Adam(method.parameter_groups(model)["forward"], lr=0.02)
    before = float(F.cross_entropy(method.predict(model, x).detach(), y))
    right = int((method.predict(model, x).argmax(1) == y).sum())
    torch.manual_seed(0)
    # An estimate needs more steps, by its variance; a read-out, until the layers before it have settled.
    for _ in range(600 if case_of(method).estimated or isinstance(method, Unsupervised) else 60):
        optimizer.zero_grad()
        objective, output = method.objective(model, x, y, F.cross_entropy)
        objective.backward()
        optimizer.step()
    assert not output.requires_grad
    assert output.shape == (32, OUTPUTS)
    if isinstance(method, ThreeFactor):  # whose reward counts right answers, however sure they are
        # Plain Hebb follows no gradient: its bias is held by tests of its own.
        assert int((method.predict(model, x).argmax(1) == y).sum()) > right + 6 or method.eligibility == "hebb"
    else:
        # Five features that know no labels leave a read-out less to learn from.
        part = 0.95 if isinstance(method, Unsupervised) else 0.8
        assert float(F.cross_entropy(method.predict(model, x).detach(), y)) < part * before


@TABLE
def test_reverting_gives_plain_torch_with_the_learned_weights_and_the_same_forward_pass(method: Method) -> None:
    model, (x, _) = prepared(method), batch()
    plain = network(method)
    optimizer = torch.optim.SGD(method.parameter_groups(model)["forward"], lr=0.1)
    gradients(method, model)
    optimizer.step()
    output = method.predict(model.eval(), x)
    assert method.revert(model) is model
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert model.state_dict().keys() == plain.state_dict().keys()
    if predicts_by_its_forward_pass(method):
        assert torch.equal(model(x), output)
    assert not torch.equal(model[8].weight, plain[8].weight)
    assert method.revert(model) is model
    method.prepare(model, x, 0)  # and again from the start


@TABLE
def test_the_model_itself_computes_what_it_did_before(method: Method) -> None:
    model, plain, (x, _) = prepared(method), network(method), batch()
    assert torch.equal(model(x), plain(x))
    assert torch.equal(model.eval()(x), plain.eval()(x))


@TABLE
def test_planning_touches_nothing_and_can_be_printed(method: Method) -> None:
    model, state = network(method), torch.get_rng_state()
    before = copy.deepcopy(model.state_dict())
    text = str(method.plan(model, batch(2)[0]))
    assert {"0", "8"} <= set(text.replace(",", " ").split())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert all(module.training and not module._forward_hooks for module in model.modules())


@TABLE
def test_preparing_and_training_are_functions_of_the_seed(method: Method) -> None:
    found = []
    for around in (1, 2):  # torch's own generator has no part in it
        torch.manual_seed(around)
        state = torch.get_rng_state()
        model = prepared(method)
        assert torch.equal(torch.get_rng_state(), state)
        found.append(gradients(method, model))
    assert found[0]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("name", ["feedback", "local_errors", "target_propagation"])
def test_another_seed_draws_other_heads_inverses_and_backward_weights(name: str) -> None:
    method = METHODS[name].method
    ends = [list(prepared(method, seed=seed).state_dict().values()) for seed in (0, 1)]
    assert any(not torch.equal(a, b) for a, b in zip(*ends, strict=True))


@TABLE
def test_a_copy_of_a_prepared_model_trains_apart_from_it(method: Method) -> None:
    model = prepared(method)
    copied = copy.deepcopy(model)
    own = gradients(method, copied)
    assert all(p.grad is None for p in model.parameters())
    other = gradients(method, model)
    assert own.keys() == other.keys()
    assert all(torch.equal(own[name], other[name]) for name in own)


@TABLE
def test_update_angles_are_read_for_every_method(method: Method) -> None:
    (case,) = (case for case in METHODS.values() if case.method is method)
    model, (x, y) = prepared(method), batch()
    found = br.metrics.readings(
        model,
        lambda: F.cross_entropy(method.predict(model, x), y),
        ["update_angle"],
        objective=lambda: method.objective(model, x, y, F.cross_entropy)[0],
    )["update_angle"]
    if predicts_by_its_forward_pass(method):
        assert list(found) == ["0", "2", "6", "8", ""]
        if not case.infers and not case.estimated:
            assert found["8"] == pytest.approx(0, abs=1e-5)  # the last layer learns from the task's loss
    assert {"0", "2", "6", ""} <= found.keys() <= {"0", "2", "6", "8", ""}
    assert all(0 <= value <= 180 for value in found.values())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("method", "last"),
    [
        pytest.param(case.method, last, id=f"{name}, after {last}")
        for name, case in METHODS.items()
        for last in case.local
    ],
)
def test_no_gradient_changes_when_all_later_weights_and_heads_are_random_numbers(method: Method, last: int) -> None:
    """No way back: bit for bit, at the start and after heads have left zero."""
    model = prepared(method)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    before = gradients(method, model)
    earlier = [name for name in before if int(name.partition(".")[0]) <= last]
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name not in earlier:
                p.normal_()
        for name, value in model.named_buffers():  # what a rule remembers stands as it did
            value.copy_(buffers[name])
    after = gradients(method, model)
    assert earlier
    assert all(torch.equal(before[name], after[name]) for name in earlier)
    assert not all(torch.equal(before[name], after[name]) for name in before)


@TABLE
def test_a_training_taken_up_from_its_state_goes_on_bit_for_bit(method: Method) -> None:
    def learner() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = prepared(method)
        groups = method.parameter_groups(model)
        return model, torch.optim.SGD([p for group in groups.values() for p in group], lr=0.05, momentum=0.9)

    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        for step in range(first, last):
            optimizer.zero_grad()
            torch.manual_seed(step)
            method.objective(model, *batch(seed=step), F.cross_entropy)[0].backward()
            optimizer.step()

    whole, stopped, resumed = learner(), learner(), learner()
    steps(*whole, 0, 5)
    steps(*stopped, 0, 3)
    for part, kept in zip(resumed, stopped, strict=True):
        part.load_state_dict(copy.deepcopy(kept.state_dict()))
    steps(*resumed, 3, 5)
    expected = whole[0].state_dict()
    assert expected.keys() == resumed[0].state_dict().keys()
    assert all(torch.equal(expected[name], value) for name, value in resumed[0].state_dict().items())


@TABLE
def test_bfloat16_autocast_gives_nearly_the_gradients_of_float32(method: Method) -> None:
    model = prepared(method, torch.float32)
    with torch.no_grad():  # heads that have left zero
        for seed, p in enumerate(model.parameters()):
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
    exact = gradients(method, model, torch.float32)
    with OperandsOfOneDtype(), torch.autocast("cpu", torch.bfloat16):
        rough = gradients(method, model, torch.float32)
    assert exact.keys() == rough.keys()
    assert all(gradient.dtype == torch.float32 for gradient in rough.values())
    a, b = (torch.cat([g.flatten() for g in found.values()]) for found in (exact, rough))
    assert float(F.cosine_similarity(a, b, dim=0)) > 0.98  # 8 bits: a relative error of 2^-9 in each rounding


DIFFERENCES = ("target_propagation", "predictive_coding", "equilibrium", "burstprop", "perturbation", "three_factor")
IN_FLOAT32 = {
    n: case.method for n, case in METHODS.items() if any(word in n for word in DIFFERENCES) and not case.remembers
}


@pytest.mark.parametrize("method", IN_FLOAT32.values(), ids=IN_FLOAT32)
def test_methods_that_live_on_small_differences_compute_in_float32_under_autocast(method: Method) -> None:
    """In layers far from the output a target is within 2^-9 of the activity, once the loss is small."""
    model = prepared(method, torch.float32)
    exact = gradients(method, model, torch.float32)
    model.zero_grad()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = method.objective(model, *batch(dtype=torch.float32), F.cross_entropy)
    total.backward()
    for name, p in model.named_parameters():
        if name in exact:
            torch.testing.assert_close(p.grad, exact[name], rtol=0, atol=0)


class WithBlocksOfItsOwn(nn.Module):
    """A network whose author calls a list of its layers what others might, too."""

    def __init__(self, blocks: Any) -> None:
        super().__init__()
        self._blocks = blocks
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.Tanh(), nn.Linear(8, OUTPUTS)).double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


@pytest.mark.parametrize("blocks", [[1, 2], nn.ModuleList([nn.Identity()])])
def test_what_a_model_calls_its_own_stays_its_own(blocks: Any) -> None:
    method, model = br.get_method("local_errors"), WithBlocksOfItsOwn(blocks)
    method.revert(method.prepare(model, batch(2)[0], 0))
    assert model._blocks is blocks
    assert not any(name.startswith("_backroads") for name in vars(model))


def test_where_the_feedback_cannot_be_converted_the_model_is_left_as_it_was() -> None:
    class Pair(nn.Module):
        """x to a bilinear form of it with itself: (N, 72) -> (N, 6)."""

        def __init__(self) -> None:
            super().__init__()
            self.form = nn.Bilinear(72, 72, 6)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.form(x, x)
            return out

    model = nn.Sequential(nn.Flatten(), Pair(), nn.Sigmoid()).double()
    method = br.get_method("burstprop", blocks=("2",))
    before = dict(vars(model))
    with pytest.raises(br.errors.BackroadsError):
        method.prepare(model, batch(2)[0], 0)
    assert vars(model).keys() == before.keys()


def test_losses_of_blocks_survive_what_works_in_place_after_them() -> None:
    """A block that ends before its activation hands on a copy."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.LayerNorm(8), nn.ReLU(inplace=True), nn.Linear(8, OUTPUTS))
    for name in ("local_errors", "mono_forward"):
        method = br.get_method(name, blocks=("2",))
        model = method.prepare(copy.deepcopy(net), batch(2, torch.float32)[0], 0)
        found = gradients(method, model, torch.float32)
        other = copy.deepcopy(net)
        other[3] = nn.ReLU()
        expected = gradients(method, method.prepare(other, batch(2, torch.float32)[0], 0), torch.float32)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("node_perturbation", nn.Dropout(0.5), "without dropout"),
        ("weight_perturbation", nn.Dropout(0.5), "without dropout"),
        ("dual_propagation", nn.PReLU(), "activations without weights"),
        ("local_errors", nn.Conv1d(1, 4, 3), "features last"),
        ("mono_forward", nn.Conv1d(1, 4, 3), "features last"),
    ],
)
def test_layers_that_a_method_would_teach_noise_or_nothing_are_refused(
    name: str, layer: nn.Module, message: str
) -> None:
    before = nn.Unflatten(1, (1, 72)) if isinstance(layer, nn.Conv1d) else nn.Linear(72, 8)
    activation = [] if isinstance(layer, nn.PReLU) else [nn.ReLU()]
    after = [nn.Flatten(), nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, OUTPUTS)]
    model = nn.Sequential(nn.Flatten(), before, layer, *activation, *after)
    x = batch(2, torch.float32)[0]
    model(x)
    with pytest.raises(ConfigError, match=message):
        br.get_method(name).prepare(model, x, 0)


@pytest.mark.parametrize("theta", [0.0, 5.0])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid])
def test_plain_hebb_of_saturated_units_is_that_of_others(activation: type[nn.Module], theta: float) -> None:
    """(R - Rbar) (s - theta) x^T, where the slope of the activation is 0 to all digits."""
    method = ThreeFactor(eligibility="hebb", expectation="none", theta=theta)
    model = nn.Sequential(nn.Linear(1, 1, bias=False), activation(), nn.Linear(1, 2, bias=False))
    x, y = torch.ones(64, 1), torch.zeros(64, dtype=torch.int64)
    method.prepare(model, x, 0)
    with torch.no_grad():
        model[0].weight.fill_(100.0)  # s = 1 for certain
        model[2].weight.copy_(torch.tensor([[50.0], [-50.0]]))  # and the answer right: R = 1
    method.objective(model, x, y, F.cross_entropy)[0].backward()
    torch.testing.assert_close(model[0].weight.grad, torch.tensor([[-(1 - theta)]]))


# How long they infer depends on the numbers.
SETTLING = ("predictive_coding", "equilibrium_propagation")
STEADY = {name: case.method for name, case in METHODS.items() if not name.startswith(SETTLING)}


@pytest.mark.parametrize("method", STEADY.values(), ids=STEADY)
def test_a_step_asks_for_no_number_and_keeps_to_one_device(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, whose tensors have no numbers: a GPU would be waited for where one is asked for."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which that device has not
    model = prepared(method, torch.float32).to("meta")
    x, y = (t.to("meta") for t in batch(dtype=torch.float32))
    method.objective(model, x, y, F.cross_entropy)[0].backward()


@CHECKED
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, torch.where(y == 0, OUTPUTS, y)), "expected labels from 0 to 2, got 3 at index"),
        (lambda x, y: (x, y - 1), "expected labels from 0 to 2, got -1 at index"),
        (lambda x, y: (x, y.double()), "expected 6 integer labels, got torch.float64"),
        (lambda x, y: (x, y[:-1]), r"expected 6 integer labels, got torch.int64 of shape \(5,\)"),
        (lambda x, y: (x[..., :5], y), r"expected inputs of shape \('N', 2, 6, 6\)"),
        (lambda x, y: (x[:0], y[:0]), "with N > 0"),
        (lambda x, y: (x.index_fill(0, torch.tensor([2]), math.nan), y), r"got nan at index \(2, 0, 0, 0\)"),
    ],
    ids=["high label", "low label", "dtype", "length", "size", "empty", "nan"],
)
def test_bad_batches_are_refused_before_anything_changes(method: Method, change: Any, message: str) -> None:
    model = prepared(method)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ShapeError, match=message):
        method.objective(model, *change(*batch()), F.cross_entropy)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@CHECKED
def test_a_model_is_prepared_once_and_before_training(method: Method) -> None:
    model, (x, y) = network(method), batch()
    with pytest.raises(UsageError, match="call prepare"):
        method.objective(model, x, y, F.cross_entropy)
    method.prepare(model, x, 0)
    before = list(model.state_dict())
    with pytest.raises(ConfigError, match="already"):
        method.prepare(model, x, 0)
    assert list(model.state_dict()) == before


@CHECKED
def test_a_model_without_a_layer_that_the_method_can_train_is_refused_untouched(method: Method) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, OUTPUTS)).double()
    before = list(model.state_dict())
    with pytest.raises(ConfigError):
        method.prepare(model, batch(2)[0], 0)
    assert list(model.state_dict()) == before
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@TABLE
@pytest.mark.slow
def test_it_compiles(method: Method) -> None:
    class Training(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = prepared(method)

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return method.objective(self.model, x, y, F.cross_entropy)

    torch.compiler.reset()  # of the cases before
    plain, compiled = Training(), Training()
    case = case_of(method)
    run: Any = torch.compile(compiled, backend="eager", fullgraph=case.one_graph)
    x, y = batch()
    for training in (run, plain, run, plain):
        torch.manual_seed(0)
        plain.zero_grad() if training is plain else compiled.zero_grad()  # compiled, accumulated passes do not count
        training(x, y)[0].backward()
    for p, q in zip(plain.parameters(), compiled.parameters(), strict=True):
        assert (p.grad is None and q.grad is None) or torch.allclose(p.grad, q.grad, rtol=1e-10, atol=1e-12)


class LiveBytes:
    """Counts the bytes that autograd keeps for backward passes, parameters apart; the most at one time is ``peak``."""

    def __init__(self, model: nn.Module) -> None:
        self.own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.now = self.peak = 0

    def __enter__(self) -> LiveBytes:
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda kept: kept.tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.hooks.__exit__(*error)

    def pack(self, tensor: Tensor) -> Any:
        counter, size = self, tensor.nbytes if tensor.untyped_storage().data_ptr() not in self.own else 0

        class Kept:
            def __init__(self, tensor: Tensor) -> None:
                self.tensor = tensor.detach()  # an output kept with its graph would keep itself
                counter.now += size
                counter.peak = max(counter.peak, counter.now)

            def __del__(self) -> None:
                counter.now -= size

        return Kept(tensor)


@pytest.mark.parametrize("name", br.list_methods())
def test_decoupled_blocks_have_the_same_gradients_and_keep_one_block_at_a_time(name: str) -> None:
    joint = br.get_method(name)
    if not isinstance(joint, Blockwise):
        pytest.skip("not in blocks")
    decoupled, depth = dataclasses.replace(joint, decoupled=True), 12
    torch.manual_seed(0)
    deep = nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(40, 40), nn.Tanh())), nn.Linear(40, 4)).double()
    x, y = torch.randn(64, 40, dtype=torch.float64), torch.randint(4, (64,))
    found, peaks = [], []
    for method in (joint, decoupled):
        model = method.prepare(copy.deepcopy(deep), x[:2], 0)
        with torch.no_grad():
            for seed, p in enumerate(model.parameters()):
                p += 0.1 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(seed))
        torch.manual_seed(0)
        with LiveBytes(model) as memory:
            objective = method.objective(model, x, y, F.cross_entropy)[0]
        peaks.append(memory.peak)
        objective.backward()
        found.append({key: p.grad for key, p in model.named_parameters()})
    assert all(torch.equal(gradient, found[1][key]) for key, gradient in found[0].items())
    # What one of the blocks keeps is at most what all keep over their number; three times that leaves room for the
    # output and for the block that is being made while one is let go.
    assert peaks[1] < 3 * peaks[0] / (depth + 1)


# --- by name ---


def test_methods_are_found_by_name_and_by_import_path_with_their_options() -> None:
    assert {type(br.get_method(name)) for name in br.list_methods()} == {type(c.method) for c in METHODS.values()}
    assert br.get_method("feedback", rules="kolen_pollack") == Feedback("kolen_pollack")
    found = br.get_method("backroads.methods.local_errors:LocalErrors", limit=30, blocks=["1"])
    assert (found.limit, found.blocks) == (30, ("1",))


def test_a_method_of_ones_own_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backroads.methods._METHODS._entries", dict(br.methods._METHODS._entries))

    class Halved(Method):
        name = "halved"

        def objective(self, model: nn.Module, x: Tensor, y: Tensor, loss: Any) -> tuple[Tensor, Tensor]:
            value, output = super().objective(model, x, y, loss)
            return value / 2, output

    br.register_method("halved", Halved)
    model, (x, y) = plain_network(), batch()
    method = br.get_method("halved")
    assert torch.equal(
        method.objective(method.prepare(model, x, 0), x, y, F.cross_entropy)[0], F.cross_entropy(model(x), y) / 2
    )
    with pytest.raises(ConfigError, match="'halved' is already taken"):
        br.register_method("halved", Halved)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("local_erors", {}, "unknown method 'local_erors'. Did you mean 'local_errors'"),
        ("local_errors", {"limits": 3}, "takes no option 'limits'. Did you mean 'limit'"),
        ("torch.nn:Identity", {}, r"expected a backroads\.methods\.base\.Method, got Identity"),
        ("no.such:thing", {}, "cannot import 'no.such'"),
    ],
)
def test_a_wrong_name_says_what_was_expected(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        br.get_method(name, **options)


NUMBERS = [
    (type(method), field.name)
    for method in {type(case.method): case.method for case in METHODS.values()}.values()
    for field in dataclasses.fields(method)
    if isinstance(field.default, float) or type(field.default) is int
]


@pytest.mark.parametrize("value", ["x", float("nan"), float("inf"), True], ids=str)
@pytest.mark.parametrize(("make", "option"), NUMBERS, ids=str)
def test_what_is_no_number_is_told_with_the_option_and_what_came(make: Any, option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{make.name}: {option}: expected .*, got {value!r}"):
        make(**{option: value})
