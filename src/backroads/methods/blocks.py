"""Where a network can be cut into blocks that are trained apart, and how gradients stop between them."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import fnmatch
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import activation

from backroads.errors import ConfigError, ShapeError, nearest
from backroads.models.softhebb import Triangle

_NOT_ELEMENTWISE = {"MultiheadAttention", "GLU", "Softmax", "LogSoftmax", "Softmax2d", "Softmin"}
ACTIVATIONS = (*(getattr(activation, name) for name in activation.__all__ if name not in _NOT_ELEMENTWISE), Triangle)


@dataclasses.dataclass(frozen=True)
class Block:
    """A part of a network that a loss at its end trains.

    Attributes:
        end: name of the module whose output ends the block.
        call: which of its calls in a forward pass, from 0.
        parameters: names of what the block's loss reaches.
        shape: of the output of one example, without the batch.
        owner: name of the block's first layer with weights.
        inputs: shape of what that layer receives of one example; () if it is called by names of arguments only.
    """

    end: str
    call: int
    parameters: tuple[str, ...]
    shape: tuple[int, ...]
    owner: str
    inputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Blocks:
    """A network as blocks and what comes after them.

    Attributes:
        blocks: in the order of the forward pass.
        output: names of the parameters after the last block.
        unused: names of parameters that no loss reaches.
        classes: width of the network's output.
        inputs: shape of the network's input of one example.
    """

    blocks: tuple[Block, ...]
    output: tuple[str, ...]
    unused: tuple[str, ...]
    classes: int
    inputs: tuple[int, ...]


Visit = Callable[[int, Tensor], Tensor]
"""(index of a block, its output) -> what comes after the block gets in its place."""


class Cuts:
    """Marks where the blocks of a model begin and end, for :meth:`visiting`. Inactive otherwise.

    Args:
        model: the model; gets forward hooks.
        ends: (name of a module, which of its calls), in order.
        owners: name of the first layer of each block, to keep its inputs; none by default.
        before: names of those ends that are activations whose input is visited, and not their output.

    Attributes:
        inputs: by index of a block, what its first layer received in this pass, without its graph.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        ends: list[tuple[str, int]],
        owners: Iterable[str] = (),
        before: Container[str] = (),
    ) -> None:
        self.visit: Visit | None = None
        self.inputs: dict[int, Tensor] = {}
        by_module: dict[str, dict[int, int]] = {}
        for index, (name, call) in enumerate(ends):
            by_module.setdefault(name, {})[call] = index
        self._hooks = [(_Before if name in before else _End)(self, name, calls) for name, calls in by_module.items()]
        self._handles = [hook.register(model.get_submodule(hook.name)) for hook in self._hooks]
        for index, owner in enumerate(owners):
            self._handles.append(model.get_submodule(owner).register_forward_pre_hook(_Input(self, index)))

    @contextlib.contextmanager
    def visiting(self, visit: Visit) -> Iterator[None]:
        """Inside, each output of a block is replaced by what ``visit`` returns for it. For one forward pass."""
        self.visit = visit
        for hook in self._hooks:
            hook.calls = 0
        try:
            yield
        finally:
            self.visit = None
            self.inputs.clear()

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()


class _End:
    """The forward hook of a module that ends blocks; an object and no closure, so that a copied model has its own."""

    def __init__(self, cuts: Cuts, name: str, indices: dict[int, int]) -> None:
        self.cuts, self.name, self.indices = cuts, name, indices
        self.calls = 0

    def register(self, module: torch.nn.Module) -> Any:
        return module.register_forward_hook(self)

    def __call__(self, module: torch.nn.Module, args: Any, output: Any) -> Any:
        if self.cuts.visit is None:
            return None
        index = self.indices.get(self.calls)
        self.calls += 1
        if index is None:
            return None
        if not isinstance(output, Tensor):
            raise ConfigError(f"blocks: expected {self.name} to return a tensor, got {type(output).__name__}")
        return self.cuts.visit(index, output)


class _Before(_End):
    """The same for the first argument of an activation module."""

    def register(self, module: torch.nn.Module) -> Any:
        return module.register_forward_pre_hook(self)

    def __call__(self, module: torch.nn.Module, args: Any, output: Any = None) -> Any:
        visited = super().__call__(module, args, args[0])
        return None if visited is None else (visited, *args[1:])


class _Input:
    """The hook of a block's first layer, which keeps its input."""

    def __init__(self, cuts: Cuts, index: int) -> None:
        self.cuts, self.index = cuts, index

    def __call__(self, module: torch.nn.Module, args: Any) -> None:
        if self.cuts.visit is not None and args:
            self.cuts.inputs[self.index] = args[0].detach()


def find_blocks(model: torch.nn.Module, sample: Tensor, patterns: tuple[str, ...] = ()) -> Blocks:
    """Cut a network into blocks. The model is not touched; a copy of it is run on the sample.

    A block ends at each activation module (``torch.nn.ReLU`` and the like) that follows a layer with weights; in a
    residual block, the one after the sum ends the block of the last convolution and the shortcut. What comes after the
    last block is the output.

    Args:
        model: maps (n, ...) to (n, classes).
        sample: a few inputs, (n, ...).
        patterns: names of the modules whose outputs end blocks instead, level by level with the wildcards of
            ``fnmatch``: "layer*.*" is every child of "layer1", "layer2" and so on.

    Raises:
        ConfigError: no block is found, a pattern matches nothing, or a connection passes the end of a block by.
        ShapeError: for a sample that the model does not take, or an output that is not (n, classes).
    """
    if not isinstance(sample, Tensor) or sample.dim() < 2 or not len(sample):
        got = tuple(sample.shape) if isinstance(sample, Tensor) else type(sample).__name__
        raise ShapeError(f"sample: expected a few inputs of shape (n, ...), got {got}")
    with torch.random.fork_rng(), torch.enable_grad():
        copied = copy.deepcopy(model).eval()
        ends = _ends(copied, sample, patterns)
        return _cut(copied, sample, ends)


