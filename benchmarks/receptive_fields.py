"""Receptive fields that Hebbian rules grow from patches of natural images.

    python benchmarks/receptive_fields.py --data FOLDER    # any folder of images, such as Imagenette's

Grey patches of 12x12 pixels, each free of its mean. Oja's and Sanger's rules see them as they are, nonlinear rules see
their first 100 principal components, each brought to variance 1. A field is the image to which a unit answers most of
all images of the same length: W times that map. The control is the nonlinear rule on Gaussian noise of the same
covariance. Each rule is the library's method on a layer of its own, with the gradients of ordinary SGD.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from grid import markdown, spread
from PIL import Image
from torch import Tensor

from backroads.methods.hebbian import Hebbian
from backroads.runs.environment import environment
from backroads.runs.files import write_json
from backroads.runs.schema import as_data
from backroads.runs.statistics import estimate
from backroads.train.fields import fields

OUT = Path(__file__).parent / "results" / "receptive_fields.json"
SIDE, KEPT, WINDOW = 12, 100, 6
# Name: the method's rule and f, learning rate, steps, units, and whether it sees noise in place of patches.
RULES: dict[str, dict[str, Any]] = {
    "oja": {"rule": "oja", "lr": 0.5, "steps": 1000, "units": 8},
    "sanger": {"rule": "sanger", "lr": 1.0, "steps": 16000, "units": 32},
    "negative_tanh": {"f": "negative_tanh", "lr": 0.5, "steps": 4000},
    "rectifier": {"f": "rectifier", "lr": 0.5, "steps": 4000},
    "sparse": {"f": "sparse", "lr": 0.2, "steps": 4000},
    "quadratic": {"f": "quadratic", "lr": 0.05, "steps": 12000},
    "cube": {"f": "cube", "lr": 1e-4, "steps": 4000},
    "negative_tanh_on_noise": {"f": "negative_tanh", "lr": 0.5, "steps": 4000, "noise": True},
}


def patches(folder: Path, images: int, count: int, generator: torch.Generator) -> Tensor:
    """Patches of images of a folder, (count, SIDE^2), each free of its mean, in units of their standard deviation.

    Args:
        folder: of images, at any depth.
        images: how many are drawn.
        count: of patches, as many from each image, a rest left out.
        generator: of the draws.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if len(files) < images:
        raise SystemExit(f"--data: expected a folder with {images} images or more, got {len(files)} in {folder}")
    found = []
    for index in torch.randperm(len(files), generator=generator)[:images].tolist():
        with Image.open(files[index]) as image:
            grey = torch.from_numpy(np.array(image.convert("L"))).double()
        windows = grey.unfold(0, SIDE, 1).unfold(1, SIDE, 1).flatten(0, 1).flatten(1)
        found.append(windows[torch.randint(len(windows), (count // images,), generator=generator)])
    x = torch.cat(found)
    x = x - x.mean(1, keepdim=True)
    return x / x.std()


@dataclasses.dataclass(frozen=True)
class Whitening:
    """The first principal components of samples, each divided by its standard deviation.

    Attributes:
        V: samples to components, (kept, features).
        floored: how many variances were so small that the floor of 1e-6 of their mean stood in for them.
    """

    V: Tensor
    floored: int

    @classmethod
    def of(cls, x: Tensor, kept: int) -> Whitening:
        """That of samples x of mean 0, (n, features)."""
        values, vectors = torch.linalg.eigh(x.T @ x / len(x))
        values, vectors = values.flip(0)[:kept], vectors.flip(1)[:, :kept]
        floor = 1e-6 * values.sum() / kept
        return cls((vectors / values.clamp_min(floor).sqrt()).T, int((values < floor).sum()))


def grow(
    method: Hebbian, x: Tensor, units: int, lr: float, steps: int, size: int, generator: torch.Generator
) -> Tensor:
    """W of a layer of so many units after training on samples, (units, features).

    Args:
        method: of the layer. x: samples, (n, features).
        lr: of SGD; falls to 0 along a half cosine.
        steps, size: how many batches, and of how many samples.
        generator: of weights and batches.
    """
    layer = torch.nn.Linear(x.shape[1], units, bias=False, dtype=x.dtype)
    model = torch.nn.Sequential(layer, torch.nn.Tanh(), torch.nn.Linear(units, 2, dtype=x.dtype))
    with torch.no_grad():
        layer.weight.copy_(F.normalize(torch.randn(layer.weight.shape, generator=generator, dtype=x.dtype)))
    method.prepare(model, x[:2], generator)
    optimizer = torch.optim.SGD([layer.weight], lr=lr)
    y = torch.zeros(size, dtype=torch.long)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        batch = x[torch.randint(len(x), (size,), generator=generator)]
        method.objective(model, batch, y, F.cross_entropy)[0].backward()
        optimizer.step()
    return layer.weight.detach()


def localised(W: Tensor) -> Tensor:
    """Share of each field's energy in its best window of 6x6, (units,). W: (units, SIDE^2)."""
    energy = W.reshape(-1, 1, SIDE, SIDE) ** 2
    return F.avg_pool2d(energy, WINDOW, 1).amax((1, 2, 3)) * WINDOW**2 / energy.sum((1, 2, 3))


def oriented(W: Tensor) -> Tensor:
    """|second harmonic of the power spectrum over angle|, from 0 to 1, (units,). W: (units, SIDE^2)."""
    power = torch.fft.fft2(W.reshape(-1, SIDE, SIDE)).abs() ** 2
    k = torch.fft.fftfreq(SIDE, dtype=W.dtype)
    k[SIDE // 2] = 0.0  # of both signs
    angle = torch.atan2(k.unsqueeze(1), k.unsqueeze(0))
    power = power * ((k.unsqueeze(1) != 0) | (k.unsqueeze(0) != 0))
    return (power * torch.polar(torch.ones_like(angle), 2 * angle)).sum((1, 2)).abs() / power.sum((1, 2))


def grown(x: Tensor, seed: int) -> dict[str, Any]:
    """The fields of each rule as images, and what is measured of them. x: patches; seed: of weights and draws."""
    whitening = Whitening.of(x, KEPT)
    white = x @ whitening.V.T
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(white.shape, generator=generator, dtype=x.dtype)
    layers = {}
    for name, settings in RULES.items():
        rule, f, units = settings.get("rule", "nonlinear"), settings.get("f", "cube"), settings.get("units", 64)
        linear = rule != "nonlinear"
        method = Hebbian(rule=rule, f=f, rate=1.0)
        seen = x if linear else noise if settings.get("noise") else white
        W = grow(method, seen.float(), units, settings["lr"], settings["steps"], 1000, generator).double()
        W = W if linear else W @ whitening.V
        measured = {"localised": localised(W), "oriented": oriented(W)}
        layers[name] = {"settings": settings, "fields": as_data(fields(W.reshape(-1, 1, SIDE, SIDE)))}
        for what, values in measured.items():
            found = estimate(values.tolist())
            layers[name][what] = {"n": found.n, "mean": found.mean, "std": found.std}
        print(name, {what: round(float(values.mean()), 3) for what, values in measured.items()}, flush=True)
    return {"floored": whitening.floored, "layers": layers}


def table(results: dict[str, Any]) -> str:
    """What was measured of the fields, as Markdown."""
    rows = []
    for name, found in results["layers"].items():
        shown = [spread(found[what]["mean"], found[what]["std"], 1, 2) for what in ("localised", "oriented")]
        rows.append([name, *shown, str(found["localised"]["n"])])
    return markdown(["rule", "energy in the best 6x6 window", "orientation", "units"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of images")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--patches", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    where = environment()
    where["command"] = where["command"].replace(f" --out {arguments.out}", "").replace(str(arguments.data), "FOLDER")
    generator = torch.Generator().manual_seed(arguments.seed)
    x = patches(arguments.data, arguments.images, arguments.patches, generator)
    found = {"environment": where, "seed": arguments.seed, "images": arguments.images, "patches": len(x)}
    write_json(arguments.out, found | grown(x, arguments.seed))


if __name__ == "__main__":
    main()
