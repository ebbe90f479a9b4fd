"""What plastic updates do: against the gradient, against the way forward, and to other tasks.

All on lifetimes that were not trained on. Gradients are computed here, from outside; the lifetimes know none.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from backroads.plasticity.check import count_layers
from backroads.plasticity.evaluate import by_task
from backroads.plasticity.lifetime import Meta, Stream, Weights, live, loss_of, predict
from backroads.plasticity.network import MetaNetwork
from backroads.plasticity.tasks.episode import Episodes, Split, Tasks, seeded

Watch = Callable[[int, int], None]


def analyse(
    network: MetaNetwork,
    initial: MetaNetwork,
    tasks: Tasks,
    split: Split,
    lifetimes: int,
    *,
    probes: int = 20,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """All analyses, as plain data.

    Args:
        network: meta-trained. initial: the same before meta-training. tasks, split: what the lifetimes see.
        lifetimes: how many. probes: steps of each at which updates are held against gradients.

    Returns:
        ``update_angle``: degrees between a step's update and minus the gradient of the step's own loss (``step``), of
        the query loss (``query``), and of the step's loss under the feedback weights of before (``random_feedback``):
        {layer: [one for each probe]}, means over lifetimes; None where an update is zero. ``probes``: the steps.
        ``feedback_angle``: degrees between B_l and (W_{L-1} ... W_{l+1})^T, {when: {layer: angle}}. ``interference``:
        see :func:`interference`. ``lifetimes``: how many.
    """
    angles: dict[str, dict[str, list[list[float]]]] = {"step": {}, "query": {}, "random_feedback": {}}
    feedback: dict[str, dict[str, list[float]]] = {"initial": {}, "meta_trained": {}, "end_of_lifetime": {}}
    between: dict[str, list[float]] = {}
    when: list[int] = []
    fresh = {name: value for name, value in initial.letters.items() if name[0] in "Bc"}
    for number in range(lifetimes):
        episodes = tasks.episodes(split, number, 1).to(next(network.parameters()).device)
        T = episodes.support.shape[1]
        when = sorted({round(i * (T - 1) / max(1, min(probes, T) - 1)) for i in range(min(probes, T))})
        with torch.no_grad():
            inputs = network.features(episodes.inputs)
            meta = network.born(1, seeded(network.config.seed, 12, number))
            states = _states(network, meta, episodes, inputs, {*when, T // 2})
        seen = Stream(inputs[episodes.support], episodes.y)
        asked = inputs[episodes.query], episodes.y_query
        for k in when:
            step = Stream(seen.x[:, k : k + 1], seen.y[:, k : k + 1])
            own = gradients(meta, states[k], step.x[:, 0], step.y[:, 0])
            query = gradients(meta, states[k], *asked)
            update = _update(network, meta, states[k], step)
            _note(angles["step"], update, own, k, when)
            _note(angles["query"], update, query, k, when)
            if any(name[0] == "B" for name in meta):
                by_random = _update(network, {**meta, **fresh}, states[k], step)
                _note(angles["random_feedback"], by_random, own, k, when)
        for name, letters, weights in (
            ("initial", initial.letters, {}),
            ("meta_trained", network.letters, {}),
            ("end_of_lifetime", meta, states[T]),
        ):
            for layer, angle in feedback_angles(letters, weights).items():
                feedback[name].setdefault(layer, []).append(angle)
        for name, value in interference(network, meta, states[T // 2], episodes, inputs).items():
            between.setdefault(name, []).append(value)
        if watch is not None:
            watch(number + 1, lifetimes)
    return {
        "lifetimes": lifetimes,
        "probes": when,
        "update_angle": {
            kind: {layer: [_mean(found) for found in by_probe] for layer, by_probe in layers.items()}
            for kind, layers in angles.items()
        },
        "feedback_angle": {name: {layer: _mean(found) for layer, found in by.items()} for name, by in feedback.items()},
        "interference": {name: _mean(found) for name, found in between.items()},
    }


def gradients(meta: Meta, weights: Weights, x: Tensor, y: Tensor) -> Weights:
    """Of the loss with respect to the weights of a lifetime, by autograd."""
    leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
    with torch.enable_grad():
        loss = loss_of(predict(meta, leaves, x), y).sum()
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def feedback_angles(meta: Meta, weights: Weights) -> dict[str, float]:
    """Degrees between a path B_l and (W_{L-1} ... W_{l+1})^T, both linear, by layer; the output's layer has none."""
    layers, found = count_layers(meta), {}
    forward: Tensor | None = None
    for layer in range(layers - 2, -1, -1):
        W = weights.get(f"W{layer + 1}", meta[f"W{layer + 1}"]).detach()
        W = W[0] if W.dim() == 3 else W
        forward = W if forward is None else forward @ W
        if f"B{layer}_0" not in meta:
            continue
        path, j = meta[f"B{layer}_0"].detach(), 1
        while f"B{layer}_{j}" in meta:
            path, j = meta[f"B{layer}_{j}"].detach() @ path, j + 1
        if (angle := degrees(path, forward.T)) is not None:
            found[str(layer)] = angle
    return dict(sorted(found.items()))


