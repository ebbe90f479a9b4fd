"""What plastic updates do: against the gradient, against the forward weights, and to other tasks.

All on lifetimes that were not trained on. Gradients are computed here, from outside; the lifetimes use none.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
from torch import Tensor

from backroads.plasticity.check import count_layers
from backroads.plasticity.evaluate import by_task
from backroads.plasticity.lifetime import MetaParameters, Stream, Weights, lifetime, loss_of, predict, sample_losses
from backroads.plasticity.network import MetaNetwork
from backroads.plasticity.tasks.episode import Episodes, Split, Tasks, seeded
from backroads.runs.progress import Progress, Report
from backroads.runs.results import MetaAnalysis


def analyse(
    network: MetaNetwork,
    untrained: MetaNetwork,
    tasks: Tasks,
    split: Split,
    lifetimes: int,
    *,
    probes: int = 20,
    report: Report = lambda progress: None,
    **about: Any,
) -> MetaAnalysis:
    """All analyses, as means over lifetimes.

    Args:
        network: meta-trained.
        untrained: the same before meta-training.
        tasks, split: what the lifetimes see.
        lifetimes: how many.
        probes: steps of each at which updates are compared with gradients.
        report: called with the progress after each lifetime.
        about: further fields of the result: step, environment.

    Returns:
        ``update_angle``: degrees between a step's update and minus the gradient of the step's own loss ("step"), of
        the query loss ("query"), and of the step's loss under the feedback weights of before ("random_feedback");
        None where an update is zero. ``feedback_angle``: degrees between B_l and (W_{L-1} ... W_{l+1})^T, "initial",
        "meta_trained" and at the "end_of_lifetime". ``interference``: see :func:`interference`.
    """
    found = []
    for number in range(lifetimes):
        episodes = tasks.episodes(split, number, 1).to(next(network.parameters()).device)
        steps = _spread(probes, episodes.support.shape[1])
        found.append(_lifetime(network, untrained, episodes, steps, seeded(network.config.run.seed, 12, number)))
        report(Progress(number + 1, lifetimes))
    return MetaAnalysis(split=split, lifetimes=lifetimes, probes=tuple(steps), **_means(found), **about)


def _spread(probes: int, T: int) -> list[int]:
    """So many of the steps 0 to T - 1, evenly spread, the first and the last among them."""
    n = min(probes, T)
    return sorted({round(i * (T - 1) / max(1, n - 1)) for i in range(n)})


def _lifetime(
    network: MetaNetwork, untrained: MetaNetwork, episodes: Episodes, steps: list[int], generator: torch.Generator
) -> dict[str, Any]:
    """The analyses of one lifetime."""
    T = episodes.support.shape[1]
    states: dict[int, Weights] = {}  # after so many steps

    def keep(k: int, weights: Weights) -> None:
        if k + 1 in (*steps, T // 2, T):
            states[k + 1] = weights

    with torch.no_grad():
        inputs = network.features(episodes.inputs)
        meta = network.initial_weights(1, generator)
        network.lifetimes(episodes, meta, inputs, keep)
    random = {name: value for name, value in untrained.meta_parameters.items() if name[0] in "Bc"}
    angles: list[dict[str, dict[str, float | None]]] = []
    for k in steps if states[T] else ():  # nothing is plastic: there are no updates
        step = Stream(inputs[episodes.support[:, k : k + 1]], episodes.y[:, k : k + 1])
        own = gradients(meta, states[k], step.x[:, 0], step.y[:, 0])
        query = gradients(meta, states[k], inputs[episodes.query], episodes.y_query)
        update = _update(network, meta, states[k], step)
        compared = {"step": _angles(update, own), "query": _angles(update, query)}
        if any(name[0] == "B" for name in meta):
            compared["random_feedback"] = _angles(_update(network, {**meta, **random}, states[k], step), own)
        angles.append(compared)
    return {
        "update_angle": {
            kind: {layer: [angle[kind][layer] for angle in angles] for layer in angles[0][kind]}
            for kind in (angles[0] if angles else ())
        },
        "feedback_angle": {
            "initial": feedback_angles(untrained.meta_parameters, {}),
            "meta_trained": feedback_angles(network.meta_parameters, {}),
            "end_of_lifetime": feedback_angles(meta, states[T]),
        },
        "interference": interference(network, meta, states[T // 2], episodes, inputs) if states[T] else {},
    }


def _means(found: list[Any]) -> Any:
    """Means over lifetimes of the numbers in dicts and lists, where there are any."""
    if isinstance(found[0], dict):
        names = dict.fromkeys(name for one in found for name in one)
        return {name: _means([one[name] for one in found if name in one]) for name in names}
    if isinstance(found[0], list):
        return [_means(list(column)) for column in zip(*found, strict=True)]
    numbers = [number for number in found if number is not None]
    return statistics.mean(numbers) if numbers else None


def _angles(update: Weights, gradient: Weights) -> dict[str, float | None]:
    """Degrees between the update of each layer's weights and minus their gradient."""
    return {name[1:]: degrees(value, -gradient[name]) for name, value in update.items() if name[0] == "W"}


