"""Cells that Linsker's covariance rule grows from noise, for some constants: pictures and shapes.

    python benchmarks/linsker.py

400 inputs at places drawn from N(0, I) around each cell, all weights at first uniform within 0.05 of 0, bounds of 1.
The covariance of the inputs is exp(-d^2 / (2 0.7^2)); in the last row that of a layer of centre-surround cells (widths
0.6 and 1.2). A picture shows at each pixel the weight of the nearest input, within 2.2 of the cell.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

import torch
from grid import markdown
from torch import Tensor

from backroads.contrib.selforganisation import centre_surround_covariance, gaussian_covariance, grow, shape_of
from backroads.runs.environment import environment
from backroads.runs.files import write_json
from backroads.runs.schema import as_data
from backroads.train.fields import fields

OUT = Path(__file__).parent / "results" / "linsker.json"
INPUTS, CELLS, SIDE, RADIUS = 400, 12, 24, 2.2
CONSTANTS = ((0, 0), (0, -0.5), (0, -3), (30, -3), (60, -3), (100, -3), (30, -0.5))
SHAPES = ("mean", "centre", "surround", "dipole", "quadrupole")


def images(w: Tensor, places: Tensor) -> Tensor:
    """At each pixel the weight of the nearest input, (cells, 1, SIDE, SIDE); 0 beyond RADIUS."""
    axis = (torch.arange(SIDE, dtype=w.dtype) - (SIDE - 1) / 2) * 2 * RADIUS / SIDE
    pixels = torch.cartesian_prod(axis, axis)
    shown = w[:, torch.cdist(pixels, places).argmin(1)] * (pixels.norm(dim=1) <= RADIUS)
    return shown.reshape(-1, 1, SIDE, SIDE)


def table(results: dict[str, Any]) -> str:
    """The shapes as Markdown: medians over cells."""
    rows = []
    for name, layer in results["layers"].items():
        shown = [f"{statistics.median(abs(shape[key]) for shape in layer['shapes']):.2f}" for key in SHAPES]
        rows.append([f"{name}", *shown, str(len(layer["shapes"]))])
    return markdown(["constants", *(f"size of {key}" for key in SHAPES[:3]), *SHAPES[3:], "cells"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    where = environment()
    where["command"] = where["command"].replace(f" --out {arguments.out}", "")
    generator = torch.Generator().manual_seed(arguments.seed)
    places = torch.randn(INPUTS, 2, dtype=torch.float64, generator=generator)
    start = 0.1 * torch.rand(CELLS, INPUTS, dtype=torch.float64, generator=generator) - 0.05
    noise = gaussian_covariance(places, 0.7)
    cases = {f"k1 = {k1}, k2 = {k2}": (noise, k1, k2) for k1, k2 in CONSTANTS}
    cases["k1 = 0, k2 = -0.2, behind centre-surround"] = (centre_surround_covariance(places, 0.6, 1.2), 0, -0.2)
    layers = {}
    for name, (Q, k1, k2) in cases.items():
        found = grow(Q, k1, k2, start)
        shapes = [dataclasses.asdict(shape_of(w, places)) for w in found.w]
        layers[name] = {"steps": found.steps, "shapes": shapes, "fields": as_data(fields(images(found.w, places)))}
        print(name, found.steps, flush=True)
    write_json(arguments.out, {"environment": where, "seed": arguments.seed, "layers": layers})


if __name__ == "__main__":
    main()
