"""The one table of all rules and the one table of layer problems, over which the property tests run."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import backroads as br
from backroads.feedback.nn import AlignedLayer
from backroads.methods.base import Method
from backroads.methods.burstprop import Burstprop
from backroads.methods.dual_propagation import DualPropagation
from backroads.methods.equilibrium_propagation import EquilibriumPropagation
from backroads.methods.feedback import Feedback
from backroads.methods.forward_forward import ForwardForward
from backroads.methods.hebbian import Hebbian
from backroads.methods.local_errors import LocalErrors
from backroads.methods.mono_forward import MonoForward
from backroads.methods.perturbation import NodePerturbation, WeightPerturbation
from backroads.methods.predictive_coding import PredictiveCoding
from backroads.methods.softhebb import SoftHebb
from backroads.methods.target_propagation import TargetPropagation
from backroads.methods.three_factor import ThreeFactor, reinforce

OUTPUTS = 3  # outputs of the networks below, for direct feedback


def agree(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    """Equal but for rounding in float64."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit_vectors(noise: br.WhiteNoise, x: Tensor, images: int | None = None, generator: Any = None) -> Tensor:
    """In place of noise: examples (n, ...), n the entries of one, whose second moment is exactly std^2 times 1."""
    n = x[0].numel()
    return noise.std * n**0.5 * torch.eye(n, dtype=x.dtype).view(n, *x.shape[1:])


def on_the_whole_batch(rule: br.FeedbackRule) -> br.FeedbackRule:
    """A rule on all of the activity, not a drawn part or noise, so that its gradients can be written down."""
    whole = {"cadence": br.Cadence(), "drive": br.Activity()}
    return dataclasses.replace(rule, **whole) if isinstance(rule, br.Alignment) else rule


# Every named rule with its defaults, every variant, and rules that reach every branch of the closed forms.
RULES: dict[str, br.FeedbackRule] = {
    **{name: on_the_whole_batch(br.get_rule(name).for_network(OUTPUTS)) for name in br.list_rules()},
    "sign_symmetry(initial)": br.rules.sign_symmetry(scale="initial"),
    "sign_symmetry(batch_random)": br.rules.sign_symmetry("batch_random"),
    "sign_symmetry(fixed_random)": br.rules.sign_symmetry("fixed_random"),
    "all five primitives": br.Alignment(0.2, 0.3, 0.1, 0.4, 0.5),
    "all five, mean": br.Alignment(0.2, 0.3, 0.1, 0.4, 0.5, reduction="mean"),
    "all five, unit_power": br.Alignment(0.2, 0.3, 0.1, 0.4, 0.5, reduction="unit_power"),
    "all five, overlap": br.Alignment(0.2, 0.3, 0.1, 0.4, 0.5, reduction="overlap"),
    "two of them, projected_step": br.Alignment(decay=0.2, amp=0.3, sparse=0.4, reduction="projected_step"),
    "two of them, per_tap_mean": br.Alignment(decay=0.2, amp=0.3, sparse=0.4, reduction="per_tap_mean"),
    "an exact estimate": br.Alignment(0.2, 0.3, 0.1, 0.4, 0.5, view=br.WeightEstimate()),
    "all five, y not kept": br.Alignment(0.2, 0.3, 0.1, 0.4, 0.5, drive=br.Activity(keep_output=False)),
    "all five, update_forward": br.Alignment(0.2, 0.3, 0.1, 0.4, 0.5, update_forward=True),
    "all five, tied": br.Alignment(0.2, 0.3, 0.1, 0.4, 0.5, tie_grad=True),
    "activation_alignment, centered": br.Alignment(
        amp=0.3, sparse=0.4, operations=br.Operations(center_input=True, normalize_backward_output=True)
    ),
}
# Rules that draw: noise, impulses, or a part of the batch.
NOISY: dict[str, br.FeedbackRule] = {
    "weight_mirror, noise": br.rules.weight_mirror(drive=br.WhiteNoise(std=1.0)),
    "all five, on a part": br.Alignment(0.2, 0.3, 0.1, 0.4, 0.5, cadence=br.Cadence(fraction=0.5)),
    "white-noise mirror": br.rules.white_noise_mirror(),
    "error-correcting mirror": br.rules.error_correcting_mirror(images=3),
    "exact probing": br.rules.exact_probing(),
    "an estimate, sparse and noisy": br.rules.symmetric_alignment(
        view=br.WeightEstimate(noise_std=0.1, keep_probability=0.5, bits=4)
    ),
}
# Rules under which something stands in for W on the way back; under the others the output's error is broadcast.
LAYERWISE = {name: rule for name, rule in RULES.items() if not rule.broadcasts}
# Rules whose backward weights are an Alignment's.
ALIGNMENTS = {name: rule for name, rule in RULES.items() if isinstance(rule, br.Alignment)}
# All 2^5 subsets of the primitives, as bare coefficients.
SUBSETS = [
    br.Alignment(*(c if used else 0.0 for c, used in zip((0.2, 0.3, 0.1, 0.4, 0.5), use, strict=True)))
    for use in itertools.product((False, True), repeat=5)
]


