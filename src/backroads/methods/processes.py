"""What methods ask of all processes of data parallelism: to be called in all of them. Alone, they ask nobody."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def anywhere(flag: Tensor) -> bool:
    """Whether a flag, a scalar, is true in any process."""
    if dist.is_available() and dist.is_initialized():
        flag = flag.float()
        dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def everywhere(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes, the same in each: what a method remembers must not differ among them."""
    if dist.is_available() and dist.is_initialized():
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor
