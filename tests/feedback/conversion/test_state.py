"""State dicts of converted models: what fits is loaded, what does not is refused before anything is changed."""

from __future__ import annotations

import copy
import itertools
import re
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import OUTPUTS, RULES, batch, small_network
from torch import Tensor, nn

import backroads as br
from backroads.errors import StateError

LAYERS = ("0", "2", "6", "8")  # of small_network
# One rule for each set of tensors that a layer may keep, and which it keeps.
KINDS = {
    "backprop": (),
    "symmetric_alignment": ("backward_weight",),
    "direct_feedback_alignment": ("backward_weight",),
    "sign_symmetry(initial)": ("sign_scale",),
    "sign_symmetry(fixed_random)": ("sign_magnitude",),
}
DRAWING = [kind for kind, tensors in KINDS.items() if tensors]
SLOW_CLOCK = br.Alignment(amp=1.0, decay=1.0, cadence=br.Cadence(3))


def contents(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def plain_state(seed: int = 1) -> dict[str, Tensor]:
    return contents(br.revert(small_network("backprop", seed=seed)))


def gradients(model: nn.Module) -> list[Tensor | None]:
    x, y = batch()
    torch.manual_seed(7)
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    return [p.grad for p in model.parameters()]


def refuse(model: nn.Module, state: dict[str, Any], says: str, **options: Any) -> str:
    """Loading raises one StateError that ``says`` so, and nothing at all has changed; returns the message."""
    before, given = contents(model), {key: t.clone() for key, t in state.items()}
    requires = {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(StateError, match=says) as caught:
        model.load_state_dict(state, **options)
    assert same(contents(model), before)
    assert same(dict(state), given)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == requires
    return str(caught.value)


# --- what fits ---


@pytest.mark.parametrize("wrapped", [False, True], ids=["root", "wrapped"])
@pytest.mark.parametrize("name", RULES)
def test_a_round_trip_restores_every_tensor_and_every_gradient(name: str, wrapped: bool) -> None:
    saved, fresh = small_network(RULES[name], seed=1), small_network(RULES[name], seed=2)
    if wrapped:
        saved, fresh = nn.ModuleDict({"net": saved}), nn.ModuleDict({"net": fresh})
    assert not same(contents(saved), contents(fresh))
    result = fresh.load_state_dict(copy.deepcopy(saved.state_dict()))
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert same(contents(fresh), contents(saved))
    if not wrapped:
        pairs = zip(gradients(fresh), gradients(saved), strict=True)
        assert all(b is None if a is None else torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", KINDS)
def test_a_converted_state_dict_is_the_plain_one_and_each_layers_own_tensors(name: str) -> None:
    own = {f"{layer}.{tensor}" for layer in LAYERS for tensor in KINDS[name]}
    assert set(small_network(RULES[name]).state_dict()) == set(plain_state()) | own


@pytest.mark.parametrize("name", RULES)
def test_a_converted_state_dict_is_plain_tensors(name: str, tmp_path: Any) -> None:
    model = small_network(RULES[name])
    torch.save(model.state_dict(), tmp_path / "state.pt")
    assert same(torch.load(tmp_path / "state.pt", weights_only=True), contents(model))


@pytest.mark.parametrize(
    ("saved", "loading"),
    [("symmetric_alignment", "feedback_alignment"), ("sign_symmetry", "sign_symmetry(batch_random)")],
)
def test_rules_that_keep_the_same_tensors_load_each_others_states(saved: str, loading: str) -> None:
    source, model = small_network(RULES[saved], seed=1), small_network(RULES[loading], seed=2)
    learns = [p.requires_grad for p in model.parameters()]
    model.load_state_dict(source.state_dict())
    assert same(contents(model), contents(source))
    assert [p.requires_grad for p in model.parameters()] == learns


def test_the_count_of_steps_is_saved_and_goes_on_where_it_stopped() -> None:
    saved, x = small_network(SLOW_CLOCK, seed=1), batch()[0]
    for _ in range(2):
        saved(x)
    fresh = small_network(SLOW_CLOCK, seed=2)
    fresh.load_state_dict(copy.deepcopy(saved.state_dict()))
    assert fresh.state_dict()["0.rule_memory"].item() == 2
    # Step 2 of every third is idle, step 3 is not: the term that needs activities joins the decay.
    idle, active = (copy.deepcopy(g) for g in (gradients(fresh), gradients(fresh)))
    B, dB = fresh[8].backward_weight.detach(), [n for n, _ in fresh.named_parameters()].index("8.backward_weight")
    torch.testing.assert_close(idle[dB], B)
    assert not torch.allclose(active[dB], B)


@pytest.mark.parametrize("saved", [1, 3])
@pytest.mark.parametrize("loading", [1, 3])
def test_states_with_and_without_a_count_of_steps_load_into_each_other(saved: int, loading: int) -> None:
    source = small_network(br.Alignment(amp=1.0, decay=1.0, cadence=br.Cadence(saved)), seed=1)
    model = small_network(br.Alignment(amp=1.0, decay=1.0, cadence=br.Cadence(loading)), seed=2)
    result = model.load_state_dict(source.state_dict())
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert same(dict(model.named_parameters()), dict(source.named_parameters()))


# --- a plain, pretrained state dict ---


@pytest.mark.parametrize("prefix", ["", "net."])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", DRAWING)
def test_a_plain_state_dict_loads_and_names_the_layers_it_draws_for(kind: str, strict: bool, prefix: str) -> None:
    state = {prefix + key: tensor for key, tensor in plain_state().items()}
    model = small_network(RULES[kind], seed=2)
    holder = nn.ModuleDict({"net": model}) if prefix else model
    with pytest.warns(UserWarning, match="no backward weights") as caught:
        result = holder.load_state_dict(state, strict=strict)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert same({key: t for key, t in contents(holder).items() if key in state}, state)
    assert len(caught) == 1
    said = str(caught[0].message)
    assert all(re.search(rf"(^|\s){re.escape(prefix + layer)}\b", said) for layer in LAYERS)


def test_a_plain_state_dict_loads_silently_where_nothing_is_kept() -> None:
    model, state = small_network("backprop", seed=2), plain_state()
    model.load_state_dict(state)
    assert same(contents(model), state)


@pytest.mark.parametrize("kind", DRAWING)
def test_what_a_plain_state_dict_lacks_is_drawn_to_fit_the_weights_it_has(kind: str) -> None:
    state = plain_state()
    for layer in LAYERS:
        state[f"{layer}.weight"] = state[f"{layer}.weight"] * 100
    model = small_network(RULES[kind], seed=2)
    before = contents(model)
    with pytest.warns(UserWarning, match="no backward weights"):
        model.load_state_dict(state)
    for name, layer in br.aligned_layers(model):
        W = state[f"{name}.weight"]
        magnitudes = set(W.abs().flatten().tolist())
        if kind == "symmetric_alignment":
            assert set(layer.backward_weight.abs().flatten().tolist()) <= magnitudes
            assert layer.backward_weight.requires_grad
        if kind == "sign_symmetry(fixed_random)":
            assert set(layer.sign_magnitude.flatten().tolist()) <= magnitudes
        if kind == "sign_symmetry(initial)":
            torch.testing.assert_close(layer.sign_scale, W.square().mean().sqrt(), rtol=1e-6, atol=0)
        assert all(not torch.equal(getattr(layer, t), before[f"{name}.{t}"]) for t in KINDS[kind])


# --- what does not ---


# torch does not tell a module whether it is loaded strictly: what is refused is refused either way.
either_way = pytest.mark.parametrize("strict", [True, False])


@either_way
@pytest.mark.parametrize("lacking", [("0",), ("8",), ("0", "2", "6")], ids=str)
@pytest.mark.parametrize("kind", DRAWING)
def test_a_half_converted_state_dict_is_refused_naming_what_is_missing(
    kind: str, lacking: tuple[str, ...], strict: bool
) -> None:
    state = contents(small_network(RULES[kind], seed=1))
    for layer, tensor in itertools.product(lacking, KINDS[kind]):
        del state[f"{layer}.{tensor}"]
    message = refuse(small_network(RULES[kind], seed=2), state, "half converted", strict=strict)
    assert all(f"{lacking[0]}.{tensor}" in message for tensor in KINDS[kind])


def test_a_half_converted_message_counts_layers() -> None:
    state = contents(small_network(RULES["sign_symmetry(fixed_random)"], seed=1))
    del state["0.sign_magnitude"]
    message = refuse(small_network(RULES["sign_symmetry(fixed_random)"], seed=2), state, "half converted")
    assert "backward weights for 3 layers" in message


@pytest.mark.parametrize("kind", DRAWING)
def test_a_converted_state_dict_without_a_layer_at_all_is_not_half_converted(kind: str) -> None:
    """As torch has it: all but a new head, loaded with strict=False."""
    state = {k: t for k, t in contents(small_network(RULES[kind], seed=1)).items() if not k.startswith("8.")}
    model = small_network(RULES[kind], seed=2)
    head = {key: t for key, t in contents(model).items() if key.startswith("8.")}
    result = model.load_state_dict(state, strict=False)
    assert set(result.missing_keys) == set(head)
    assert same(contents(model), state | head)


@either_way
@pytest.mark.parametrize(("saved", "loading"), [(a, b) for a, b in itertools.permutations(KINDS, 2) if a != "backprop"])
def test_a_state_dict_of_rules_that_keep_other_tensors_is_refused(saved: str, loading: str, strict: bool) -> None:
    state = contents(small_network(RULES[saved], seed=1))
    message = refuse(small_network(RULES[loading], seed=2), state, "state dict", strict=strict)
    assert any(f"{layer}.{tensor}" in message for layer in LAYERS for tensor in (*KINDS[saved], *KINDS[loading]))


@pytest.mark.parametrize("loading", KINDS)
def test_the_forward_weights_of_a_state_dict_of_other_rules_load_as_a_plain_one(loading: str) -> None:
    state = contents(small_network("weight_mirror", seed=1))
    forward = {key: tensor for key, tensor in state.items() if not key.endswith("backward_weight")}
    model = small_network(RULES[loading], seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is kept is drawn anew, and says so
        model.load_state_dict(forward)
    assert same({key: t for key, t in contents(model).items() if key in forward}, forward)


WRONG_SHAPES = {
    "0.weight": (4, 2, 5, 5),
    "8.weight": (OUTPUTS + 1, 5),
    "8.bias": (OUTPUTS + 1,),
    "3.running_mean": (7,),
    "3.num_batches_tracked": (2,),
    "0.backward_weight": (2, 4, 3, 3),
    "8.backward_weight": (5, OUTPUTS),
}


@either_way
@pytest.mark.parametrize("key", WRONG_SHAPES)
def test_a_tensor_of_the_wrong_shape_is_refused_with_both_shapes(key: str, strict: bool) -> None:
    model = small_network("symmetric_alignment", seed=2)
    state = contents(small_network("symmetric_alignment", seed=1))
    needed, given = tuple(state[key].shape), WRONG_SHAPES[key]
    state[key] = torch.zeros(given)
    message = refuse(model, state, re.escape(key), strict=strict)
    assert str(needed) in message
    assert str(given) in message


@pytest.mark.parametrize("key", ["0.weight", "3.running_mean"])
def test_a_plain_state_dict_of_the_wrong_shape_is_refused_without_drawing(key: str) -> None:
    state = plain_state()
    state[key] = torch.zeros(WRONG_SHAPES[key])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refuse(small_network("symmetric_alignment", seed=2), state, re.escape(key))


@pytest.mark.parametrize("case", ["half", "other rules", "shape"])
def test_inside_a_wrapper_the_whole_converted_part_is_unchanged_and_keys_have_their_prefix(case: str) -> None:
    rule = RULES["sign_symmetry(fixed_random)" if case == "other rules" else "symmetric_alignment"]
    saved = small_network(rule, seed=1)
    state = contents(nn.ModuleDict({"net": saved}))
    key = "net.8.sign_magnitude" if case == "other rules" else "net.8.backward_weight"
    if case == "half":
        del state[key]
    if case == "shape":
        state[key] = torch.zeros(1, 1)
    model = nn.ModuleDict({"net": small_network("symmetric_alignment", seed=2)})
    message = refuse(model, state, "state dict")
    assert ("net.0.sign_magnitude" if case == "other rules" else key) in message  # of many, the first


def test_two_converted_models_in_one_wrapper_are_checked_each_for_itself() -> None:
    def pair(seed: int) -> nn.Module:
        nets = {name: small_network(name, seed=seed) for name in ("symmetric_alignment", "sign_symmetry", "backprop")}
        return nn.ModuleDict(nets)

    saved, model = pair(1), pair(2)
    model.load_state_dict(saved.state_dict())
    assert same(contents(model), contents(saved))


def test_parts_converted_one_by_one_and_layers_left_alone_load_together() -> None:
    def model(seed: int) -> nn.Module:
        net = br.revert(small_network("backprop", seed=seed))
        br.convert(net[0], "symmetric_alignment")
        br.convert(net[8], "sign_symmetry")
        return net

    saved, fresh = model(1), model(2)
    fresh.load_state_dict(saved.state_dict())
    assert same(contents(fresh), contents(saved))


# --- a root that is a layer ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_is_the_root_round_trips(kind: str) -> None:
    saved, fresh = (br.convert(nn.Linear(4, OUTPUTS), RULES[kind]) for _ in range(2))
    fresh.load_state_dict(saved.state_dict())
    assert same(contents(fresh), contents(saved))


@pytest.mark.parametrize("kind", DRAWING)
def test_a_layer_that_is_the_root_loads_a_plain_state_dict_and_refuses_wrong_ones(kind: str) -> None:
    layer, plain = br.convert(nn.Linear(4, OUTPUTS), RULES[kind]), nn.Linear(4, OUTPUTS)
    with pytest.warns(UserWarning, match="no backward weights"):
        layer.load_state_dict(plain.state_dict())
    assert torch.equal(layer.weight, plain.weight)
    other = RULES["symmetric_alignment" if kind.startswith("sign") else "sign_symmetry(initial)"]
    refuse(layer, contents(br.convert(nn.Linear(4, OUTPUTS), other)), "state dict")
    refuse(layer, nn.Linear(5, OUTPUTS).state_dict(), "weight has shape")
