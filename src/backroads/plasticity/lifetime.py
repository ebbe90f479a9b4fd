"""A lifetime: a network that sees a stream of examples and changes by a local rule after each. Read this first.

The letters are the paper's: layers l = 0..L-1, a_0 the input, a_{l+1} = relu(W_l a_l + b_l), the last layer linear.
Meta-parameters are tensors by name, constant in a lifetime:

    W0 b0 W1 b1 ...     initial weights (n_out, n_in) and biases (n_out,)
    B0_0 c0_0 B0_1 ...  feedback weights and biases of the path from the output to the activity after layer 0; a path of
                        several layers has B0_0 next to the output, then B0_1, ...
    p0 p1 ... or p      plasticity: (n_out, n_in) by synapse, (n_out,) by neuron, (1,) by layer, or one p (1,) for all
    s0 s1 ...           strength of the feedback (1,); under rule "polynomial" its coefficients t0 t1 ... (6, 2, 2)

W may have a leading dimension: weights of its own for each lifetime. With rule "gradient" B, c and s are not read, and
p and pb (for biases) are step sizes if they are there.

Source: Lindsey and Litwin-Kumar, "Learning to Learn with Feedback and Local Plasticity", NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from backroads.errors import UsageError
from backroads.plasticity import compiled, descent
from backroads.plasticity.check import check_meta, check_stream, count_layers
from backroads.plasticity.descent import Layer
from backroads.plasticity.polynomial import polynomial_update
from backroads.plasticity.rule import LocalRule
from backroads.plasticity.update import linear, plastic_update

MetaParameters = Mapping[str, Tensor]
Weights = dict[str, Tensor]
Observer = Callable[[int, Weights], None]


class Stream(NamedTuple):
    """What E lifetimes see, step by step.

    Attributes:
        x: inputs (E, T, m, ...): T steps of m samples.
        y: targets (E, T, m, n_out), floating point: regression, mean squared error; or labels (E, T, m), int64:
            classification, mean cross-entropy over all outputs.
    """

    x: Tensor
    y: Tensor


def lifetime(
    meta: MetaParameters,
    stream: Stream,
    rule: LocalRule,
    *,
    front: Callable[[Tensor], Tensor] | None = None,
    checkpoint_segments: int = 1,
    observe: Observer | None = None,
) -> tuple[Weights, Tensor]:
    """Live through a stream: a pure function that never differentiates anything itself.

    Args:
        meta: the meta-parameters by name.
        stream: what E lifetimes of T steps of m samples see.
        rule: how the weights change.
        front: any module (N, ...) -> (N, n_0) before the first linear layer. It does not change in the lifetime, and
            is called once, with all inputs.
        checkpoint_segments: the lifetime is cut into so many parts, whose steps are computed again in the backward
            pass instead of being kept; about sqrt(T) takes the least memory. Steps in C++ have segments of their own.
            Default: 1, everything is kept.
        observe: called with (k, weights) after step k, and with k = -1 before the first.

    Returns:
        The weights at the end of the layers that change, (E, n_out, n_in) by name; and the outputs at each step, before
        its change, (E, T, m, n_out), without a graph.

    Raises:
        ShapeError: for shapes, types and labels that do not fit, before anything is computed.
        UsageError: for ``observe`` with more than one segment.
    """
    x, y = stream
    if front is not None:
        x = front(x.flatten(0, 2)).unflatten(0, x.shape[:3])
    check_meta(meta, rule)
    check_stream(meta, x, y)
    T = x.shape[1]
    network = _Network(meta, rule)
    weights = network.initial_weights(len(x))
    if observe is not None:
        observe(-1, weights)
        if checkpoint_segments > 1:
            raise UsageError("observe: expected checkpoint_segments = 1, since the steps of a segment are done twice")
    layers = range(network.first, network.layers)
    if observe is None and (plan := compiled.plan_of(rule, meta, layers, x, y)) is not None:
        *values, seen = compiled.live(plan, network.tensors(weights), x, y)
        return dict(zip(weights, values, strict=True)), seen
    x = network.frozen_layers(x)
    targets_fed_back = network.targets_fed_back(y)
    n = max(1, min(checkpoint_segments, T))
    parts = [range(T * part // n, T * (part + 1) // n) for part in range(n)]

    def segment(part: range, now: Weights) -> tuple[Weights, Tensor]:
        steps = slice(part.start, part.stop)
        if rule.is_gradient and rule.second_order and layers and observe is None:
            after, seen = descent.live(network.descending(now), x[:, steps], y[:, steps], rule)
            return network.named(after), seen
        # Unbound at once: the gradient of x[:, k] alone has the size of all steps.
        xs, ys = x[:, steps].unbind(1), y[:, steps].unbind(1)
        fed_back = {layer: f[:, steps].unbind(1) for layer, f in targets_fed_back.items()}
        outputs = []
        for n, k in enumerate(part):
            now, yhat = network.step(now, xs[n], ys[n], {layer: f[n] for layer, f in fed_back.items()})
            outputs.append(yhat.detach())
            if observe is not None:
                observe(k, now)
        return now, torch.stack(outputs, 1)

    outputs = []
    for part in parts:
        if n > 1 and torch.is_grad_enabled():
            weights, seen = checkpoint(segment, part, weights, use_reentrant=False, preserve_rng_state=False)
        else:
            weights, seen = segment(part, weights)
        outputs.append(seen)
    return weights, torch.cat(outputs, 1)


def predict(
    meta: MetaParameters, weights: Weights, x: Tensor, front: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Outputs with the weights of E lifetimes: x (E, N, ...) -> (E, N, n_out). What is not in ``weights`` is meta's."""
    if front is not None:
        x = front(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    now = {**meta, **weights}
    for layer in range(layers := count_layers(meta)):
        x = linear(x, now[f"W{layer}"], now[f"b{layer}"])
        x = x.relu() if layer < layers - 1 else x
    return x


def loss_of(yhat: Tensor, y: Tensor) -> Tensor:
    """The loss of each lifetime, (E,): the mean over its samples of :func:`sample_losses`."""
    return sample_losses(yhat, y).flatten(1).mean(1)


def sample_losses(yhat: Tensor, y: Tensor) -> Tensor:
    """The loss of each sample, (E, ...): its mean squared error, or its cross-entropy.

    Args:
        yhat: outputs (E, ..., n_out).
        y: targets (E, ..., n_out), floating point, or labels (E, ...), int64.
    """
    if y.is_floating_point():
        return (yhat - y).square().mean(-1)
    return F.cross_entropy(yhat.flatten(0, -2), y.flatten(), reduction="none").view(y.shape)


class _Network:
    """The equations of one step, for E lifetimes at once, and what can be computed before the first."""

    def __init__(self, meta: MetaParameters, rule: LocalRule) -> None:
        self.meta, self.rule = meta, rule
        self.layers = count_layers(meta)
        self.plastic = [layer for layer in range(self.layers) if rule.is_plastic(layer, self.layers)]
        self.first = min(self.plastic, default=self.layers)  # what comes before is computed once

    def initial_weights(self, lifetimes: int) -> Weights:
        """What changes in a lifetime, as it is at the start; biases change by "gradient" only."""
        names = [f"W{layer}" for layer in self.plastic]
        names += [f"b{layer}" for layer in self.plastic if self.rule.is_gradient]
        start = {}
        for name in names:
            value = self.meta[name]
            shared = value.dim() == (2 if name[0] == "W" else 1)
            start[name] = value.expand(lifetimes, *value.shape) if shared else value
        return start

    def tensors(self, weights: Weights) -> dict[str, Tensor]:
        """What :func:`backroads.plasticity.compiled.live` reads of each layer."""
        found: dict[str, Tensor] = {}
        for n in range(self.layers):
            found |= {f"W{n}": weights.get(f"W{n}", self.meta[f"W{n}"]), f"b{n}": self.meta[f"b{n}"]}
            if n < self.first:
                continue
            found[f"P{n}"] = self.plasticity(n)
            if self.rule.shift(n, self.layers) == "feedback":
                found |= {f"s{n}": self.meta[f"s{n}"], f"B{n}": self.meta[f"B{n}_0"], f"c{n}": self.meta[f"c{n}_0"]}
        return found

    def frozen_layers(self, x: Tensor) -> Tensor:
        """Activities before the first plastic layer, of all steps at once: (E, T, m, n) -> (E, T, m, n')."""
        for layer in range(self.first):
            x = linear(x.flatten(1, 2), self.meta[f"W{layer}"], self.meta[f"b{layer}"]).unflatten(1, x.shape[1:3])
            x = x.relu() if layer < self.layers - 1 else x
        return x

    def targets_fed_back(self, y: Tensor) -> dict[int, Tensor]:
        """What feedback brings to each layer in all steps, (E, T, m, n), for signal "target": no weight changes it."""
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
        """u, which is sent back, (E, m, n_out): the target, y - yhat, or (one-hot - softmax) / m."""
        if self.rule.signal == "target":
            return self.target(y)
        yhat = yhat.detach() if self.rule.signal == "error_detached" else yhat
        if y.is_floating_point():
            return y - yhat
        return (self.target(y) - yhat.softmax(-1)) / y.shape[-1]

    def feedback(self, layer: int, u: Tensor) -> Tensor:
        """f <- relu(B_j f + c_j) along the path into the activity after a layer: (..., n_out) -> (..., n)."""
        f, j = u.abs() if self.rule.absolute_signal else u, 0
        while f"B{layer}_{j}" in self.meta:
            f = F.linear(f, self.meta[f"B{layer}_{j}"], self.meta[f"c{layer}_{j}"])
            f, j = f if self.rule.linear_feedback else f.relu(), j + 1
        return f

    def step(self, weights: Weights, x: Tensor, y: Tensor, fed_back: Mapping[int, Tensor]) -> tuple[Weights, Tensor]:
        """One step: x (E, m, n), y (E, m, ...) -> the weights after it, and the outputs before, (E, m, n_out)."""
        if self.rule.is_gradient:
            layers, yhat = descent.step(self.descending(weights), x, y, self.rule)
            return self.named(layers), yhat
        a = [x] * (self.first + 1)
        for layer in self.plastic:
            z = linear(a[-1], weights[f"W{layer}"], self.meta[f"b{layer}"])
            a.append(z.relu() if layer < self.layers - 1 else z)
        return self.local_step(weights, a, y, fed_back), a[-1]

    def local_step(self, weights: Weights, a: list[Tensor], y: Tensor, fed_back: Mapping[int, Tensor]) -> Weights:
        """W_l <- W_l + mu_l P_l o D_l, in every plastic layer at once, from the activities before the step."""
        rule, after, m = self.rule, dict(weights), y.shape[1]
        u = self.signal(a[-1], y)
        for layer in self.plastic:
            mu = rule.hidden_multiplier if layer < self.layers - 1 else 1.0
            mu = mu / m if rule.reduction == "mean" else mu
            W, P, x, z = weights[f"W{layer}"], self.plasticity(layer), a[layer], a[layer + 1]
            if rule.rule == "polynomial":
                f = self.brought(layer, z, u, fed_back)
                f = torch.zeros_like(z) if f is None else f
                after[f"W{layer}"] = polynomial_update(W, P, x, z, f, self.meta[f"t{layer}"], mu=mu)
            else:
                q, power = self.shifted(layer, z, u, fed_back), rule.reduction == "power"
                after[f"W{layer}"] = plastic_update(W, P, x, q, oja=rule.rule == "oja", mu=mu, power=power)
        return after

    def shifted(self, layer: int, a: Tensor, u: Tensor, fed_back: Mapping[int, Tensor]) -> Tensor:
        """q = s f + (1 - s) a, the postsynaptic activity that feedback shifted, or the signal in its place, or a."""
        f = self.brought(layer, a, u, fed_back)
        if f is None or self.rule.shift(layer, self.layers) == "signal":
            return a if f is None else f
        return torch.lerp(a, f, self.meta[f"s{layer}"])

    def brought(self, layer: int, a: Tensor, u: Tensor, fed_back: Mapping[int, Tensor]) -> Tensor | None:
        """f, what feedback brings to the activity a after a layer, or the signal itself, (E, m, n); None: nothing."""
        kind = self.rule.shift(layer, self.layers)
        if kind != "feedback":
            return u if kind == "signal" else None
        f = fed_back[layer] if layer in fed_back else self.feedback(layer, u)
        if self.rule.gate == "sign" or (self.rule.gate == "relu" and layer < self.layers - 1):
            f = f * a.sign()
        return f

    def plasticity(self, layer: int, kind: str = "p") -> Tensor:
        """P, with the dimensions that broadcast to those of W (or of b, for kind "pb")."""
        P = self.meta[f"{kind}{layer}"] if f"{kind}{layer}" in self.meta else self.meta["p"]
        by_neuron = kind == "p" and P.dim() == 1 and len(P) > 1
        return P.unsqueeze(1) if by_neuron else P

    def descending(self, weights: Weights) -> list[Layer]:
        """The layers of rule "gradient"; without rates among the meta-parameters, theirs is one number."""
        one = self.meta[f"b{self.layers - 1}"].new_tensor(self.rule.inner_lr)
        found = []
        for n in self.plastic:
            rates = (self.plasticity(n), self.plasticity(n, "pb")) if self.has_rates(n) else (one, one)
            found.append(Layer(weights[f"W{n}"], weights[f"b{n}"], *rates))
        return found

    def named(self, layers: list[Layer]) -> Weights:
        """The weights and biases of layers of rule "gradient" by name."""
        numbered = list(zip(self.plastic, layers, strict=True))
        return {f"W{n}": layer.W for n, layer in numbered} | {f"b{n}": layer.b for n, layer in numbered}

    def has_rates(self, layer: int) -> bool:
        return "p" in self.meta or f"p{layer}" in self.meta
