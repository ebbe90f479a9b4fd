"""Recurrent layers with their own way back: torch's own, where B is W, and its converted copy where it is not."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from problems import LAYERWISE, RULES
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

import backroads as br
from backroads.errors import ShapeError, StateError

IN, H, N, T = 3, 4, 5, 7
LAYERS: dict[str, Any] = {"LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU, "RNN": torch.nn.RNN}
CELLS: dict[str, Any] = {"LSTMCell": torch.nn.LSTMCell, "GRUCell": torch.nn.GRUCell, "RNNCell": torch.nn.RNNCell}
OPTIONS: dict[str, dict[str, Any]] = {
    "one layer": {},
    "no bias": {"bias": False},
    "batch first": {"batch_first": True},
    "two directions, two layers": {"bidirectional": True, "num_layers": 2},
    "dropout": {"dropout": 0.4, "num_layers": 3, "bidirectional": True},
}
CASES = [
    *itertools.product(LAYERS, OPTIONS.items()),
    ("LSTM", ("projected", {"proj_size": 2, "num_layers": 2, "bidirectional": True})),
    ("RNN", ("relu", {"nonlinearity": "relu"})),
]
NAMED = pytest.mark.parametrize(
    ("kind", "options"), [(k, o) for k, (_, o) in CASES], ids=[f"{k}, {n}" for k, (n, _) in CASES]
)


def plain(kind: str, seed: int = 0, **options: Any) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made: torch.nn.Module = {**LAYERS, **CELLS}[kind](IN, H, dtype=torch.float64, **options)
        return made


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tensors(value: Any) -> list[Tensor]:
    """All tensors of numbers within an output."""
    if isinstance(value, PackedSequence):
        return [value.data]
    return [value] if isinstance(value, Tensor) else [t for part in value for t in tensors(part)]


def with_W_for_B(model: torch.nn.Module) -> torch.nn.Module:
    for _, layer in br.aligned_layers(model):
        with torch.no_grad():
            layer.backward_weight.copy_(layer.weight)
    return model


def gradients(model: torch.nn.Module, x: Any, hx: Any = None) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and gradients of a function of all of them: of the input, the state and torch's own parameters."""
    x = x.clone().requires_grad_() if isinstance(x, Tensor) else x._replace(data=x.data.clone().requires_grad_())
    leaf = x if isinstance(x, Tensor) else x.data
    hx = [h.clone().requires_grad_() for h in tensors(hx)] if hx is not None else []
    given = () if not hx else (tuple(hx) if len(hx) > 1 else hx[0],)
    model.zero_grad()
    torch.manual_seed(3)
    outputs = tensors(model(x, *given))
    sum((y * drawn(*y.shape, seed=9)).sum() + y.square().sum() for y in outputs).backward()
    own = {name: p.grad for name, p in model.named_parameters() if "backward" not in name}
    return [y.detach() for y in outputs], [leaf.grad, *(h.grad for h in hx), *own.values()]


