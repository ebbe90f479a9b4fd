"""Converting a model and back: all or nothing, in place, with the same Parameter objects."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from backroads.errors import ConversionError, StateError, nearest
from backroads.feedback.conversion.plan import (
    CONVERT,
    CONVERTIBLE,
    REFUSE,
    ROOT,
    UNMATCHED,
    Row,
    Rules,
    converted_class,
    make_plan,
    refuse_aihwkit,
)
from backroads.feedback.nn.broadcast import broadcast_error
from backroads.feedback.nn.layer import AlignedLayer
from backroads.feedback.nn.projection import Projection, WithProjections
from backroads.feedback.nn.transposed import TransposedLinear

M = TypeVar("M", bound=torch.nn.Module)
_HOOKS = "_backroads_hooks"


def convert(
    model: M,
    rules: Rules,
    *,
    strict: bool = False,
    output: str | None = None,
    generator: torch.Generator | int | None = None,
) -> M:
    """Give the layers of a model their own way back, in place, and return the model.

    Every Linear, Conv1d/2d/3d, MultiheadAttention and recurrent layer or cell that a rule is meant for becomes that of
    the same name in :mod:`backroads.feedback.nn`, and transformers' Conv1D a ``TransposedLinear``. The module objects,
    their Parameters, hooks, dtype, device and mode stay; a shared module is converted once. B is an independent draw
    from the distribution of the layer's own W. Optimisers made before keep working for W; make one for B from
    :func:`backward_parameters`.

    Args:
        model: any module; may itself be a Linear.
        rules: a rule for all layers, or a mapping from patterns to rules; see :func:`backroads.plan`.
        strict: refuse a model with a module that transports weights and cannot be converted, or may do so: one with
            matrices of its own. Otherwise it stays as it is, with a warning; for matrices of its own only where such
            modules are more than those that can be converted. The rule "backprop" for a module says that it may stay.
        output: for direct feedback: name of the module that gives the network's output, in a model that goes on to
            compute its loss; None: the model itself.
        generator: CPU generator or seed for the draws of B; None is torch's global generator.

    Raises:
        ConversionError: nothing to convert, converted already, sharded already, modules of aihwkit, a pattern that
            matches nothing, no module called ``output``, or ``strict``; the model is then untouched.
        RuleError: for something that is not a rule.
    """
    plan, work = make_plan(model, rules)
    refuse_aihwkit(model)
    done = [name or ROOT for name, module in model.named_modules() if isinstance(module, AlignedLayer)]
    if done:
        raise ConversionError(
            f"the model is converted already ({_first(done)}); "
            f"call br.revert(model) first, and give one mapping for all its layers"
        )
    cut = [name or ROOT for name, module, _ in work if any(hasattr(p, "full_tensor") for p in module.parameters(False))]
    if cut:
        raise ConversionError(
            f"expected whole weights, and those of {_first(cut)} are cut up (DTensor); convert before fully_shard. "
            f"Tensor parallelism is not supported"
        )
    if output is not None and output not in (names := dict(model.named_modules())):
        raise ConversionError(f"output={output!r}: the model has no such module.{nearest(output, filter(None, names))}")
    left = plan.transporting
    if left and strict:
        raise ConversionError(
            f"these modules transport weights and cannot be converted: {_listed(left)}. To leave one to "
            f'backpropagation knowingly, or because it does not, name it: {{"{left[0].name}": "backprop", "*": rule}}'
        )
    # Few modules with matrices of their own (a table of positions) are no news; more than can be converted are.
    if len(left) <= sum(row.action == CONVERT or row.why == UNMATCHED for row in plan.rows):
        left = plan.select(REFUSE)
    if not work:
        raise ConversionError(
            f"nothing to convert in {type(model).__name__}: it has no "
            f"{CONVERTIBLE} that can be converted" + (f"; it has {_listed(left)}" if left else "")
        )
    if left:  # before anything changes: a warning may be made an error
        warnings.warn(
            f"these modules still transport weights, beside {len(work)} that are converted: {_listed(left)}",
            stacklevel=2,
        )
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)

    before = [(module, type(module), dict(module.__dict__)) for _, module, _ in work]
    try:
        for _, module, rule in work:
            for name in ("_parameters", "_buffers", "_modules"):  # copies, so that a failure can put the old ones back
                module.__dict__[name] = dict(module.__dict__[name])
            # A new class over the same object keeps every reference to it, its hooks and its Parameters.
            plain = type(module)
            module.__class__ = converted_class(plain)  # type: ignore[assignment]
            if isinstance(module, TransposedLinear):
                module.torch_class = plain
            cast(AlignedLayer | WithProjections, module).attach(rule, generator)
    except BaseException:
        for module, cls, attributes in before:
            module.__class__ = cls
            module.__dict__.clear()
            module.__dict__.update(attributes)
        raise
    for _, layer in aligned_layers(model):
        layer.announces_draws = False  # the root does, once for all
    handles = [model.register_load_state_dict_pre_hook(_check_state)]  # type: ignore[no-untyped-call]
    if any(rule.broadcasts for _, _, rule in work):
        handles += broadcast_error(model, None if output is None else model.get_submodule(output))
    object.__setattr__(model, _HOOKS, handles)
    return model


def revert(model: M) -> M:
    """Turn a converted model back into plain torch modules, in place, and return it. The forward pass is the same.

    Backward weights are dropped; save the state dict first to keep them. A model that is not converted is returned
    as it is.
    """
    for module in list(model.modules()):
        for handle in module.__dict__.pop(_HOOKS, ()):
            handle.remove()
        if isinstance(module, Projection):
            continue  # gone with the module whose matrix it is
        if isinstance(module, AlignedLayer | WithProjections):
            plain = module.torch_class
            module.detach_rule()
            module.__class__ = plain  # type: ignore[assignment]
    return model


def aligned_layers(model: torch.nn.Module) -> Iterator[tuple[str, AlignedLayer]]:
    """(dotted name, layer) of every converted layer, once each."""
    for name, module in model.named_modules():
        if isinstance(module, AlignedLayer):
            yield name, module


def backward_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The rules' parameters that learn; those of feedback alignment and direct feedback are fixed and left out."""
    return [p for p in _rule_parameters(model) if p.requires_grad]


