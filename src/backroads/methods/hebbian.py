"""Hebbian learning: each layer learns from what it receives and what it answers, without labels.

Sources: E. Oja, J. Math. Biology 15, 1982; T. D. Sanger, Neural Networks 2, 1989; E. L. Bienenstock, L. N. Cooper,
P. W. Munro, J. Neuroscience 2, 1982 (BCM); C. S. N. Brito, W. Gerstner, "Nonlinear Hebbian Learning as a Unifying
Principle in Receptive Field Formation", PLOS Computational Biology 12, 2016.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from backroads.errors import ConfigError, ShapeError
from backroads.methods.base import Loss
from backroads.methods.blocks import Block, Blocks
from backroads.methods.checks import check_by_block, check_choice, check_flags, check_number
from backroads.methods.in_blocks import InBlocks
from backroads.methods.processes import everywhere
from backroads.registry import Registry

RULES = ("oja", "sanger", "bcm", "nonlinear")

_FUNCTIONS: Registry[Callable[[Tensor], Tensor]] = Registry("function f", ConfigError)
_FUNCTIONS.add("cube", lambda u: u**3)
_FUNCTIONS.add("negative_tanh", lambda u: -torch.tanh(u))
_FUNCTIONS.add("rectifier", lambda u: (u - 1).relu())
_FUNCTIONS.add("quadratic", lambda u: (u - 1).relu() * (u - 2))
_FUNCTIONS.add("sparse", lambda u: u * (u.abs() > 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unsupervised(InBlocks):
    """Each block's layer learns without labels; the layers after the last block are a read-out, by the task's loss.

    A subclass says in :meth:`update` how a layer's W and bias change.

    Attributes:
        rate: factor of the layers' learning rate on that of the read-out, above 0; one number, or one for each block.

    ``blocks`` is that of :class:`backroads.methods.in_blocks.InBlocks`; a block has one layer with weights.

    Raises:
        ConfigError: for values out of range.
    """

    rate: float | tuple[float, ...] = 0.01
    by_block: ClassVar[tuple[str, ...]] = ("rate",)  # options that may have a number for each block
    units: ClassVar[int] = 0  # the least of a layer

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in self.by_block:
            value = getattr(self, key)
            object.__setattr__(self, key, tuple(value) if isinstance(value, list) else value)
            check_by_block(self, key)

    def of_block(self, key: str, index: int) -> float:
        """The number that an option of ``by_block`` has for the block with this index."""
        value = getattr(self, key)
        return float(value[index] if isinstance(value, tuple) else value)

    def update(self, layer: Layer, x: Tensor, head: Any, training: bool) -> tuple[Tensor, Tensor | None]:
        """The changes of a layer's W, in its shape, and of its bias, (O,) or None.

        Args:
            layer: of the block.
            x: what it received, (N, ...).
            head: what :meth:`head` returned for the block.
            training: whether the model is in training mode; what the rule remembers moves only then.
        """
        raise NotImplementedError

    def describe(self, block: Block, model: torch.nn.Module, found: Blocks) -> str:
        for key in self.by_block:
            value = getattr(self, key)
            if isinstance(value, tuple) and len(value) != len(found.blocks):
                raise ConfigError(
                    f"{self.name}: {key}: expected a number, or {len(found.blocks)}, one for each block, got {value}"
                )
        layers = {name.rpartition(".")[0] for name in block.parameters if model.get_parameter(name).dim() > 1}
        owner = model.get_submodule(block.owner)
        known = isinstance(owner, torch.nn.Linear | torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d)
        if not known or getattr(owner, "groups", 1) != 1 or len(layers) != 1 or not block.inputs:
            raise ConfigError(
                f"{self.name}: expected a block of one linear layer or convolution without groups, got "
                f"{', '.join(sorted(layers))} in the one that ends at {block.end}; name other ends by blocks=(...)"
            )
        if len(model.get_parameter(f"{block.owner}.weight")) < self.units:
            raise ShapeError(f"{self.name}: expected {self.units} units or more in {block.owner}, got 1")
        return self.formula()

    def objective(self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The task's loss of the read-out, and what leaves each layer's change as its negative gradient.

        Changes are computed without autocast.

        Args and Raises: as :meth:`backroads.methods.blockwise.Blockwise.objective`.
        """
        state = self.prepared(model)
        state.check(x, y)
        taught: list[Tensor] = []

        def visit(index: int, h: Tensor) -> Tensor:
            block = state.found.blocks[index]
            layer = Layer(model.get_submodule(block.owner), index)
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                received = state.cuts.inputs[index].to(layer.W.dtype)
                dW, db = self.update(layer, received, state.heads[index], model.training)
            changes = {id(layer.W): dW, id(layer.module.bias): db}
            for p in map(model.get_parameter, block.parameters):
                change = changes.get(id(p))
                # 0 in value; a bias or norm that the rule does not teach has gradient 0.
                taught.append(
                    ((p - p.detach()) * (0.0 if change is None else -self.of_block("rate", index) * change)).sum()
                )
            return h.detach()

        with state.cuts.visiting(visit):
            output = model(x)
        return loss(output, y) + torch.stack(taught).sum(), output.detach()


