"""A small GPT on the source text of Python's standard library, without weight transport in any of its layers.

    python examples/gpt.py [--rule symmetric_alignment] [--steps 300] [--seed 0]

Bytes in, the next byte out; two layers of torch's own nn.TransformerEncoderLayer with a causal mask, converted: the
projections of attention, the linear layers and the head get backward weights of their own. The head is not tied to the
embedding: a tied head would be a transpose of the embedding, which is what we do without. Prints the validation loss in
nats a byte for the rule beside backprop, with the same initial weights and the same batches.

On one thread of an Intel Xeon at 2.5 GHz in 80 s, seed 0 (n = 1), Python 3.11: backprop 2.208, feedback alignment
2.669, symmetric alignment 2.209.
"""

import argparse
import math
import sysconfig
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import backroads as br

CONTEXT, BATCH = 64, 32


def stdlib(limit: int = 2_000_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes of the top-level modules in the order of their names, and the last tenth of them to validate on."""
    folder = Path(sysconfig.get_path("stdlib"))
    text = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))[:limit]
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    cut = len(data) * 9 // 10
    return data[:cut], data[cut:]


class GPT(nn.Module):
    """Embedding, learned positions, causal transformer layers, a head of its own."""

    def __init__(self, width: int = 64, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.positions = nn.Parameter(0.02 * torch.randn(CONTEXT, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 256)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.register_buffer("mask", torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(N, L) bytes -> (N, L, 256) scores of the next one."""
        h = self.embedding(tokens) + self.positions
        for layer in self.layers:
            h = layer(h, src_mask=self.mask, is_causal=True)
        return self.head(self.norm(h))


def batch(data: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, L) bytes, and each one's next."""
    starts = torch.randint(len(data) - CONTEXT - 1, (BATCH,), generator=generator)
    rows = torch.stack([data[s : s + CONTEXT + 1] for s in starts.tolist()])
    return rows[:, :-1], rows[:, 1:]


def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean negative log likelihood, nats a byte."""
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


def train(rule: str, steps: int, seed: int) -> tuple[float, float]:
    """Validation loss (nats a byte) and mean weight angle (degrees) after training under a rule."""
    training, validation = stdlib()
    torch.manual_seed(seed)
    # strict: nothing transports weights. The root's own matrix, the positions, is added, and multiplies nothing.
    model = br.convert(GPT(), {"(root)": "backprop", "*": rule}, strict=True, generator=seed + 1)
    W = torch.optim.AdamW(br.forward_parameters(model), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    B = br.backward_parameters(model)
    B_opt = torch.optim.SGD(B, lr=1.0, momentum=0.9, nesterov=True) if B else None
    draws = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in W.param_groups:  # linear warm-up over a twentieth, then a cosine
            group["lr"] = 3e-3 * min(1, (step + 1) / (steps / 20)) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        W.zero_grad()
        if B_opt is not None:
            B_opt.zero_grad()
        loss_of(model, *batch(training, draws)).backward()
        nn.utils.clip_grad_norm_(br.forward_parameters(model), 1.0)
        W.step()
        if B_opt is not None:
            B_opt.step()
    model.eval()
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        loss = sum(float(loss_of(model, *batch(validation, draws))) for _ in range(20)) / 20
    angles = list(br.metrics.weight_angles(model).values())
    return loss, sum(angles) / len(angles)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rule", default="symmetric_alignment", choices=br.list_rules())
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for rule in dict.fromkeys(("backprop", "feedback_alignment", options.rule)):
        loss, angle = train(rule, options.steps, options.seed)
        print(f"{rule}: validation loss {loss:.3f} nats a byte, mean weight angle {angle:.0f} degrees", flush=True)


if __name__ == "__main__":
    main()
