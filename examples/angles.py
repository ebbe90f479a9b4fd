"""How well errors are sent back while training: angles to true backpropagation, by layer.

    python examples/angles.py

For three rules, before and after training on a task made by a random teacher: the angle between W and B, between the
errors that B and W would send back, and between the layer's update and that of true backpropagation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

import backroads as br


def network() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Linear(30, 64),
        torch.nn.Tanh(),
        torch.nn.Linear(64, 64),
        torch.nn.Tanh(),
        torch.nn.Linear(64, 5),
    )


def show(model: torch.nn.Module, x: Tensor, y: Tensor, when: str) -> None:
    loss = F.cross_entropy(model(x), y).item()
    found = br.metrics.readings(model, lambda: F.cross_entropy(model(x), y))
    print(f"  {when}: loss {loss:.3f}, whole update {found['update_angle']['']:.0f} degrees from backprop's")
    for layer, degrees in found["weight_angle"].items():
        angles = (degrees, found["gradient_angle"][layer], found["update_angle"][layer])
        print("    layer {}  weight {:3.0f}  error {:3.0f}  update {:3.0f}".format(layer, *angles))


def main() -> None:
    for rule in ("feedback_alignment", "information_alignment", "symmetric_alignment"):
        torch.manual_seed(0)
        x = torch.randn(2000, 30)
        y = network()(3 * x).argmax(1)
        model = br.convert(network(), rule)
        optimizer = torch.optim.SGD(br.param_groups(model, lr=0.1, momentum=0.0))
        print(rule)
        show(model, x, y, "before")
        for _ in range(10):
            for picks in torch.randperm(len(x)).split(50):
                optimizer.zero_grad()
                F.cross_entropy(model(x[picks]), y[picks]).backward()
                optimizer.step()
        show(model, x, y, "after ")


if __name__ == "__main__":
    main()
