"""Recurrent layers and cells whose matrices have their own way back."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from backroads.errors import ShapeError
from backroads.feedback.nn.projection import Projection, WithProjections

State = tuple[Tensor, ...]
"""h, or h and c, each (N, H)."""


def weight_names(module: torch.nn.Module) -> list[str]:
    """Names of the matrices of one of torch's recurrent layers or cells, such as "weight_ih_l0"."""
    names: Any = getattr(module, "_flat_weights_names", ("weight_ih", "weight_hh"))
    return [name for name in names if name.startswith("weight_")]


class _Equations:
    """How a kind of cell goes from state to state; ``states`` is how many tensors its state has."""

    states: ClassVar[int] = 1

    def after(self, x: Tensor, a: Tensor, state: State) -> State:
        """The next state; x and a are what the matrices of the input and of the state gave, biases included."""
        raise NotImplementedError


class _LSTMEquations(_Equations):
    """Hochreiter, Schmidhuber, Neural Computation 9 (1997), with the forget gate of Gers et al. (2000)."""

    states = 2

    def after(self, x: Tensor, a: Tensor, state: State) -> State:
        i, f, g, o = (x + a).chunk(4, -1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class _GRUEquations(_Equations):
    """Cho et al., EMNLP 2014; r multiplies what the matrix of the state gave, as in torch."""

    def after(self, x: Tensor, a: Tensor, state: State) -> State:
        (xr, xz, xn), (ar, az, an) = x.chunk(3, -1), a.chunk(3, -1)
        r, z = (xr + ar).sigmoid(), (xz + az).sigmoid()
        n = (xn + r * an).tanh()
        return ((1 - z) * n + z * state[0],)


class _RNNEquations(_Equations):
    """Elman, Cognitive Science 14 (1990)."""

    nonlinearity: str

    def after(self, x: Tensor, a: Tensor, state: State) -> State:
        return (torch.relu(x + a) if self.nonlinearity == "relu" else torch.tanh(x + a),)


class _Recurrent(_Equations, WithProjections):
    """What layers and cells share."""

    def projections(self) -> dict[str, Projection]:
        names = (key.removeprefix("weight_") for key in weight_names(self))
        return {name: Projection(self, f"weight_{name}", f"bias_{name}") for name in names}

    def reset_parameters(self) -> None:
        """torch's own, and a new draw of each B, to fit its W."""
        super().reset_parameters()  # type: ignore[misc]
        self.redraw()

    def _given(self, hx: Any, shapes: list[tuple[int, ...]], like: Tensor) -> State:
        """The state at the start as a tuple, zeros if hx is None; raises ShapeError."""
        if hx is None:
            return tuple(like.new_zeros(shape) for shape in shapes)
        state = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        got = [tuple(part.shape) for part in state]
        if got != shapes:
            raise ShapeError(
                f"{type(self).__name__}: expected hx of shape {', '.join(map(str, shapes))}, "
                f"got {', '.join(map(str, got))}"
            )
        return state


class _Cell(_Recurrent):
    """A cell: one step of time."""

    hidden_size: int

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Arguments and results of torch's cell; raises ShapeError for an input or a state that does not fit."""
        if not torch.is_grad_enabled():  # nothing goes back
            return super().forward(input, hx)
        if input.dim() not in (1, 2):
            raise ShapeError(f"{type(self).__name__}: expected input of shape (N, I) or (I,), got {tuple(input.shape)}")
        state = self._given(hx, [(*input.shape[:-1], self.hidden_size)] * self.states, input)
        state = self.after(self.get_submodule("ih")(input), self.get_submodule("hh")(state[0]), state)
        return state if self.states > 1 else state[0]


class _Layer(_Recurrent):
    """A whole net: layers and directions, over all steps of time."""

    hidden_size: int
    num_layers: int
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Arguments and results of torch's layer; raises ShapeError for an input or a state that does not fit."""
        if not torch.is_grad_enabled():  # nothing goes back: torch's own, with its fast kernels
            return super().forward(input, hx)
        # All steps of all examples in rows, step after step: sizes[t] rows in step t, of the longest examples.
        order = back = None
        if packed := isinstance(input, PackedSequence):
            rows, batch_sizes, order, back = input
            sizes = batch_sizes.tolist()
        else:
            if input.dim() not in (2, 3) or not input.shape[self.batch_first and input.dim() == 3]:
                shapes = "(N, T, I)" if self.batch_first else "(T, N, I)"
                raise ShapeError(
                    f"{type(self).__name__}: expected input of shape {shapes} or (T, I) with a step of time or more, "
                    f"got {tuple(input.shape)}"
                )
            x = input.unsqueeze(1) if input.dim() == 2 else input.transpose(0, 1) if self.batch_first else input
            rows, sizes = x.flatten(0, 1), [x.shape[1]] * x.shape[0]
        one = not packed and input.dim() == 2
        D = 2 if self.bidirectional else 1
        widths = [self.proj_size or self.hidden_size, self.hidden_size][: self.states]
        batch = () if one else (sizes[0],)
        start = self._given(hx, [(self.num_layers * D, *batch, width) for width in widths], rows)
        start = tuple(part.unsqueeze(1) for part in start) if one else start
        start = start if order is None else tuple(part.index_select(1, order) for part in start)
        ends: list[State] = []
        for layer in range(self.num_layers):
            if layer:
                rows = F.dropout(rows, self.dropout, self.training)
            sides = []
            for suffix in (f"l{layer}", f"l{layer}_reverse")[:D]:
                side, end = self._over_time(suffix, rows, sizes, tuple(part[len(ends)] for part in start))
                sides.append(side)
                ends.append(end)
            rows = torch.cat(sides, -1)
        hidden = tuple(torch.stack(parts) for parts in zip(*ends, strict=True))
        hidden = hidden if back is None else tuple(part.index_select(1, back) for part in hidden)
        hidden = tuple(part.squeeze(1) for part in hidden) if one else hidden
        given_back = hidden if self.states > 1 else hidden[0]
        if packed:
            return PackedSequence(rows, batch_sizes, order, back), given_back
        y = rows.unflatten(0, (len(sizes), sizes[0]))
        return y.squeeze(1) if one else y.transpose(0, 1) if self.batch_first else y, given_back

    def _over_time(self, suffix: str, rows: Tensor, sizes: list[int], state: State) -> tuple[Tensor, State]:
        """One layer in one direction: its outputs in rows, (sum of sizes, H), and the state at its end."""
        # The input's matrix is used once, with every step an example; the mean over a batch is one over time, too.
        steps = self.get_submodule(f"ih_{suffix}")(rows).split(sizes)
        of_state = self.get_submodule(f"hh_{suffix}")
        shrink = self.get_submodule(f"hr_{suffix}") if self.proj_size else None
        reverse = suffix.endswith("reverse")
        outputs = []
        for x in reversed(steps) if reverse else steps:
            n = len(x)  # examples that have this step; the others keep their state
            now = tuple(part[:n] for part in state)
            then = self.after(x, of_state(now[0]), now)
            then = then if shrink is None else (shrink(then[0]), *then[1:])
            outputs.append(then[0])
            state = tuple(
                torch.cat([new, old[n:]]) if n < len(old) else new for new, old in zip(then, state, strict=True)
            )
        return torch.cat(outputs[::-1] if reverse else outputs), state


class LSTMCell(_LSTMEquations, _Cell, torch.nn.LSTMCell):
    """``torch.nn.LSTMCell`` whose two matrices have backward weights of their own, in ``ih`` and ``hh``.

    Input (N, I) or (I,), state (h, c), each (N, H) or (H,).

    Args:
        rule: what carries the error back, and is taught: a rule or its name. generator: of B's draw, on the CPU. The
            others are torch's.
    """

    torch_class = torch.nn.LSTMCell


class GRUCell(_GRUEquations, _Cell, torch.nn.GRUCell):
    """``torch.nn.GRUCell`` whose two matrices have backward weights of their own, in ``ih`` and ``hh``.

    Input (N, I) or (I,), state (N, H) or (H,). ``rule`` and ``generator`` as in :class:`LSTMCell`.
    """

    torch_class = torch.nn.GRUCell


class RNNCell(_RNNEquations, _Cell, torch.nn.RNNCell):
    """``torch.nn.RNNCell`` whose two matrices have backward weights of their own, in ``ih`` and ``hh``.

    Input (N, I) or (I,), state (N, H) or (H,). ``rule`` and ``generator`` as in :class:`LSTMCell`.
    """

    torch_class = torch.nn.RNNCell


class LSTM(_LSTMEquations, _Layer, torch.nn.LSTM):
    """``torch.nn.LSTM`` whose matrices have backward weights of their own, in ``ih_l0``, ``hh_l0`` and so on.

    All of torch's arguments, and packed sequences. Input (T, N, I), (N, T, I) with ``batch_first``, or (T, I). The
    matrix of the input is one use of a layer in a pass, with the steps of all examples as its batch; that of the state
    is used once in each step of time.

    Args:
        rule: what carries the error back, and is taught: a rule or its name. generator: of B's draw, on the CPU. The
            others are torch's.

    Raises:
        ShapeError: from the forward pass, for an input or a state that does not fit.

    Example::

        net = br.nn.LSTM(8, 16, num_layers=2, rule=br.rules.mirrored_kolen_pollack())
        y, (h, c) = net(torch.randn(100, 4, 8))  # 100 steps of 4 examples
    """

    torch_class = torch.nn.LSTM


class GRU(_GRUEquations, _Layer, torch.nn.GRU):
    """``torch.nn.GRU`` whose matrices have backward weights of their own, in ``ih_l0``, ``hh_l0`` and so on.

    Everything else as in :class:`LSTM`.
    """

    torch_class = torch.nn.GRU


class RNN(_RNNEquations, _Layer, torch.nn.RNN):
    """``torch.nn.RNN`` whose matrices have backward weights of their own, in ``ih_l0``, ``hh_l0`` and so on.

    Everything else as in :class:`LSTM`.
    """

    torch_class = torch.nn.RNN
