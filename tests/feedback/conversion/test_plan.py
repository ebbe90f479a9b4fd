"""The plan names every module with its rule or the reason against it, and touches nothing."""

from __future__ import annotations

import copy
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import RULES
from torch import nn

import backroads as br
from backroads.errors import ConversionError, RuleError

CONVERT, LEAVE, REFUSE = "convert", "leave", "cannot convert"
SA, FA, WM = (br.get_rule(name) for name in ("symmetric_alignment", "feedback_alignment", "weight_mirror"))


class OwnAttention(nn.MultiheadAttention):
    """A subclass may compute something else."""


class OwnLSTM(nn.LSTM):
    pass


class OwnForward(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 2


class OwnMatrix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(2, 2))


class OwnVector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(2))


def _with_weight(weight: torch.Tensor) -> nn.Linear:
    linear = nn.Linear(2, 2)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


def _quietly(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """torch remarks on lazy modules and on the older norms."""

    def quiet() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()

    return quiet


parametrizations = nn.utils.parametrizations

# What each module is to the plan, and a word of the reason.
MODULES: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "Linear": (lambda: nn.Linear(2, 3), CONVERT, "linear map"),
    "Conv1d": (lambda: nn.Conv1d(2, 3, 3), CONVERT, "linear map"),
    "Conv2d": (lambda: nn.Conv2d(2, 4, 3, groups=2), CONVERT, "linear map"),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 3), CONVERT, "linear map"),
    "Linear, frozen": (lambda: nn.Linear(2, 3).requires_grad_(False), CONVERT, "linear map"),
    "Linear on meta": (lambda: nn.Linear(2, 3, device="meta"), CONVERT, "linear map"),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(2), LEAVE, "elementwise"),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), LEAVE, "elementwise"),
    "LayerNorm": (lambda: nn.LayerNorm((3, 4)), LEAVE, "elementwise"),
    "RMSNorm": (lambda: nn.RMSNorm((3, 4)), LEAVE, "elementwise"),
    "PReLU": (lambda: nn.PReLU(), LEAVE, "elementwise"),
    "own vector": (OwnVector, LEAVE, "elementwise"),
    "Embedding": (lambda: nn.Embedding(3, 2), LEAVE, "table of rows"),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(3, 2), LEAVE, "table of rows"),
    "own matrix": (OwnMatrix, LEAVE, r"matrix.*transports weights"),
    "LSTM": (lambda: nn.LSTM(2, 3), CONVERT, "matrices of the input and of the state"),
    "GRU": (lambda: nn.GRU(2, 3), CONVERT, "matrices of the input and of the state"),
    "RNN": (lambda: nn.RNN(2, 3), CONVERT, "matrices of the input and of the state"),
    "LSTMCell": (lambda: nn.LSTMCell(2, 3), CONVERT, "matrices of the input and of the state"),
    "GRUCell": (lambda: nn.GRUCell(2, 3), CONVERT, "matrices of the input and of the state"),
    "RNNCell": (lambda: nn.RNNCell(2, 3), CONVERT, "matrices of the input and of the state"),
    "LSTM, frozen": (lambda: nn.LSTM(2, 3).requires_grad_(False), CONVERT, "matrices of the input and of the state"),
    "LSTM of one's own": (lambda: OwnLSTM(2, 3), REFUSE, r"recurrent.*torch's own LSTM"),
    "LSTM with weight norm by hooks": (
        _quietly(lambda: nn.utils.weight_norm(nn.LSTM(2, 3), "weight_hh_l0")),
        REFUSE,
        "weight_hh_l0 is not a float Parameter",
    ),
    "attention of one's own": (lambda: OwnAttention(4, 2), REFUSE, r"subclass \(OwnAttention\)"),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(2, 3, 3), REFUSE, r"transposed.*nn\.Conv1d"),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 3), REFUSE, r"transposed.*nn\.Conv2d"),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 3, 3), REFUSE, r"transposed.*nn\.Conv3d"),
    "Bilinear": (lambda: nn.Bilinear(2, 3, 4), REFUSE, r"bilinear.*nn\.Linear"),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(2, 3)), REFUSE, "parametrization; remove"),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)), REFUSE, "parametrization; remove"),
    "weight norm by hooks": (_quietly(lambda: nn.utils.weight_norm(nn.Linear(2, 3))), REFUSE, "not a Parameter"),
    "spectral norm by hooks": (_quietly(lambda: nn.utils.spectral_norm(nn.Linear(2, 3))), REFUSE, "not a Parameter"),
    "LazyLinear": (_quietly(lambda: nn.LazyLinear(3)), REFUSE, "lazy.*one forward pass"),
    "LazyConv2d": (_quietly(lambda: nn.LazyConv2d(3, 3)), REFUSE, "lazy.*one forward pass"),
    "LazyConvTranspose1d": (_quietly(lambda: nn.LazyConvTranspose1d(3, 3)), REFUSE, "transposed"),
    "int8 weight": (lambda: _with_weight(torch.ones(2, 2, dtype=torch.int8)), REFUSE, r"torch\.int8.*quantising"),
    "complex weight": (lambda: _with_weight(torch.ones(2, 2, dtype=torch.complex64)), REFUSE, r"torch\.complex64"),
    "subclass": (lambda: OwnForward(2, 2), REFUSE, r"subclass \(OwnForward\).*use torch's own class"),
}
SILENT = {
    "ReLU": nn.ReLU,
    "Dropout": nn.Dropout,
    "MaxPool2d": lambda: nn.MaxPool2d(2),
    "BatchNorm1d without parameters": lambda: nn.BatchNorm1d(2, affine=False),
    "an empty container": nn.Sequential,
}


