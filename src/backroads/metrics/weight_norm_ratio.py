"""The size of a layer's backward weights beside that of its forward weights."""

from __future__ import annotations

import torch

from backroads.metrics.angles import norm_ratio as ratio_of_norms
from backroads.metrics.base import register_metric
from backroads.metrics.probe import Probe
from backroads.runs.quantity import Quantity


@register_metric(
    "norm_ratio",
    Quantity(
        "|B| / |W|", ideal=1, log=True, about="Norm of a layer's backward weight B over that of its forward weight W."
    ),
    needs_batch=False,
    logged=True,
)
def norm_ratio(probe: Probe) -> dict[str, float]:
    """By layer; layers under direct feedback, which have no B in the layout of W, are left out."""
    return {name: ratio_of_norms(B, W) for name, (W, B) in probe.weights.items()}


NORMAL = (0.1, 10.0)  # of |B| / |W|; beyond, the error grows or vanishes by the layer


def check_norms(model: torch.nn.Module) -> dict[str, float]:
    """|B| / |W| of the layers where it is not within 0.1 to 10, by name; empty if all is well.

    Errors then grow or vanish on their way back, however well B is aligned: a training is about to diverge or to stop.
    """
    return {name: ratio for name, ratio in norm_ratios(model).items() if not NORMAL[0] <= ratio <= NORMAL[1]}


def norm_ratios(model: torch.nn.Module) -> dict[str, float]:
    """|B| / |W| of each layer; layers under direct feedback have none."""
    return norm_ratio.compute(Probe(model))
