"""Networks for the comparisons, by name."""

from collections.abc import Callable

import torch

from backroads._registry import Registry
from backroads.errors import ConfigError
from backroads.models.digits import digits_conv

MODELS: Registry[Callable[..., torch.nn.Module]] = Registry("model", ConfigError)
MODELS.add("digits_conv", digits_conv)

__all__ = ["MODELS", "digits_conv"]