def holding(module: nn.Module) -> nn.Module:
    """The module under the name "it", beside a layer that converts."""
    return nn.Sequential(OrderedDict(first=nn.Linear(2, 2), it=module))


@pytest.mark.parametrize("name", MODULES)
def test_each_kind_of_module_has_its_action_and_its_reason(name: str) -> None:
    make, action, why = MODULES[name]
    module = make()
    plan = br.plan(holding(module), SA)
    row = next(row for row in plan.rows if row.name == "it")
    assert (row.module, row.action) == (type(module).__name__, action)
    assert re.search(why, row.why)
    assert row.rule == (SA if action == CONVERT else None)
    assert row in plan.select(action)


@pytest.mark.parametrize("name", SILENT)
def test_modules_without_weights_are_not_worth_a_row(name: str) -> None:
    assert [row.name for row in br.plan(holding(SILENT[name]()), SA).rows] == ["first"]


def test_a_lazy_layer_converts_once_it_has_weights() -> None:
    net = _quietly(lambda: nn.Sequential(nn.LazyLinear(3)))()
    net(torch.ones(1, 2))
    assert [(row.name, row.action) for row in br.plan(net, SA).rows] == [("0", CONVERT)]


def test_attention_converts_with_its_output_projection_and_its_neighbours() -> None:
    plan = br.plan(nn.TransformerEncoderLayer(4, 2, 8), SA)
    assert [row.name for row in plan.select(CONVERT)] == ["self_attn", "self_attn.out_proj", "linear1", "linear2"]
    assert plan.select(REFUSE) == []


def test_parts_of_an_attention_that_is_refused_are_its_own_affair() -> None:
    plan = br.plan(nn.Sequential(OwnAttention(4, 2), nn.Linear(4, 2)), SA)
    assert [row.name for row in plan.select(CONVERT)] == ["1"]
    assert [row.name for row in plan.select(REFUSE)] == ["0"]
    assert not any(row.name.startswith("0.") for row in plan.rows)


def test_the_printed_plan_shows_every_row_and_counts() -> None:
    net = holding(OwnLSTM(2, 3))
    net.add_module("again", net.first)
    net.add_module("norm", nn.BatchNorm1d(2))
    text = str(br.plan(net, {"first": SA}))
    table = {line.split()[0]: line for line in text.splitlines()[1:-1]}
    assert set(table) == {"first", "it", "norm"}
    assert "first = again" in table["first"]
    assert repr(SA) in table["first"]
    assert re.search(r"OwnLSTM\s+cannot convert\s+recurrent", table["it"])
    assert re.search(r"BatchNorm1d\s+leave\s+elementwise", table["norm"])
    assert text.splitlines()[-1] == "1 of 3 modules get backward weights of their own; 1 still transport weights: it"