def forward_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """All parameters but those of the rules: W, biases, norms, embeddings."""
    backward = {id(p) for p in _rule_parameters(model)}
    return [p for p in model.parameters() if id(p) not in backward]


def _rule_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The parameters among the tensors that the rules keep, each once."""
    found = {id(p): p for _, layer in aligned_layers(model) for p in layer.state.values()}
    return [p for p in found.values() if isinstance(p, torch.nn.Parameter)]


def _check_state(
    model: torch.nn.Module,
    state_dict: dict[str, Any],
    prefix: str,
    local_metadata: Any,
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Refuse, before anything is loaded, a state dict with backward weights for some layers only or of other shapes."""
    own = model.state_dict(keep_vars=True)
    all_layers = [(prefix + (f"{name}." if name else ""), layer) for name, layer in aligned_layers(model)]
    layers = [(at, layer) for at, layer in all_layers if layer.weight_key(at) in state_dict]  # the others are not meant
    foreign = [key for at, layer in layers for key in layer.foreign_keys(state_dict, at)]
    keys = {at + name: at for at, layer in layers for name in layer.state_names}
    missing = {key: at for key, at in keys.items() if key not in state_dict}
    there = {at for key, at in keys.items() if key in state_dict}
    if foreign:
        raise StateError(
            f"the state dict was saved under other rules: it has {_first(foreign)}, for which this model has no "
            f"place; convert the model with the rules it was saved with, or load its forward weights only"
        )
    if missing and there:
        raise StateError(
            f"the state dict is half converted: it has backward weights for {len(there - set(missing.values()))} "
            f"layers and lacks {_first(list(missing))}; load one saved from a model converted with the same rules, or "
            f"a plain one without any backward weights"
        )
    for key, tensor in own.items():
        value = state_dict.get(prefix + key)
        if isinstance(value, Tensor) and isinstance(tensor, Tensor) and value.shape != tensor.shape:
            raise StateError(
                f"the state dict does not fit: {prefix}{key} has shape {tuple(value.shape)}, the model needs "
                f"{tuple(tensor.shape)}; nothing was loaded"
            )
    if missing:
        drawn = [at.rstrip(".") or "the model itself" for at in dict.fromkeys(missing.values())]
        warnings.warn(
            f"the state dict has no backward weights; drawn anew, to fit the loaded weights: {', '.join(drawn)}",
            stacklevel=2,
        )


def _listed(rows: list[Row]) -> str:
    return "; ".join(f"{row.name} ({row.module}): {row.why}" for row in rows)


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
