"""Ways to assign credit: each is one scalar and one backward pass, in one file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from backroads.errors import ConfigError
from backroads.registry import Registry, call

if TYPE_CHECKING:
    from backroads.methods.base import Method

__all__ = ["get_method", "list_methods", "register_method"]

# Import paths: the names are read without importing torch.
_METHODS: Registry[Callable[..., Method]] = Registry("method", ConfigError)
_METHODS.add("feedback", "backroads.methods.feedback:Feedback")
_METHODS.add("local_errors", "backroads.methods.local_errors:LocalErrors")
_METHODS.add("layerwise", "backroads.methods.local_errors:layerwise")
_METHODS.add("mono_forward", "backroads.methods.mono_forward:MonoForward")
_METHODS.add("forward_forward", "backroads.methods.forward_forward:ForwardForward")
_METHODS.add("predictive_coding", "backroads.methods.predictive_coding:PredictiveCoding")
_METHODS.add("equilibrium_propagation", "backroads.methods.equilibrium_propagation:EquilibriumPropagation")
_METHODS.add("dual_propagation", "backroads.methods.dual_propagation:DualPropagation")
_METHODS.add("burstprop", "backroads.methods.burstprop:Burstprop")
_METHODS.add("target_propagation", "backroads.methods.target_propagation:TargetPropagation")
_METHODS.add("node_perturbation", "backroads.methods.perturbation:NodePerturbation")
_METHODS.add("weight_perturbation", "backroads.methods.perturbation:WeightPerturbation")
_METHODS.add("three_factor", "backroads.methods.three_factor:ThreeFactor")
_METHODS.add("reinforce", "backroads.methods.three_factor:reinforce")
_METHODS.add("hebbian", "backroads.methods.hebbian:Hebbian")
_METHODS.add("softhebb", "backroads.methods.softhebb:SoftHebb")


def register_method(name: str, make: Callable[..., Method] | str) -> None:
    """Make a method of your own known by name, to :func:`get_method` and to every command.

    Args:
        name: a new name.
        make: a subclass of :class:`backroads.methods.base.Method`, another callable that returns one of its instances
            from options by name, or the import path ``package.module:callable`` of either.

    Raises:
        ConfigError: if the name is taken.
    """
    _METHODS.add(name, make)


def get_method(name: str, **options: Any) -> Method:
    """The method called ``name``, or that of an import path ``package.module:callable``, with its options.

    Example::

        method = br.get_method("local_errors", limit=2048)

    Raises:
        ConfigError: for an unknown name or option (with the nearest one), an import path that leads nowhere, or an
            option that makes no sense.
    """
    from backroads.methods.base import Method

    method = call(_METHODS.resolve(name), {}, options, f"method {name!r}")
    if not isinstance(method, Method):
        raise ConfigError(f"method {name!r}: expected a backroads.methods.base.Method, got {type(method).__name__}")
    return method


def list_methods() -> list[str]:
    """The names of all methods."""
    return list(_METHODS)