def compare(model: torch.nn.Module, other: torch.nn.Module, x: Any, hx: Any = None) -> None:
    for a, b in zip(gradients(model, x, hx), gradients(other, x, hx), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def state_of(kind: str, options: dict[str, Any], n: int = N) -> Any:
    places = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    h = drawn(places, n, options.get("proj_size") or H, seed=5)
    return (h, drawn(places, n, H, seed=6)) if kind == "LSTM" else h


# --- the same as torch's ---


@NAMED
def test_under_backprop_outputs_and_all_gradients_are_torchs(kind: str, options: dict[str, Any]) -> None:
    model = plain(kind, **options)
    compare(
        br.convert(copy.deepcopy(model), "backprop"),
        model,
        drawn(N, T, IN) if "batch_first" in options else drawn(T, N, IN),
    )


@NAMED
def test_with_W_for_B_symmetric_alignment_gives_torchs_gradients(kind: str, options: dict[str, Any]) -> None:
    model = plain(kind, **options)
    x = drawn(N, T, IN) if "batch_first" in options else drawn(T, N, IN)
    compare(with_W_for_B(br.convert(copy.deepcopy(model), "symmetric_alignment")), model, x, state_of(kind, options))


@NAMED
def test_packed_sequences_of_any_lengths_give_torchs_gradients(kind: str, options: dict[str, Any]) -> None:
    model = plain(kind, **options)
    x = pack_sequence([drawn(n, IN, seed=n) for n in (2, 6, 1, 6)], enforce_sorted=False)
    converted = with_W_for_B(br.convert(copy.deepcopy(model), "symmetric_alignment"))
    compare(converted, model, x)
    compare(converted, model, x, state_of(kind, options, 4))
    padded, lengths = pad_packed_sequence(converted(x)[0])
    assert padded.shape[:2] == (6, 4)
    assert lengths.tolist() == [2, 6, 1, 6]


@NAMED
def test_one_example_without_a_batch_gives_torchs_gradients(kind: str, options: dict[str, Any]) -> None:
    model = plain(kind, **options)
    converted = with_W_for_B(br.convert(copy.deepcopy(model), "symmetric_alignment"))
    given = state_of(kind, options, 1)
    given = tuple(h.squeeze(1) for h in given) if kind == "LSTM" else given.squeeze(1)
    compare(converted, model, drawn(T, IN))
    compare(converted, model, drawn(T, IN), given)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(N, IN), (IN,)])
@pytest.mark.parametrize("kind", CELLS)
def test_a_cell_gives_torchs_gradients_under_backprop_and_with_W_for_B(kind: str, shape: Any, bias: bool) -> None:
    model, h = plain(kind, bias=bias), drawn(*shape[:-1], H, seed=5)
    hx = (h, drawn(*shape[:-1], H, seed=6)) if kind == "LSTMCell" else h
    with_B = with_W_for_B(br.convert(copy.deepcopy(model), "symmetric_alignment"))
    for converted in (br.convert(copy.deepcopy(model), "backprop"), with_B):
        compare(converted, model, drawn(*shape))
        compare(converted, model, drawn(*shape), hx)


@pytest.mark.parametrize("kind", [*LAYERS, *CELLS])
def test_without_gradients_every_bit_is_torchs(kind: str) -> None:
    model = plain(kind)
    converted = br.convert(copy.deepcopy(model), "feedback_alignment")
    x = drawn(T, N, IN) if kind in LAYERS else drawn(N, IN)
    with torch.no_grad():
        for a, b in zip(tensors(converted(x)), tensors(model(x)), strict=True):
            assert torch.equal(a, b)


# --- with a B of its own ---


class Written(torch.nn.Module):
    """A GRU of two linear layers, from the equations."""

    def __init__(self, rule: br.FeedbackRule) -> None:
        super().__init__()
        self.ih, self.hh = (br.nn.Linear(n, 3 * H, dtype=torch.float64, rule=rule) for n in (IN, H))

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = x.new_zeros(x.shape[1], H), []
        for a in self.ih(x.flatten(0, 1)).split(x.shape[1]):
            b = self.hh(h)
            r, z = torch.sigmoid(a[:, :H] + b[:, :H]), torch.sigmoid(a[:, H : 2 * H] + b[:, H : 2 * H])
            h = (1 - z) * torch.tanh(a[:, 2 * H :] + r * b[:, 2 * H :]) + z * h
            outputs.append(h)
        return torch.stack(outputs)


# Those that draw nothing at random.
STEADY = [name for name in LAYERWISE if "random" not in name and "mirror" not in name]


