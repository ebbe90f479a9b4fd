"""A vision transformer on real handwritten digits, without weight transport in any of its layers.

    python examples/vit.py [--rule symmetric_alignment] [--epochs 30] [--seed 0]

scikit-learn's digits (1,437 images of 8x8 pixels to train on, 360 to test), cut into patches of 2x2 pixels; two
layers of torch's own nn.TransformerEncoderLayer, converted: the query, key, value and output projections of attention
and both linear layers get backward weights of their own. Prints the test accuracy of the rule beside backprop's, with
the same initial weights and the same order of images.

On one thread of an Intel Xeon at 2.5 GHz in 70 s, seed 0 (n = 1): backprop 96.7 %, feedback alignment 87.5 %, symmetric
alignment 97.2 %.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import nn

import backroads as br
from backroads.data import batches, load_digits


class ViT(nn.Module):
    """Patches of 2x2 pixels, learned positions, transformer layers, the mean over patches, a readout."""

    def __init__(self, width: int = 32, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(
                    width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1, 8, 8) -> (N, 10)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.readout(self.norm(self.layers(tokens)).mean(1))


def train(rule: str, epochs: int, seed: int) -> tuple[float, float]:
    """Test accuracy and mean weight angle in degrees after training under a rule."""
    torch.manual_seed(seed)
    model = br.convert(ViT(), rule, strict=True, generator=seed + 1)  # strict: nothing transports weights
    W = torch.optim.AdamW(br.forward_parameters(model), lr=2e-3, weight_decay=0.01)
    B = br.backward_parameters(model)
    # The rules' defaults are made for plain gradient steps of B; least squares (a sparse term) like momentum.
    B_opt = torch.optim.SGD(B, lr=1.0, momentum=0.9, nesterov=True) if B else None

    digits, _, test = load_digits().divided("test")
    for epoch in range(1, epochs + 1):
        for group in W.param_groups:
            group["lr"] = 2e-3 * (1 - (epoch - 1) / epochs)
        for picks in batches(len(digits.y), 64, seed, epoch):
            W.zero_grad()
            if B_opt is not None:
                B_opt.zero_grad()
            F.cross_entropy(model(digits.x[picks]), digits.y[picks]).backward()
            W.step()
            if B_opt is not None:
                B_opt.step()
    model.eval()
    with torch.no_grad():
        accuracy = float((model(test.x).argmax(1) == test.y).double().mean())
    angles = list(br.metrics.weight_angles(model).values())
    return accuracy, sum(angles) / len(angles)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rule", default="symmetric_alignment", choices=br.list_rules())
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # fastest for a network this small
    for rule in dict.fromkeys(("backprop", "feedback_alignment", options.rule)):
        accuracy, angle = train(rule, options.epochs, options.seed)
        print(f"{rule}: test accuracy {100 * accuracy:.1f} %, mean weight angle {angle:.0f} degrees", flush=True)


if __name__ == "__main__":
    main()
