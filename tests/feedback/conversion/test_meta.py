"""Models that are made on the meta device get their values later: B is drawn then, loaded, or its lack is refused."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import RULES, batch, plain_network, small_network
from torch import Tensor, nn

import backroads as br
from backroads.errors import StateError


def gradients(model: nn.Module) -> list[Tensor]:
    x, y = batch()
    F.cross_entropy(model(x), y).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def off_meta(name: str) -> nn.Module:
    """The small network from the meta device, its tensors filled with what memory may hold."""
    model = br.convert(plain_network().to("meta"), RULES[name]).to_empty(device="cpu")
    for layer in (model[0], model[2], model[6], model[8]):
        for tensor in (layer.weight, layer.bias):
            if tensor is not None:
                tensor.data.fill_(1e30)
    return model


@pytest.mark.parametrize("name", RULES)
def test_a_reset_after_meta_draws_b_anew_from_the_distribution_of_w(name: str) -> None:
    model = off_meta(name)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    fresh = small_network(RULES[name])
    for (_, layer), (_, other) in zip(br.aligned_layers(model), br.aligned_layers(fresh), strict=True):
        bound = 1 / math.sqrt(layer.weight[0].numel())  # torch's Linear and convolutions: U(-bound, bound)
        assert float(layer.weight.detach().abs().max()) <= bound
        for key, tensor in layer.state.items():
            assert bool(tensor.isfinite().all())
            assert bool(tensor.any()) == bool(other.state[key].any())
            if tensor.shape == layer.weight.shape:
                assert float(tensor.detach().abs().max()) <= bound
    assert all(g.isfinite().all() for g in gradients(model))


@pytest.mark.parametrize("name", [name for name in RULES if small_network(RULES[name])[0].state_names])
def test_b_from_meta_that_nothing_has_drawn_is_refused_in_the_first_pass(name: str) -> None:
    model = off_meta(name)
    for index in (0, 2, 6, 8):  # initialised by hand, W alone
        nn.init.normal_(model[index].weight)
    model[3].reset_parameters()  # the batch norm, which holds what memory held
    x, _ = batch()
    with pytest.raises(StateError, match=r"Conv2d: its backward weights come from the meta device.*reset_parameters"):
        model(x)
    drawn = br.convert(br.revert(model), RULES[name])  # what the message says
    assert bool(drawn(x).isfinite().all())
    for tensor in (t for layer in (drawn[0], drawn[2], drawn[6], drawn[8]) for t in layer.state.values()):
        assert bool(tensor.isfinite().all())


def test_b_from_meta_may_come_from_a_state_dict_or_by_hand() -> None:
    name, (x, _) = "symmetric_alignment", batch()
    loaded, plain, by_hand = off_meta(name), off_meta(name), off_meta(name)
    loaded.load_state_dict(small_network(RULES[name]).state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # B is drawn anew, and says so
        plain.load_state_dict(plain_network().state_dict())
    for tensor in by_hand.parameters():
        nn.init.constant_(tensor, 0.1)
    for model in (loaded, plain, by_hand):
        model(x)
        assert all(bool(p.isfinite().all()) for p in br.backward_parameters(model))


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRUCell, nn.MultiheadAttention], ids=lambda make: make.__name__)
def test_matrices_within_a_module_are_drawn_anew_with_it(make: Any) -> None:
    with torch.device("meta"):
        module = make(4, 4) if make is not nn.MultiheadAttention else make(4, 2)
    br.convert(module, "mirrored_kolen_pollack").to_empty(device="cpu")
    with torch.no_grad():
        for p in module.parameters():
            p.fill_(1e30)
    for part in module.modules():  # the whole first, and then what is in it
        for reset in ("_reset_parameters", "reset_parameters"):
            if hasattr(part, reset):
                getattr(part, reset)()
    for _, layer in br.aligned_layers(module):
        assert float(layer.backward_weight.detach().abs().max()) <= float(layer.W.detach().abs().max()) <= 1
        assert not bool(layer.correction.any())