@dataclasses.dataclass(frozen=True)
class Problem:
    """A layer and an input for it.

    Attributes:
        make: rule -> layer. shape: of the input.
    """

    make: Callable[..., AlignedLayer]
    shape: tuple[int, ...]

    def layer(self, rule: br.FeedbackRule, dtype: torch.dtype = torch.float64, seed: int = 0) -> AlignedLayer:
        """The layer under ``rule``, its weights drawn from ``seed``."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.make(rule=rule, dtype=dtype)

    def input(self, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
        """An input drawn from ``seed``."""
        return torch.randn(self.shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _conv(d: int, *args: Any, **kwargs: Any) -> Callable[..., AlignedLayer]:
    cls = (br.nn.Conv1d, br.nn.Conv2d, br.nn.Conv3d)[d - 1]
    return lambda **more: cls(*args, **kwargs, **more)


def _linear(*args: Any, **kwargs: Any) -> Callable[..., AlignedLayer]:
    return lambda **more: br.nn.Linear(*args, **kwargs, **more)


# All are rectangular: a transpose in the wrong place fails. Strides that leave a rest at the border are among them.
PROBLEMS: dict[str, Problem] = {
    "linear": Problem(_linear(5, 3), (7, 5)),
    "linear, few inputs": Problem(_linear(3, 8), (20, 3)),  # where second moments of x are the cheapest
    "linear, few outputs": Problem(_linear(8, 2), (20, 8)),  # and of y
    "linear without bias": Problem(_linear(5, 3, bias=False), (7, 5)),
    "linear over tokens": Problem(_linear(5, 3), (4, 6, 5)),
    "linear of one example": Problem(_linear(5, 3), (5,)),
    "linear of an empty batch": Problem(_linear(5, 3), (0, 5)),
    "conv1d": Problem(_conv(1, 2, 3, 3, stride=2, padding=1), (4, 2, 10)),
    "conv2d": Problem(_conv(2, 2, 3, (3, 2), padding=1), (4, 2, 6, 5)),
    "conv2d strided with a rest": Problem(_conv(2, 2, 3, 3, stride=2), (4, 2, 8, 6)),
    "conv2d dilated in groups": Problem(_conv(2, 4, 6, 3, dilation=2, groups=2, padding=2), (3, 4, 7, 7)),
    "conv2d depthwise without bias": Problem(_conv(2, 4, 4, 3, groups=4, padding=1, bias=False), (3, 4, 5, 5)),
    "conv2d same, even kernel": Problem(_conv(2, 2, 3, (2, 4), padding="same"), (3, 2, 5, 6)),
    "conv2d valid 1x1": Problem(_conv(2, 3, 2, 1, padding="valid"), (3, 3, 4, 4)),
    "conv2d strided 1x1, few inputs": Problem(_conv(2, 2, 6, 1, stride=2), (3, 2, 5, 4)),
    "conv2d 1x1, few outputs": Problem(_conv(2, 6, 2, 1), (3, 6, 4, 3)),
    "conv2d circular": Problem(_conv(2, 2, 3, 3, padding=1, padding_mode="circular"), (3, 2, 5, 5)),
    "conv2d of one example": Problem(_conv(2, 2, 3, 3, padding=1), (2, 5, 5)),
    "conv2d of an empty batch": Problem(_conv(2, 2, 3, 3, padding=1), (0, 2, 5, 5)),
    "conv3d": Problem(_conv(3, 2, 3, 2, stride=(1, 2, 1)), (2, 2, 3, 4, 3)),
}
# Every option of a convolution's border, for rules on noise of their own.
BORDERS: dict[str, Problem] = {
    "stride 2, border 2": Problem(_conv(2, 2, 3, 5, stride=2, padding=2), (2, 2, 7, 6)),
    "stride 3, dilation 2": Problem(_conv(2, 2, 3, 3, stride=3, dilation=2, padding=1), (2, 2, 9, 8)),
    "wide border": Problem(_conv(2, 2, 3, 3, padding=(2, 3)), (2, 2, 4, 3)),
    "map smaller than the kernel": Problem(_conv(2, 2, 3, 3, padding=1), (2, 2, 1, 2)),
    "same, dilated": Problem(_conv(2, 2, 3, (4, 3), padding="same", dilation=(1, 2)), (2, 2, 5, 6)),
    "reflect": Problem(_conv(2, 2, 3, 3, padding=1, padding_mode="reflect"), (2, 2, 4, 5)),
    "replicate, strided": Problem(_conv(2, 2, 3, 3, padding=1, stride=2, padding_mode="replicate"), (2, 2, 5, 5)),
    "circular 1d in groups": Problem(_conv(1, 4, 4, 3, padding=1, groups=2, padding_mode="circular"), (2, 4, 5)),
    "zeros 3d": Problem(_conv(3, 1, 2, 3, padding=1), (1, 1, 2, 3, 3)),
}


def small_network(rule: Any, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.nn.Module:
    """A converted network with convolutions, batch norm, an in-place activation and two linear layers.

    Input (N, 2, 6, 6), output (N, OUTPUTS).
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3, padding=1),
            torch.nn.ReLU(inplace=True),
            torch.nn.Conv2d(4, 6, 3, stride=2, bias=False),
            torch.nn.BatchNorm2d(6),
            torch.nn.Tanh(),
            torch.nn.Flatten(),
            torch.nn.Linear(24, 5),
            torch.nn.ReLU(),
            torch.nn.Linear(5, OUTPUTS),
        ).to(dtype)
        return br.convert(net, rule)


