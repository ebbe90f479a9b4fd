"""LeNet-5 with ReLU and max pooling."""

from __future__ import annotations

import collections

import torch


def lenet(classes: int = 10, shape: tuple[int, int, int] = (1, 28, 28)) -> torch.nn.Module:
    """Two 5x5 convolutions with max pooling, hidden layers of 120 and 84. (N, C, H, W) -> (N, classes); H, W >= 12.

    Source: LeCun, Bottou, Bengio, Haffner, Proceedings of the IEEE 86 (1998), with ReLU and max pooling in place of the
    sigmoid and the trained subsampling; images of 28 pixels are padded to 32, as there.
    """
    channels, height, width = shape
    border = 2 if height < 32 else 0
    features = 16 * _after(height + 2 * border) * _after(width + 2 * border)
    nn = torch.nn
    return nn.Sequential(
        collections.OrderedDict(
            conv1=nn.Conv2d(channels, 6, 5, padding=border),
            relu1=nn.ReLU(inplace=True),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, 5),
            relu2=nn.ReLU(inplace=True),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(features, 120),
            relu3=nn.ReLU(inplace=True),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(inplace=True),
            fc3=nn.Linear(84, classes),
        )
    )


def _after(pixels: int) -> int:
    return ((pixels - 4) // 2 - 4) // 2
