"""Equilibrium propagation: a network settles, is nudged towards the label, and learns from the difference.

Sources: B. Scellier, Y. Bengio, "Equilibrium Propagation: Bridging the Gap between Energy-Based Models and
Backpropagation", Frontiers in Computational Neuroscience 11:24, 2017; for the discrete dynamics, M. Ernoult et al.,
"Updates of Equilibrium Prop Match Gradients of Backprop Through Time in an RNN with Static Input", NeurIPS 2019; for
nudging in both directions, the read-out outside of the state and separate weights by Kolen and Pollack, A. Laborieux
et al., "Scaling Equilibrium Propagation to Deep ConvNets by Drastically Reducing Its Gradient Estimator Bias",
Frontiers in Neuroscience 15:633674, 2021.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from backroads.errors import ConfigError, DivergedError, UsageError
from backroads.methods.base import Loss
from backroads.methods.blocks import Block, Blocks
from backroads.methods.checks import check_choice, check_flags, check_number
from backroads.methods.inference import OUTPUTS, output_cost
from backroads.methods.processes import anywhere
from backroads.methods.states import InStatesWithFeedback

_LAYERS = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)


@dataclasses.dataclass(frozen=True)
class EquilibriumPropagation(InStatesWithFeedback):
    """Let the states of all layers settle freely and nudged, and move the weights by what differs between the two.

    With s_l the state of layer l, s_0 the input, u_l = W_l s_(l-1) + b_l what it receives from the layer before (after
    pooling, where there is some) and C the cost of the output that the layers after the last block make of s_L::

        s_l <- s_l + rate (rho(u_l + W_(l+1)^T s_(l+1)) - s_l),       for the last one rho(u_L - beta dC/ds_L)
        Phi  = sum over l of <s_l, u_l(s_(l-1))> - beta C
        dW   = mean over examples of (dPhi/dW at s(beta) - dPhi/dW at s(-beta)) / (2 beta)

    The free phase (beta = 0) starts at the forward pass, the nudged ones where it ends. For Phi's own weights,
    dPhi/dW_l is s_l s_(l-1)^T. Where the free phase has settled and beta is small, -dW is the gradient of C at the
    settled state, up to beta^2. To predict, the states settle freely.

    Attributes:
        free_steps: of the free phase, 1 or more.
        nudged_steps: of each nudged phase, 1 or more; an error needs one step a layer, and a few more at rates below 1.
        rate: of a step, above 0 to 1. At 1 all layers jump at once and may swing for ever.
        beta: strength of the nudging, above 0.
        two_sided: False: beta = 0 in place of -beta, which leaves an error of the order of beta. The free phase then
            goes on for as many steps as the nudged one, so that what has not settled cancels.
        output: C; "task": the task's loss, such as cross-entropy. "squared": 1/2 |output - one-hot label|^2.

    ``feedback`` is that of :class:`backroads.methods.states.InStatesWithFeedback`. ``blocks`` is that of
    :class:`backroads.methods.in_blocks.InBlocks`; a block is one linear layer or convolution and its activation,
    without batch norm.

    Raises:
        ConfigError: for values out of range.
    """

    name: ClassVar[str] = "equilibrium_propagation"
    free_steps: int = 20
    nudged_steps: int = 10
    rate: float = 0.5
    beta: float = 0.2
    two_sided: bool = True
    output: str = "task"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("free_steps", "nudged_steps"):
            check_number(self, key, "a number of steps, 1 or more", least=1, whole=True)
        check_number(self, "rate", "a number above 0 to 1", above=0, most=1)
        check_number(self, "beta", above=0)
        check_flags(self, "two_sided")
        check_choice(self, "output", OUTPUTS)

    # --- the model ---

    def find(self, model: torch.nn.Module, sample: Tensor) -> Blocks:
        """The blocks of a model; raises as :meth:`plan`, and ConfigError for what has no energy of this form."""
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                raise ConfigError(
                    f"{self.name}: expected a network without batch norm, whose examples would settle together, got "
                    f"{name}; take one without, such as the models mlp and lenet"
                )
        return super().find(model, sample)

    def check_block(self, block: Block, model: torch.nn.Module) -> None:
        layers = dict.fromkeys(name.rpartition(".")[0] for name in block.parameters)
        if len(layers) > 1 or not isinstance(model.get_submodule(block.owner), _LAYERS):
            raise ConfigError(
                f"{self.name}: expected blocks of one linear layer or convolution and its activation, got "
                f"{', '.join(layers)} in the one that ends at {block.end}; take a network without such parts"
            )

    def formula(self) -> str:
        sides = f"+-{self.beta:g}" if self.two_sided else f"{self.beta:g}"
        return f"the difference of equilibria at nudging {sides}{self.way_back}"

    def describe_output(self) -> str:
        return "the cost at nudged equilibria"

    # --- learning ---

    # Relaxation takes gradients within the forward pass, which no compiled graph can.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def objective(self, model: torch.nn.Module, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """The cost at the free equilibrium, whose gradient is -dW, and the output there.

        Autocast has no effect: differences of states need float32.

        Args: as :meth:`backroads.methods.base.Method.objective`.

        Raises:
            ShapeError, UsageError: as :meth:`backroads.methods.blockwise.Blockwise.objective`.
            DivergedError: if the free phase moves more in its last step than in its first.
        """
        self.prepared(model).check(x, y)
        with torch.autocast(x.device.type, enabled=False), torch.enable_grad():
            free, moved = self.relax(model, x, self.start(model, x), self.free_steps)
            if anywhere(risen := ~(moved[-1] <= 1.1 * moved[0] + 0.01)):
                raise DivergedError(
                    f"{self.name}: the free phase must settle, and the states moved by {float(moved[0]):.4g} in its "
                    f"first step and by {float(moved[-1]):.4g} in its last"
                    f"{'' if risen else ' (more in another process)'}; take smaller weights, a bounded activation such "
                    f"as tanh, or a smaller rate",
                    self.prepared(model).found.blocks[-1].end,
                )
            _, output = self._at(model, x, free)
            output = output.detach()
            sides = self.beta, -self.beta if self.two_sided else 0.0
            Phi = []
            for beta in sides:
                nudge = beta, y, loss
                Phi.append(self.potential(model, x, self.relax(model, x, free, self.nudged_steps, nudge)[0], nudge))
            change = (Phi[1] - Phi[0]) / ((sides[0] - sides[1]) * len(x))
            value = output_cost(self.output, output, y, loss) / len(x)
            return value + change - change.detach(), output

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def predict(self, model: torch.nn.Module, x: Tensor) -> Tensor:
        """The output at the end of the free phase, (N, K). Its gradient is that of backpropagation through its steps.

        Raises:
            UsageError: under torch.export.
        """
        if torch.compiler.is_exporting():
            raise UsageError(f"{self.name}: states settle by derivatives, of which torch.export makes no program")
        graph = torch.is_grad_enabled()
        with torch.autocast(x.device.type, enabled=False), torch.enable_grad():
            states, _ = self.relax(model, x, self.start(model, x), self.free_steps, graph=graph)
            _, output = self._at(model, x, states)
        return output if graph else output.detach()

    def start(self, model: torch.nn.Module, x: Tensor) -> list[Tensor]:
        """The states of the forward pass, (N, ...) each, without graphs."""
        states: list[Tensor] = []

        def keep(index: int, u: Tensor, h: Tensor) -> Tensor:
            states.append(h.detach())
            return h

        with torch.no_grad():
            self.run(model, x, keep)
        return states

    def relax(
        self,
        model: torch.nn.Module,
        x: Tensor,
        states: list[Tensor],
        steps: int,
        nudge: tuple[float, Tensor, Loss] | None = None,
        *,
        graph: bool = False,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Let the states settle.

        Args:
            model: prepared.
            x: inputs, (N, ...).
            states: where to start, (N, ...) each.
            steps: how many.
            nudge: (beta, labels (N,), the task's loss); None for the free phase.
            graph: whether the steps keep their graph, so that gradients pass through them.

        Returns:
            The states, and the root of the mean square of what each step moved them by (scalars).
        """
        moved: list[Tensor] = []
        for _ in range(steps):
            states, by = self._step(model, x, states, nudge, graph)
            moved.append(by)
        return states, moved

    def _step(
        self,
        model: torch.nn.Module,
        x: Tensor,
        states: list[Tensor],
        nudge: tuple[float, Tensor, Loss] | None,
        graph: bool,
    ) -> tuple[list[Tensor], Tensor]:
        """One step of :meth:`relax`: the states, and the root of the mean square of what it moved them by."""
        states = [s if s.requires_grad else s.detach().requires_grad_() for s in states]
        received, output = self._at(model, x, states)
        ends: list[Tensor] = received[1:]
        weights: list[Tensor | None] = [*states[1:]]
        if nudge is not None:
            beta, y, loss = nudge
            ends.append(-beta * output_cost(self.output, output, y, loss))
            weights.append(None)
        # The derivative of Phi without <s_l, u_l>, in each s_l: W_(l+1)^T s_(l+1), or - beta dC/ds_L.
        back: tuple[Tensor | None, ...] = (None,) * len(states)
        if ends:
            back = torch.autograd.grad(ends, states, weights, allow_unused=True, create_graph=graph)
        steps = []
        for index, (s, u, d) in enumerate(zip(states, received, back, strict=True)):
            step = self.rate * (self.activate(model, index, u.clone() if d is None else u + d) - s)
            steps.append(step if graph else step.detach())
        squares = torch.stack([step.detach().square().sum() for step in steps]).sum()
        made = [(s if graph else s.detach()) + step for s, step in zip(states, steps, strict=True)]
        return made, (squares / sum(step.numel() for step in steps)).sqrt()

    def _at(self, model: torch.nn.Module, x: Tensor, states: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """What each block receives at given states, and the output; see :meth:`run`."""
        return self.run(model, x, lambda index, u, h: states[index])

    def potential(
        self, model: torch.nn.Module, x: Tensor, states: list[Tensor], nudge: tuple[float, Tensor, Loss]
    ) -> Tensor:
        """Phi at given states, summed up over the examples, with its graph to the weights.

        Args: as :meth:`relax`.
        """
        beta, y, loss = nudge
        received, output = self._at(model, x, states)
        parts = [(s * u).sum() for s, u in zip(states, received, strict=True)]
        return torch.stack([*parts, -beta * output_cost(self.output, output, y, loss)]).sum()