@pytest.mark.parametrize("name", RULES)
def test_planning_touches_nothing(name: str) -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 3), nn.LSTM(3, 3))
    before, rng = copy.deepcopy(net), torch.get_rng_state()
    br.plan(net, RULES[name])
    assert torch.equal(torch.get_rng_state(), rng)
    for was, now in zip(before.modules(), net.modules(), strict=True):
        assert type(now) is type(was)
        assert set(now.__dict__) == set(was.__dict__)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), net.parameters(), strict=True))


# --- what may transport weights without anyone's knowledge ---


def gated() -> nn.Module:
    """A layer that converts, and two modules with matrices of their own, as experts or adapters have."""
    return nn.Sequential(OrderedDict(layer=nn.Linear(2, 2), one=OwnMatrix(), two=OwnMatrix(), table=nn.Embedding(3, 2)))


def test_a_model_of_which_less_than_half_converts_says_what_is_left() -> None:
    with pytest.warns(UserWarning, match="beside 1 that are converted") as caught:
        br.convert(gated(), SA)
    assert re.search(r"one \(OwnMatrix\): .*matrix.*; two \(OwnMatrix\)", str(caught[0].message))
    assert "table" not in str(caught[0].message)
    half = gated()
    half.two = nn.Linear(2, 2)
    br.convert(half, {"layer": SA})  # half can be converted, and what no pattern names is its author's choice


def test_strict_refuses_matrices_of_ones_own_and_takes_a_word_for_them() -> None:
    net = gated()
    with pytest.raises(ConversionError, match=r'one \(OwnM.*two \(OwnM.*\{"one": "backprop", "\*": rule\}'):
        br.convert(net, SA, strict=True)
    assert type(net.layer) is nn.Linear
    br.convert(net, {"one": "backprop", "two": "backprop", "*": SA}, strict=True)
    assert net.layer.rule == SA
    net = nn.Sequential(OrderedDict(layer=nn.Linear(2, 2), up=nn.ConvTranspose1d(2, 2, 3)))
    br.convert(net, {"up": "backprop", "*": SA}, strict=True)  # no warning either


def test_strict_takes_embeddings_norms_and_vectors() -> None:
    net = nn.Sequential(nn.Embedding(3, 2), nn.LayerNorm((2, 2)), nn.PReLU(), OwnVector(), nn.Linear(2, 2))
    net.register_parameter("class_token", nn.Parameter(torch.zeros(1, 1, 2)))  # broadcast over the batch
    br.convert(net, SA, strict=True)


# --- patterns ---


def network() -> nn.Module:
    features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3))
    return nn.Sequential(OrderedDict(features=features, head=nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))))


F0, F2, H0, H1 = "features.0", "features.2", "head.0", "head.1"


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (SA, dict.fromkeys((F0, F2, H0, H1), SA)),
        ("feedback_alignment", dict.fromkeys((F0, F2, H0, H1), FA)),
        ({"head.0": SA}, {H0: SA}),
        ({"head.0": "weight_mirror"}, {H0: WM}),
        ({"head": SA}, {H0: SA, H1: SA}),
        ({"head.*": SA}, {H0: SA, H1: SA}),
        ({"*.0": SA}, {F0: SA, H0: SA}),
        ({"features.[02]": SA}, {F0: SA, F2: SA}),
        ({"head.?": SA}, {H0: SA, H1: SA}),
        ({"head.1": FA, "head": SA, "*": WM}, {H0: SA, H1: FA, F0: WM, F2: WM}),
        ({"*": WM, "head": SA}, dict.fromkeys((F0, F2, H0, H1), WM)),
    ],
)
def test_the_first_pattern_that_matches_counts(rules: Any, expected: dict[str, br.FeedbackRule]) -> None:
    plan = br.plan(network(), rules)
    assert {row.name: row.rule for row in plan.select(CONVERT)} == expected
    left = plan.select(LEAVE)
    assert {row.name for row in left} == {F0, F2, H0, H1} - set(expected)
    assert all(row.why == "no pattern matches it" and row.rule is None for row in left)


