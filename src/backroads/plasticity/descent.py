"""Gradient descent on the loss of each step of a lifetime, and its meta-gradient written out: the inner loop of OML.

:func:`step` is the definition. :func:`live` does the same for many steps. Autograd would keep some sixty nodes of a
step, which cost several times what the arithmetic does; here the weights before each step are kept, and nothing else.

Letters: a activities and delta = dL/dz, a row for each sample. W <- W - P o clip(sum_m delta a^T), and of biases
b <- b - pb o clip(sum_m delta).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from backroads.plasticity.rule import LocalRule
from backroads.plasticity.update import linear


class Layer(NamedTuple):
    """A layer that changes, in E lifetimes.

    Attributes:
        W: weights (E, n_out, n_in).
        b: biases (E, n_out).
        P: step sizes, which broadcast to W. pb: those of b.
    """

    W: Tensor
    b: Tensor
    P: Tensor
    pb: Tensor


class Gradients(NamedTuple):
    """Of a layer, for each lifetime; of its step sizes None where they are no meta-parameters."""

    W: Tensor
    b: Tensor
    P: Tensor | None
    pb: Tensor | None


def step(layers: Sequence[Layer], x: Tensor, y: Tensor, rule: LocalRule) -> tuple[list[Layer], Tensor]:
    """The layers after one step, and the outputs before it, (E, m, n_out).

    Args:
        layers: from the first one that changes to the last of the network.
        x: what the first of them receives, (E, m, n_in).
        y: targets (E, m, n_out), floating point, under the mean squared error; or labels (E, m), under cross-entropy.
        rule: whether the gradient is a constant for the meta-gradient, and how it is clipped.
    """
    a = activities(layers, x)
    yhat, W = a[-1], [layer.W for layer in layers]
    if not rule.second_order:
        a, W = [activity.detach() for activity in a], [w.detach() for w in W]
    after = []
    for layer, received, delta in zip(layers, a, errors(W, a, y), strict=False):
        W_after = layer.W - layer.P * clipped(torch.bmm(delta.mT, received), rule)
        after.append(Layer(W_after, layer.b - layer.pb * clipped(delta.sum(1), rule), layer.P, layer.pb))
    return after, yhat


def activities(layers: Sequence[Layer], x: Tensor) -> list[Tensor]:
    """What each layer receives, and after the last the outputs."""
    a = [x]
    for n, layer in enumerate(layers, 1):
        z = linear(a[-1], layer.W, layer.b)
        a.append(z.relu() if n < len(layers) else z)
    return a


def errors(W: list[Tensor], a: list[Tensor], y: Tensor) -> list[Tensor]:
    """delta of each layer: of the outputs, and delta_{l-1} = delta_l W_l where a_l > 0."""
    yhat, m = a[-1], y.shape[1]
    if y.is_floating_point():
        found = [(yhat - y) * (2 / (m * y.shape[2]))]
    else:
        found = [(yhat.softmax(-1) - F.one_hot(y, yhat.shape[-1])) / m]
    for n in range(len(W) - 1, 0, -1):
        found.append(where_active(torch.bmm(found[-1], W[n]), a[n]))
    return found[::-1]


def where_active(g: Tensor, a: Tensor) -> Tensor:
    """g where a > 0, else 0: the gradient through a rectifier, in one pass."""
    return torch.ops.aten.threshold_backward(g, a, 0)  # type: ignore[no-any-return]


def clipped(gradient: Tensor, rule: LocalRule) -> Tensor:
    """Each entry of a gradient, of any shape, at most the rule's ``inner_clip`` in absolute value."""
    return gradient if rule.inner_clip is None else gradient.clamp(-rule.inner_clip, rule.inner_clip)


def live(layers: Sequence[Layer], x: Tensor, y: Tensor, rule: LocalRule) -> tuple[list[Layer], Tensor]:
    """The layers after T steps, and the outputs at each before it, (E, T, m, n_out), without a graph.

    Args:
        layers: as of :func:`step`.
        x: what the first of them receives, (E, T, m, n_in).
        y: targets (E, T, m, n_out), or labels (E, T, m).
        rule: as of :func:`step`; of second order.
    """
    *values, seen = _Live.apply(rule, x, y, *(tensor for layer in layers for tensor in layer))  # type: ignore[no-untyped-call]
    pairs = zip(layers, values[::2], values[1::2], strict=True)
    return [Layer(W, b, layer.P, layer.pb) for layer, W, b in pairs], seen


