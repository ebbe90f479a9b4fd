"""A lifetime: a network that sees a stream of examples and changes by a local rule after each. Read this first.

The letters are the paper's: layers l = 0..L-1, a_0 the input, a_{l+1} = relu(W_l a_l + b_l), the last layer linear.
Meta-parameters are tensors by name, constant in a lifetime:

    W0 b0 W1 b1 ...     initial weights (n_out, n_in) and biases (n_out,)
    B0_0 c0_0 B0_1 ...  feedback into the activity after layer 0: layers j = 0, 1, ... of its path, from the output on
    p0 p1 ... or p      plasticity: (n_out, n_in) by synapse, (n_out,) by neuron, (1,) by layer, or p (1,) for all
    s0 s1 ...           strength of the feedback (1,)

W may have a leading dimension, one for each lifetime: weights that were drawn anew. With rule "gradient" B, c and s
are not read, p and pb (of biases) are rates if they are there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from backroads.errors import UsageError
from backroads.plasticity.check import check_meta, check_stream, count_layers
from backroads.plasticity.rule import LocalRule, RuleName, SignalName
from backroads.plasticity.update import linear, plastic_update

Meta = Mapping[str, Tensor]
Weights = dict[str, Tensor]
Observer = Callable[[int, Weights], None]


class Stream(NamedTuple):
    """What E lifetimes see, step by step.

    Attributes:
        x: inputs (E, T, m, ...). y: targets (E, T, m, n_out), floating point: regression, mean squared error; or
            labels (E, T, m), int64: classification, mean cross-entropy over all outputs.
    """

    x: Tensor
    y: Tensor


@dataclasses.dataclass(frozen=True)
class Trace:
    """What was seen on the way.

    Attributes:
        outputs: of the network at each step, before the step's change, (E, T, m, n_out), without a graph.
    """

    outputs: Tensor


def lifetime(
    meta: Meta,
    stream: Stream,
    *,
    rule: RuleName,
    signal: SignalName,
    front: Callable[[Tensor], Tensor] | None = None,
    checkpoint_segments: int = 1,
    observe: Observer | None = None,
    **options: Any,
) -> tuple[Weights, Trace]:
    """Live through a stream; a pure function that never differentiates anything.

    Args:
        meta: the meta-parameters. stream: E lifetimes of T steps of m samples.
        rule, signal, options: the fields of :class:`LocalRule`.
        front: frozen in the lifetime, any module: (N, ...) -> (N, n_0). It is called once, with all inputs.
        checkpoint_segments: so many parts of the lifetime are computed again in the backward pass instead of kept;
            about sqrt(T) takes the least memory.
        observe: called with (k, weights) after step k, and with k = -1 before the first.

    Returns:
        The weights at the end of the layers that change, (E, n_out, n_in) by name, and the trace.

    Raises:
        RuleError, ShapeError: for options, shapes, dtypes and labels that make no sense, before anything is computed.
    """
    return live(meta, stream, LocalRule(rule=rule, signal=signal, **options), front, checkpoint_segments, observe)


def live(
    meta: Meta,
    stream: Stream,
    rule: LocalRule,
    front: Callable[[Tensor], Tensor] | None = None,
    checkpoint_segments: int = 1,
    observe: Observer | None = None,
) -> tuple[Weights, Trace]:
    """:func:`lifetime` with its options as one :class:`LocalRule`."""
    x, y = stream
    if front is not None:
        x = front(x.flatten(0, 2)).unflatten(0, x.shape[:3])
    check_meta(meta, rule)
    check_stream(meta, x, y)
    E, T = x.shape[:2]
    life = _Life(meta, rule, E)
    x = life.frozen(x)
    weights = life.birth()
    if observe is not None:
        observe(-1, weights)
        if checkpoint_segments > 1:
            raise UsageError("observe: expected checkpoint_segments = 1, since a segment is lived through twice")
    ahead = life.ahead(y)
    names, outputs = list(weights), []

    def segment(start: int, stop: int, *values: Tensor) -> tuple[Tensor, ...]:
        now, seen = dict(zip(names, values, strict=True)), []
        for k in range(start, stop):
            now, yhat = life.step(now, x[:, k], y[:, k], {layer: f[:, k] for layer, f in ahead.items()})
            seen.append(yhat.detach())
            if observe is not None:
                observe(k, now)
        return (*now.values(), torch.stack(seen, 1))

    parts = max(1, min(checkpoint_segments, T))
    for part in range(parts):
        start, stop = T * part // parts, T * (part + 1) // parts
        if parts > 1 and torch.is_grad_enabled():
            *values, seen = checkpoint(
                segment, start, stop, *weights.values(), use_reentrant=False, preserve_rng_state=False
            )
        else:
            *values, seen = segment(start, stop, *weights.values())
        weights = dict(zip(names, values, strict=True))
        outputs.append(seen)
    return weights, Trace(torch.cat(outputs, 1))


def predict(meta: Meta, weights: Weights, x: Tensor, front: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Outputs with the weights of E lifetimes: x (E, N, ...) -> (E, N, n_out)."""
    if front is not None:
        x = front(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    for layer in range(layers := count_layers(meta)):
        x = linear(x, weights.get(f"W{layer}", meta[f"W{layer}"]), weights.get(f"b{layer}", meta[f"b{layer}"]))
        x = x.relu() if layer < layers - 1 else x
    return x


def loss_of(yhat: Tensor, y: Tensor) -> Tensor:
    """The loss of each lifetime, (E,): mean squared error over all entries, or mean cross-entropy for labels.

    Args:
        yhat: (E, ..., n_out). y: (E, ..., n_out) floating point, or (E, ...) int64.
    """
    if y.is_floating_point():
        return (yhat - y).square().flatten(1).mean(1)
    flat: Tensor = F.cross_entropy(yhat.flatten(0, -2), y.flatten(), reduction="none")
    return flat.view(y.shape).flatten(1).mean(1)


class _Life:
    """The pieces of a lifetime that do not change in it."""

    def __init__(self, meta: Meta, rule: LocalRule, lifetimes: int) -> None:
        self.meta, self.rule, self.lifetimes = meta, rule, lifetimes
        self.layers = count_layers(meta)
        self.plastic = [layer for layer in range(self.layers) if rule.changes(layer, self.layers)]
        self.first = min(self.plastic, default=self.layers)  # what comes before is computed once

    def birth(self) -> Weights:
        """What changes in a lifetime, as it is at the start."""
        names = [f"W{layer}" for layer in self.plastic]
        names += [f"b{layer}" for layer in self.plastic if self.rule.is_gradient]
        start = {}
        for name in names:
            value = self.meta[name]
            shared = value.dim() == (2 if name[0] == "W" else 1)
            start[name] = value.expand(self.lifetimes, *value.shape) if shared else value
        return start

    def frozen(self, x: Tensor) -> Tensor:
        """Activities after the frozen layers, of all steps at once: (E, T, m, n) -> (E, T, m, n')."""
        for layer in range(self.first):
            W, b = self.meta[f"W{layer}"], self.meta[f"b{layer}"]
            x = linear(x.flatten(1, 2), W, b).unflatten(1, x.shape[1:3])
            x = x.relu() if layer < self.layers - 1 else x
        return x

    def ahead(self, y: Tensor) -> dict[int, Tensor]:
        """Targets do not depend on the state: what feedback carries to each layer in all steps, (E, T, m, n)."""
        if self.rule.is_gradient or self.rule.signal != "target":
            return {}
        u = self.target(y)
        paths = [layer for layer in self.plastic if self.rule.shift(layer, self.layers) == "feedback"]
        return {layer: self.feedback(layer, u) for layer in paths}

    def target(self, y: Tensor) -> Tensor:
        """y itself, or its one-hot among all outputs."""
        if y.is_floating_point():
            return y
        W = self.meta[f"W{self.layers - 1}"]
        return F.one_hot(y, W.shape[-2]).to(W.dtype)

    def signal(self, yhat: Tensor, y: Tensor) -> Tensor:
        """What is sent back, (E, m, n_out)."""
        if self.rule.signal == "target":
            return self.target(y)
        yhat = yhat.detach() if self.rule.signal == "error_detached" else yhat
        if y.is_floating_point():
            return y - yhat
        return (self.target(y) - yhat.softmax(-1)) / y.shape[-1]

    def feedback(self, layer: int, u: Tensor) -> Tensor:
        """The path from the output into the activity after a layer: (..., n_out) -> (..., n)."""
        f, j = u.abs() if self.rule.absolute else u, 0
        while f"B{layer}_{j}" in self.meta:
            f = F.linear(f, self.meta[f"B{layer}_{j}"], self.meta[f"c{layer}_{j}"])
            f, j = f if self.rule.linear_feedback else f.relu(), j + 1
        return f

    def step(self, weights: Weights, x: Tensor, y: Tensor, ahead: Mapping[int, Tensor]) -> tuple[Weights, Tensor]:
        """One step: x (E, m, n), y (E, m, ...) -> the weights after it, and the outputs before."""
        a = [x] * (self.first + 1)
        for layer in range(self.first, self.layers):
            W, b = (weights.get(name, self.meta[name]) for name in (f"W{layer}", f"b{layer}"))
            z = linear(a[-1], W, b)
            a.append(z.relu() if layer < self.layers - 1 else z)
        change = self.descend if self.rule.is_gradient else self.learn
        return change(weights, a, y, ahead), a[-1]

    def learn(self, weights: Weights, a: list[Tensor], y: Tensor, ahead: Mapping[int, Tensor]) -> Weights:
        """Every plastic layer at once, from the activities before the step: W_l <- W_l + mu_l P_l o D_l."""
        rule, after, m = self.rule, dict(weights), y.shape[1]
        u = self.signal(a[-1], y)
        for layer in self.plastic:
            mu = rule.multiplier if layer < self.layers - 1 else 1.0
            after[f"W{layer}"] = plastic_update(
                weights[f"W{layer}"],
                self.plasticity(layer),
                a[layer],
                self.shifted(layer, a[layer + 1], u, ahead),
                oja=rule.rule == "oja",
                mu=mu / m if rule.reduction == "mean" else mu,
            )
        return after

    def shifted(self, layer: int, a: Tensor, u: Tensor, ahead: Mapping[int, Tensor]) -> Tensor:
        """q = s f + (1 - s) a, the postsynaptic activity that the signal shifted, (E, m, n)."""
        kind = self.rule.shift(layer, self.layers)
        if kind != "feedback":
            return u if kind == "signal" else a
        f = ahead[layer] if layer in ahead else self.feedback(layer, u)
        if self.rule.gate == "sign" or (self.rule.gate == "relu" and layer < self.layers - 1):
            f = f * a.sign()
        return torch.lerp(a, f, self.meta[f"s{layer}"])

    def plasticity(self, layer: int, kind: str = "p") -> Tensor:
        """P, with the dimensions that broadcast to W's (or, for kind "pb", to b's)."""
        P = self.meta[f"{kind}{layer}"] if f"{kind}{layer}" in self.meta else self.meta["p"]
        by_neuron = kind == "p" and P.dim() == 1 and len(P) > 1
        return P.unsqueeze(1) if by_neuron else P

    def descend(self, weights: Weights, a: list[Tensor], y: Tensor, ahead: Mapping[int, Tensor]) -> Weights:
        """Gradient descent on the step's own loss: backpropagation, written out; the weights after it."""
        rule, after = self.rule, dict(weights)
        a = a if rule.second_order else [one.detach() for one in a]
        yhat = a[-1]
        if y.is_floating_point():
            delta = (yhat - y) * (2 / (yhat.shape[1] * yhat.shape[2]))
        else:
            delta = (yhat.softmax(-1) - self.target(y)) / y.shape[1]
        for layer in range(self.layers - 1, min(self.plastic, default=self.layers) - 1, -1):
            if layer in self.plastic:
                after[f"W{layer}"] = self.descended(weights[f"W{layer}"], layer, a[layer], delta)
                after[f"b{layer}"] = self.descended_bias(weights[f"b{layer}"], layer, delta)
            W = weights.get(f"W{layer}", self.meta[f"W{layer}"])
            W = W if rule.second_order else W.detach()
            if layer > self.first:
                delta = torch.matmul(delta, W) * (a[layer] > 0)
        return after

    def descended(self, W: Tensor, layer: int, a: Tensor, delta: Tensor) -> Tensor:
        """W - rate o delta^T a."""
        rates, clip = self.has_rates(layer), self.rule.inner_clip
        if clip is None and rates:
            return plastic_update(W, self.plasticity(layer), a, -delta, oja=False)
        if clip is None:
            return torch.baddbmm(W, delta.mT, a, alpha=-self.rule.inner_lr)
        gradient = torch.bmm(delta.mT, a).clamp(-clip, clip)
        return W - (self.plasticity(layer) if rates else self.rule.inner_lr) * gradient

    def descended_bias(self, b: Tensor, layer: int, delta: Tensor) -> Tensor:
        """b - rate o sum_m delta."""
        gradient, clip = delta.sum(1), self.rule.inner_clip
        gradient = gradient if clip is None else gradient.clamp(-clip, clip)
        return b - (self.plasticity(layer, "pb") if self.has_rates(layer) else self.rule.inner_lr) * gradient

    def has_rates(self, layer: int) -> bool:
        return "p" in self.meta or f"p{layer}" in self.meta
