"""The steps of a lifetime under a local rule as one autograd Function, whose backward pass is written out.

:mod:`backroads.plasticity.lifetime` defines what a lifetime is, in operations that autograd differentiates one by one.
This module does the same faster: no graph, buffers that are used again, and layers of one shape as one batched product,
since all of them change at once, from the activities before the step. Tests hold it to the definition and to autograd.

Letters as there: a activities, f what feedback brings, q = s f + (1 - s) a, D the change of W over mu P. W is not kept
for each step but D, and the backward pass takes ``mu P D`` off again. Of a lifetime in segments, W is kept at the start
of each, and the rest of one segment at a time.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from backroads.plasticity.rule import LocalRule
from backroads.plasticity.update import power_of

Tensors = Mapping[str, Tensor]
STACKED = 1 << 17  # numbers in the weights of the layers that are taken as one: six such arrays fit into a core's cache


@dataclasses.dataclass(frozen=True)
class Plan:
    """What does not change from step to step.

    Attributes:
        rule: how weights change.
        shifts: of each plastic layer, from the first: "feedback", "signal" or "none".
        mu: factor on the change of each.
    """

    rule: LocalRule
    shifts: tuple[str, ...]
    mu: tuple[float, ...]

    @property
    def given(self) -> bool:
        """Whether what feedback brings is given with each step."""
        return self.rule.signal == "target"

    def groups(self, shapes: list[torch.Size], lifetimes: int) -> list[range]:
        """Layers to be taken as one: neighbours of one shape, shift and factor; few enough to be small."""
        found: list[range] = []
        for _, alike in itertools.groupby(range(len(shapes)), lambda n: (shapes[n], self.shifts[n], self.mu[n])):
            first, *more = alike
            stop, most = first + len(more) + 1, max(1, STACKED // (lifetimes * shapes[first].numel()))
            found += [range(n, min(n + most, stop)) for n in range(first, stop, most)]
        return found


def plan_of(rule: LocalRule, meta: Tensors, layers: range, samples: int) -> Plan | None:
    """The plan of the plastic layers, or None where only the definition can do it.

    Args:
        rule: how weights change.
        meta: the meta-parameters by name.
        layers: the plastic layers; all that follow the first one.
        samples: in a step.
    """
    if rule.is_gradient or rule.rule == "polynomial" or rule.gate != "none" or not layers:
        return None
    if any(f"B{layer}_1" in meta for layer in layers) or any(meta[f"b{layer}"].dim() > 1 for layer in layers):
        return None
    n, share = layers.stop, 1 / samples if rule.reduction == "mean" else 1.0
    mu = (share * (rule.hidden_multiplier if layer < n - 1 else 1.0) for layer in layers)
    return Plan(rule, tuple(rule.shift(layer, n) for layer in layers), tuple(mu))


def live(plan: Plan, tensors: Tensors, x: Tensor, y: Tensor, parts: list[range]) -> tuple[Tensor, ...]:
    """The weights after T steps, (E, n_out, n_in) each, and the outputs at each before its change, (E, T, m, n_out).

    Args:
        plan: of :func:`plan_of`.
        tensors: of plastic layer l, counted from the first one: weights at the start "Wl" (E, n_out, n_in), biases "bl"
            (n_out,), plasticity "Pl", which broadcasts to W; and under feedback strength "sl" (1,) and "Bl" (n, n_out)
            and "cl" (n,), or with ``plan.given`` what feedback brings, "fl" (E, T, m, n).
        x: what the first plastic layer receives, (E, T, m, n).
        y: targets (E, T, m, n_out) or labels (E, T, m).
        parts: the segments into which the T steps are cut; all but the last are done again in the backward pass.
    """
    return tuple(_Live.apply(plan, parts, tuple(tensors), x, y, *tensors.values()))  # type: ignore[no-untyped-call]


class _Activities:
    """Activities, or errors, at all boundaries between layers; those around a group lie in one piece.

    Attributes:
        at: of each boundary, (steps, E, m, n), from what the first layer receives to the outputs.
    """

    def __init__(self, groups: list[range], widths: list[int], steps: int, E: int, m: int, like: Tensor) -> None:
        self._pieces: dict[range, Tensor] = {}
        at: dict[int, Tensor] = {}
        for group in groups:
            if len(group) > 1:
                piece = like.new_empty(steps, len(group) + 1, E, m, widths[group.start])
                self._pieces[group] = piece
                at |= {group.start + j: piece[:, j] for j in range(len(group) + 1)}
        self.at = [
            at[place] if place in at else like.new_empty(steps, E, m, width) for place, width in enumerate(widths)
        ]

    def before(self, group: range, k: int) -> Tensor:
        """What the layers of a group receive at step k, (g E, m, n_in)."""
        piece = self._pieces.get(group)
        return self.at[group.start][k] if piece is None else piece[k, :-1].flatten(0, 1)

    def after(self, group: range, k: int) -> Tensor:
        """What they answer, (g E, m, n_out)."""
        piece = self._pieces.get(group)
        return self.at[group.stop][k] if piece is None else piece[k, 1:].flatten(0, 1)


class _Group:
    """Layers that are taken as one, and what is kept of their steps. Arrays (g E, ...) have one layer after another.

    Attributes:
        W: their weights, after the steps so far, (g E, n_out, n_in). P: mu times plasticity, which broadcasts to W.
        mu: factor on the change. shift: what shifts the activity. s: strength of feedback, (g E, 1, 1), or None.
        D: the change over P of the K steps that are kept, (K, g E, n_out, n_in). r: the sum of q^2 over samples,
            (K, g E, n_out, 1), for Oja. N: what divides D under ``power``, (K, g E, 1, 1).
        q, f: under feedback, shifted activity and what feedback brings, (K, g E, m, n_out); f if it is not given.
    """

    def __init__(self, plan: Plan, v: Tensors, layers: range, x: Tensor, kept: int) -> None:
        self.plan, self.v, self.layers, self.E = plan, v, layers, len(x)
        self.shift, self.mu = plan.shifts[layers.start], plan.mu[layers.start]
        self.W = torch.cat([v[f"W{layer}"] for layer in layers])
        rows, n_out, n_in = self.W.shape
        P = [self.mu * v[f"P{layer}"] for layer in layers]
        self.P = torch.stack([p.expand(n_out, n_in) for p in P]).repeat_interleave(self.E, 0) if len(P) > 1 else P[0]
        self.D = x.new_empty(kept, rows, n_out, n_in)
        self.r = x.new_empty(kept, rows, n_out, 1) if plan.rule.rule == "oja" else None
        self.N = x.new_empty(kept, rows, 1, 1) if plan.rule.reduction == "power" else None
        self._squares = x.new_empty(rows, x.shape[2], n_out)
        self.s = self.q = self.f = None
        if self.shift == "feedback":
            self.s = torch.cat([v[f"s{layer}"] for layer in layers]).repeat_interleave(self.E).view(-1, 1, 1)
            self.q = x.new_empty(kept, rows, x.shape[2], n_out)
            self.f = None if plan.given else torch.empty_like(self.q)

    def rows(self, layer: int) -> slice:
        """Where one layer's are."""
        place = layer - self.layers.start
        return slice(place * self.E, (place + 1) * self.E)

    def change(self, before: Tensor, after: Tensor, u: Tensor, k: int, at: int) -> None:
        """W <- W + mu P D, from the activities before and after the layers and the signal u of step k; kept ``at``."""
        if self.q is not None:
            q = torch.lerp(after, self._feed_back(u, k, at), self.s, out=self.q[at])  # type: ignore[arg-type]
        else:
            q = self.shifted(after, u, at)
        D = torch.bmm(q.mT, before, out=self.D[at])
        if self.r is not None:
            torch.sum(torch.mul(q, q, out=self._squares), 1, out=self.r[at].squeeze(2))
            D.addcmul_(self.r[at], self.W, value=-1)
        if self.N is not None:
            D.div_(self.N[at].copy_(power_of(before, q)))
        self.W.addcmul_(self.P, D)

    def shifted(self, after: Tensor, u: Tensor, at: int) -> Tensor:
        """q of a step that is kept ``at``."""
        if self.q is not None:
            return self.q[at]
        return u.repeat(len(self.layers), 1, 1) if self.shift == "signal" else after

    def _feed_back(self, u: Tensor, k: int, at: int) -> Tensor:
        """f of step k."""
        if self.f is None:
            return self.fed_back(k, at)
        f, flat = self.f[at], self.sent(u)
        for layer in self.layers:
            out = f[self.rows(layer)].view(len(flat), -1)
            torch.addmm(self.v[f"c{layer}"], flat, self.v[f"B{layer}"].T, out=out)
        return f if self.plan.rule.linear_feedback else f.relu_()

    def fed_back(self, k: int, at: int) -> Tensor:
        """f of step k, as it is given, or kept ``at``."""
        if self.f is not None:
            return self.f[at]
        found = [self.v[f"f{layer}"][:, k] for layer in self.layers]
        return found[0] if len(found) == 1 else torch.cat(found)

    def sent(self, u: Tensor) -> Tensor:
        """The signal as it enters the feedback paths, (E m, n_out)."""
        return (u.abs() if self.plan.rule.absolute_signal else u).flatten(0, 1)