class _Live(torch.autograd.Function):
    """See :func:`live`."""

    @staticmethod
    def forward(ctx: Any, rule: LocalRule, x: Tensor, y: Tensor, *values: Tensor) -> Any:
        layers = [Layer(*values[n : n + 4]) for n in range(0, len(values), 4)]
        ctx.rule, ctx.before, seen = rule, [], []
        ctx.save_for_backward(x, y, *values)
        for k in range(x.shape[1]):
            ctx.before.append(layers)
            layers, yhat = step(layers, x[:, k], y[:, k], rule)
            seen.append(yhat)
        outputs = torch.stack(seen, 1)
        ctx.mark_non_differentiable(outputs)
        return (*(value for layer in layers for value in layer[:2]), outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, *_ = ctx.saved_tensors  # torch sees to it that nothing changed in the meantime
        rated = ctx.needs_input_grad[5]
        of = []
        for W, b in zip(gradients[:-1:2], gradients[1:-1:2], strict=True):
            rates = (torch.zeros_like(W), torch.zeros_like(b)) if rated else (None, None)
            of.append(Gradients(W.clone(), b.clone(), *rates))
        dx, dy = torch.empty_like(x), torch.zeros_like(y)
        for k in range(x.shape[1] - 1, -1, -1):
            dx[:, k], of_yhat = back(ctx.before[k], of, x[:, k], y[:, k], ctx.rule)
            if y.is_floating_point():
                dy[:, k] = -of_yhat
        found = (
            None if gradient is None else gradient.sum_to_size(value.shape)
            for gradients, layer in zip(of, ctx.before[0], strict=True)
            for gradient, value in zip(gradients, layer, strict=True)
        )
        return None, dx, dy if y.is_floating_point() else None, *found


def back(
    layers: Sequence[Layer], of: Sequence[Gradients], x: Tensor, y: Tensor, rule: LocalRule
) -> tuple[Tensor, Tensor]:
    """Through one step: the gradients of x and of the outputs.

    Args:
        layers: before the step.
        of: gradients of the layers after it, which become those before it; those of P and pb are added to.
        x, y, rule: as of :func:`step`.
    """
    a = activities(layers, x)
    delta = errors([layer.W for layer in layers], a, y)
    of_a, of_delta = [], []
    for layer, own, received, d in zip(layers, of, a, delta, strict=False):  # through the changes
        H = _of_gradient(own.W, layer.P, torch.bmm(d.mT, received), own.P, rule)
        h = _of_gradient(own.b, layer.pb, d.sum(1), own.pb, rule)
        of_delta.append(torch.baddbmm(h.unsqueeze(1), received, H.mT))
        of_a.append(torch.bmm(d, H))
    for n in range(1, len(layers)):  # through the errors, against their course
        g = where_active(of_delta[n - 1], a[n])
        of[n].W.baddbmm_(delta[n].mT, g)
        of_delta[n].baddbmm_(g, layers[n].W.mT)
    if y.is_floating_point():
        dz = of_delta[-1] * (2 / (y.shape[1] * y.shape[2]))
    else:
        p, g = a[-1].softmax(-1), of_delta[-1] / y.shape[1]
        dz = p * (g - (p * g).sum(-1, keepdim=True))
    of_yhat = dz
    for n in range(len(layers) - 1, -1, -1):  # through the layers
        of[n].W.baddbmm_(dz.mT, a[n])
        of[n].b.add_(dz.sum(1))
        dz = of_a[n].baddbmm_(dz, layers[n].W)
        dz = where_active(dz, a[n]) if n else dz
    return dz, of_yhat


def _of_gradient(G: Tensor, rate: Tensor, gradient: Tensor, of_rate: Tensor | None, rule: LocalRule) -> Tensor:
    """Through W - rate o clip(gradient): from G, that of the result, (E, ...), to that of the gradient, likewise.

    That of the rate is added to ``of_rate``. At an entry of exactly ``inner_clip`` it is 0; autograd lets it pass.
    """
    if of_rate is not None:
        of_rate.addcmul_(clipped(gradient, rule), G, value=-1)
    H = G * -rate
    clip = rule.inner_clip
    return H if clip is None else torch.ops.aten.hardtanh_backward(H, gradient, -clip, clip)