def _ends(model: torch.nn.Module, sample: Tensor, patterns: tuple[str, ...]) -> list[tuple[str, int]]:
    """(module, call) of the ends of the blocks, from one forward pass."""
    calls: list[tuple[str, torch.nn.Module]] = []
    hooks = [
        module.register_forward_hook(lambda module, args, output, name=name: calls.append((name, module)))
        for name, module in model.named_modules()
    ]
    _output(model, sample)
    for hook in hooks:
        hook.remove()
    count: dict[str, int] = {}
    ends: list[tuple[str, int]] = []
    has_weights = False  # since the last end
    for name, module in calls:
        call = count[name] = count.get(name, -1) + 1
        if patterns:
            if any(_matches(pattern, name) for pattern in patterns):
                ends.append((name, call))
        elif _is_layer(module):
            has_weights = True
        elif has_weights and isinstance(module, ACTIVATIONS):
            ends.append((name, call))
            has_weights = False
    if ends and not patterns and not has_weights:
        ends.pop()  # the last activation is the network's output
    for pattern in patterns:
        if not any(_matches(pattern, name) for name in count):
            raise ConfigError(
                f"blocks: the pattern {pattern!r} matches no module that the model calls.{nearest(pattern, count)}"
            )
    if not ends:
        raise ConfigError(
            f"blocks: found none in {type(model).__name__}: no activation module (such as torch.nn.ReLU) stands "
            f"between two layers with weights; name the modules whose outputs end a block, as in blocks=('layers.*',)"
        )
    return ends


def _cut(model: torch.nn.Module, sample: Tensor, ends: list[tuple[str, int]]) -> Blocks:
    """The blocks that end there, and what each one's loss reaches."""
    outputs: list[Tensor] = []
    cuts = Cuts(model, ends)
    layers = [name for name, module in model.named_modules() if _is_layer(module)]
    received: dict[str, tuple[int, ...]] = {}
    for name in layers:

        def note(module: torch.nn.Module, args: Any, name: str = name) -> None:
            if args:
                received.setdefault(name, tuple(args[0].shape[1:]))

        model.get_submodule(name).register_forward_pre_hook(note)

    def keep(index: int, h: Tensor) -> Tensor:
        outputs.append(h)
        return h.detach()

    with cuts.visiting(keep):
        output = _output(model, sample)
    if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[0] != len(sample):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ShapeError(f"expected a model with an output of shape (n, classes), got {got}")
    names = {id(p): name for name, p in model.named_parameters()}
    reached = [[names[id(p)] for p in _leaves(h) if id(p) in names] for h in (*outputs, output)]
    owners: dict[str, int] = {}
    for index, parameters in enumerate(reached):
        where = f"the block that ends at {ends[index][0]}" if index < len(ends) else "the output"
        if not parameters:
            raise ConfigError(f"blocks: {where} has no parameters of its own; name other ends, as in blocks=('*',)")
        for name in parameters:
            if owners.setdefault(name, index) != index:
                raise ConfigError(
                    f"blocks: the loss of {where} reaches {name}, which belongs to the block that ends at "
                    f"{ends[owners[name]][0]}: a connection passes that end by, or the weights are shared; name "
                    f"modules that no connection passes by, as in blocks=('layer*.*',)"
                )
    blocks: list[Block] = []
    for (end, call), h in zip(ends, outputs, strict=True):
        ordered = tuple(name for name in names.values() if owners.get(name) == len(blocks))
        owner = next((layer for layer in layers if any(name.rpartition(".")[0] == layer for name in ordered)), None)
        if owner is None:
            raise ConfigError(f"blocks: the block that ends at {end} has no layer with weights; name another end")
        blocks.append(Block(end, call, ordered, tuple(h.shape[1:]), owner, received.get(owner, ())))
    unused = tuple(name for name in names.values() if name not in owners)
    return Blocks(tuple(blocks), tuple(reached[-1]), unused, output.shape[1], tuple(sample.shape[1:]))


def _output(model: torch.nn.Module, sample: Tensor) -> Any:
    try:
        return model(sample)
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, ConfigError | ShapeError):
            raise
        text = str(error).splitlines()[0]
        raise ShapeError(f"the model does not take a sample of shape {tuple(sample.shape)}: {text}") from error


def _leaves(tensor: Tensor) -> list[Tensor]:
    """The parameters in the graph of a tensor."""
    found: dict[int, Tensor] = {}
    pending, seen = [tensor.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found[id(node.variable)] = node.variable
        pending += [parent for parent, _ in node.next_functions]
    return list(found.values())


def _matches(pattern: str, name: str) -> bool:
    patterns, names = pattern.split("."), name.split(".")
    return len(patterns) == len(names) and all(map(fnmatch.fnmatchcase, names, patterns))


def _is_layer(module: torch.nn.Module) -> bool:
    return any(p.dim() > 1 for p in module.parameters(recurse=False))
