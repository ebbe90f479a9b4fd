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
from backroads.feedback.checks import check_number, check_positive
from backroads.feedback.conversion.swap import aligned_layers
from backroads.feedback.nn.layer import AlignedLayer
from backroads.metrics.angles import angle
from backroads.phases.base import Phase, Taught


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What spikes tell about a weight.

    Attributes:
        beta: the jumps, in the layout of W: the causal effects, up to a scale; 0 where nothing is known.
        angle: between beta and W, degrees.
        sign_agreement: fraction of the known synapses whose sign is that of W; NaN if none is known.
        known: fraction of synapses with enough windows.
        seconds: of spiking that it rests on.
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
    """Estimate a weight from the spikes of a circuit that has it; the estimator itself never sees it.

    Args:
        weight: W, (O, I) of a linear layer or (O, I/groups, *kernel) of a convolution, on any device.
        seconds: simulated; with copies, of each copy.
        rule: the estimator; None: that with its defaults.
        neuron: as for :class:`Circuit`, like drive, spread, copies and generator.
        groups: of the convolution.

    Raises:
        ShapeError: as the circuit and the estimator.
        RuleError: as the circuit and the estimator.
    """
    rule = RegressionDiscontinuity() if rule is None else rule
    rows = _rows(weight, groups)
    circuit = Circuit(rows, neuron, drive, spread=spread, copies=copies, generator=generator)
    return _compared(rule, rule.watch(circuit, seconds), weight.detach())


@dataclasses.dataclass(frozen=True)
class SpikePhase(Phase):
    """A phase of spiking that sets B, to be run before each epoch: the weights stay, nothing else learns.

    Layer after layer is driven by noise of its own and watched for ``seconds``; B becomes the jumps, brought to the
    standard deviation that B had before the first run. A synapse with too few windows keeps its B. Layers should be
    under feedback alignment, so that nothing but this moves B::

        br.convert(model, br.rules.feedback_alignment())
        phase, state = br.spiking.SpikePhase(), None
        for epoch in range(epochs):
            state = phase.run(model, seed=epoch, state=state).state
            ...  # train W

    A convolution is watched at ``patches`` positions at once: patches of the input that do not overlap, each with its
    own neurons above and below, with windows pooled as the weights are shared. Readings are the estimates' "angle",
    "sign_agreement", "known" and "seconds" by layer, as in :class:`Estimate`.

    Attributes:
        rule: the estimator.
        seconds: of spiking, for each layer.
        keep: how much evidence of earlier phases counts, 0 to 1: W has moved, but not far.
        layers: patterns of layer names; None: all but the first, through which no error has to come back.
        neuron: of the circuit.
        drive: of the circuit.
        spread: of the circuit's weights, see :class:`Circuit`.
        patches: of a convolution.

    Raises:
        RuleError: for values that make no sense.
    """

    rule: RegressionDiscontinuity = dataclasses.field(default_factory=RegressionDiscontinuity)
    seconds: float = 90.0
    keep: float = 0.5
    layers: Sequence[str] | None = None
    neuron: Neuron = dataclasses.field(default_factory=Neuron)
    drive: Drive = dataclasses.field(default_factory=Drive)
    spread: float | None = None
    patches: int = 4

    def __post_init__(self) -> None:
        check_positive("SpikePhase", "seconds", self.seconds)
        check_number("SpikePhase", "keep", self.keep)
        if isinstance(self.layers, str):
            object.__setattr__(self, "layers", (self.layers,))
        if self.keep > 1:
            raise RuleError(f"SpikePhase: keep must be <= 1, got {self.keep!r}")

    def check(self, model: torch.nn.Module) -> list[str]:
        return list(self._chosen(model))

    @torch.no_grad()
    def run(self, model: torch.nn.Module, seed: int, state: dict[str, Any] | None = None) -> Taught:
        chosen = self._chosen(model)
        if state:
            spreads, seen = _read(state, chosen)
        else:
            spreads, seen = {name: float(B.std()) for name, (_, B) in chosen.items()}, {}
        readings: dict[str, dict[str, float]] = {"angle": {}, "sign_agreement": {}, "known": {}, "seconds": {}}
        for place, (name, (layer, B)) in enumerate(chosen.items()):
            layer.rule.settle(layer.state)
            W = layer.W.detach()
            generator = torch.Generator(W.device).manual_seed(seed * 1_009 + place)
            copies = self.patches if W.dim() > 2 else 1
            rows = _rows(W, getattr(layer, "groups", 1))
            circuit = Circuit(rows, self.neuron, self.drive, spread=self.spread, copies=copies, generator=generator)
            if name in seen:
                seen[name].fade(self.keep)
            seen[name] = self.rule.watch(circuit, self.seconds, seen.get(name))
            found = _compared(self.rule, seen[name], W)
            known = found.beta != 0
            spread = float(found.beta[known].std()) if int(known.sum()) > 1 else 0.0
            if spread > 0:
                B.copy_(torch.where(known, found.beta * (spreads[name] / spread), B))
            for key, values in readings.items():
                values[name] = getattr(found, key)
        evidence = {name: dict(vars(one)) for name, one in seen.items()}
        return Taught(list(chosen), {"spreads": spreads, "evidence": evidence}, readings)

    def _chosen(self, model: torch.nn.Module) -> dict[str, tuple[AlignedLayer, Tensor]]:
        """The layers to teach and their B, which must be their own and in the layout of W."""
        layers = dict(aligned_layers(model))
        if not layers:
            raise ConversionError("SpikePhase: the model has no converted layer; call br.convert(model, ...) first")
        names = list(layers)[1:] or list(layers)
        if self.layers is not None:
            for pattern in self.layers:
                if not fnmatch.filter(layers, pattern):
                    raise ConversionError(f"SpikePhase: no layer fits {pattern!r}.{nearest(pattern, layers)}")
            names = [name for name in layers if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.layers)]
        chosen: dict[str, tuple[AlignedLayer, Tensor]] = {}
        for name in names:
            B = layers[name].backward_weight
            if B is None or not layers[name].rule.owns_feedback:
                raise ConversionError(
                    f"SpikePhase: {name or 'the layer'} has no backward weight of its own in the layout of W "
                    f"under its rule ({layers[name].rule!r}); convert it with br.rules.feedback_alignment()"
                )
            chosen[name] = layers[name], B
        return chosen


