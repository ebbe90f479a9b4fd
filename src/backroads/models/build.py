"""A model from its name: one of ours, torchvision's, timm's, or a callable of the user's own."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch

from backroads.errors import ConfigError, nearest
from backroads.extras import extra_named, import_torchvision


def build_model(
    name: str, *, classes: int, shape: tuple[int, int, int], options: dict[str, Any] | None = None
) -> torch.nn.Module:
    """The model called ``name``, for images of ``shape`` (C, H, W) and ``classes`` classes.

    Args:
        name: one of ``MODELS``, ``torchvision:NAME``, ``timm:NAME`` or ``package.module:callable``. The callable gets
            ``classes`` and ``shape`` if its signature has them, and the options.
        options: further arguments by name.

    Raises:
        ConfigError: an unknown name or option, or a model that does not map (N, C, H, W) to (N, classes).
        MissingDependencyError: torchvision or timm is needed and not installed.
    """
    from backroads.models import MODELS

    options = options or {}
    source, colon, rest = name.partition(":")
    if not colon:
        make = MODELS.get(name)
        model = _call(name, make, {"classes": classes, "shape": shape}, options)
    elif source == "torchvision":
        model = _from_torchvision(rest, classes, options)
    elif source == "timm":
        model = _from_timm(rest, classes, shape, options)
    else:
        model = _from_module(source, rest, classes, shape, options)
    _check(name, model, classes, shape)
    return model


def _call(name: str, make: Any, given: dict[str, Any], options: dict[str, Any]) -> torch.nn.Module:
    """``make`` with what it takes of ``given``, and the options."""
    try:
        parameters = dict(inspect.signature(make).parameters)
    except (TypeError, ValueError):  # some builtins have none
        parameters = {}
    takes_all = not parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    unknown = [key for key in options if key not in parameters and not takes_all]
    if unknown:
        known = [key for key in parameters if key not in given]
        raise ConfigError(
            f"model {name!r} takes no option {unknown[0]!r}.{nearest(unknown[0], known)} "
            f"It takes: {', '.join(known) or 'none'}"
        )
    taken = {key: value for key, value in given.items() if key in parameters}
    try:
        model = make(**{**taken, **options})
    except ConfigError:
        raise
    except (TypeError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        raise ConfigError(f"model {name!r} cannot be made with {options or 'these settings'}: {error}") from error
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"model {name!r}: expected a torch.nn.Module, got {type(model).__name__}")
    return model


def _from_torchvision(name: str, classes: int, options: dict[str, Any]) -> torch.nn.Module:
    models = import_torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(f"unknown model 'torchvision:{name}'.{nearest(name, known)}")
    return _call(f"torchvision:{name}", models.get_model_builder(name), {}, {"num_classes": classes, **options})


def _from_timm(name: str, classes: int, shape: tuple[int, int, int], options: dict[str, Any]) -> torch.nn.Module:
    import_torchvision()  # timm imports it
    with extra_named(f"model 'timm:{name}'"):
        import timm
    if not timm.is_model(name):
        raise ConfigError(f"unknown model 'timm:{name}'.{nearest(name, timm.list_models())}")
    given = {"num_classes": classes, "in_chans": shape[0], **options}
    return _call(f"timm:{name}", lambda **kwargs: timm.create_model(name, **kwargs), {}, given)


def _from_module(
    module: str, name: str, classes: int, shape: tuple[int, int, int], options: dict[str, Any]
) -> torch.nn.Module:
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"model: cannot import {module!r} ({error}); expected a name, torchvision:NAME, timm:NAME or "
            f"package.module:callable"
        ) from error
    make = getattr(found, name, None)
    if not callable(make):
        raise ConfigError(f"model: {module} has no callable {name!r}.{nearest(name, dir(found))}")
    return _call(f"{module}:{name}", make, {"classes": classes, "shape": shape}, options)


def _check(name: str, model: torch.nn.Module, classes: int, shape: tuple[int, int, int]) -> None:
    """One image through the network: does it give a number for each class?"""
    training = model.training
    try:
        with torch.no_grad():
            output = model.eval()(torch.zeros(1, *shape))
    except (RuntimeError, ValueError, IndexError, AssertionError, TypeError) as error:
        raise ConfigError(
            f"model {name!r} does not take images of shape {shape}: {str(error).splitlines()[0]}; choose another "
            f"model, or other options or another image_size"
        ) from error
    finally:
        model.train(training)
    if not isinstance(output, torch.Tensor) or output.shape != (1, classes):
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ConfigError(f"model {name!r}: expected an output of shape (N, {classes}) for (N, {shape}), got {got}")
