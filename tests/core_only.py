"""What must work with torch, numpy and safetensors alone; run as a script, in an environment without the extras.

CI runs it with the built wheel in an empty environment, ``test_packaging.py`` with the extras hidden.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from importlib import resources

import torch

import backroads as br

# Parts of the package that the core install imports whole; the others need extras.
PARTS = ("errors", "extras", "registry", "feedback", "phases", "methods", "metrics", "models", "data")


def imports() -> None:
    """All modules of the core, and every public name."""
    for name in PARTS:
        part = importlib.import_module(f"backroads.{name}")
        for module in pkgutil.walk_packages(getattr(part, "__path__", []), f"backroads.{name}."):
            importlib.import_module(module.name)
    for name in br.__all__:
        getattr(br, name)


def trains() -> None:
    """Conversion, a training loop of one's own, a phase and a metric."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 3))
    br.convert(model, br.rules.symmetric_alignment())
    before = br.metrics.weight_angles(model)
    optimizer = torch.optim.SGD(br.param_groups(model, lr=0.01))
    x, y = torch.randn(16, 1, 8, 8), torch.randint(3, (16,))
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    after = br.metrics.weight_angles(model)
    assert all(after[layer] < before[layer] for layer in before), (before, after)
    br.mirror(model, rows=2.0)


def has_its_files() -> None:
    """What the package holds besides code."""
    root = resources.files("backroads")
    for folder in ("recipes", "report/templates"):
        assert any(True for _ in root.joinpath(folder).iterdir()), f"{folder} is empty"
    assert root.joinpath("py.typed").is_file()


if __name__ == "__main__":
    imports()
    trains()
    has_its_files()
    sys.stdout.write(f"backroads {br.__version__}: the core works with torch, numpy and safetensors alone\n")
