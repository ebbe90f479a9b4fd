"""Conversion is all or nothing, in place and with the same objects; reverting leaves plain torch modules."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import OUTPUTS, RULES, batch, small_network
from torch import Tensor, nn

import backroads as br
from backroads.errors import ConversionError, RuleError
from backroads.feedback.nn import AlignedLayer

SA = br.get_rule("symmetric_alignment")
DFA = RULES["direct_feedback_alignment"]
# One rule for each set of tensors that a layer may keep.
KINDS = ("backprop", "symmetric_alignment", "sign_symmetry", "sign_symmetry(fixed_random)", "direct_feedback_alignment")


def plain_network(dtype: torch.dtype = torch.float64) -> nn.Module:
    """What :func:`small_network` is before its conversion: torch's own modules, never touched."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 3, stride=2, bias=False),
            nn.BatchNorm2d(6),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(24, 5),
            nn.ReLU(),
            nn.Linear(5, OUTPUTS),
        ).to(dtype)


class OwnLSTM(nn.LSTM):
    """May compute something else."""


def with_lstm() -> nn.Module:
    return nn.Sequential(OrderedDict(first=nn.Linear(2, 2), lstm=OwnLSTM(2, 2), up=nn.ConvTranspose1d(2, 2, 3)))


def anatomy(model: nn.Module) -> dict[str, Any]:
    """Every module's class and attributes; those that are dicts (parameters, buffers, hooks) by their items."""

    def of(value: Any) -> Any:
        return {key: id(v) for key, v in value.items()} if isinstance(value, dict) else id(value)

    return {
        name: (type(module), {key: of(value) for key, value in module.__dict__.items()})
        for name, module in model.named_modules()
    }


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in (*model.named_parameters(), *model.named_buffers())}


def memory(model: nn.Module) -> set[int]:
    return {t.data_ptr() for t in (*model.parameters(), *model.buffers())}


