"""A small vision transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backroads.errors import ConfigError


class VisionTransformer(nn.Module):
    """Patches, learned positions, pre-norm transformer layers, the mean over patches, a linear readout.

    Source: Dosovitskiy et al., ICLR 2021; the mean in place of a class token: Beyer et al., arXiv 2205.01580.
    """

    def __init__(
        self, classes: int, shape: tuple[int, int, int], patch: int, width: int, depth: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        channels, height, w = shape
        if height % patch or w % patch:
            raise ConfigError(f"vit: expected a patch that divides {height}x{w} pixels, got {patch}")
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.randn(1, (height // patch) * (w // patch), width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        for module in self.layers.modules():  # the encoder copies its layer: draw each one's weights anew
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.MultiheadAttention):
                module._reset_parameters()
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, classes)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        out: Tensor = self.readout(self.norm(self.layers(tokens)).mean(1))
        return out


def vit(
    classes: int = 10,
    shape: tuple[int, int, int] = (3, 32, 32),
    patch: int = 4,
    width: int = 192,
    depth: int = 6,
    heads: int = 3,
    dropout: float = 0.0,
) -> nn.Module:
    """A vision transformer for small images. Input (N, C, H, W), output (N, classes).

    Args:
        classes: number of classes.
        shape: (C, H, W) of an image.
        patch: height and width of a patch, pixels.
        width: of the tokens.
        depth: number of layers.
        heads: of attention.
        dropout: probability, in all layers.
    """
    return VisionTransformer(classes, shape, patch, width, depth, heads, dropout)
