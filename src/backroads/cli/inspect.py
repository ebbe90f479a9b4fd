"""``backroads inspect``: what a rule does to a model, and what it costs, before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from backroads.errors import ConfigError

if TYPE_CHECKING:
    import torch


def inspect(
    model: Annotated[
        str, Parameter(help="The network: a name, torchvision:NAME, timm:NAME or package.module:callable.")
    ],
    /,
    *,
    rule: Annotated[
        list[str] | None,
        Parameter(help="Show these rules, by name or package.module:callable; all named ones if not given."),
    ] = None,
    method: Annotated[
        list[str] | None,
        Parameter(help="Print what these methods would teach which part of the network, in place of the rules."),
    ] = None,
    shape: Annotated[str, Parameter(help="Channels, height and width of an image.")] = "3,32,32",
    classes: Annotated[int, Parameter(help="Number of classes.")] = 10,
    batch_size: Annotated[int, Parameter(help="Number of examples in a step.")] = 128,
) -> None:
    """Print the plan, and parameters, FLOPs, memory and communication of each rule beside backprop.

    With --method, print the plans of other methods.
    """
    size = _shape(shape)
    if rule and method:
        raise ConfigError("expected --rule or --method, got both; methods are inspected apart from rules")
    if batch_size < 1 or classes < 1:
        raise ConfigError(f"expected a batch size and classes of 1 or more, got {batch_size} and {classes}")

    import torch

    import backroads as br
    from backroads.metrics.cost import cost
    from backroads.models import build_model
    from backroads.runs.table import aligned

    built = build_model(model, classes=classes, shape=size)
    if method:
        for name in method:
            print(br.get_method(name).plan(built, torch.zeros(2, *size)))
        return
    rules = {name: br.get_rule(name) for name in (rule or br.list_rules())}
    print(br.plan(built, next(iter(rules.values())) if rule else br.rules.symmetric_alignment()))
    print(f"\na step of {batch_size} examples of {shape}, fp32; optimiser: momentum for W, none for B")
    base = cost(built, None, size, batch_size)
    lines = [("rule", "numbers of W and B, M", "GFLOP", "x backprop", "memory, MiB", "x backprop", "all-reduced, MiB")]
    base_memory = 0.0
    for name in dict.fromkeys(("backprop", *rules)):
        counted = cost(built, br.get_rule(name), size, batch_size)
        momentum = 4 * counted.parameters
        memory = counted.weight_bytes + counted.gradient_bytes + momentum + counted.activation_bytes
        base_memory = base_memory or memory
        sent = counted.gradient_bytes - _local_bytes(built, name)
        lines.append(
            (
                name,
                f"{counted.parameters / 1e6:.2f} + {counted.backward_parameters / 1e6:.2f}",
                f"{counted.flops / 1e9:.1f}",
                f"{counted.flops / base.flops:.2f}",
                f"{memory / 2**20:.0f}",
                f"{memory / base_memory:.2f}",
                f"{sent / 2**20:.2f}",
            )
        )
    print(*aligned(lines), sep="\n")
    print("FLOPs of matrix products and convolutions; memory of weights, gradients, momentum and kept activations")


def _local_bytes(model: torch.nn.Module, rule: str) -> int:
    """Bytes of the gradients that are not exchanged, as every process computes the same ones."""
    import copy
    import warnings

    import backroads as br
    from backroads.feedback.conversion.groups import local_gradients

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        converted = br.convert(copy.deepcopy(model).to("meta"), rule)
    parameters = dict(converted.named_parameters())
    return sum(parameters[name].nbytes for name in local_gradients(converted) if parameters[name].requires_grad)


def _shape(text: str) -> tuple[int, int, int]:
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"shape: expected three whole numbers of 1 or more, such as 3,32,32, got {text!r}")
    channels, height, width = map(int, parts)
    return channels, height, width