def gradients(meta: MetaParameters, weights: Weights, x: Tensor, y: Tensor) -> Weights:
    """Of the loss with respect to the weights of a lifetime, by autograd."""
    leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
    with torch.enable_grad():
        loss = loss_of(predict(meta, leaves, x), y).sum()
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def feedback_angles(meta: MetaParameters, weights: Weights) -> dict[str, float]:
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
    network: MetaNetwork, meta: MetaParameters, weights: Weights, episodes: Episodes, inputs: Tensor
) -> dict[str, float]:
    """What a step on task j does to the tasks i, from the weights of one lifetime.

    Returns:
        ``own``, ``others``: the change of the query loss on the step's own task and on another, means over tasks and
        pairs; ``gradient_own``, ``gradient_others``: the same for steps down the gradient, as long as the rule's;
        ``cosine``, ``gradient_cosine``: between the updates of two tasks. Without what is not finite.
    """
    N = int(episodes.task_query.max()) + 1

    def losses(weights: Weights) -> Tensor:
        """The query loss of each task, (N,)."""
        yhat = predict(meta, weights, inputs[episodes.query])
        return by_task(sample_losses(yhat, episodes.y_query), episodes, N)[0]

    before = losses(weights)
    changes: dict[str, list[Tensor]] = {"": [], "gradient_": []}
    updates: dict[str, list[Tensor]] = {"": [], "gradient_": []}
    for task in range(N):
        k = int((episodes.task[0] == task).nonzero()[0]) if (episodes.task[0] == task).any() else 0
        x, y = inputs[episodes.support[:, k : k + 1]], episodes.y[:, k : k + 1]
        update = _update(network, meta, weights, Stream(x, y))
        downhill = {name: -value for name, value in gradients(meta, weights, x[:, 0], y[:, 0]).items()}
        length, steepness = _flat(update).norm(), _flat(downhill).norm()
        if not float(length) > 0 or not float(steepness) > 0:
            continue
        downhill = {name: value * (length / steepness) for name, value in downhill.items()}
        for kind, change in (("", update), ("gradient_", downhill)):
            after = losses({name: value + change[name] for name, value in weights.items()})
            changes[kind].append((after - before).roll(-task))  # the step's own task first
            updates[kind].append(_flat(change))
    result: dict[str, float] = {}
    for kind, rows in changes.items():
        if not rows:
            continue
        table = torch.stack(rows)
        result[f"{kind}own"] = float(table[:, 0].mean())
        if N > 1 and len(rows) > 1:
            result[f"{kind}others"] = float(table[:, 1:].mean())
            unit = torch.stack([update / update.norm() for update in updates[kind]])
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


@torch.no_grad()
def _update(network: MetaNetwork, meta: MetaParameters, weights: Weights, step: Stream) -> Weights:
    """W(k+1) - W(k)."""
    after, _ = lifetime({**meta, **weights}, step, network.rule)
    return {name: after[name] - value for name, value in weights.items()}


def _flat(weights: Weights) -> Tensor:
    return torch.cat([value.flatten() for value in weights.values()])
