"""A network to meta-train: its front, its meta-parameters before meta-training, and the loss of a lifetime."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backroads.errors import ConfigError
from backroads.plasticity.check import count_layers
from backroads.plasticity.lifetime import MetaParameters, Observer, Stream, Weights, lifetime, loss_of, predict
from backroads.plasticity.polynomial import SHAPE, oja
from backroads.plasticity.settings import MetaConfig
from backroads.plasticity.tasks.episode import Episodes

# Groups of parameters, by the first letter of their names.
GROUPS = {"forward": "Wb", "feedback": "Bc", "plasticity": "p", "strength": "s", "coefficients": "t"}


class Convolutions(nn.Module):
    """3x3 convolutions without padding, each followed by a rectifier; flattened at the end.

    Args:
        shape: (C, H, W) of an image.
        channels: of every convolution.
        strides: one for each.
        generator: draws the weights.
        bf16: compute in bfloat16.

    Raises:
        ConfigError: for images that are too small.

    Source: the reference's net for Omniglot; 84 pixels, 128 channels and strides 2, 1, 2, 1, 2, 2 give 1152 numbers.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        channels: int,
        strides: list[int],
        generator: torch.Generator,
        *,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        planes, h, w = shape
        self.strides, self.bf16 = tuple(strides), bf16
        for layer, stride in enumerate(strides):
            if min(h, w) < 3:
                raise ConfigError(
                    f"image_size: {shape[1]}x{shape[2]} pixels are too few for convolutions of strides {strides}; "
                    "give larger images or fewer strides"
                )
            self.register_parameter(f"W{layer}", nn.Parameter(kaiming((channels, planes, 3, 3), generator)))
            self.register_parameter(f"b{layer}", nn.Parameter(torch.zeros(channels)))
            planes, h, w = channels, (h - 3) // stride + 1, (w - 3) // stride + 1
        self.features = planes * h * w

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, features)."""
        dtype, last = x.dtype, torch.channels_last  # in which convolutions of many channels are faster
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            x = x.contiguous(memory_format=last)
            for layer, stride in enumerate(self.strides):
                W = getattr(self, f"W{layer}").contiguous(memory_format=last)
                x = F.conv2d(x, W, getattr(self, f"b{layer}"), stride=stride).relu_()
        return x.to(dtype).flatten(1)


class MetaNetwork(nn.Module):
    """Everything that is meta-learned, on the CPU.

    Args:
        config: the settings.
        shape: of one input, (n,) or (C, H, W).

    Attributes:
        front: convolutions that do not change in lifetimes, or None.
        meta: the other meta-parameters, by name.
        rule: what happens in a step of a lifetime.
    """

    def __init__(self, config: MetaConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(config.run.seed)
        self.config, self.rule = config, config.plasticity
        self.front: Convolutions | None = None
        features, network = math.prod(shape), config.network
        if network.front == "conv":
            bf16 = config.run.front_precision == "bf16"
            self.front = Convolutions(shape, network.channels, network.strides, generator, bf16=bf16)
            features = self.front.features
        self.meta = nn.ParameterDict(_initial([features, *network.hidden, network.head], config, generator))

    @property
    def meta_parameters(self) -> MetaParameters:
        """The meta-parameters by name, without the front's."""
        return dict(self.meta.items())

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by optimiser: those of GROUPS, and the front's among the forward ones."""
        found = {
            group: [value for name, value in self.meta.items() if name[0] in letters]
            for group, letters in GROUPS.items()
        }
        found["forward"] += [] if self.front is None else list(self.front.parameters())
        return found

    def features(self, x: Tensor) -> Tensor:
        """Inputs (K, ...) -> what the linear layers see, (K, n_0)."""
        return x.flatten(1) if self.front is None else self.front(x)

    def initial_weights(self, lifetimes: int, generator: torch.Generator) -> MetaParameters:
        """The meta-parameters of some lifetimes, with plastic weights redrawn or zero where the settings say so."""
        meta, start = dict(self.meta.items()), self.config.network.initial_weights
        layers = count_layers(meta)
        for layer in range(layers):
            if not self.rule.is_plastic(layer, layers) or start == "learned":
                continue
            if start == "random_head" and layer < layers - 1:
                continue
            W = meta[f"W{layer}"]
            drawn = kaiming((lifetimes, *W.shape), generator, fan_in=W.shape[1])
            meta[f"W{layer}"] = (torch.zeros_like(drawn) if start == "zero" else drawn).to(W)
            if start != "random_head":
                meta[f"b{layer}"] = torch.zeros_like(meta[f"b{layer}"])
        return meta

    def lifetimes(
        self, episodes: Episodes, meta: MetaParameters, inputs: Tensor, observe: Observer | None = None
    ) -> Weights:
        """Live through the episodes: the weights at the end. inputs: what the front makes of all inputs, (K, n_0)."""
        seen = Stream(inputs[episodes.support], episodes.y)
        segments = self.config.meta.checkpoint_segments if observe is None else 1
        weights, _ = lifetime(meta, seen, self.rule, checkpoint_segments=segments, observe=observe)
        return weights

    def query_loss(
        self, episodes: Episodes, generator: torch.Generator, own: slice = slice(None), of: int | None = None
    ) -> Tensor:
        """The loss of each lifetime on its query at the end, (E,): what meta-learning makes small.

        Args:
            episodes: what the lifetimes see.
            generator: of weights that are drawn for each lifetime.
            own: which of the lifetimes of a meta-step these are. of: how many it has; None: these are all.
        """
        lifetimes = episodes.count if of is None else of
        meta = {
            name: value[own] if name[0] == "W" and value.dim() == 3 else value
            for name, value in self.initial_weights(lifetimes, generator).items()
        }
        inputs = self.features(episodes.inputs)
        weights = self.lifetimes(episodes, meta, inputs)
        return loss_of(predict(meta, weights, inputs[episodes.query]), episodes.y_query)

    def supervised_loss(self, episodes: Episodes) -> Tensor:
        """The loss on the query with the weights as they are, (E,): pretraining without lifetimes."""
        inputs = self.features(episodes.inputs)
        y = episodes.y_query if episodes.classes_query is None else episodes.classes_query
        return loss_of(predict(self.meta_parameters, {}, inputs[episodes.query]), y)