@pytest.mark.parametrize("pattern", ["a", "b"])
def test_a_shared_module_is_one_row_that_either_name_matches(pattern: str) -> None:
    shared = nn.Linear(2, 2)
    (row,) = br.plan(nn.Sequential(OrderedDict(a=shared, b=shared)), {pattern: SA}).rows
    assert (row.name, row.aliases, row.rule) == ("a", ("b",), SA)


@pytest.mark.parametrize("pattern", ["(root)", "*", ""])
def test_a_layer_that_is_the_root_is_called_root(pattern: str) -> None:
    (row,) = br.plan(nn.Linear(2, 2), {pattern: SA}).rows
    assert (row.name, row.action, row.rule) == ("(root)", CONVERT, SA)


@pytest.mark.parametrize(
    ("pattern", "nearest"), [("haed", "head"), ("head.2", "head.[01]"), ("feature", "features"), ("(root)x", "")]
)
def test_a_pattern_that_matches_no_module_is_answered_with_the_nearest_name(pattern: str, nearest: str) -> None:
    with pytest.raises(ConversionError, match="matches no module") as caught:
        br.plan(network(), {"head": SA, pattern: SA})
    assert repr(pattern) in str(caught.value)
    assert re.search(rf"Did you mean '{nearest}'" if nearest else r"matches no module\. Names", str(caught.value))


@pytest.mark.parametrize("pattern", ["rnn", "norm", "attention", "attention.out_proj", "act", "norm*"])
def test_a_pattern_for_modules_that_cannot_be_converted_says_so(pattern: str) -> None:
    net = network()
    net.add_module("rnn", OwnLSTM(2, 2))
    net.add_module("norm", nn.LayerNorm(2))
    net.add_module("attention", OwnAttention(2, 1))
    net.add_module("act", nn.ReLU())
    with pytest.raises(ConversionError, match="matches no layer that can be converted") as caught:
        br.plan(net, {"head": SA, pattern: SA})
    assert repr(pattern) in str(caught.value)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("net", [OwnLSTM(2, 2), nn.Sequential(OwnLSTM(2, 2), nn.ReLU())], ids=["root", "inside"])
def test_one_rule_for_a_model_with_nothing_to_convert_still_gives_a_plan(net: nn.Module) -> None:
    plan = br.plan(net, SA)
    assert [row.module for row in plan.select(REFUSE)] == ["OwnLSTM"]
    assert plan.select(CONVERT) == []


def test_a_converted_model_can_be_planned_and_says_what_its_layers_are() -> None:
    plan = br.plan(br.convert(network(), FA), SA)
    assert {row.name for row in plan.select(LEAVE)} == {F0, F2, H0, H1}
    assert all("converted already" in row.why and repr(FA) in row.why for row in plan.rows)


@pytest.mark.parametrize(
    ("rules", "error", "says"),
    [
        ({}, ConversionError, "empty mapping"),
        ({1: SA}, ConversionError, "patterns that are module names, got 1"),
        (3, RuleError, "expected a rule"),
        (None, RuleError, "expected a rule"),
        ({"head": nn.ReLU()}, RuleError, "expected a rule"),
        (br.rules.weight_mirror, RuleError, r"call it: br\.rules\.weight_mirror\(\)"),
        ("symetric_alignment", RuleError, "Did you mean 'symmetric_alignment'"),
    ],
    ids=["no patterns", "pattern", "number", "none", "module", "function", "name"],
)
def test_what_is_not_a_rule_is_refused(rules: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        br.plan(network(), rules)


@pytest.mark.parametrize("thing", [[nn.Linear(2, 2)], nn.Linear, None], ids=["list", "class", "none"])
def test_what_is_not_a_module_is_refused(thing: Any) -> None:
    with pytest.raises(ConversionError, match=r"expected a torch\.nn\.Module"):
        br.plan(thing, SA)
