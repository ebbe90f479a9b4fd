"""What a metric is, the table of all metrics, and how to take the readings of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from backroads.errors import ConfigError, UsageError
from backroads.metrics.probe import Probe
from backroads.registry import Registry
from backroads.runs.quantity import Quantity


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number that says how well errors are sent back, for each layer or for the whole network.

    Attributes:
        name: under which it is registered, logged and shown.
        quantity: its title, unit and definition, for figures and tables.
        compute: from a :class:`Probe` to {dotted layer name: number}; the name "" stands for the whole network. Layers
            to which the metric does not apply are left out.
        needs_batch: whether it needs a forward and backward pass; False if the weights are enough.
        logged: whether every training logs it.
    """

    name: str
    quantity: Quantity
    compute: Callable[[Probe], dict[str, float]]
    needs_batch: bool = True
    logged: bool = False


_METRICS: Registry[Metric] = Registry("metric", ConfigError, Metric)


def register_metric(
    name: str, quantity: Quantity, *, needs_batch: bool = True, logged: bool = False
) -> Callable[[Callable[[Probe], dict[str, float]]], Metric]:
    """Make a metric of a function; use it as a decorator.

    Args:
        name: under which it is known.
        quantity: its title, unit and definition.
        needs_batch: False if the function reads only the weights, so that no batch has to be run for it.
        logged: whether every training logs it: in its events, tables and figures.

    Example::

        @br.register_metric("weight_sparsity", Quantity("zeros in W", about="Fraction of W's entries that are 0."),
                            needs_batch=False)
        def weight_sparsity(probe):
            return {name: float((p == 0).double().mean()) for name, p in probe.model.named_parameters()}

    Raises:
        ConfigError: if the name is taken.
    """

    def register(compute: Callable[[Probe], dict[str, float]]) -> Metric:
        metric = Metric(name, quantity, compute, needs_batch, logged)
        _METRICS.add(name, metric)
        return metric

    return register


def get_metric(name: str) -> Metric:
    """The metric called ``name``, or that of an import path ``package.module:name``.

    Raises:
        ConfigError: for an unknown name (with the nearest one), or a path that leads to no metric.
    """
    return _METRICS.resolve(name)


def list_metrics() -> list[str]:
    """The names of all metrics."""
    return list(_METRICS)


def quantities(metrics: Iterable[str] | None = None) -> dict[str, Quantity]:
    """What each of the metrics measures, by name; None: of those that every training logs."""
    return {metric.name: metric.quantity for metric in _chosen(metrics)}


def readings(
    model: torch.nn.Module,
    loss: Callable[[], Tensor] | None = None,
    metrics: Iterable[str] | None = None,
    *,
    objective: Callable[[], Tensor] | None = None,
) -> dict[str, dict[str, float]]:
    """Measure a model, and leave it exactly as it was.

    Costs at most two forward and backward passes, however many metrics are asked for. Parameters, ``.grad``, buffers
    (statistics of batch norm), the random state and counters of steps are as before afterwards.

    Args:
        model: a converted or prepared model; the inner one, if it is wrapped for data parallelism or compiled.
        loss: runs the model on a batch and returns the task's loss, as in ``lambda: F.cross_entropy(model(x), y)``.
            None: metrics that need a batch are left out.
        metrics: names or import paths of metrics; see :func:`list_metrics`. None: those that every training logs.
        objective: what training differentiates instead of ``loss``, for a method with an objective of its own.
            None: the loss itself.

    Returns:
        {metric: {layer: number}}, with "" for the whole network. Metrics that apply to no layer are left out.

    Raises:
        ConfigError: for an unknown metric.
        UsageError: for an ``objective`` without a ``loss``.
    """
    if loss is None and objective is not None:
        raise UsageError("readings: expected a loss to compare the objective with, got None; pass the task's loss")
    probe = Probe(model, loss, objective)
    found = {m.name: m.compute(probe) for m in _chosen(metrics) if loss is not None or not m.needs_batch}
    return {name: by_layer for name, by_layer in found.items() if by_layer}


def _chosen(metrics: Iterable[str] | None) -> list[Metric]:
    if metrics is None:
        return [metric for name in _METRICS if (metric := get_metric(name)).logged]
    return [get_metric(name) for name in metrics]
