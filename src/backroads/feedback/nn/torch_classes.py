"""Which of torch's modules become which of ours."""

from __future__ import annotations

import torch

from backroads.feedback.nn.attention import MultiheadAttention, OutputProjection
from backroads.feedback.nn.layer import AlignedLayer
from backroads.feedback.nn.layers import Conv1d, Conv2d, Conv3d, Linear

BY_TORCH_CLASS: dict[type[torch.nn.Module], type[AlignedLayer] | type[MultiheadAttention]] = {
    **{cls.torch_class: cls for cls in (Linear, Conv1d, Conv2d, Conv3d, OutputProjection)},
    torch.nn.MultiheadAttention: MultiheadAttention,
}