def same_values(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def gradients(model: nn.Module, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The gradients of one pass in training mode, which draws nothing at random but what the rule does."""
    model = copy.deepcopy(model)
    x, y = batch(dtype=dtype)
    torch.manual_seed(7)
    F.cross_entropy(model(x), y).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


# --- all or nothing ---


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("rule", ["symmetric_alignment", "sign_symmetry(fixed_random)", "direct_feedback_alignment"])
def test_a_conversion_that_fails_midway_leaves_the_model_as_it_was(
    rule: str, layer: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = plain_network().eval()
    model.register_forward_hook(lambda module, args, output: output * 2)
    before, tensors, out = anatomy(model), values(model), model(batch()[0])
    attach, calls = AlignedLayer.attach, iter(range(9))

    def failing(self: AlignedLayer, *args: Any) -> None:
        attach(self, *args)  # what it added is to go again
        if next(calls) == layer:
            raise error

    monkeypatch.setattr(AlignedLayer, "attach", failing)
    with pytest.raises(type(error)):
        br.convert(model, RULES[rule])
    monkeypatch.undo()

    assert anatomy(model) == before
    assert same_values(values(model), tensors)
    assert torch.equal(model(batch()[0]), out)
    assert len(list(br.aligned_layers(br.convert(model, RULES[rule])))) == 4


REFUSALS: dict[str, tuple[Callable[[], Any], Any, dict[str, Any], str]] = {
    "strict": (with_lstm, SA, {"strict": True}, "cannot be converted"),
    "a pattern for nothing": (plain_network, {"0": SA, "nothing": SA}, {}, "matches no module"),
    "an empty mapping": (plain_network, {}, {}, "empty mapping"),
    "nothing to convert": (lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm1d(2)), SA, {}, "nothing to convert"),
    "nothing to convert at the root": (lambda: OwnLSTM(2, 2), SA, {}, "nothing to convert in OwnLSTM.*recurrent"),
    "nothing to convert, strict": (lambda: OwnLSTM(2, 2), SA, {"strict": True}, "cannot be converted.*recurrent"),
    "converted already": (lambda: small_network(SA), SA, {}, r"converted already.*br\.revert"),
    "a part converted already": (
        lambda: nn.Sequential(nn.Linear(2, 2), br.convert(nn.Linear(2, 2), SA)),
        SA,
        {},
        r"converted already \(1\)",
    ),
    "a layer made converted": (lambda: nn.Sequential(br.nn.Linear(2, 2)), SA, {}, r"converted already \(0\)"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refused_model_is_untouched(case: str) -> None:
    make, rules, options, says = REFUSALS[case]
    model = make()
    before, tensors = anatomy(model), values(model)
    with pytest.raises(ConversionError, match=says):
        br.convert(model, rules, **options)
    assert anatomy(model) == before
    assert same_values(values(model), tensors)


@pytest.mark.parametrize("thing", [[nn.Linear(2, 2)], nn.Linear, None], ids=["list", "class", "none"])
def test_what_is_not_a_module_is_refused(thing: Any) -> None:
    with pytest.raises(ConversionError, match=r"expected a torch\.nn\.Module"):
        br.convert(thing, SA)


def test_what_is_not_a_rule_is_refused_and_the_model_untouched() -> None:
    model = plain_network()
    before = anatomy(model)
    with pytest.raises(RuleError):
        br.convert(model, {"0": SA, "6": "no such rule"})
    assert anatomy(model) == before


def test_strict_names_each_module_with_what_to_do() -> None:
    with pytest.raises(ConversionError) as caught:
        br.convert(with_lstm(), SA, strict=True)
    assert "lstm (OwnLSTM): recurrent weights; use torch's own LSTM" in str(caught.value)
    assert "up (ConvTranspose1d): transposed convolution; use nn.Upsample" in str(caught.value)


def test_without_strict_one_warning_names_each_module_and_points_at_the_caller() -> None:
    with pytest.warns(UserWarning, match="still transport weights") as caught:
        model = br.convert(with_lstm(), SA)
    (warning,) = caught
    assert all(word in str(warning.message) for word in ("lstm (OwnLSTM)", "up (ConvTranspose1d)"))
    assert warning.filename == __file__
    assert [name for name, _ in br.aligned_layers(model)] == ["first"]


def test_a_warning_turned_into_an_error_leaves_the_model_as_it_was() -> None:
    model = with_lstm()
    before = anatomy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="still transport weights"):
            br.convert(model, SA)
    assert anatomy(model) == before


def test_strict_converts_a_model_that_only_has_layers_to_leave() -> None:
    model = br.convert(nn.Sequential(nn.Embedding(3, 2), nn.LayerNorm(2), nn.Linear(2, 2)), SA, strict=True)
    assert [name for name, _ in br.aligned_layers(model)] == ["2"]


# --- in place, with the same objects ---


@pytest.mark.parametrize("name", RULES)
def test_the_model_its_modules_and_its_parameters_stay_the_same_objects(name: str) -> None:
    model = plain_network()
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    tensors, keys = values(model), list(model.state_dict())
    assert br.convert(model, RULES[name]) is model
    assert all(module is modules[n] for n, module in model.named_modules())
    after = dict(model.named_parameters())
    assert all(after[n] is p for n, p in parameters.items())
    assert {id(p) for p in br.forward_parameters(model)} == {id(p) for p in parameters.values()}
    assert same_values({n: t for n, t in values(model).items() if n in tensors}, tensors)
    assert [key for key in model.state_dict() if key in keys] == keys


@pytest.mark.parametrize("name", RULES)
def test_the_forward_pass_is_bit_identical_before_and_after_conversion_and_reversion(name: str) -> None:
    model, x = plain_network(), batch()[0]
    before = copy.deepcopy(model)(x)
    br.convert(model, RULES[name])
    assert torch.equal(copy.deepcopy(model)(x), before)
    assert torch.equal(br.revert(model)(x), before)


def test_an_optimizer_made_before_keeps_working_on_the_forward_weights() -> None:
    model = plain_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    br.convert(model, SA)
    before = values(model)
    x, y = batch()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    after = values(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])} - set(dict(model.named_buffers()))
    assert moved == {name for name, p in model.named_parameters() if not name.endswith("backward_weight")}


def test_hooks_of_layers_and_of_the_root_keep_firing_after_conversion_and_reversion() -> None:
    model, x, fired = plain_network(), batch()[0], []
    for name in ("", "2", "8"):
        module = model.get_submodule(name)
        module.register_forward_pre_hook(lambda m, a, n=name: fired.append(f"pre {n}"))
        module.register_forward_hook(lambda m, a, o, n=name: fired.append(f"post {n}"))
        module.register_full_backward_hook(lambda m, i, o, n=name: fired.append(f"back {n}"))
        module.register_state_dict_post_hook(lambda m, s, prefix, local, n=name: fired.append(f"state {n}"))
    model[8].weight.register_hook(lambda g: fired.append("grad 8"))

    def run() -> list[str]:
        fired.clear()
        model(x.clone().requires_grad_()).sum().backward()
        model.state_dict()
        return sorted(fired)

    plain = run()
    assert len(plain) == 4 * 3 + 1
    br.convert(model, DFA)
    assert run() == plain
    br.revert(model)
    assert run() == plain


def test_a_root_hook_that_changes_the_output_still_does_and_direct_feedback_sends_what_the_root_returns() -> None:
    model, x = plain_network(), batch()[0]
    plain = copy.deepcopy(model)(x)
    model.register_forward_hook(lambda module, args, output: output * 2)
    br.convert(model, DFA)
    kept: list[Tensor] = []
    model[8].register_forward_pre_hook(lambda module, args: kept.append(args[0]) or args[0].retain_grad())
    out = model(x)
    assert torch.equal(out, plain * 2)
    out.square().sum().backward()
    torch.testing.assert_close(kept[0].grad, (2 * out.detach()) @ model[8].backward_weight)


def test_modes_and_frozen_parameters_stay() -> None:
    model = plain_network()
    model[3].eval()
    model[6].eval()
    model[0].weight.requires_grad_(False)
    model[8].bias.requires_grad_(False)
    modes = {name: module.training for name, module in model.named_modules()}
    frozen = {name: p.requires_grad for name, p in model.named_parameters()}
    for after in (br.convert(model, SA), br.revert(model)):
        assert {name: module.training for name, module in after.named_modules()} == modes
        now = {name: p.requires_grad for name, p in after.named_parameters()}
        assert {name: now[name] for name in frozen} == frozen


@pytest.mark.parametrize("name", RULES)
def test_only_backward_weights_that_learn_require_gradients(name: str) -> None:
    model = br.convert(plain_network(), RULES[name])
    learns = RULES[name].learns
    kept = [p for _, layer in br.aligned_layers(model) for p in layer.state.values()]
    backward = [p for p in kept if isinstance(p, torch.nn.Parameter)]
    assert all(B.requires_grad == learns for B in backward)
    each = {"backprop": 0, "mirrored_kolen_pollack": 2}.get(name, 0 if name.startswith("sign_symmetry") else 1)
    assert len(backward) == 4 * each
    assert [id(B) for B in br.backward_parameters(model)] == ([id(B) for B in backward] if learns else [])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", RULES)
def test_backward_weights_have_the_dtype_of_the_forward_weights(name: str, dtype: torch.dtype) -> None:
    model = br.convert(plain_network(dtype), RULES[name])
    floating = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    assert {t.dtype for t in floating} == {dtype}
    found = gradients(model, dtype)
    assert all(g.dtype == dtype and g.isfinite().all() for g in found.values())
    assert found.keys() == {n for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", RULES)
def test_a_model_on_meta_converts_on_meta(name: str) -> None:
    model, real = br.convert(plain_network().to("meta"), RULES[name]), small_network(RULES[name])
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in real.state_dict().items()}
    model.to_empty(device="cpu").load_state_dict(real.state_dict())
    assert same_values(values(model), values(real))


@pytest.mark.parametrize("name", KINDS)
def test_the_forward_pass_of_a_converted_model_runs_on_meta(name: str) -> None:
    model = br.convert(plain_network().to("meta"), RULES[name])
    assert model(torch.empty(6, 2, 6, 6, dtype=torch.float64, device="meta")).shape == (6, OUTPUTS)


@pytest.mark.parametrize("name", KINDS)
def test_a_plain_state_dict_assigned_to_a_model_on_meta_leaves_nothing_on_meta(name: str) -> None:
    model = br.convert(plain_network().to("meta"), RULES[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # B is drawn anew, and says so
        model.load_state_dict(plain_network().state_dict(), assign=True)
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"cpu"}


def test_a_shared_module_is_converted_once_and_used_twice() -> None:
    shared = nn.Linear(3, 3).double()
    rule = br.rules.symmetric_alignment(0.3, 0.3)
    model = br.convert(nn.Sequential(OrderedDict(a=shared, act=nn.Tanh(), b=shared)), rule)
    assert [name for name, _ in br.aligned_layers(model)] == ["a"]
    assert model.a is model.b is shared
    assert len(br.backward_parameters(model)) == 1
    model(torch.randn(2, 3, dtype=torch.float64)).sum().backward()
    # The mean of decay B - self W over both uses.
    expected = 0.3 * shared.backward_weight - 0.3 * shared.weight
    torch.testing.assert_close(shared.backward_weight.grad, expected)


def test_layers_that_share_a_parameter_still_share_it_and_have_backward_weights_of_their_own() -> None:
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    b.weight = a.weight
    model = br.convert(nn.Sequential(a, b), SA)
    assert b.weight is a.weight
    assert b.backward_weight is not a.backward_weight
    br.revert(model)
    assert b.weight is a.weight


@pytest.mark.parametrize("name", RULES)
def test_a_layer_that_is_the_root_converts_and_reverts(name: str) -> None:
    layer = nn.Linear(4, OUTPUTS).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    before = layer(x)
    assert br.convert(layer, RULES[name]) is layer
    assert type(layer) is br.nn.Linear
    assert torch.equal(layer(x), before)
    assert type(br.revert(layer)) is nn.Linear
    assert torch.equal(layer(x), before)


def test_direct_feedback_takes_the_number_of_outputs_from_the_last_layer() -> None:
    model = br.convert(plain_network(), "direct_feedback_alignment")
    shapes = [tuple(layer.backward_weight.shape) for _, layer in br.aligned_layers(model)]
    assert shapes == [(OUTPUTS, 2), (OUTPUTS, 4), (OUTPUTS, 24), (OUTPUTS, 5)]


def test_parts_of_a_model_convert_one_by_one_and_revert_together() -> None:
    model = plain_network()
    br.convert(model[0], "feedback_alignment")
    br.convert(model[8], "weight_mirror")
    assert [name for name, _ in br.aligned_layers(model)] == ["0", "8"]
    assert list(br.aligned_layers(br.revert(model))) == []


# --- draws ---


def backward_tensors(model: nn.Module) -> dict[str, Tensor]:
    plain = plain_network().state_dict()
    return {key: t for key, t in model.state_dict().items() if key not in plain}


@pytest.mark.parametrize("name", RULES)
def test_one_seed_gives_one_draw_and_leaves_the_global_generator_alone(name: str) -> None:
    state = torch.get_rng_state()
    a, b, other = (backward_tensors(br.convert(plain_network(), RULES[name], generator=seed)) for seed in (3, 3, 4))
    given = br.convert(plain_network(), RULES[name], generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert same_values(a, b)
    assert same_values(a, backward_tensors(given))
    made_of_w = name == "backprop" or (name.startswith("sign_symmetry") and name != "sign_symmetry(fixed_random)")
    assert same_values(a, other) == made_of_w


@pytest.mark.parametrize("name", ["feedback_alignment", "direct_feedback_alignment", "sign_symmetry(fixed_random)"])
def test_without_a_seed_the_draws_come_from_the_global_generator(name: str) -> None:
    draws = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        draws.append(backward_tensors(br.convert(plain_network(), RULES[name])))
    assert same_values(draws[0], draws[1])
    assert not same_values(draws[0], draws[2])


def test_layers_alike_get_different_draws_from_one_seed() -> None:
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    b.load_state_dict(a.state_dict())
    br.convert(nn.Sequential(a, b), SA, generator=0)
    assert not torch.equal(a.backward_weight, b.backward_weight)


def test_the_draw_resamples_the_magnitudes_of_the_forward_weights_with_random_signs() -> None:
    layer = nn.Linear(200, 100)
    with torch.no_grad():
        layer.weight.abs_().add_(1)  # a mean far from 0, which must not align B with W
    br.convert(layer, SA, generator=0)
    W, B = layer.weight.detach(), layer.backward_weight.detach()
    assert set(B.abs().flatten().tolist()) <= set(W.abs().flatten().tolist())
    assert abs(B.square().mean() / W.square().mean() - 1) < 0.01
    # 20000 random signs: the mean sign has a standard deviation of 0.007.
    assert abs(B.sign().mean()) < 0.03
    assert abs((B * W).mean() / W.square().mean()) < 0.03


def test_forward_weights_of_zero_get_backward_weights_in_the_range_of_torchs_initialiser() -> None:
    layer = nn.Linear(16, 50)
    nn.init.zeros_(layer.weight)
    B = br.convert(layer, SA, generator=0).backward_weight.detach()
    assert 0.2 < B.abs().max() <= 1 / 4
    assert abs(B.square().mean() - (1 / 4) ** 2 / 3) < 0.004


# --- and back ---


@pytest.mark.parametrize("name", RULES)
def test_a_reverted_model_is_plain_torch_again(name: str) -> None:
    model = plain_network()
    pristine, before, tensors = copy.deepcopy(model), anatomy(model), values(model)
    assert br.revert(br.convert(model, RULES[name])) is model
    assert {n: cls for n, (cls, _) in anatomy(model).items()} == {n: cls for n, (cls, _) in before.items()}
    for n, (_, attributes) in anatomy(model).items():
        assert attributes.keys() == before[n][1].keys()
        dicts = {key for key, value in attributes.items() if isinstance(value, dict)}
        assert {key: attributes[key] for key in dicts} == {key: before[n][1][key] for key in dicts}
    assert same_values(values(model), tensors)
    assert list(model.state_dict()) == list(pristine.state_dict())
    assert repr(model) == repr(pristine)
    plain, reverted = gradients(pristine), gradients(model)
    assert plain.keys() == reverted.keys()
    assert all(torch.equal(plain[n], reverted[n]) for n in plain)


@pytest.mark.parametrize("name", RULES)
def test_a_reverted_model_converts_again_under_any_rule(name: str) -> None:
    model = br.convert(br.revert(small_network(RULES[name])), RULES["all five primitives"], generator=0)
    fresh = br.convert(plain_network(), RULES["all five primitives"], generator=0)
    assert same_values(values(model), values(fresh))
    again = br.convert(br.revert(model), RULES[name], generator=0)
    fresh = br.convert(plain_network(), RULES[name], generator=0)
    got, expected = gradients(again), gradients(fresh)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[n], expected[n]) for n in got)


def test_reverting_what_is_not_converted_changes_nothing() -> None:
    model = plain_network()
    before = anatomy(model)
    assert br.revert(model) is model
    assert anatomy(model) == before


def test_reverting_keeps_the_users_own_hooks_and_attributes() -> None:
    model = plain_network()
    model.register_forward_hook(lambda m, a, output: output + 1)
    model.register_load_state_dict_pre_hook(lambda *args: None)
    model[0].note = "mine"
    x, before = batch()[0], anatomy(model)
    out = copy.deepcopy(model)(x)
    br.revert(br.convert(model, DFA))
    assert anatomy(model)[""][1]["_forward_hooks"] == before[""][1]["_forward_hooks"]
    assert len(model._load_state_dict_pre_hooks) == 1
    assert model[0].note == "mine"
    assert torch.equal(model(x), out)


# --- copies ---


def by_pickle(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def by_torch_save(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    ("name", "duplicate"),
    [
        *((name, copy.deepcopy) for name in RULES),
        *((name, by_pickle) for name in RULES),
        *((name, by_torch_save) for name in KINDS),
    ],
)
def test_a_copy_computes_the_same_shares_nothing_and_reverts_alone(name: str, duplicate: Any) -> None:
    model = small_network(RULES[name])
    expected = gradients(model)
    twin = duplicate(model)
    assert [layer.rule for _, layer in br.aligned_layers(twin)] == [layer.rule for _, layer in br.aligned_layers(model)]
    got = gradients(twin)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[n], expected[n]) for n in got)
    assert not memory(model) & memory(twin)

    br.revert(twin)
    assert list(br.aligned_layers(twin)) == []
    assert not twin._forward_hooks
    assert not twin._forward_pre_hooks
    assert not twin._load_state_dict_pre_hooks
    still = gradients(model)
    assert all(torch.equal(still[n], expected[n]) for n in expected)
    assert len(model._load_state_dict_pre_hooks) == 1


def test_a_copy_counts_its_own_steps() -> None:
    model = small_network(br.Alignment(amp=1.0, decay=1.0, cadence=br.Cadence(3)))
    model(batch()[0])
    twin = copy.deepcopy(model)
    twin(batch()[0])
    steps = [m.state_dict()["0.rule_memory"].item() for m in (model, twin)]
    assert steps == [1, 2]


def test_a_part_of_a_converted_model_reverts_alone_and_the_rest_goes_on() -> None:
    model = small_network(SA)
    x = batch()[0]
    out = copy.deepcopy(model)(x)
    br.revert(model[0])
    assert [name for name, _ in br.aligned_layers(model)] == ["2", "6", "8"]
    assert torch.equal(copy.deepcopy(model)(x), out)
    model.load_state_dict(copy.deepcopy(model.state_dict()))


# --- modules of the simulator aihwkit, stood in for by classes of its names ---


class AnalogLinear(nn.Linear):
    """As convert_to_analog makes it of a Linear."""

    __module__ = "aihwkit.nn.modules.linear"


class AnalogSequential(nn.Sequential):
    """As convert_to_analog makes it of a Sequential."""

    __module__ = "aihwkit.nn.modules.container"


@pytest.mark.parametrize("patterns", ["kolen_pollack", {"0": "kolen_pollack"}])
def test_a_model_with_analog_layers_is_refused_and_stays_as_it_is(patterns: Any) -> None:
    net = nn.Sequential(nn.Linear(3, 4), AnalogLinear(4, 2))
    with pytest.raises(ConversionError, match=r"1 \(AnalogLinear\) is aihwkit's.*br\.device_model"):
        br.convert(net, patterns)
    assert [type(module) for module in net] == [nn.Linear, AnalogLinear]


@pytest.mark.parametrize("ask", [lambda net: br.param_groups(net, lr=0.1), lambda net: br.device_model(net)])
def test_a_converted_model_that_was_made_analog_afterwards_is_refused(ask: Callable[[nn.Module], Any]) -> None:
    """convert_to_analog leaves our layers digital, in a container of its own, and says nothing."""
    net = br.convert(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), "kolen_pollack")
    ask(net)
    with pytest.raises(ConversionError, match=r"\(root\) \(AnalogSequential\) is aihwkit's.*leaves backroads' layers"):
        ask(AnalogSequential(*net))