@pytest.mark.parametrize("name", STEADY)
def test_a_gru_is_the_network_that_one_writes_of_linear_layers(name: str) -> None:
    """The error of the input, and W's and B's gradients, for every rule that draws nothing at random."""
    converted = br.convert(plain("GRU"), RULES[name], generator=4)
    written = Written(RULES[name])
    for key in ("ih", "hh"):
        source, target = getattr(converted, f"{key}_l0"), getattr(written, key)
        with torch.no_grad():
            target.weight.copy_(source.weight)
            target.bias.copy_(source.bias)
            for part, value in source.state.items():
                target.state[part].copy_(value)
    found = []
    for model in (converted, written):
        x = drawn(T, N, IN).requires_grad_()
        y = model(x)
        (y if isinstance(y, Tensor) else y[0]).square().sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
    for key in ("ih", "hh"):
        source, target = getattr(converted, f"{key}_l0"), getattr(written, key)
        torch.testing.assert_close(source.parameter.grad, target.weight.grad, rtol=1e-9, atol=1e-12)
        for part, value in source.state.items():
            if value.requires_grad:
                torch.testing.assert_close(value.grad, target.state[part].grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_symmetric_alignment_is_exact_after_a_step_over_300_steps_of_time(kind: str) -> None:
    """B is the W before the step, whatever the number of uses: the mean of B - W over them, at rate 1."""
    model = br.convert(plain(kind, num_layers=2), "symmetric_alignment")
    opt = torch.optim.SGD(br.param_groups(model, lr=0.01, momentum=0.0))
    for step in range(2):
        before = {name: layer.weight.detach().clone() for name, layer in br.aligned_layers(model)}
        opt.zero_grad()
        model(drawn(300, N, IN, seed=step))[0].square().mean().backward()
        opt.step()
        for name, layer in br.aligned_layers(model):
            torch.testing.assert_close(layer.backward_weight, before[name], rtol=0, atol=1e-12)


def test_mirrored_kolen_pollack_reaches_the_angle_that_it_predicts_over_200_steps_of_time() -> None:
    model = br.convert(plain("LSTM"), "mirrored_kolen_pollack", generator=0)
    opt = torch.optim.SGD(br.param_groups(model, lr=0.01, momentum=0.0))
    torch.manual_seed(0)
    for step in range(17):
        opt.zero_grad()
        model(drawn(200, N, IN, seed=step))[0].square().mean().backward()
        opt.step()
    angles = br.metrics.weight_angles(model)
    for name, layer in br.aligned_layers(model):
        predicted = layer.rule.predicted_angle(layer.state)
        assert 0 < predicted < 10
        assert predicted / 1.6 < angles[name] < 1.6 * predicted  # |D|^2 of 48 or 64 normal numbers: within a quarter


@pytest.mark.parametrize("kind", LAYERS)
def test_matrices_have_weights_of_their_own_and_a_rule_each(kind: str) -> None:
    model = br.convert(plain(kind, bidirectional=True), "feedback_alignment")
    assert [name for name, _ in br.aligned_layers(model)] == ["ih_l0", "hh_l0", "ih_l0_reverse", "hh_l0_reverse"]
    for name, layer in br.aligned_layers(model):
        assert layer.weight.data_ptr() == getattr(model, f"weight_{name}").data_ptr()
        assert layer.backward_weight.shape == layer.weight.shape
        assert not torch.equal(layer.backward_weight, layer.weight)


# --- there and back ---


@pytest.mark.parametrize("kind", [*LAYERS, *CELLS])
def test_a_trained_layer_reverts_to_torchs_with_what_it_learned(kind: str) -> None:
    model = plain(kind)
    before = [id(p) for p in model.parameters()]
    br.convert(model, "kolen_pollack")
    x = drawn(T, N, IN) if kind in LAYERS else drawn(N, IN)
    opt = torch.optim.SGD(br.param_groups(model, lr=0.1))
    tensors(model(x))[0].square().sum().backward()
    opt.step()
    with torch.no_grad():
        expected = tensors(model(x))
    br.revert(model)
    assert type(model) is {**LAYERS, **CELLS}[kind]
    assert [id(p) for p in model.parameters()] == before
    assert [n for n, _ in model.named_modules()] == [""]
    assert not torch.equal(next(model.parameters()), next(plain(kind).parameters()))
    with torch.no_grad():
        for a, b in zip(tensors(model(x)), expected, strict=True):
            assert torch.equal(a, b)
    br.convert(model, "symmetric_alignment")


def test_state_dicts_plain_and_converted_load_and_half_of_one_does_not() -> None:
    model = br.convert(plain("LSTM", num_layers=2), "symmetric_alignment", generator=1)
    again = br.convert(plain("LSTM", 8, num_layers=2), "symmetric_alignment", generator=2)
    again.load_state_dict(model.state_dict())
    for (_, a), (_, b) in zip(br.aligned_layers(model), br.aligned_layers(again), strict=True):
        assert torch.equal(a.backward_weight, b.backward_weight)
    other = plain("LSTM", 9, num_layers=2)
    with pytest.warns(UserWarning, match="drawn anew"):
        again.load_state_dict(other.state_dict())
    assert torch.equal(again.weight_hh_l1, other.weight_hh_l1)
    half = {key: value for key, value in model.state_dict().items() if key != "hh_l1.backward_weight"}
    with pytest.raises(StateError, match="half converted"):
        again.load_state_dict(half)


def test_a_copy_and_one_from_a_pickle_read_their_own_weights() -> None:
    model = br.convert(torch.nn.Sequential(plain("GRU")), "symmetric_alignment")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[0].weight_hh_l0.zero_()
    assert twin[0].hh_l0.weight.abs().max() == 0
    assert model[0].hh_l0.weight.abs().max() > 0


def test_made_with_a_rule_from_the_start() -> None:
    layer = br.nn.LSTM(IN, H, 2, rule="feedback_alignment", generator=torch.Generator().manual_seed(0))
    assert {one.rule for _, one in br.aligned_layers(layer)} == {br.get_rule("feedback_alignment")}
    y, (h, c) = layer(torch.randn(T, N, IN))
    assert (y.shape, h.shape, c.shape) == ((T, N, H), (2, N, H), (2, N, H))
    assert type(br.revert(layer)) is torch.nn.LSTM


def test_a_converted_layer_in_a_converted_model_says_so_in_a_plan_and_is_not_converted_twice() -> None:
    model = br.convert(torch.nn.Sequential(plain("LSTM")), "symmetric_alignment")
    assert all("converted already" in row.why for row in br.plan(model, "symmetric_alignment").rows)
    with pytest.raises(br.errors.ConversionError, match="converted already"):
        br.convert(model, "symmetric_alignment")


# --- refusals ---


@pytest.mark.parametrize(
    ("kind", "x", "hx", "says"),
    [
        ("LSTM", (T, N, IN + 1), None, r"LSTM: expected input of shape \(\.\.\., 3\), got"),
        ("LSTM", (N,), None, r"LSTM: expected input of shape \(T, N, I\)"),
        ("GRU", (0, N, IN), None, "a step of time or more"),
        ("GRU", (T, N, IN), (1, N + 1, H), r"GRU: expected hx of shape \(1, 5, 4\), got \(1, 6, 4\)"),
        ("LSTM", (T, N, IN), (1, N, H), r"expected hx of shape \(1, 5, 4\), \(1, 5, 4\), got \(1, 5, 4\)$"),
        ("GRUCell", (T, N, IN), None, r"GRUCell: expected input of shape \(N, I\)"),
        ("LSTMCell", (N, IN), (N, H), r"expected hx of shape \(5, 4\), \(5, 4\), got \(5, 4\)$"),
    ],
)
def test_what_does_not_fit_is_refused(kind: str, x: Any, hx: Any, says: str) -> None:
    model = br.convert(plain(kind), "symmetric_alignment")
    with pytest.raises(ShapeError, match=says):
        model(drawn(*x), *(() if hx is None else (drawn(*hx),)))


def test_an_input_of_another_dtype_is_refused() -> None:
    with pytest.raises(ShapeError, match="dtype"):
        br.convert(plain("LSTM"), "symmetric_alignment")(drawn(T, N, IN).float())