def _initial(sizes: list[int], config: MetaConfig, generator: torch.Generator) -> dict[str, nn.Parameter]:
    """Meta-parameters before meta-training: W and B Kaiming-normal (fan-in, gain sqrt 2), b and c zero."""
    meta: dict[str, Tensor] = {}
    network, rule, layers = config.network, config.plasticity, len(sizes) - 1
    for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        meta[f"W{layer}"], meta[f"b{layer}"] = kaiming((n_out, n_in), generator), torch.zeros(n_out)
    for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        if not rule.is_plastic(layer, layers) or (rule.is_gradient and not network.learned_rates):
            continue
        rate = rule.inner_lr if rule.is_gradient else network.initial_plasticity
        shapes = {"synapse": (n_out, n_in), "neuron": (n_out,), "layer": (1,)}
        if network.granularity in shapes:
            meta[f"p{layer}"] = torch.full(shapes[network.granularity], rate)
        else:
            meta["p"] = torch.full((1,), rate)
        if rule.is_gradient:
            name, shape = ("pb", (1,)) if network.granularity == "network" else (f"pb{layer}", (n_out,))
            meta[name] = torch.full(shape if network.granularity != "layer" else (1,), rate)
            continue
        shift = rule.shift(layer, layers)
        if shift == "feedback":
            widths = [sizes[-1], *[network.feedback_width] * (network.feedback_layers - 1), n_out]
            for j, (before, after) in enumerate(itertools.pairwise(widths)):
                meta[f"B{layer}_{j}"], meta[f"c{layer}_{j}"] = kaiming((after, before), generator), torch.zeros(after)
        if rule.rule == "polynomial":
            start = oja({"feedback": network.initial_strength, "signal": 1.0, "none": 0.0}[shift])
            given = network.initial_coefficients
            meta[f"t{layer}"] = torch.tensor(given).view(SHAPE) if given else start
        elif shift == "feedback":
            meta[f"s{layer}"] = torch.full((1,), network.initial_strength)
    return {name: nn.Parameter(value) for name, value in meta.items()}


def kaiming(shape: tuple[int, ...], generator: torch.Generator, fan_in: int | None = None) -> Tensor:
    """N(0, 2 / fan_in), on the CPU; fan_in is the product of all sizes but the first, if it is not given."""
    fan_in = math.prod(shape[1:]) if fan_in is None else fan_in
    return torch.randn(shape, generator=generator) * math.sqrt(2 / fan_in)
