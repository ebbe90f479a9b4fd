"""A network of your own without weight transport: handwritten digits under symmetric alignment.

    python examples/quickstart.py

Prints, epoch by epoch, the accuracy on images not trained on and the angle between each layer's forward and backward
weights, which begins near 90 degrees.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

import backroads as br


def network() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(inplace=True),
        torch.nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        torch.nn.BatchNorm2d(32),
        torch.nn.ReLU(inplace=True),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 4 * 4, 10),
    )


def main() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.as_tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.as_tensor(digits.target)
    order = torch.randperm(len(x))
    train, test = order[:1437], order[1437:]

    rule = br.rules.symmetric_alignment()
    model = network()
    print(br.plan(model, rule), end="\n\n")
    br.convert(model, rule)
    optimizer = torch.optim.SGD(br.param_groups(model, lr=0.05, momentum=0.9))

    for epoch in range(6):
        if epoch:
            for picks in train[torch.randperm(len(train))].split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(x[picks]), y[picks]).backward()
                optimizer.step()
        model.eval()
        with torch.no_grad():
            accuracy = (model(x[test]).argmax(1) == y[test]).float().mean().item()
        model.train()
        angles = "  ".join(f"{name}: {angle:4.1f}" for name, angle in br.metrics.weight_angles(model).items())
        print(f"epoch {epoch}  accuracy {100 * accuracy:5.1f} %  degrees between W and B  {angles}")


if __name__ == "__main__":
    main()