def _read(
    state: dict[str, Any], chosen: dict[str, tuple[AlignedLayer, Tensor]]
) -> tuple[dict[str, float], dict[str, Evidence]]:
    """Spreads and copied evidence of a state; raises StateError unless they fit the layers."""
    try:
        spreads = {name: float(value) for name, value in state["spreads"].items()}
        evidence = {
            name: Evidence(e["moments"].clone(), e["responses"].clone(), float(e["seconds"]))
            for name, e in state["evidence"].items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise StateError(f"expected the state of a SpikePhase, as run() returns it; got {error!r}") from None
    if set(spreads) != set(chosen) or set(evidence) != set(chosen):
        raise StateError(
            f"expected the state of layers {', '.join(chosen)}, got that of {', '.join(evidence)}; "
            f"run the phase on the model that it was saved with"
        )
    for name, (layer, _) in chosen.items():
        rows = _rows(layer.W, getattr(layer, "groups", 1))
        expected = (rows.shape[0], rows.shape[2], rows.shape[1])
        if tuple(evidence[name].responses.shape[2:]) != expected:
            raise StateError(
                f"{name}: expected evidence of shape {expected}, got {tuple(evidence[name].responses.shape[2:])}"
            )
    return spreads, evidence


def _rows(weight: Tensor, groups: int) -> Tensor:
    """(O, I/groups, *kernel) -> (groups, O/groups, I/groups times the kernel's size)."""
    if weight.dim() < 2 or groups < 1 or len(weight) % groups:
        raise ShapeError(
            f"expected a weight of shape (O, I/groups, ...) with O a multiple of groups, got {tuple(weight.shape)} "
            f"and {groups} groups"
        )
    return weight.detach().reshape(groups, len(weight) // groups, -1)


def _compared(rule: RegressionDiscontinuity, evidence: Evidence, W: Tensor) -> Estimate:
    """The jumps, compared with W."""
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
