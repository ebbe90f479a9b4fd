"""Networks by name."""

from collections.abc import Callable
from functools import partial

import torch

from backroads.errors import ConfigError
from backroads.models.build import build_model
from backroads.models.digits import digits_conv
from backroads.models.lenet import lenet
from backroads.models.mlp import mlp
from backroads.models.resnet import cifar_resnet, imagenet_resnet
from backroads.models.vgg import vgg
from backroads.models.vit import vit
from backroads.registry import Registry

# Each takes classes, shape (C, H, W) of an image, and options of its own, all by name.
MODELS: Registry[Callable[..., torch.nn.Module]] = Registry("model", ConfigError)
MODELS.add("digits_conv", digits_conv)
MODELS.add("mlp", mlp)
MODELS.add("lenet", lenet)
for _depth in (8, 20, 32, 56, 110):
    MODELS.add(f"resnet{_depth}", partial(cifar_resnet, _depth))
for _depth in (18, 34, 50, 101, 152):
    MODELS.add(f"resnet{_depth}", partial(imagenet_resnet, _depth, 1))
    MODELS.add(f"resnet{_depth}_v2", partial(imagenet_resnet, _depth, 2))
MODELS.add("vgg", vgg)
MODELS.add("vit", vit)

__all__ = ["MODELS", "build_model", "cifar_resnet", "digits_conv", "imagenet_resnet", "lenet", "mlp", "vgg", "vit"]
