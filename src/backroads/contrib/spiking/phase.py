"""Weight estimation of whole layers and models: alone, or as a phase between epochs that sets B."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from backroads.contrib.spiking.circuit import Circuit
from backroads.contrib.spiking.discontinuity import Evidence, RegressionDiscontinuity
from backroads.contrib.spiking.settings import Drive, Neuron
from backroads.errors import ConversionError, RuleError, ShapeError, StateError, nearest
from backroads.feedback.conversion.swap import aligned_layers
from backroads.feedback.nn.layers import AlignedLayer
from backroads.feedback.rules.base import check_number
from backroads.metrics.angles import angle


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What spikes told about a weight.

    Attributes:
        beta: the jumps, in the layout of W: the causal effects, up to a scale.
        angle: between beta and W, degrees. sign_agreement: fraction of the known synapses on whose sign the two agree
            (NaN if none is known). known: fraction of synapses with enough windows. seconds: of spiking it rests on.
    """

    beta: Tensor
    angle: float
    sign_agreement: float
    known: float
    seconds: float


def estimate(
    weight: Tensor,
    seconds: float = 90.0,
    rule: RegressionDiscontinuity | None = None,
    *,
    neuron: Neuron | None = None,
    drive: Drive | None = None,
    spread: float | None = None,
    groups: int = 1,
    copies: int = 1,
    generator: torch.Generator | None = None,
) -> Estimate:
    """What ``seconds`` of spiking tell about a weight: a circuit with this W, watched by an estimator that has not.

    Args:
        weight: W, (O, I) of a linear layer or (O, I/groups, *kernel) of a convolution, on any device.
        seconds: simulated; with copies, of each copy. rule: the estimator. groups: of the convolution.
        neuron, drive, spread, copies, generator: as for :class:`Circuit`.

    Raises:
        ShapeError, RuleError: as the circuit and the estimator.
    """
    rule = RegressionDiscontinuity() if rule is None else rule
    rows = _rows(weight, groups)
    circuit = Circuit(rows, neuron, drive, spread=spread, copies=copies, generator=generator)
    return _judged(rule, rule.watch(circuit, seconds), weight.detach())


