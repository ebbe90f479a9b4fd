"""Networks by name: the library's own, torchvision's, timm's, or a callable of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from backroads.errors import ConfigError, is_out_of_memory, nearest
from backroads.extras import extra_named, import_torchvision
from backroads.models.digits import digits_conv
from backroads.models.fast import fast_cnn
from backroads.models.lenet import lenet
from backroads.models.lstm import row_lstm
from backroads.models.mlp import mlp
from backroads.models.resnet import cifar_resnet, imagenet_resnet
from backroads.models.softhebb import softhebb
from backroads.models.vgg import vgg, vgg_b
from backroads.models.vit import vit
from backroads.registry import Registry, call

MODELS: Registry[Callable[..., torch.nn.Module]] = Registry("model", ConfigError)
for _model in (digits_conv, mlp, lenet):
    MODELS.add(_model.__name__, _model)
for _depth in (8, 20, 32, 56, 110):
    MODELS.add(f"resnet{_depth}", partial(cifar_resnet, _depth))
for _depth in (18, 34, 50, 101, 152):
    MODELS.add(f"resnet{_depth}", partial(imagenet_resnet, _depth, 1))
    MODELS.add(f"resnet{_depth}_v2", partial(imagenet_resnet, _depth, 2))
for _depth in (8, 11):
    MODELS.add(f"vgg{_depth}b", partial(vgg_b, _depth))
for _model in (vgg, vit, row_lstm, softhebb, fast_cnn):
    MODELS.add(_model.__name__, _model)


def register_model(name: str, make: Callable[..., torch.nn.Module] | str) -> None:
    """Make a network of your own known by name, to :func:`build_model` and to every command.

    Args:
        name: a new name.
        make: a callable that returns a ``torch.nn.Module`` from images (N, C, H, W) to logits (N, classes), or its
            import path ``package.module:callable``. It gets those of ``classes`` (int) and ``shape`` (C, H, W) that
            its signature has, and the user's options, all by name.

    Raises:
        ConfigError: if the name is taken.

    Example::

        def tiny(classes, shape, width=16):
            return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(shape), classes))

        br.register_model("tiny", tiny)
    """
    MODELS.add(name, make)


def build_model(
    name: str, *, classes: int, shape: tuple[int, int, int], options: dict[str, Any] | None = None
) -> torch.nn.Module:
    """The network called ``name``, tried with one image.

    Args:
        name: one of ``MODELS``, ``torchvision:NAME``, ``timm:NAME``, or ``package.module:callable`` (see
            :func:`register_model` for what the callable gets and returns).
        classes: number of classes.
        shape: (C, H, W) of an image.
        options: further arguments of the network, by name.

    Raises:
        ConfigError: an unknown name or option, or a network that does not map (N, C, H, W) to (N, classes).
        MissingDependencyError: torchvision or timm is needed and not installed.
    """
    make = _maker(name, classes, shape)
    options = options or {}
    try:
        model = call(make, {"classes": classes, "shape": shape}, options, f"model {name!r}")
    except ConfigError:
        raise
    except (TypeError, ValueError, KeyError, RuntimeError, AssertionError, ArithmeticError) as error:
        if is_out_of_memory(error):
            raise
        told = str(error).partition("\n")[0]
        raise ConfigError(f"model {name!r} cannot be made with {options or 'these settings'}: {told}") from error
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"model {name!r}: expected a torch.nn.Module, got {type(model).__name__}")
    _check(name, model, classes, shape)
    return model


def check_model(name: str) -> None:
    """Check that there is a network called ``name``, without making it; raises as :func:`build_model`."""
    _maker(name, 10, (3, 32, 32))


def _maker(name: str, classes: int, shape: tuple[int, int, int]) -> Callable[..., torch.nn.Module]:
    MODELS.check(name)
    source, _, rest = name.partition(":")
    if source == "torchvision":
        return partial(_torchvision(rest), num_classes=classes)
    if source == "timm":
        return partial(_timm(rest), num_classes=classes, in_chans=shape[0])
    return MODELS.resolve(name)


def _torchvision(name: str) -> Callable[..., torch.nn.Module]:
    models = import_torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(f"unknown model 'torchvision:{name}'.{nearest(name, known)}")
    make: Callable[..., torch.nn.Module] = models.get_model_builder(name)
    return make


def _timm(name: str) -> Callable[..., torch.nn.Module]:
    import_torchvision()  # timm imports it
    with extra_named(f"model 'timm:{name}'"):
        import timm
    if not timm.is_model(name):
        raise ConfigError(f"unknown model 'timm:{name}'.{nearest(name, timm.list_models())}")
    return partial(timm.create_model, name)


def _check(name: str, model: torch.nn.Module, classes: int, shape: tuple[int, int, int]) -> None:
    """Send one image through the network; raises ConfigError unless it gives a number for each class."""
    training = model.training
    try:
        with torch.no_grad():
            output = model.eval()(torch.zeros(1, *shape))
    except (RuntimeError, ValueError, IndexError, AssertionError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        raise ConfigError(
            f"model {name!r} does not take images of shape {shape}: {str(error).splitlines()[0]}; choose another "
            f"model, other options, or images of another size"
        ) from error
    finally:
        model.train(training)
    if not isinstance(output, torch.Tensor) or output.shape != (1, classes):
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ConfigError(f"model {name!r}: expected an output of shape (N, {classes}) for (N, {shape}), got {got}")