@torch.no_grad()
def interference(
    network: MetaNetwork, meta: Meta, weights: Weights, episodes: Episodes, inputs: Tensor
) -> dict[str, float]:
    """What a step on task j does to the tasks i, from the weights of one lifetime.

    Returns:
        ``own``, ``others``: the change of the query loss on the step's own task and on another, means over tasks and
        pairs; ``gradient_own``, ``gradient_others``: the same for steps down the gradient, as long as the rule's;
        ``cosine``, ``gradient_cosine``: between the updates of two tasks. Without what is not finite.
    """
    N = int(episodes.task_query.max()) + 1
    asked = inputs[episodes.query]
    before = by_task(_sample_loss(predict(meta, weights, asked), episodes), episodes, N)[0]
    changes: dict[str, list[Tensor]] = {"": [], "gradient_": []}
    updates: dict[str, list[Tensor]] = {"": [], "gradient_": []}
    for task in range(N):
        k = int((episodes.task[0] == task).nonzero()[0]) if (episodes.task[0] == task).any() else 0
        x, y = inputs[episodes.support[:, k : k + 1]], episodes.y[:, k : k + 1]
        update = _update(network, meta, weights, Stream(x, y))
        downhill = {name: -value for name, value in gradients(meta, weights, x[:, 0], y[:, 0]).items()}
        length, steep = _flat(update).norm(), _flat(downhill).norm()
        if not float(length) > 0 or not float(steep) > 0:
            continue
        downhill = {name: value * (length / steep) for name, value in downhill.items()}
        for kind, found in (("", update), ("gradient_", downhill)):
            after = {name: value + found[name] for name, value in weights.items()}
            loss = by_task(_sample_loss(predict(meta, after, asked), episodes), episodes, N)[0]
            changes[kind].append((loss - before).roll(-task))
            updates[kind].append(_flat(found))
    result: dict[str, float] = {}
    for kind, rows in changes.items():
        if not rows:
            continue
        table = torch.stack(rows)  # the step's own task first
        result[f"{kind}own"] = float(table[:, 0].mean())
        if N > 1 and len(rows) > 1:
            result[f"{kind}others"] = float(table[:, 1:].mean())
            unit = torch.stack([one / one.norm() for one in updates[kind]])
            cosines = (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool, device=unit.device)]
            result[f"{kind}cosine"] = float(cosines.mean())
    return {name: value for name, value in result.items() if math.isfinite(value)}


def degrees(a: Tensor, b: Tensor) -> float | None:
    """The angle between two tensors; None if one is zero or not finite."""
    a, b = a.flatten().double(), b.flatten().double()
    product = a.norm() * b.norm()
    if not bool(product.isfinite()) or float(product) == 0:
        return None
    return math.degrees(math.acos(max(-1.0, min(1.0, float(a @ b / product)))))


def _states(network: MetaNetwork, meta: Meta, episodes: Episodes, inputs: Tensor, at: set[int]) -> dict[int, Weights]:
    """Weights before the steps ``at``, and those at the end under the number of steps."""
    states: dict[int, Weights] = {}

    def keep(k: int, weights: Weights) -> None:
        if k + 1 in at:
            states[k + 1] = weights

    states[episodes.support.shape[1]] = network.live(episodes, meta, keep, inputs)[0]
    return states


@torch.no_grad()
def _update(network: MetaNetwork, meta: Meta, weights: Weights, step: Stream) -> Weights:
    """W(k+1) - W(k)."""
    after, _ = live({**meta, **weights}, step, network.rule)
    return {name: after[name] - value for name, value in weights.items()}


def _note(into: dict[str, list[list[float]]], update: Weights, gradient: Weights, k: int, when: list[int]) -> None:
    for name, value in update.items():
        if name[0] == "W":
            by_probe = into.setdefault(name[1:], [[] for _ in when])
            if (angle := degrees(value, -gradient[name])) is not None:
                by_probe[when.index(k)].append(angle)


def _sample_loss(yhat: Tensor, episodes: Episodes) -> Tensor:
    """The loss of each query sample, (E, Q)."""
    y = episodes.y_query
    if y.is_floating_point():
        return (yhat - y).square().mean(-1)
    return torch.nn.functional.cross_entropy(yhat.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)


def _flat(weights: Weights) -> Tensor:
    return torch.cat([value.flatten() for value in weights.values()])


def _mean(found: list[float]) -> float | None:
    return statistics.mean(found) if found else None
