"""Residual networks: for CIFAR (8, 20, 32, 56, 110) and for ImageNet (18 to 152, v1 and v2).

Sources: He, Zhang, Ren, Sun, "Deep residual learning", CVPR 2016 (v1; section 4.2 for CIFAR), and "Identity mappings in
deep residual networks", ECCV 2016 (v2: norm and ReLU before each convolution). The stride of a bottleneck is in its 3x3
convolution, as in torchvision, whose weights load into the v1 networks name by name.
"""

from __future__ import annotations

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
        explicit: pad strided convolutions before them, kernel - 1 in all and the odd one at the end, as the reference's
            TensorFlow networks do; the border is then part of the layer's input, and alignment sees it.
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
    """A residual block of version 1: convolutions, each with a norm, the sum, then ReLU.

    Two 3x3 convolutions, or, as a bottleneck, 1x1, 3x3 and 1x1.
    """

    def __init__(
        self, inputs: int, width: int, stride: int, *, bottleneck: bool, shortcut: nn.Module | None, explicit: bool
    ) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        self.bottleneck = bottleneck
        if bottleneck:
            self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = conv(width, width, 3, stride, explicit=explicit), nn.BatchNorm2d(width)
            self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        else:
            self.conv1, self.bn1 = conv(inputs, width, 3, stride, explicit=explicit), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut

    @property
    def last(self) -> nn.Module:
        """What makes the block an identity when its weight is zero: the norm before the sum."""
        return self.bn3 if self.bottleneck else self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.bottleneck:
            y = self.bn3(self.conv3(self.relu(y)))
        out: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return out


class PreBlock(nn.Module):
    """A residual block of version 2: norm and ReLU before each convolution, and nothing after the sum."""

    def __init__(
        self, inputs: int, width: int, stride: int, *, bottleneck: bool, shortcut: nn.Module | None, explicit: bool
    ) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        self.bottleneck = bottleneck
        self.bn1 = nn.BatchNorm2d(inputs)
        if bottleneck:
            self.conv1, self.bn2 = conv(inputs, width, 1), nn.BatchNorm2d(width)
            self.conv2, self.bn3 = conv(width, width, 3, stride, explicit=explicit), nn.BatchNorm2d(width)
            self.conv3 = conv(width, outputs, 1)
        else:
            self.conv1, self.bn2 = conv(inputs, width, 3, stride, explicit=explicit), nn.BatchNorm2d(width)
            self.conv2 = conv(width, outputs, 3)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut

    @property
    def last(self) -> nn.Module:
        """What makes the block an identity when its weight is zero: the convolution before the sum.

        Not the last norm: behind a norm at zero the ReLU passes no gradient, ever.
        """
        return self.conv3 if self.bottleneck else self.conv2

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        active = self.relu(self.bn1(x))
        y = self.conv2(self.relu(self.bn2(self.conv1(active))))
        if self.bottleneck:
            y = self.conv3(self.relu(self.bn3(y)))
        # The shortcut branches off after the first norm where it changes the shape.
        out: Tensor = y + (x if self.downsample is None else self.downsample(active))
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
        depth: 6 n + 2. width: channels of the first stage; twice and four times as many in the others. shortcut: where
            the shape changes: "pad" (option A, without weights) or "conv" (option B, a 1x1 convolution and a norm).
        zero_init_last: the last norm of each block starts at zero, so that blocks start as identities; None is yes
            for the shortcut "conv" and no for "pad": the channels it adds would start at zero and, behind a ReLU,
            never leave it.
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
            stages.append(Block(inputs, outputs, stride, bottleneck=False, shortcut=down, explicit=explicit_padding))
            inputs = outputs
    model = nn.Sequential(
        nn.Sequential(conv(shape[0], width, 3), nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
        *(nn.Sequential(*stages[s * blocks : (s + 1) * blocks]) for s in range(3)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(inputs, classes),
    )
    named = nn.Sequential()
    for name, module in zip(("stem", "stage1", "stage2", "stage3", "pool", "flatten", "fc"), model, strict=True):
        named.add_module(name, module)
    return _initialised(named, shortcut == "conv" if zero_init_last is None else zero_init_last)


class ImageNetResNet(nn.Module):
    """A residual network for large images; names as in torchvision for version 1. See :func:`imagenet_resnet`."""

    def __init__(self, depth: int, version: int, classes: int, channels: int, width: int, *, explicit: bool) -> None:
        super().__init__()
        blocks, bottleneck = _DEPTHS[depth]
        make = Block if version == 1 else PreBlock
        self.conv1: nn.Module
        if explicit:
            self.conv1 = PaddedConv2d(channels, width, 7, stride=2, border=(3, 3))
        else:
            self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width) if version == 1 else nn.Identity()
        self.relu = nn.ReLU(inplace=True) if version == 1 else nn.Identity()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = width
        for stage, count in enumerate(blocks):
            inner = width * 2**stage
            outputs = 4 * inner if bottleneck else inner
            made: list[nn.Module] = []
            for i in range(count):
                stride = 2 if stage and i == 0 else 1
                down: nn.Module | None = None
                if stride > 1 or inputs != outputs:
                    projection = conv(inputs, outputs, 1, stride)
                    down = nn.Sequential(projection, nn.BatchNorm2d(outputs)) if version == 1 else projection
                made.append(make(inputs, inner, stride, bottleneck=bottleneck, shortcut=down, explicit=explicit))
                inputs = outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(*made))
        self.last = nn.Identity() if version == 1 else nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        out: Tensor = self.fc(self.avgpool(self.last(x)).flatten(1))
        return out


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
        depth: 18, 34, 50, 101 or 152. version: 1, or 2 (norm and ReLU before each convolution). width: channels of the
            first stage. zero_init_last: blocks start as identities: the last norm of each starts at zero, in version 2
            the last convolution. explicit_padding: of strided convolutions; see :func:`conv`.
    """
    return _initialised(
        ImageNetResNet(depth, version, classes, shape[0], width, explicit=explicit_padding), zero_init_last
    )


def _initialised(model: nn.Module, zero_init_last: bool) -> nn.Module:
    """Kaiming's normal initialisation by fan out (He et al., ICCV 2015), as torchvision's."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for module in model.modules():
        if zero_init_last and isinstance(module, Block | PreBlock):
            assert isinstance(module.last.weight, Tensor)
            nn.init.zeros_(module.last.weight)
    return model