def batch(n: int = 6, dtype: torch.dtype = torch.float64, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Images (n, 2, 6, 6) and labels (n,) for :func:`small_network`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, 6, 6, dtype=dtype, generator=generator), torch.randint(OUTPUTS, (n,), generator=generator)


def plain_network(dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.nn.Module:
    """:func:`small_network` before conversion."""
    return br.revert(small_network("backprop", dtype, seed))


def network_without_norm(dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.nn.Module:
    """:func:`plain_network` with nothing in place of the batch norm."""
    net = plain_network(dtype, seed)
    net[3] = torch.nn.Identity()
    return net


def network_of_sigmoids(dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.nn.Module:
    """:func:`plain_network` with the logistic function as every activation."""
    net = plain_network(dtype, seed)
    for index in (1, 4, 7):
        net[index] = torch.nn.Sigmoid()
    return net


@dataclasses.dataclass(frozen=True)
class MethodCase:
    """A method and what holds for it on its network.

    Attributes:
        method: with its options.
        local: after which modules the network can be cut so that no update before the cut depends on a weight after
            it, of those with index 1, 4 and 7 (the activations); empty for methods in which later weights teach earlier
            layers.
        mean: whether the objective is a mean over examples, so that gradients of parts of a batch add up to the whole.
        infers: whether the activities settle in steps before the weights learn. The layers after the last block then
            learn from settled activities, not from those of the forward pass.
        one_graph: whether a step compiles into one graph, without gradients taken on the way.
        estimated: whether its gradients are estimates from draws in every layer, the output layer, too.
        remembers: whether a part of a batch changes what the next one teaches.
        network: (dtype, seed) -> the plain network, whose layers are "0", "2", "6" and "8", of :func:`batch`.
    """

    method: Method
    local: tuple[int, ...] = ()
    mean: bool = True
    infers: bool = False
    one_graph: bool = True
    estimated: bool = False
    remembers: bool = False
    network: Callable[..., torch.nn.Module] = plain_network


# Every method with its defaults and variants that reach every branch. All tests of methods run over this table.
METHODS: dict[str, MethodCase] = {
    "feedback": MethodCase(Feedback("symmetric_alignment")),
    "feedback, mixed": MethodCase(Feedback({"0": "kolen_pollack", "*": "weight_mirror"}), mean=False),
    "backprop": MethodCase(Feedback()),
    "local_errors": MethodCase(LocalErrors(), (1, 4, 7)),
    "local_errors, pooled": MethodCase(LocalErrors(limit=30), (1, 4, 7)),
    "local_errors, two blocks": MethodCase(LocalErrors(blocks=("1", "7")), (1, 7)),
    "local_errors, sim": MethodCase(LocalErrors("sim"), (1, 4, 7), mean=False),
    "local_errors, predsim": MethodCase(LocalErrors("predsim", beta=0.7), (1, 4, 7), mean=False),
    "local_errors, bio": MethodCase(LocalErrors("predsim", bio=True, beta=0.1, projection=8), (1, 4, 7), mean=False),
    "local_errors, pred and bio": MethodCase(LocalErrors(bio=True, projection=8), (1, 4, 7)),
    "local_errors, similar to inputs": MethodCase(LocalErrors(unsupervised="sim", alpha=0.2), (1, 4, 7), mean=False),
    "local_errors, decoupled": MethodCase(LocalErrors(decoupled=True), (1, 4, 7)),
    "local_errors, not detached": MethodCase(LocalErrors(detach=False)),
    "mono_forward": MethodCase(MonoForward(), (1, 4)),  # the last block learns with the output layer
    "mono_forward, pooled and decoupled": MethodCase(MonoForward(limit=30, decoupled=True), (1, 4)),
    "forward_forward": MethodCase(ForwardForward(), (1, 4, 7), mean=False),  # draws wrong labels
    "forward_forward, pixels": MethodCase(ForwardForward(label="pixels", threshold=0.5), (1, 4, 7), mean=False),
    "forward_forward, decoupled": MethodCase(ForwardForward(decoupled=True), (1, 4, 7), mean=False),
    "forward_forward, hard": MethodCase(ForwardForward(negatives="hard"), mean=False),
    "predictive_coding": MethodCase(PredictiveCoding(), infers=True, one_graph=False),
    "predictive_coding, squared": MethodCase(PredictiveCoding(output="squared"), infers=True, one_graph=False),
    "predictive_coding, fixed": MethodCase(PredictiveCoding("fixed", steps=2, rate=0.5), infers=True, one_graph=False),
    **{
        f"equilibrium_propagation{name}": MethodCase(
            EquilibriumPropagation(**options), infers=True, one_graph=False, network=network_without_norm
        )
        for name, options in {
            "": {},
            ", one-sided": {"two_sided": False},
            ", squared": {"output": "squared"},
            ", B by Kolen-Pollack": {"feedback": "kolen_pollack"},
            ", fixed B": {"feedback": "feedback_alignment"},
        }.items()
    },
    "dual_propagation": MethodCase(DualPropagation(), one_graph=False),
    "dual_propagation, squared": MethodCase(DualPropagation(sweeps=3, output="squared"), infers=True, one_graph=False),
    **{
        f"burstprop{name}": MethodCase(Burstprop(**options), one_graph=False, network=network_of_sigmoids)
        for name, options in {
            "": {},
            ", linear": {"coding": "linear", "feedback": "backprop"},
            ", B by Kolen-Pollack": {"feedback": "kolen_pollack", "slope": 0.5},
        }.items()
    },
    "target_propagation": MethodCase(TargetPropagation(), mean=False, one_graph=False),  # draws noise
    "target_propagation, plain": MethodCase(TargetPropagation("plain"), mean=False, one_graph=False),
    "node_perturbation": MethodCase(NodePerturbation(), mean=False, estimated=True),
    "node_perturbation, drawn thrice": MethodCase(NodePerturbation(draws=3), mean=False, estimated=True),
    "weight_perturbation": MethodCase(WeightPerturbation(), mean=False, estimated=True),
    "weight_perturbation, drawn thrice": MethodCase(WeightPerturbation(draws=3), mean=False, estimated=True),
    "three_factor": MethodCase(ThreeFactor(), mean=False, estimated=True),
    "three_factor, hebb": MethodCase(ThreeFactor(eligibility="hebb", theta=0.1), mean=False, estimated=True),
    "three_factor, running": MethodCase(ThreeFactor(expectation="running"), mean=False, estimated=True, remembers=True),
    "reinforce": MethodCase(reinforce(), mean=False, estimated=True),
    "hebbian": MethodCase(Hebbian(), (1, 4, 7), mean=False),
    "hebbian, as it stands": MethodCase(Hebbian(scaled=False), (1, 4, 7)),
    "hebbian, sanger": MethodCase(Hebbian(rule="sanger"), (1, 4, 7), mean=False),
    "hebbian, bcm": MethodCase(Hebbian(rule="bcm", rate=1e-3), (1, 4, 7), remembers=True),
    "hebbian, cube": MethodCase(Hebbian(rule="nonlinear"), (1, 4, 7)),
    "hebbian, rectifier": MethodCase(Hebbian(rule="nonlinear", f="rectifier", decorrelate=False), (1, 4, 7)),
    "softhebb": MethodCase(SoftHebb(), (1, 4, 7), mean=False),
    "softhebb, soft": MethodCase(SoftHebb(competition="soft", t=2.0), (1, 4, 7), mean=False),
    "softhebb, by block": MethodCase(SoftHebb(rate=(0.1, 0.02, 0.3), t=(1.0, 0.5, 2.0)), (1, 4, 7), mean=False),
    "softhebb, hard": MethodCase(SoftHebb(competition="hard", power=0.0), (1, 4, 7), mean=False),
}


class OperandsOfOneDtype(TorchDispatchMode):
    """Refuses what a GPU refuses and a CPU takes: convolutions and products whose operands differ in dtype."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("convolution", "convolution_backward", "mm", "addmm", "bmm"):
            dtypes = {a.dtype for a in args if isinstance(a, Tensor)}
            assert len(dtypes) == 1, f"{func} of {dtypes}"
        return func(*args, **(kwargs or {}))