class Layer:
    """A linear layer or convolution as samples: each position of a map is one.

    Attributes:
        module: the layer. index: of its block, from 0. W: its weight. flat: the weight as (O, I), without its graph.
    """

    def __init__(self, module: Any, index: int) -> None:
        self.module, self.index, self.W = module, index, module.weight
        self.flat = self.W.detach().flatten(1)

    def project(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """What the units receive, and the sum over samples of an activity times the inputs.

        Args:
            x: (N, ..., I) or (N, I, height, width).

        Returns:
            u = W x without bias, (samples, O), and a function of v, (samples, O), to sum v x^T, (O, I).
        """
        u, pullback, *_ = torch.func.vjp(lambda W: self._of(x, W), self.W.detach())
        return u, lambda v: pullback(v)[0].flatten(1)

    def power(self, x: Tensor) -> Tensor:
        """The mean over samples of the squared length of what a unit receives, a scalar."""
        return self._of(x**2, torch.ones_like(self.W[:1])).mean()

    def _of(self, x: Tensor, W: Tensor) -> Tensor:
        linear = isinstance(self.module, torch.nn.Linear)
        u: Tensor = torch.nn.functional.linear(x, W) if linear else self.module._conv_forward(x, W, None)
        return (u if linear else u.movedim(1, -1)).reshape(-1, W.shape[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hebbian(Unsupervised):
    """Train each block's layer by a Hebbian rule, and the layers after the last block by the task's loss.

    With x what the layer receives, u = W x without its bias, <> the mean over examples and positions, and LT the lower
    triangle with the diagonal::

        oja        dW = <u x^T> - diag(<u^2>) W
        sanger     dW = <u x^T> - LT(<u u^T>) W
        bcm        dW = <u (u - theta) x^T>,  then theta += (<u^2> - theta) / tau
        nonlinear  dW = G - (w . G) w / |w|^2 for each unit, with G = <f(u) x^T>, and then + (I - W W^T) W

    The last term of "nonlinear" holds the units at norm 1 and, with ``decorrelate``, apart from each other; without it,
    its diagonal alone. (More units than inputs cannot all be apart: they come to a squared norm of inputs / units.)
    Biases and norms stand still. "nonlinear" and "bcm" expect inputs of variance 1 and small rates.

    Attributes:
        rule: "oja", "sanger", "bcm" or "nonlinear".
        f: of "nonlinear": "cube", "negative_tanh", "rectifier" (u - 1)_+, "quadratic" (u - 1)_+ (u - 2), "sparse"
            u if |u| > 1, or the import path ``package.module:callable`` of a function of a tensor, elementwise.
        tau: steps over which the threshold of "bcm" forgets, 1 or more.
        decorrelate: whether the units of "nonlinear" are pushed apart.
        scaled: whether dW of "oja" and "sanger" is divided by <|x|^2>, so that one rate suits inputs of any size.

    The other options are those of :class:`Unsupervised`.

    Raises:
        ConfigError: for values out of range.
    """

    name: ClassVar[str] = "hebbian"
    rule: str = "oja"
    f: str = "cube"
    tau: float = 10.0
    decorrelate: bool = True
    scaled: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "rule", RULES)
        check_number(self, "tau", "a number of steps, 1 or more", least=1)
        check_flags(self, "decorrelate", "scaled")
        _FUNCTIONS.resolve(self.f)

    def formula(self) -> str:
        return f"Hebbian: {self.rule}" + (f" of {self.f}" if self.rule == "nonlinear" else "")

    def head(
        self, block: Block, model: torch.nn.Module, found: Blocks, generator: torch.Generator | None
    ) -> Threshold | None:
        """The sliding threshold of "bcm"."""
        return Threshold(len(model.get_submodule(block.owner).weight)) if self.rule == "bcm" else None  # type: ignore[arg-type]

    def update(self, layer: Layer, x: Tensor, head: Any, training: bool) -> tuple[Tensor, Tensor | None]:
        W = layer.flat
        u, correlate = layer.project(x)
        n = len(u)
        if self.rule == "oja":
            dW = correlate(u) / n - u.pow(2).mean(0).unsqueeze(1) * W
        elif self.rule == "sanger":
            dW = correlate(u) / n - (u.T @ u / n).tril() @ W
        elif self.rule == "bcm":
            dW = correlate(u * (u - head.theta)) / n
            if training:
                moments = everywhere(torch.cat([u.pow(2).sum(0), u.new_full((1,), n)]))
                head.theta.add_((moments[:-1] / moments[-1] - head.theta) / self.tau)
        else:
            G = correlate(_FUNCTIONS.resolve(self.f)(u)) / n
            norm = W.pow(2).sum(1, keepdim=True)
            tangent = G - (W * G).sum(1, keepdim=True) / norm.clamp_min(torch.finfo(W.dtype).tiny) * W
            dW = tangent + W - (W @ W.T @ W if self.decorrelate else norm * W)
        if self.scaled and self.rule in ("oja", "sanger"):
            dW = dW / layer.power(x).clamp_min(torch.finfo(W.dtype).tiny)
        return dW.reshape(layer.W.shape), None


class Threshold(torch.nn.Module):
    """The threshold of each unit, which starts at 0.

    Attributes:
        theta: (units,).
    """

    theta: Tensor

    def __init__(self, units: int) -> None:
        super().__init__()
        self.register_buffer("theta", torch.zeros(units))