class Phase:
    """A phase of spiking that sets B, to be called before each epoch: the weights stay, nothing else learns.

    Layer after layer is driven by noise of its own and watched for ``seconds``; B becomes the jumps, brought to the
    standard deviation that B had when the phase was made. A synapse about which nothing is known keeps its B. Layers
    should be under feedback alignment, so that nothing but this moves B::

        br.convert(model, br.rules.feedback_alignment())
        phase = br.spiking.Phase(model)
        for epoch in range(epochs):
            phase()
            ...  # train W

    A convolution is watched at ``patches`` positions at once: patches of the input that do not overlap, each with its
    own neurons above and below, with windows pooled as the weights are shared.

    Args:
        model: a converted model, or one aligned layer. rule: the estimator. seconds: of spiking for each layer.
        keep: what evidence of earlier phases counts, 0 to 1: W has moved, but not far.
        layers: patterns of layer names; None: all but the first, through which no error has to come back.
        neuron, drive, spread: as for :class:`Circuit`. patches: of a convolution. seed: of all draws.

    Raises:
        ConversionError: if no layer fits, or one has no B of its own. RuleError: for other values that make no sense.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        rule: RegressionDiscontinuity | None = None,
        *,
        seconds: float = 90.0,
        keep: float = 0.5,
        layers: Sequence[str] | None = None,
        neuron: Neuron | None = None,
        drive: Drive | None = None,
        spread: float | None = None,
        patches: int = 4,
        seed: int = 0,
    ) -> None:
        check_number("Phase", "seconds", seconds)
        check_number("Phase", "keep", keep)
        if seconds == 0 or keep > 1:
            raise RuleError(f"Phase: seconds must be > 0 and keep must be <= 1, got {seconds!r} and {keep!r}")
        self.rule = RegressionDiscontinuity() if rule is None else rule
        self.seconds, self.keep, self.patches, self.spread = seconds, keep, patches, spread
        self.neuron, self.drive, self.seed, self.phases = neuron, drive, seed, 0
        self._layers = _chosen(model, layers)
        self._spreads = {name: float(_feedback(name, layer).std()) for name, layer in self._layers.items()}
        self._evidence: dict[str, Evidence] = {}

    @torch.no_grad()
    def __call__(self) -> dict[str, Estimate]:
        """Run the phase and set B; what was found, by layer."""
        found = {}
        for place, (name, layer) in enumerate(self._layers.items()):
            W, B = layer.weight, _feedback(name, layer)
            generator = torch.Generator(W.device).manual_seed((self.seed * 1_000_003 + self.phases) * 1_009 + place)
            convolution = W.dim() > 2
            rows = _rows(W, getattr(layer, "groups", 1))
            copies = self.patches if convolution else 1
            circuit = Circuit(rows, self.neuron, self.drive, spread=self.spread, copies=copies, generator=generator)
            evidence = self._evidence.get(name)
            if evidence is not None:
                evidence.fade(self.keep)
            self._evidence[name] = evidence = self.rule.watch(circuit, self.seconds, evidence)
            found[name] = result = _judged(self.rule, evidence, W.detach())
            known = result.beta != 0
            spread = float(result.beta[known].std()) if int(known.sum()) > 1 else 0.0
            if spread > 0:
                B.copy_(torch.where(known, result.beta * (self._spreads[name] / spread), B))
        self.phases += 1
        return found

    def state_dict(self) -> dict[str, Any]:
        """What the next phase needs beside the model: tensors and numbers."""
        state: dict[str, Any] = {"phases": self.phases, "spreads": dict(self._spreads)}
        state["evidence"] = {
            name: {"moments": e.moments, "responses": e.responses, "seconds": e.seconds}
            for name, e in self._evidence.items()
        }
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken; nothing changes if it does not fit.

        Raises:
            StateError: for the state of a phase of other layers.
        """
        try:
            evidence = {
                name: Evidence(e["moments"].clone(), e["responses"].clone(), float(e["seconds"]))
                for name, e in state["evidence"].items()
            }
            spreads, phases = {name: float(value) for name, value in state["spreads"].items()}, int(state["phases"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise StateError(f"expected the state of a Phase, as state_dict() gives it; got {error!r}") from None
        for name in [*spreads, *evidence]:
            if name not in self._layers:
                raise StateError(
                    f"the state has layer {name!r}, which this phase has not.{nearest(name, self._layers)} "
                    f"Make the phase for the model that it was saved with"
                )
        for name, e in evidence.items():
            rows = _rows(self._layers[name].weight, getattr(self._layers[name], "groups", 1))
            expected = (rows.shape[0], rows.shape[2], rows.shape[1])
            if tuple(e.responses.shape[2:]) != expected:
                raise StateError(f"{name}: expected evidence of shape {expected}, got {tuple(e.responses.shape[2:])}")
        self._evidence, self.phases = evidence, phases
        self._spreads.update(spreads)


def _rows(weight: Tensor, groups: int) -> Tensor:
    """(O, I/groups, *kernel) -> (groups, O/groups, I/groups times the kernel's size)."""
    if weight.dim() < 2 or groups < 1 or len(weight) % groups:
        raise ShapeError(
            f"expected a weight of shape (O, I/groups, ...) with O a multiple of groups, got {tuple(weight.shape)} "
            f"and {groups} groups"
        )
    return weight.detach().reshape(groups, len(weight) // groups, -1)


def _judged(rule: RegressionDiscontinuity, evidence: Evidence, W: Tensor) -> Estimate:
    """Hold the jumps against W."""
    beta = rule.jumps(evidence).reshape(W.shape)
    known = beta != 0
    agree = (beta.sign() == W.sign())[known]
    return Estimate(
        beta.to(W.dtype),
        angle(beta, W),
        float(agree.double().mean()) if len(agree) else float("nan"),
        float(known.double().mean()),
        evidence.seconds,
    )


def _chosen(model: torch.nn.Module, patterns: Sequence[str] | None) -> dict[str, AlignedLayer]:
    layers = dict(aligned_layers(model))
    if not layers:
        raise ConversionError("Phase: the model has no converted layer; call br.convert(model, ...) first")
    if patterns is None:
        names = list(layers)[1:] if len(layers) > 1 else list(layers)
        return {name: layers[name] for name in names}
    chosen = {name: layer for name, layer in layers.items() if any(fnmatch.fnmatchcase(name, p) for p in patterns)}
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in layers):
            raise ConversionError(f"Phase: no layer fits {pattern!r}.{nearest(pattern, layers)}")
    return chosen


def _feedback(name: str, layer: AlignedLayer) -> Tensor:
    """B of a layer, which must be its own and in the layout of W."""
    B = layer.backward_weight
    if B is None or B.shape != layer.weight.shape:
        raise ConversionError(
            f"Phase: {name or 'the layer'} has no backward weight in the layout of W under its rule "
            f"({layer.rule!r}); convert it with br.rules.feedback_alignment()"
        )
    return B