class _Gradient:
    """The backward pass of a group.

    Attributes:
        W: the weights before the step under way. G: the gradient of W after it, and then of W before it.
        found: gradients of plasticities, strengths, and of feedback paths or what they bring, by name.
    """

    def __init__(self, group: _Group, G: list[Tensor], samples: int, wanted: set[str]) -> None:
        self.group, self.wanted = group, wanted
        self.W, self.G = torch.empty_like(group.W), torch.cat(G)
        self.dP, self._h, self._hw = torch.zeros_like(self.W), torch.empty_like(self.W), torch.empty_like(self.W)
        rows, n_out, _ = self.W.shape
        self.ds, self._dq, self._e = (self.W.new_zeros(rows, samples, n_out) for _ in range(3))
        self._rest = None if group.s is None else 1 - group.s
        kinds = "f" if group.plan.given else "Bc"
        names = [f"{kind}{layer}" for layer in group.layers for kind in kinds] if group.s is not None else []
        self.paths = {name: torch.zeros_like(group.v[name]) for name in names}

    def change(
        self, before: Tensor, after: Tensor, u: Tensor, k: int, at: int, errors: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        """Take the change of step k, kept ``at``, off W; add to the errors before and after the layers, and of u."""
        group, W, G = self.group, self.W, self.G
        of_before, of_after, of_u = errors
        q, D = group.shifted(after, u, at), group.D[at]
        W.addcmul_(group.P, D, value=-1)
        self.dP.addcmul_(G, D)
        h = torch.mul(G, group.P, out=self._h)  # of D
        if group.N is not None:
            of_N = (h * D).sum((1, 2), keepdim=True) / group.N[at]
            of_before.addcmul_(before, of_N, value=-2)
            h.div_(group.N[at])
        dq = torch.bmm(before, h.mT, out=self._dq)
        torch.baddbmm(of_before, q, h, out=of_before)
        if group.r is not None:
            G.addcmul_(group.r[at], h, value=-1)
            along = torch.mul(h, W, out=self._hw).sum(2)
            dq.addcmul_(q, along.unsqueeze(1), value=-2)
        if group.N is not None:
            dq.addcmul_(q, of_N, value=-2)
        if group.s is None:
            if group.shift == "none":
                of_after.add_(dq)
            else:
                of_u.add_(dq.view(len(group.layers), *u.shape).sum(0))
            return
        f = group.fed_back(k, at)
        if f"s{group.layers.start}" in self.wanted:
            self.ds.addcmul_(dq, torch.sub(f, after, out=self._e))
        of_after.addcmul_(dq, self._rest)  # type: ignore[arg-type]
        self._send(torch.mul(dq, group.s, out=self._e), f, u, k, of_u)

    def _send(self, e: Tensor, f: Tensor, u: Tensor, k: int, of_u: Tensor) -> None:
        """The error of what feedback brought goes to the paths and the signal. Changes e."""
        group, plan = self.group, self.group.plan
        if plan.given:
            for layer in group.layers:
                self.paths[f"f{layer}"][:, k] = e[group.rows(layer)]
            return
        if not plan.rule.linear_feedback:
            _rectified(e, f)
        sent = group.sent(u)
        for layer in group.layers:
            flat = e[group.rows(layer)].view(len(sent), -1)
            dB = self.paths[f"B{layer}"]
            torch.addmm(dB, flat.T, sent, out=dB)
            self.paths[f"c{layer}"].add_(flat.sum(0))
            if plan.rule.signal == "error":
                back = (flat @ group.v[f"B{layer}"]).view_as(of_u)
                of_u.add_(back * u.sign() if plan.rule.absolute_signal else back)

    def found(self) -> dict[str, Tensor]:
        """All gradients, by name, at the end."""
        group, found = self.group, dict(self.paths)
        for layer in group.layers:
            rows, shape = group.rows(layer), group.v[f"P{layer}"].shape
            found[f"W{layer}"] = self.G[rows]
            found[f"P{layer}"] = self.dP[rows].sum_to_size(shape).mul_(group.mu)
            if group.s is not None:
                found[f"s{layer}"] = self.ds[rows].sum().view(group.v[f"s{layer}"].shape)
        return found


class _Live(torch.autograd.Function):
    """See :func:`live`."""

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, parts: list[range], names: tuple[str, ...], x: Tensor, y: Tensor, *values: Tensor
    ) -> Any:
        v = dict(zip(names, values, strict=True))
        layers, (E, T, m, _) = range(len(plan.shifts)), x.shape
        keeps = any(ctx.needs_input_grad)
        kept = max(map(len, parts)) if keeps else 1
        shapes = [v[f"W{layer}"].shape[1:] for layer in layers]
        groups = [_Group(plan, v, group, x, kept) for group in plan.groups(shapes, E)]
        widths = [shapes[0][1], *(shape[0] for shape in shapes)]
        a = _Activities([group.layers for group in groups], widths, kept, E, m, x)
        outputs, starts = x.new_empty(E, T, m, widths[-1]), []
        for part in parts:
            starts.append([group.W.clone() for group in groups] if keeps and part is not parts[-1] else [])
            for at, k in enumerate(part):
                _step(groups, a, x[:, k], y[:, k], k, at % kept)
                outputs[:, k] = a.at[-1][at % kept]
        if keeps:
            ctx.names, ctx.groups, ctx.a, ctx.widths, ctx.segments = names, groups, a, widths, (parts, starts)
            ctx.save_for_backward(x, y, *values)
        ctx.mark_non_differentiable(outputs)
        return (*(group.W[group.rows(layer)].clone() for group in groups for layer in group.layers), outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        names, groups, a = ctx.names, ctx.groups, ctx.a
        x, y, *_ = ctx.saved_tensors
        wanted = {name for name, needed in zip(names, ctx.needs_input_grad[5:], strict=True) if needed}
        back = [_Gradient(group, [gradients[layer] for layer in group.layers], x.shape[2], wanted) for group in groups]
        e = _Activities([group.layers for group in groups], ctx.widths, 1, len(x), x.shape[2], x)
        db = [torch.zeros_like(of_layer[0]) for of_layer in e.at[1:]]  # (E, m, n), to be summed up at the end
        dx = torch.empty_like(x) if ctx.needs_input_grad[3] else None
        for part, start in zip(*map(reversed, ctx.segments), strict=True):
            for group, W in zip(groups, start, strict=False):
                group.W.copy_(W)
            for at, k in enumerate(part) if start else ():
                _step(groups, a, x[:, k], y[:, k], k, at)
            for gradient in back:
                gradient.W.copy_(gradient.group.W)
            for at, k in reversed(list(enumerate(part))):
                _back(back, a, e, y[:, k], k, at, db, to_inputs=dx is not None)
                if dx is not None:
                    dx[:, k] = e.at[0][0]
        found = {f"b{layer}": summed.sum((0, 1)) for layer, summed in enumerate(db)}
        for gradient in back:
            found |= gradient.found()
        return None, None, None, dx, None, *(found[name] if name in wanted else None for name in names)


def _step(groups: list[_Group], a: _Activities, x: Tensor, y: Tensor, k: int, at: int) -> None:
    """Step k: activities, kept ``at``, and then the change of all weights."""
    a.at[0][at].copy_(x)
    last = groups[-1].layers[-1]
    for group in groups:
        for layer in group.layers:
            W, z = group.W[group.rows(layer)], a.at[layer + 1][at]
            torch.baddbmm(group.v[f"b{layer}"], a.at[layer][at], W.mT, out=z)
            if layer < last:
                z.relu_()
    u = _signal(groups[0].plan, a.at[-1][at], y)
    for group in groups:
        group.change(a.before(group.layers, at), a.after(group.layers, at), u, k, at)


def _back(
    back: list[_Gradient], a: _Activities, e: _Activities, y: Tensor, k: int, at: int, db: list[Tensor], to_inputs: bool
) -> None:
    """Back through step k, kept ``at``: gradients of W before it, errors e of its activities; adds to db of biases."""
    for error in e.at:
        error.zero_()
    plan = back[0].group.plan
    u = _signal(plan, a.at[-1][at], y)
    of_u = torch.zeros_like(u)
    for gradient in back:
        layers = gradient.group.layers
        of = e.before(layers, 0), e.after(layers, 0), of_u
        gradient.change(a.before(layers, at), a.after(layers, at), u, k, at, of)
    if plan.rule.signal == "error":
        e.at[-1][0].add_(_to_output(a.at[-1][at], y, of_u))
    last = len(db) - 1
    for gradient in reversed(back):
        for layer in reversed(gradient.group.layers):
            dz, rows = e.at[layer + 1][0], gradient.group.rows(layer)
            if layer < last:
                _rectified(dz, a.at[layer + 1][at])
            db[layer].add_(dz)
            G = gradient.G[rows]
            torch.baddbmm(G, dz.mT, a.at[layer][at], out=G)
            if layer > 0 or to_inputs:
                torch.baddbmm(e.at[layer][0], dz, gradient.W[rows], out=e.at[layer][0])


def _rectified(e: Tensor, activity: Tensor) -> None:
    """Multiply an error by the derivative of the rectifier, in place."""
    torch.ops.aten.threshold_backward.grad_input(e, activity, 0, grad_input=e)


def _signal(plan: Plan, yhat: Tensor, y: Tensor) -> Tensor:
    """u, (E, m, n_out), for the outputs and targets of a step."""
    labels = not y.is_floating_point()
    target = torch.nn.functional.one_hot(y, yhat.shape[-1]).to(yhat.dtype) if labels else y
    if plan.given:
        return target
    return (target - yhat.softmax(-1)) / y.shape[-1] if labels else target - yhat


def _to_output(yhat: Tensor, y: Tensor, of_u: Tensor) -> Tensor:
    """The error of the outputs from that of u, where u is an error."""
    if y.is_floating_point():
        return -of_u
    p = yhat.softmax(-1)
    return p * ((p * of_u).sum(-1, keepdim=True) - of_u) / y.shape[-1]
