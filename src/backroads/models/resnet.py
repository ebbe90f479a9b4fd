"""Residual networks: for CIFAR (8, 20, 32, 56, 110) and for ImageNet (18 to 152, v1 and v2).

Sources: He, Zhang, Ren, Sun, "Deep residual learning", CVPR 2016 (v1; section 4.2 for CIFAR), and "Identity mappings in
deep residual networks", ECCV 2016 (v2: norm and ReLU before each convolution). The stride of a bottleneck is in its 3x3
convolution, as in torchvision, whose weights load into the v1 networks name by name.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from backroads.errors import ConfigError

_DEPTHS: dict[int, tuple[tuple[int, ...], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, *, explicit: bool = False) -> nn.Module:
    """A convolution without bias that keeps the size, or divides it by the stride.

    Args:
        inputs: number of channels.
        outputs: number of channels.
        kernel: height and width.
        stride: of the kernel.
        explicit: whether strided convolutions are padded by a layer before them, with kernel - 1 pixels in all and the
            odd one at the end, as in the reference's TensorFlow networks. The border is then part of the convolution's
            input, which alignment rules read.
    """
    if explicit and stride > 1 and kernel > 1:
        before = (kernel - 1) // 2
        after = kernel - 1 - before
        return PaddedConv2d(inputs, outputs, kernel, stride=stride, border=(before, after))
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


class PaddedConv2d(nn.Sequential):
    """Zeros around the image, then a convolution without padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int, border: tuple[int, int]) -> None:
        super().__init__(
            nn.ZeroPad2d((*border, *border)), nn.Conv2d(inputs, outputs, kernel, stride=stride, bias=False)
        )


class PadShortcut(nn.Module):
    """Every second pixel, and new channels of zeros: a shortcut without weights (He et al. 2016, option A)."""

    def __init__(self, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.before, self.after = stride, before, after

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, before + C + after, H / stride, W / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or, as a bottleneck, 1x1, 3x3 and 1x1.

    In version 1 a norm follows each convolution, and ReLU all but the last norm and the sum with the shortcut. In
    version 2 norm and ReLU come before each convolution, and nothing follows the sum.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        shortcut: nn.Module | None,
        version: int = 1,
        bottleneck: bool = False,
        explicit: bool = False,
    ) -> None:
        super().__init__()
        sizes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            sizes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)]
        self.version, self.convolutions = version, len(sizes)
        for n, (before, after, kernel, step) in enumerate(sizes, 1):
            if version == 2:
                self.add_module(f"bn{n}", nn.BatchNorm2d(before))
            self.add_module(f"conv{n}", conv(before, after, kernel, step, explicit=explicit))
            if version == 1:
                self.add_module(f"bn{n}", nn.BatchNorm2d(after))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut

    @property
    def last(self) -> nn.Module:
        """The module that makes the block an identity when its weight is zero.

        In version 2 the last convolution, not the last norm: behind a norm at zero the ReLU passes no gradient, ever.
        """
        return self.get_submodule(f"{'bn' if self.version == 1 else 'conv'}{self.convolutions}")

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y = x
        for n in range(1, self.convolutions + 1):
            convolution, norm = self.get_submodule(f"conv{n}"), self.get_submodule(f"bn{n}")
            if self.version == 1:
                y = norm(convolution(y))
                y = self.relu(y) if n < self.convolutions else y
            else:
                y = self.relu(norm(y))
                if n == 1 and self.downsample is not None:  # a shortcut that changes the shape branches off here
                    x = y
                y = convolution(y)
        y = y + (x if self.downsample is None else self.downsample(x))
        out: Tensor = self.relu(y) if self.version == 1 else y
        return out


