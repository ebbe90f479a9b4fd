"""Small networks with all meta-parameters, in float64, and streams for them."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from backroads.plasticity.lifetime import Stream

SIZES = (3, 5, 4, 2)


def network(
    sizes: tuple[int, ...] = SIZES,
    *,
    plasticity: str = "synapse",
    feedback_layers: int = 1,
    rates_of_biases: bool = False,
    coefficients: bool = False,
    seed: int = 0,
    scale: float = 0.05,
) -> dict[str, Tensor]:
    """Meta-parameters with a feedback path into every layer. Biases are not zero, so that no unit is on a kink."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, std: float = 1.0) -> Tensor:
        return (std * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()

    meta = {}
    for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        meta[f"W{layer}"] = draw(n_out, n_in, std=(2 / n_in) ** 0.5)
        meta[f"b{layer}"] = draw(n_out, std=0.3)
        for j in range(feedback_layers):
            rows, columns = n_out if j == feedback_layers - 1 else 6, sizes[-1] if j == 0 else 6
            meta[f"B{layer}_{j}"] = draw(rows, columns, std=(2 / columns) ** 0.5)
            meta[f"c{layer}_{j}"] = draw(rows, std=0.3)
        shapes = {"synapse": (n_out, n_in), "neuron": (n_out,), "layer": (1,)}
        if plasticity in shapes:
            meta[f"p{layer}"] = draw(*shapes[plasticity], std=scale)
        if rates_of_biases:
            meta[f"pb{layer}"] = draw(*((1,) if plasticity == "layer" else (n_out,)), std=scale)
        meta[f"s{layer}"] = (0.3 + 0.4 * torch.rand(1, generator=generator, dtype=torch.float64)).requires_grad_()
        if coefficients:
            meta[f"t{layer}"] = draw(6, 2, 2, std=0.2)
    if plasticity == "network":
        meta["p"] = draw(1, std=scale)
        if rates_of_biases:
            meta["pb"] = draw(1, std=scale)
    return meta


def stream(
    lifetimes: int = 2,
    steps: int = 4,
    samples: int = 3,
    *,
    labels: bool = False,
    sizes: tuple[int, ...] = SIZES,
    seed: int = 1,
) -> Stream:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(lifetimes, steps, samples, sizes[0], generator=generator, dtype=torch.float64)
    if labels:
        return Stream(x, torch.randint(sizes[-1], x.shape[:3], generator=generator))
    return Stream(x, torch.randn(*x.shape[:3], sizes[-1], generator=generator, dtype=torch.float64))
