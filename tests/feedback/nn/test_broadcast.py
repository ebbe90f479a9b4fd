"""Direct feedback in models that compute their own loss, or return a dataclass."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import backroads as br
from backroads.errors import ConversionError, UsageError

DFA = "direct_feedback_alignment"


@dataclasses.dataclass(frozen=True)
class Output:
    """What a model returns, with its logits (N, K)."""

    loss: Tensor | None
    logits: Tensor


class WithLoss(nn.Module):
    """Computes its loss itself where it gets labels. (N, 5) -> (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
        self.classifier = nn.Linear(4, 3)
        self.unused = nn.Linear(4, 3)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Output:
        logits = self.classifier(self.body(x))
        return Output(None if labels is None else F.cross_entropy(logits, labels), logits)


def network(**options: Any) -> WithLoss:
    torch.manual_seed(0)
    return br.convert(WithLoss(), DFA, generator=0, **options)


X, LABELS = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_a_loss_within_the_model_is_refused_when_it_is_differentiated() -> None:
    net = network()
    out = net(X, LABELS)
    with pytest.raises(UsageError, match=r"output='classifier'"):
        out.loss.backward()
    F.cross_entropy(net(X, LABELS).logits, LABELS).backward()  # the logits themselves are right


def test_naming_the_output_gives_an_inner_loss_the_gradients_of_an_outer_one() -> None:
    inner, outer = network(output="classifier"), network()
    inner(X, LABELS).loss.backward()
    F.cross_entropy(outer(X).logits, LABELS).backward()
    torch.testing.assert_close(gradients(inner), gradients(outer), rtol=0, atol=0)
    with torch.no_grad():
        e = (torch.softmax(outer(X).logits, 1) - F.one_hot(LABELS, 3)) / len(X)
        h = torch.tanh(outer.body[0](X))
        dy = e @ outer.classifier.backward_weight * (1 - torch.tanh(outer.body[2](h)) ** 2)
    torch.testing.assert_close(inner.body[2].weight.grad, dy.t() @ h)


def test_a_module_that_comes_too_early_or_never_is_refused_and_leaves_nothing() -> None:
    for name, says in (("unused", "name the module"), ("body.0", r"expected an output .*got \(6, 4\)")):
        net = network(output=name)
        for _ in range(2):
            with pytest.raises(UsageError, match=says):
                net(X)


def test_an_output_that_is_not_there_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ConversionError, match="Did you mean 'classifier'"):
        network(output="classifer")


def test_reverting_takes_the_hooks_away() -> None:
    net = br.revert(network(output="classifier"))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
