"""Weights of units as images, from the results of ``benchmarks``."""

from __future__ import annotations

import json

from pictures import RESULTS, _raw

from backroads.report import figure
from backroads.runs.schema import Fields


def fields_picture(name: str) -> str:
    """MyST: the weights of each of the layers in a file of results, as images under their names."""
    layers = json.loads((RESULTS / f"{name}.json").read_text())["layers"]
    shown = []
    for title, layer in layers.items():
        drawing = figure.images(f"Weights under {title}, as images", Fields(**layer["fields"]))
        shown.append(f"<div><code>{title}</code></div>{drawing}")
    return _raw(*shown)
