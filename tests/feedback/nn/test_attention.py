"""Attention with its own way back: the same network as one written with four linear layers."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import ALIGNMENTS, RULES
from torch import Tensor

import backroads as br
from backroads.errors import ConversionError, ShapeError, StateError
from backroads.feedback.nn import Linear

E, H, N, L, S = 8, 2, 3, 5, 4
# Those of the table that need no outputs, or have as many as the attention.
TABLE = {n: dataclasses.replace(rule, outputs=E) if rule.broadcasts else rule for n, rule in RULES.items()}


def attention(dtype: torch.dtype = torch.float64, **options: Any) -> torch.nn.MultiheadAttention:
    torch.manual_seed(0)
    made = torch.nn.MultiheadAttention(E, H, batch_first=True, **options).to(dtype)
    with torch.no_grad():  # torch starts biases at 0
        for name, p in made.named_parameters():
            if "bias" in name:
                p.normal_()
    return made


def inputs(kdim: int = E, vdim: int = E, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return tuple(torch.randn(N, n, d, generator=g, dtype=dtype) for n, d in ((L, E), (S, kdim), (S, vdim)))  # type: ignore[return-value]


class Written(torch.nn.Module):
    """softmax(q k^T / sqrt(D)) v by head, of four linear layers."""

    def __init__(self, kdim: int, vdim: int, rule: br.FeedbackRule) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (Linear(i, E, dtype=torch.float64, rule=rule) for i in (E, kdim, vdim, E))

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = self.q(query), self.k(key), self.v(value)
        heads = []
        for h in range(H):
            D = E // H
            part = slice(h * D, (h + 1) * D)
            w = torch.einsum("nld,nsd->nls", q[..., part], k[..., part]).div(math.sqrt(D)).softmax(-1)
            heads.append(torch.einsum("nls,nsd->nld", w, v[..., part]))
        out: Tensor = self.out(torch.cat(heads, -1))
        return out


class Pooled(torch.nn.Module):
    """Self-attention, and the mean over positions: an output (N, E), as direct feedback needs it."""

    def __init__(self, attention: torch.nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x)[0].mean(1)
        return out


@pytest.mark.parametrize("sizes", [(E, E), (6, 7)], ids=["stacked", "separate"])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("name", ALIGNMENTS)
def test_gradients_are_those_of_four_linear_layers(name: str, need_weights: bool, sizes: tuple[int, int]) -> None:
    kdim, vdim = sizes
    rule = RULES[name]
    model = br.convert(attention(kdim=kdim, vdim=vdim), rule, generator=2)
    written = Written(kdim, vdim, rule)
    with torch.no_grad():
        for part in ("q", "k", "v", "out"):
            ours = model.out_proj if part == "out" else model.get_submodule(part)
            theirs = written.get_submodule(part)
            theirs.weight.copy_(ours.weight)
            theirs.bias.copy_(ours.bias)
            theirs.backward_weight.copy_(ours.backward_weight)
    xs, ys = ([t.requires_grad_() for t in inputs(kdim, vdim)] for _ in range(2))
    a, _ = model(*xs, need_weights=need_weights)
    b = written(*ys)
    torch.testing.assert_close(a, b)
    weight = torch.randn(a.shape, generator=torch.Generator().manual_seed(3), dtype=a.dtype)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    for x, y in zip(xs, ys, strict=True):
        torch.testing.assert_close(x.grad, y.grad)
    for part in ("q", "k", "v", "out"):
        ours = model.out_proj if part == "out" else model.get_submodule(part)
        theirs = written.get_submodule(part)
        torch.testing.assert_close(ours.part(ours.parameter.grad), theirs.weight.grad)
        if theirs.backward_weight.requires_grad:
            torch.testing.assert_close(ours.backward_weight.grad, theirs.backward_weight.grad)
        else:
            assert ours.backward_weight.grad is None
    bias = torch.cat([written.get_submodule(part).bias.grad for part in "qkv"])
    torch.testing.assert_close(model.in_proj_bias.grad, bias)


OPTIONS = [
    dict(zip(("bias", "add_bias_kv", "add_zero_attn"), flags, strict=True))
    for flags in itertools.product((True, False), repeat=3)
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("masks", ["none", "bool", "float", "by head", "padding", "both"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_outputs_and_weights_are_torchs(options: dict[str, bool], masks: str, batch_first: bool) -> None:
    plain = attention(**options)
    plain.batch_first = batch_first
    model = br.convert(copy.deepcopy(plain), "symmetric_alignment")
    xs = inputs()
    if not batch_first:
        xs = tuple(t.transpose(0, 1) for t in xs)  # type: ignore[assignment]
    causal = torch.ones(L, S, dtype=torch.bool).triu(1)
    padding = torch.zeros(N, S, dtype=torch.bool)
    padding[1, -1] = True
    given: dict[str, Any] = {
        "none": {},
        "bool": {"attn_mask": causal},
        "float": {"attn_mask": torch.randn(L, S, dtype=torch.float64)},
        "by head": {"attn_mask": torch.randn(N * H, L, S, dtype=torch.float64)},
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": causal, "key_padding_mask": padding},
    }[masks]
    for more in ({}, {"need_weights": False}, {"average_attn_weights": False}):
        with torch.enable_grad():
            ours, our_weights = model(*xs, **given, **more)
            theirs, their_weights = plain(*xs, **given, **more)
        torch.testing.assert_close(ours, theirs)
        assert (our_weights is None) == (their_weights is None)
        if our_weights is not None:
            torch.testing.assert_close(our_weights, their_weights)
        with torch.no_grad():
            assert torch.equal(model(*xs, **given, **more)[0], plain(*xs, **given, **more)[0])


def test_one_example_without_a_batch() -> None:
    plain = attention()
    model = br.convert(copy.deepcopy(plain), "symmetric_alignment")
    xs = [t[0] for t in inputs()]
    for ours, theirs in zip(model(*xs), plain(*xs), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_dropout_drops() -> None:
    model = br.convert(attention(dropout=0.5), "symmetric_alignment")
    x = inputs()[0]
    torch.manual_seed(0)
    first, again = model(x, x, x)[0], model(x, x, x)[0]
    assert not torch.equal(first, again)
    model.eval()
    assert torch.equal(model(x, x, x)[0], model(x, x, x)[0])


@pytest.mark.parametrize("name", TABLE)
def test_errors_go_back_and_b_is_truly_separate(name: str) -> None:
    """Hidden gradients are not zero, and changing W after the forward pass changes them only where W is B."""
    gradients = []
    for disturbed in (False, True):
        model = br.convert(Pooled(attention()), TABLE[name], generator=2)
        x = inputs()[0].requires_grad_()
        torch.manual_seed(5)
        out = model(x)
        if disturbed:
            with torch.no_grad():
                model.attention.in_proj_weight.data += 1.0
                model.attention.out_proj.weight.data += 1.0
        out.square().sum().backward()
        gradients.append(x.grad)
    assert bool(gradients[0].abs().sum() > 0)
    if name != "backprop":
        assert torch.equal(gradients[0], gradients[1])


def test_a_step_of_symmetric_alignment_at_rate_1_makes_b_equal_w() -> None:
    model = br.convert(attention(), br.rules.symmetric_alignment(1.0, 1.0))
    x = inputs()[0]
    model(x, x, x)[0].sum().backward()
    with torch.no_grad():
        for B in br.backward_parameters(model):
            B -= B.grad
    for _, layer in br.aligned_layers(model):
        torch.testing.assert_close(layer.backward_weight, layer.weight)
    assert br.metrics.weight_angles(model) == pytest.approx(dict.fromkeys(("q", "k", "v", "out_proj"), 0.0), abs=1e-5)


def test_feedback_alignments_b_never_moves_and_w_does() -> None:
    model = br.convert(attention(), "feedback_alignment")
    assert br.backward_parameters(model) == []
    before = [layer.backward_weight.clone() for _, layer in br.aligned_layers(model)]
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    x = inputs()[0]
    W = model.in_proj_weight.detach().clone()
    model(x, x, x)[0].square().sum().backward()
    opt.step()
    assert all(
        torch.equal(a, layer.backward_weight) for a, (_, layer) in zip(before, br.aligned_layers(model), strict=True)
    )
    assert not torch.equal(W, model.in_proj_weight)


@pytest.mark.parametrize("kdim", [E, 6])
def test_state_dicts_load_and_half_converted_ones_are_refused(kdim: int) -> None:
    plain = torch.nn.Sequential(attention(kdim=kdim, vdim=E))
    model = br.convert(copy.deepcopy(plain), "symmetric_alignment")
    saved = copy.deepcopy(model.state_dict())
    assert set(saved) - set(plain.state_dict()) == {f"0.{n}.backward_weight" for n in ("q", "k", "v", "out_proj")}
    other = br.convert(copy.deepcopy(plain), "symmetric_alignment")
    other.load_state_dict(saved)
    assert all(torch.equal(a, b) for a, b in zip(saved.values(), other.state_dict().values(), strict=True))
    changed = {name: value + 1 for name, value in plain.state_dict().items()}
    with pytest.warns(UserWarning, match=r"0\.q.*drawn|drawn.*0\.q"):
        other.load_state_dict(changed)
    assert torch.equal(other[0].out_proj.weight, changed["0.out_proj.weight"])
    assert not torch.equal(other[0].q.backward_weight, saved["0.q.backward_weight"])
    half = {name: value for name, value in saved.items() if name != "0.k.backward_weight"}
    with pytest.raises(StateError, match=r"half converted.*0\.k\.backward_weight"):
        other.load_state_dict(half)


@pytest.mark.parametrize("kdim", [E, 6])
def test_revert_gives_torchs_own_back(kdim: int) -> None:
    plain = attention(kdim=kdim, vdim=E)
    model = copy.deepcopy(plain)
    W, hooked = model.out_proj.weight, []
    model.register_forward_hook(lambda *_: hooked.append(1))
    br.convert(model, "activation_alignment")
    assert model.out_proj.weight is W
    br.revert(model)
    assert type(model) is torch.nn.MultiheadAttention
    assert type(model.out_proj) is type(plain.out_proj)
    assert list(model.state_dict()) == list(plain.state_dict())
    xs = inputs(kdim)
    assert torch.equal(model(*xs)[0], plain(*xs)[0])
    assert hooked


def test_a_failed_conversion_leaves_attention_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Sequential(attention(), torch.nn.Linear(E, 2))
    monkeypatch.setattr(Linear, "attach", lambda *_: (_ for _ in ()).throw(RuntimeError("no")))
    with pytest.raises(RuntimeError, match="no"):
        br.convert(model, "symmetric_alignment")
    assert type(model[0]) is torch.nn.MultiheadAttention
    assert list(model[0]._modules) == ["out_proj"]
    assert not any("backward" in name for name in model.state_dict())


def test_patterns_reach_attention_as_any_layer() -> None:
    model = torch.nn.TransformerEncoderLayer(E, H, 16, batch_first=True)
    br.convert(model, {"self_attn": "activation_alignment", "linear1": "backprop"})
    rules = {name: repr(layer.rule) for name, layer in br.aligned_layers(model)}
    assert set(rules) == {"self_attn.q", "self_attn.k", "self_attn.v", "self_attn.out_proj", "linear1"}
    assert rules["self_attn.q"] == repr(br.rules.activation_alignment())
    alone = br.plan(torch.nn.TransformerEncoderLayer(E, H, 16), {"linear1": "backprop"})
    assert {row.name: row.action for row in alone.rows}["self_attn.out_proj"] == "leave"

    class Own(torch.nn.MultiheadAttention):
        pass

    with pytest.raises(ConversionError, match="a subclass"):
        br.convert(torch.nn.Sequential(Own(E, H), torch.nn.Linear(E, 2)), "symmetric_alignment", strict=True)


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_fast_path_of_inference_gives_the_same_numbers(norm_first: bool) -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(E, H, 16, batch_first=True, norm_first=norm_first)
    plain = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    model = br.convert(copy.deepcopy(plain), "symmetric_alignment")
    x = torch.randn(N, L, E)
    with torch.no_grad():
        fast = model(x)
        assert torch.equal(fast, plain(x))
    torch.testing.assert_close(model(x), fast)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            torch.testing.assert_close(model(x), fast)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_torchs_transformer_converts_whole() -> None:
    model = torch.nn.Transformer(E, H, 1, 1, 16, batch_first=True)
    br.convert(model, "symmetric_alignment", strict=True)
    names = {name.rpartition(".")[2] for name, _ in br.aligned_layers(model)}
    assert names == {"q", "k", "v", "out_proj", "linear1", "linear2"}
    model(torch.randn(N, S, E), torch.randn(N, L, E)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_metrics_see_each_projection() -> None:
    model = br.convert(
        torch.nn.Sequential(torch.nn.Linear(E, E), attention(torch.float32)), br.rules.symmetric_alignment()
    )
    x = inputs(dtype=torch.float32)[0]

    def loss() -> Tensor:
        h = model[0](x)
        return model[1](h, h, h)[0].square().mean()  # type: ignore[no-any-return]

    measured = br.metrics.readings(model, loss)
    assert set(measured["weight_angle"]) == set(measured["update_angle"]) - {""}
    assert set(measured["weight_angle"]) == {"0", "1.q", "1.k", "1.v", "1.out_proj"}
    # The output projection's W gets its exact gradient, those before it get theirs through B.
    assert measured["update_angle"]["1.out_proj"] == pytest.approx(0, abs=0.1)
    assert all(measured["update_angle"][f"1.{n}"] > 10 for n in "qkv")
    with torch.no_grad():
        for _, layer in br.aligned_layers(model):
            layer.backward_weight.copy_(layer.weight)
    assert br.metrics.readings(model, loss)["update_angle"][""] == pytest.approx(0, abs=0.1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow
def test_it_compiles_as_one_graph() -> None:
    model = br.convert(attention(torch.float32), br.rules.activation_alignment(cadence=br.Cadence()))
    compiled = torch.compile(model, fullgraph=True)
    x = inputs(dtype=torch.float32)[0]
    model(x, x, x)[0].square().sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    compiled(x, x, x)[0].square().sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-4, atol=1e-5)


def test_autocast_and_function_transforms() -> None:
    model = br.convert(attention(torch.float32), br.Alignment(amp=0.1, sparse=0.2, null=0.1))
    x = inputs(dtype=torch.float32)[0]
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, x, x)[0]
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and bool(p.grad.isfinite().all()) for p in model.parameters())

    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(p: dict[str, Tensor], row: Tensor) -> Tensor:
        h = row.unsqueeze(0)
        return torch.func.functional_call(model, p, (h, h, h))[0].square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    one = torch.func.grad(loss)(parameters, x[1])
    for name in parameters:
        torch.testing.assert_close(each[name][1], one[name], rtol=1e-4, atol=1e-5)


def test_wrong_inputs_are_answered() -> None:
    model = br.convert(attention(), "symmetric_alignment")
    q, k, v = inputs()
    with pytest.raises(ShapeError, match=r"expected input of shape \(..., 8\), got \(3, 4, 7\)"):
        model(q, k[..., :7], v)
    with pytest.raises(ShapeError, match=r"attn_mask of shape \(5, 4\) or \(6, 5, 4\)"):
        model(q, k, v, attn_mask=torch.zeros(4, 4))
    with pytest.raises(ShapeError, match=r"key_padding_mask of shape \(3, 4\)"):
        model(q, k, v, key_padding_mask=torch.zeros(3, 5))
    with pytest.raises(RuntimeError, match="expected attn_mask"):
        model(q, k, v, is_causal=True)
    for masks in ({"key_padding_mask": torch.ones(3, 4).long()}, {"attn_mask": torch.ones(5, 4).int()}):
        with pytest.raises(ShapeError, match=r"expected masks of bool .* got torch.int"):
            model(q, k, v, **masks)
    for wrong in ((q, k[:1], v[:1]), (q, k, v[:, :3]), (q, k[0], v[0]), (q[:2], k, v)):
        with pytest.raises(ShapeError, match="expected query, key and value of shapes"):
            model(*wrong)


def test_a_vision_transformer_of_torchvision_converts_whole() -> None:
    from backroads.extras import import_torchvision

    models = import_torchvision().models
    model = models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3)
    br.convert(model, "activation_alignment", strict=True)
    assert "encoder.layers.encoder_layer_0.self_attention.q" in dict(br.aligned_layers(model))
    F.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.tensor([0, 1])).backward()
    assert all(bool(B.grad.isfinite().all()) for B in br.backward_parameters(model))
