"""Networks by name."""

from backroads.models.build import MODELS, build_model, register_model
from backroads.models.digits import digits_conv
from backroads.models.fast import fast_cnn
from backroads.models.lenet import lenet
from backroads.models.lstm import row_lstm
from backroads.models.mlp import mlp
from backroads.models.resnet import cifar_resnet, imagenet_resnet
from backroads.models.softhebb import softhebb
from backroads.models.vgg import vgg, vgg_b
from backroads.models.vit import vit

__all__ = [
    "MODELS",
    "build_model",
    "cifar_resnet",
    "digits_conv",
    "fast_cnn",
    "imagenet_resnet",
    "lenet",
    "mlp",
    "register_model",
    "row_lstm",
    "softhebb",
    "vgg",
    "vgg_b",
    "vit",
]