def cifar_resnet(
    depth: int,
    classes: int = 10,
    shape: tuple[int, int, int] = (3, 32, 32),
    width: int = 16,
    shortcut: str = "pad",
    zero_init_last: bool | None = None,
    explicit_padding: bool = False,
) -> nn.Module:
    """A residual network for small images: a 3x3 stem and three stages of (depth - 2) / 6 blocks.

    Input (N, C, H, W), output (N, classes).

    Args:
        depth: number of layers, 6 n + 2.
        classes: number of classes.
        shape: (C, H, W) of an image.
        width: channels of the first stage; the others have twice and four times as many.
        shortcut: where the shape changes: "pad" (option A, without weights) or "conv" (option B, a 1x1 convolution and
            a norm).
        zero_init_last: whether the last norm of each block starts at zero, so that blocks start as identities. None:
            only with the shortcut "conv"; the channels that "pad" adds would start at zero and, behind a ReLU, get no
            gradient ever.
        explicit_padding: of strided convolutions; see :func:`conv`.

    Raises:
        ConfigError: for another shortcut, and for ``zero_init_last`` with the shortcut "pad".
    """
    if shortcut not in ("pad", "conv"):
        raise ConfigError(f"shortcut must be 'pad' or 'conv', got {shortcut!r}")
    if zero_init_last and shortcut == "pad":
        raise ConfigError(
            "zero_init_last=True needs shortcut='conv': the channels that shortcut='pad' adds are zero, and with the "
            "last norm at zero too no gradient passes their ReLU, ever; leave zero_init_last out or change the shortcut"
        )
    if depth < 8 or (depth - 2) % 6:
        raise ConfigError(f"depth must be 6 n + 2, such as 8, 20, 32, 44, 56 or 110, got {depth!r}")
    blocks, inputs = (depth - 2) // 6, width
    stages: list[nn.Module] = []
    for stage in range(3):
        outputs = width * 2**stage
        for i in range(blocks):
            stride = 2 if stage and i == 0 else 1
            down: nn.Module | None = None
            if stride > 1 and shortcut == "pad":
                extra = outputs - inputs
                down = PadShortcut(stride, extra // 2, extra - extra // 2)
            elif stride > 1:
                down = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
            stages.append(Block(inputs, outputs, stride, down, explicit=explicit_padding))
            inputs = outputs
    stem = nn.Sequential(conv(shape[0], width, 3), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    modules = OrderedDict[str, nn.Module](stem=stem)
    modules |= {f"stage{s + 1}": nn.Sequential(*stages[s * blocks : (s + 1) * blocks]) for s in range(3)}
    modules |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(inputs, classes)}
    return _initialised(nn.Sequential(modules), shortcut == "conv" if zero_init_last is None else zero_init_last)


def imagenet_resnet(
    depth: int,
    version: int = 1,
    classes: int = 1000,
    shape: tuple[int, int, int] = (3, 224, 224),
    width: int = 64,
    zero_init_last: bool = True,
    explicit_padding: bool = False,
) -> nn.Module:
    """A residual network for large images: a 7x7 stem, max pooling and four stages.

    Input (N, C, H, W), output (N, classes).

    Args:
        depth: number of layers: 18, 34, 50, 101 or 152.
        version: 1, or 2 (norm and ReLU before each convolution).
        classes: number of classes.
        shape: (C, H, W) of an image.
        width: channels of the first stage.
        zero_init_last: whether blocks start as identities: the last norm of each starts at zero, in version 2 the last
            convolution.
        explicit_padding: of strided convolutions; see :func:`conv`.
    """
    if depth not in _DEPTHS:
        raise ConfigError(f"depth must be one of {', '.join(map(str, _DEPTHS))}, got {depth!r}")
    blocks, bottleneck = _DEPTHS[depth]
    inputs = width
    modules = OrderedDict[str, nn.Module](conv1=conv(shape[0], width, 7, 2, explicit=explicit_padding))
    if version == 1:
        modules |= {"bn1": nn.BatchNorm2d(width), "relu": nn.ReLU(inplace=True)}
    modules["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        outputs = 4 * inner if bottleneck else inner
        made: list[nn.Module] = []
        for i in range(count):
            stride = 2 if stage and i == 0 else 1
            down: nn.Module | None = None
            if stride > 1 or inputs != outputs:
                down = conv(inputs, outputs, 1, stride)
                down = nn.Sequential(down, nn.BatchNorm2d(outputs)) if version == 1 else down
            made.append(Block(inputs, inner, stride, down, version, bottleneck, explicit_padding))
            inputs = outputs
        modules[f"layer{stage + 1}"] = nn.Sequential(*made)
    if version == 2:
        modules["last"] = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
    modules |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(inputs, classes)}
    return _initialised(nn.Sequential(modules), zero_init_last)


def _initialised(model: nn.Module, zero_init_last: bool) -> nn.Module:
    """Kaiming's normal initialisation by fan out (He et al., ICCV 2015), as torchvision's."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for module in model.modules():
        if zero_init_last and isinstance(module, Block):
            assert isinstance(module.last.weight, Tensor)
            nn.init.zeros_(module.last.weight)
    return model
